"""Weight files: safetensors and PyTorch's, read without running code, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volta_switch.checksums import recording, verify
from volta_switch.errors import UserError
from volta_switch.files import replacing, require_file
from volta_switch.hub_models import is_address, weights_of
from volta_switch.weights.loading import normalised, unwrapped

State = Mapping[str, Tensor]
# Keys of a safetensors file's metadata: what stands under several names, and a checksum over all of it.
_SHARED, _CHECKSUM = "shared", "crc32"
_FOLDER = 0x10  # an attribute of a zip's record; PyTorch reads nothing from such a one, and leaves memory as it was


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a weight file: ``.safetensors``, or a PyTorch file such as VOLTA's ``pytorch_model_*.bin``.

    That of an address (``hf://owner/name``) is fetched from the hub unless it is in its cache on this machine.
    Names are those of ``loading.normalised``, whatever program wrote the file. No code in it is run: PyTorch files are
    read with ``weights_only=True``. What the tensors hold is looked at when they are loaded (``loading``).

    Raises:
        UserError: the file is missing, no regular file, damaged, refused, or holds no weights or several.
    """
    path = weights_of(str(path)) if is_address(path) else Path(path)
    require_file(path, "weight file", "give a .safetensors or .bin file that a run has written")
    verify(path)
    if path.suffix == ".safetensors":
        return normalised(read_tensors(path), str(path))
    return normalised(unwrapped(load_plain(path, "weights"), str(path)), str(path))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Returns a safetensors file's tensors, under every name of those that ``write_weights`` stored once.

    Raises:
        UserError: the file is damaged, or is none.
    """
    from safetensors import safe_open  # here, not above: models are built without it

    require_file(path, "weight file", "give one that a run has written")
    try:
        with safe_open(path, framework="pt") as file:
            # copies: the file's own tensors are read only when they are used, from a file that may have changed or gone
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
            shared = json.loads(metadata.get(_SHARED, "{}"))
    except Exception:  # safetensors, torch and JSON raise many kinds for damaged files
        raise UserError(f"{path}: could not be read as weights (damaged or not a safetensors file)") from None
    if not isinstance(shared, dict) or any(
        name in tensors or not isinstance(stored, str) or stored not in tensors for name, stored in shared.items()
    ):
        raise UserError(f"{path}: could not be read as weights (its table of shared weights names none of its own)")
    if metadata.get(_CHECKSUM, checksum := _checksum(tensors, shared)) != checksum:
        raise UserError(f"{path}: could not be read as weights (damaged: its checksum is another); copy it anew")
    return tensors | {name: tensors[stored] for name, stored in shared.items()}


def load_plain(path: Path, what: str) -> Any:
    """Returns what a PyTorch file holds; no code in it is run, and its checksums are verified where it has some.

    Raises:
        UserError: the file is damaged, or holds more than tensors and plain values; ``what`` says what was expected.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on old pickles
            _verify_zip(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # PyTorch's own words advise to run the code
        reason = "damaged, or it holds more than tensors and plain values; nothing in it was run"
    except Exception as error:  # PyTorch raises many kinds for damaged files
        reason = _first_line(error)
    raise UserError(f"{path}: could not be read as {what} ({reason})")


def _verify_zip(path: Path) -> None:
    """Raises BadZipFile where a PyTorch file is a zip and a record in it is not what was written.

    PyTorch itself compares no checksums. Files from before PyTorch 1.6 are no zips, and some programs leave checksums
    out (all are 0): these are taken as they are.
    """
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            return
    with zipfile.ZipFile(path) as records:
        if not any(record.CRC for record in records.infolist()):
            return
        folder = next((record.filename for record in records.infolist() if record.external_attr & _FOLDER), None)
        if damaged := folder or records.testzip():
            raise zipfile.BadZipFile(f"damaged: the checksum of its record {damaged} is another; copy it anew")


def _checksum(tensors: State, shared: Mapping[str, str]) -> str:
    """Returns a checksum of names, types, shapes and numbers: all that ``write_weights`` puts into safetensors."""
    described = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    checksum = zlib.crc32(json.dumps([described, sorted(shared.items())]).encode())
    for _, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def write_weights(path: str | Path, state: State, recorded: bool = False) -> None:
    """Writes weights whole or not at all; ``.safetensors``, or for any other suffix a PyTorch file that VOLTA reads.

    Either holds a shared weight once. In safetensors, which has no notion of sharing, its other names stand in the
    metadata (``shared``: a JSON object, name -> name under which it is stored), where ``read_weights`` finds them, and
    beside them a checksum (``crc32``). A PyTorch file has one of every record.

    ``recorded``: the file's checksum is kept beside it (``checksums``).

    Raises:
        UserError: the system refused to write (``CannotWrite``); the file that stood there is unharmed.
    """
    path = Path(path)
    tensors: dict[str, Tensor] = {}
    first: dict[tuple[object, ...], str] = {}  # by place in memory: the name under which it is stored
    shared: dict[str, str] = {}
    for name, tensor in state.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if place in first:
            shared[name] = first[place]
        else:
            first[place] = name
            tensors[name] = tensor.detach().cpu().clone().contiguous()
    with (recording if recorded else replacing)(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError
            from safetensors.torch import save_file

            metadata = {_SHARED: json.dumps(shared), _CHECKSUM: _checksum(tensors, shared)}
            _save(temporary, SafetensorError, lambda: save_file(tensors, temporary, metadata=metadata))
        else:
            whole = {name: tensors[shared.get(name, name)] for name in state}  # torch.save sees what is one tensor
            _save(temporary, RuntimeError, lambda: torch.save(whole, temporary))


def _save(temporary: Path, failure: type[Exception], write: Callable[[], None]) -> None:
    """Runs one library's writer; what the system refused, its own ``failure``, is raised as the system's error."""
    try:
        write()
    except failure as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
        with temporary.open("ab") as file:  # PyTorch does not say why: what refused it refuses this
            file.write(bytes(2**20))
        raise OSError(errno.EIO, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
