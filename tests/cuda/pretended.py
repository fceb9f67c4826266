"""A pretended CUDA device: a CPU build of PyTorch runs a program as if there were one GPU.

    python tests/cuda/pretended.py pytest tests/cuda/on_device
    python tests/cuda/pretended.py train_concap.py --device cuda --config demo/switchbert ...

``device.cpp`` takes the place of PyTorch's CUDA library; it is compiled on first use, for the installed PyTorch.
Everything above it is PyTorch's own Python and C++: ``torch.cuda``, autograd, autocast, the data loader's pinning,
``GradScaler``. What a CPU build lacks in ``torch._C``, the bindings of the CUDA runtime, is given here by name
(``BINDINGS``); nothing that exists is replaced.

It shows what stops a program on a GPU (tensors of two devices, a device without an index) and what slows it down (waits
for the device, copies from memory that is not pinned). It does not show speed, memory, several GPUs, NCCL, compiled
layers or a GPU's own rounding: ``tests/gpu`` does, on a real one. Which operators wait is a list (``kWaiting``), not
something seen; ``tests/gpu/test_waits.py`` sees it.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SOURCE = Path(__file__).with_name("device.cpp")
PACKAGE = "volta_switch"
_REPORT = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int64)


@dataclass(frozen=True)
class Event:
    """Something that costs time on a GPU.

    kind: ``wait`` (the host waits for the device), ``pageable`` or ``pinned`` (a copy to the device). what: the
    operator or the direction. size: bytes of a copy. calls: the functions of this package on the way,
    ``file:function``, the innermost first; empty in the backward pass, which has a thread of its own.
    """

    kind: str
    what: str
    size: int
    calls: tuple[str, ...]

    def __str__(self) -> str:
        size = f", {self.size} bytes" if self.size else ""
        return f"{self.kind}: {self.what}{size}, by {' < '.join(self.calls) or 'the backward pass'}"


def compiler() -> str | None:
    """The C++ compiler; None where there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")


def why_not() -> str:
    """Why no device can be pretended here; "" where one can."""
    torch_version = version("torch")
    if (_torch_folder() / "lib" / "libtorch_cuda.so").exists():
        return f"torch {torch_version} is a CUDA build; make test-cuda has the tests for a real GPU"
    if sys.platform != "linux":
        return "the pretended CUDA device is for Linux"
    if compiler() is None:
        return "the pretended CUDA device needs a C++ compiler (g++)"
    return ""


