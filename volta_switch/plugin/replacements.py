"""What is put in place of things that are not ours: attributes, packages, and the module that loads pickles."""

from __future__ import annotations

import functools
import importlib.util
import io
import pickle
import re
from collections.abc import Callable, MutableMapping
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import torch
from torch import nn
from torch._utils import _rebuild_tensor_v2

from volta_switch.errors import UserError

# Packages that are stood in for where they are not installed -> their modules -> what VOLTA takes of each.
STAND_INS: dict[str, dict[str, tuple[str, ...]]] = {
    "datasets": {"datasets": ("load_dataset",)},
    "matplotlib": {
        "matplotlib.collections": ("PatchCollection",),
        "matplotlib.patches": ("Polygon", "Rectangle"),
        "matplotlib.pyplot": ("figure", "gca", "show"),
    },
    "skimage": {"skimage.io": ("imread",)},
}
MASKS = ("encode", "decode", "iou", "merge", "area", "toBbox", "frPyObjects")  # of tools/refer's C extension


def installed(name: str) -> bool:
    """Returns whether a module can be imported; a mere folder of that name, such as ``datasets/``, is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def version(distribution: str) -> tuple[int, ...]:
    """Returns the first numbers of an installed distribution's version; () where it is not installed."""
    try:
        return tuple(int(part) for part in re.findall(r"\d+", metadata.version(distribution))[:3])
    except metadata.PackageNotFoundError:
        return ()


def stand_in(name: str, reason: str, *functions: str) -> ModuleType:
    """Returns a module whose functions raise ``UserError``, saying what they would need."""
    module = ModuleType(name, f"Stands in for {name}, which is not installed.")
    module.__path__ = []  # a package, so that its parts can be imported
    module.__spec__ = ModuleSpec(name, None, is_package=True)  # for whoever asks whether it is installed
    for function in functions:
        setattr(module, function, _refusing(f"{name}.{function}: {reason}"))
    return module


def stand_ins(package: str, reason: str) -> dict[str, ModuleType]:
    """Returns the modules of a package of ``STAND_INS``, by name; none where the package is installed.

    Args:
        package: a key of ``STAND_INS``.
        reason: why the functions cannot be called, and what they would need.
    """
    if installed(package):
        return {}
    modules = {package: stand_in(package, reason)}
    for name, functions in STAND_INS[package].items():
        modules[name] = stand_in(name, reason, *functions)
        parent, _, part = name.rpartition(".")
        if parent:
            setattr(modules[parent], part, modules[name])  # as an import leaves it
    return modules


def package(name: str, folder: Path) -> ModuleType:
    """Returns a package over a folder of the checkout that has no ``__init__.py``."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    return module


def apex_parallel() -> ModuleType:
    """Returns ``apex.parallel`` with PyTorch's own ``DistributedDataParallel``."""
    module = ModuleType("apex.parallel")

    def distributed(model: nn.Module, **_apex_options: Any) -> nn.Module:
        # apex waits for the gradients that there are; PyTorch must be told that some parameters have none.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    module.DistributedDataParallel = distributed  # type: ignore[attr-defined]
    return module


def to_cpu(tensor_or_module: Any, *_device: Any, **_options: Any) -> Any:
    """Returns its argument: ``.cuda()`` on a machine without CUDA."""
    return tensor_or_module


def _refusing(message: str) -> Callable[..., Any]:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise UserError(message)

    return refuse


_ABSENT = object()


class Patches:
    """Changes of attributes and entries; ``undo`` takes them back, the latest first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute; an inherited one is only covered, not lost."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        if before is _ABSENT:
            self._undo.append(lambda: delattr(owner, name))
        else:
            self._undo.append(lambda: setattr(owner, name, before))

    def set_item(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """Sets an entry, of ``sys.modules`` or ``os.environ``."""
        before = mapping.get(key, _ABSENT)
        mapping[key] = value
        if before is _ABSENT:
            self._undo.append(lambda: mapping.pop(key, None))
        else:
            self._undo.append(lambda: mapping.__setitem__(key, before))

    def wrap(self, owner: Any, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Returns a decorator that replaces a function or method of ``owner``; the new one gets the original first.

        A method's arguments follow, ``self`` included.
        """
        original = getattr(owner, name)

        def decorate(wrapper: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original, updated=())
            def wrapped(*args: Any, **options: Any) -> Any:
                return wrapper(original, *args, **options)

            self.set(owner, name, wrapped)
            return wrapper

        return decorate

    def undo(self) -> None:
        """Takes all changes back."""
        while self._undo:
            self._undo.pop()()


def _storage(data: bytes) -> Any:
    """Loads a pickled tensor's storage, which is a file of PyTorch's own."""
    try:
        return torch.load(io.BytesIO(data), weights_only=True)
    except pickle.UnpicklingError:  # PyTorch's own words advise to run the code
        raise UserError("a tensor in the pickle is damaged, or asks for more than numbers; nothing was run") from None


_NUMPY = {("numpy", "ndarray"), ("numpy", "dtype")} | {
    (f"{package}.{module}", name)
    for package in ("numpy.core", "numpy._core")  # NumPy 2 moved these; files name either place
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
_PLAIN = {("collections", "OrderedDict"), ("_codecs", "encode")} | {
    (module, name) for module in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")
}
_TORCH = {("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2, ("torch.storage", "_load_from_bytes"): _storage}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns a name that plain data, arrays and tensors need; refuses others."""
        if (module, name) in _TORCH:
            return _TORCH[module, name]
        if (module, name) in _NUMPY or (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise UserError(
            f"the pickle asks for {module}.{name}, which plain data, arrays and tensors do not need; it was not run: "
            "get the file from a source you trust"
        )


def load_pickle(file: IO[bytes], **_options: Any) -> Any:
    """Loads a pickle of plain data, arrays and tensors, as ``pickle.load`` does.

    Raises:
        UserError: the file asks for anything else; the message names it.
    """
    try:
        return _Unpickler(file).load()
    except UserError as error:
        raise UserError(f"{getattr(file, 'name', 'a record')}: {error}") from None


def loads_pickle(data: bytes, **_options: Any) -> Any:
    """Loads a pickle from bytes, as ``load_pickle`` does from a file."""
    return load_pickle(io.BytesIO(data))


# In place of pickle's module.
SAFE_PICKLE = SimpleNamespace(load=load_pickle, loads=loads_pickle, dump=pickle.dump, dumps=pickle.dumps)