def library() -> Path:
    """The compiled device, compiled where that has not been done yet; 15 s on an idle core."""
    torch_folder = _torch_folder()
    key = hashlib.sha256(SOURCE.read_bytes() + f"{version('torch')} {torch_folder}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"pretended-cuda-{key}.so"
    include, lib = torch_folder / "include", torch_folder / "lib"
    with (folder / "pretended-cuda.lock").open("w") as lock, tempfile.TemporaryDirectory(dir=folder) as temporary:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes one compiles
        if path.exists():
            return path
        made = Path(temporary) / path.name
        command = [
            *(compiler() or "g++", "-O1", "-shared", "-fPIC", "-std=c++20", "-w", str(SOURCE), "-o", str(made)),
            *(f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"),
            *(f"-L{lib}", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{lib}"),
        ]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise RuntimeError(f"{SOURCE.name} could not be compiled:\n{built.stderr[-4000:]}")
        made.replace(path)  # whole or not at all
    return path


def _torch_folder() -> Path:
    """Where torch lies; it is not imported."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent


_library: Any = None  # from install() on
_events: list[Event] | None = None  # while they are watched


def install() -> None:
    """Puts the device in place; before torch is imported."""
    global _library
    if "torch" in sys.modules:
        raise RuntimeError("the pretended device must be installed before torch is imported")
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    _library = ctypes.CDLL(str(library()), mode=ctypes.RTLD_GLOBAL)
    _library.launched.restype = _library.bytes_held.restype = _library.most_bytes_held.restype = ctypes.c_int64
    import torch

    _library.pretend()
    _library.report_to(_noted)
    for name, binding in BINDINGS.items():
        if hasattr(torch._C, name):
            raise RuntimeError(f"torch._C.{name} exists; nothing is replaced")
        setattr(torch._C, name, binding)
    # What torch.cuda chose when it was imported, by whether these bindings exist.
    torch.cuda._exchange_device = BINDINGS["_cuda_exchangeDevice"]
    torch.cuda._maybe_exchange_device = BINDINGS["_cuda_maybeExchangeDevice"]
    torch.cuda._cudart = SimpleNamespace()


@contextmanager
def watched() -> Iterator[list[Event]]:
    """The events inside the block, in their order."""
    global _events
    before, _events = _events, []
    try:
        yield _events
    finally:
        _events = before


def launches() -> int:
    """How many operators the device has run so far, as far as PyTorch does not run them in parts of its own."""
    return int(_library.launched())


@_REPORT
def _noted(kind: bytes, what: bytes, size: int) -> None:
    if _events is not None:
        _events.append(Event(kind.decode(), what.decode(), size, _calls()))


def _calls() -> tuple[str, ...]:
    found = []
    for frame in reversed(traceback.extract_stack()):
        *_, folder, rest = ("", *frame.filename.rpartition(f"/{PACKAGE}/"))
        if folder:
            found.append(f"{rest}:{frame.name}")
    return tuple(found)


def _initialise() -> None:
    """What CUDA's start gives to ``torch.cuda``: generators, and a way to ask for properties."""
    import torch

    torch.cuda.default_generators = (torch.ops.pretended.generator(),)
    torch.cuda._get_device_properties = lambda device: SimpleNamespace(
        name="pretended CUDA device", major=9, minor=0, total_memory=16 * 2**30, multi_processor_count=1
    )


def _memory(device: int) -> dict[str, Any]:
    sizes = {"current": int(_library.bytes_held()), "peak": int(_library.most_bytes_held())}
    return {"allocated_bytes": {"all": sizes}, "reserved_bytes": {"all": sizes}}


def _set_device(device: int) -> None:
    if device != 0:
        raise RuntimeError("CUDA error: invalid device ordinal")


def _synchronize() -> None:
    _noted(b"wait", b"torch.cuda.synchronize", 0)


# The CUDA runtime's bindings that the programs under test reach; a missing one shows as an AttributeError by its name.
BINDINGS: dict[str, Any] = {
    "_cuda_init": _initialise,
    "_cuda_getDeviceCount": lambda: 1,
    "_cuda_getDevice": lambda: 0,
    "_cuda_setDevice": _set_device,
    "_cuda_exchangeDevice": lambda device: 0,
    "_cuda_maybeExchangeDevice": lambda device: 0,
    "_cuda_isInBadFork": lambda: False,
    "_cuda_getCompiledVersion": lambda: 13000,
    "_cuda_getCurrentRawStream": lambda device: 0,
    "_cuda_memoryStats": _memory,
    "_cuda_resetPeakMemoryStats": lambda device: None,
    "_cuda_emptyCache": lambda: None,
    "_cuda_synchronize": _synchronize,
}


def main(argv: list[str]) -> None:
    """Runs a script or a module on the device."""
    reason = why_not()
    if reason or not argv:
        raise SystemExit(f"error: {reason or 'name a script or a module, and its arguments'}")
    if argv[0].endswith(".py") and not Path(argv[0]).is_file():
        raise SystemExit(f"error: {argv[0]}: no such script")
    install()
    sys.argv = argv
    sys.modules["pretended"] = sys.modules["__main__"]
    sys.path.insert(0, str(Path(__file__).parents[2]))
    if argv[0].endswith(".py"):
        runpy.run_path(argv[0], run_name="__main__")
    else:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
