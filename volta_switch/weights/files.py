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
from volta_switch.errors import UserError, first_line
from volta_switch.files import parse_json, replacing, require_file
from volta_switch.hub_models import is_address, weights_of
from volta_switch.weights.loading import normalised, some, unwrapped

State = Mapping[str, Tensor]
INDEX = ".index.json"  # how Hugging Face's list of the parts of a checkpoint ends: model.safetensors.index.json
# Keys of a safetensors file's metadata: what stands under several names, and a checksum over all of it.
_SHARED, _CHECKSUM = "shared", "crc32"
_FOLDER = 0x10  # an attribute of a zip's record; PyTorch reads nothing from such a one, and leaves memory as it was


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Reads a weight file: ``.safetensors``, or a PyTorch file such as VOLTA's ``pytorch_model_*.bin``.

    That of an address (``hf://owner/name``) is fetched from the hub unless it is in its cache on this machine. Of a
    checkpoint in several files the list of its parts (``INDEX``) is given, and all parts are read.
    Names are those of ``loading.normalised``, whatever program wrote the file. No code in it is run: PyTorch files are
    read with ``weights_only=True``. What the tensors hold is looked at when they are loaded (``loading``).

    Raises:
        UserError: the file is missing, no regular file, damaged, refused, or holds no weights or several; a part is
            missing, or does not hold what the list of parts says.
    """
    path = weights_of(str(path)) if is_address(path) else Path(path)
    return normalised(_parts(path) if path.name.endswith(INDEX) else _one_file(path), str(path))


def _one_file(path: Path) -> dict[str, Tensor]:
    require_file(path, "weight file", "give a .safetensors or .bin file that a run has written")
    verify(path)
    return read_tensors(path) if path.suffix == ".safetensors" else unwrapped(load_plain(path, "weights"), str(path))


def _parts(path: Path) -> dict[str, Tensor]:
    """Returns the weights of all parts of a checkpoint, each of which holds what the list says, and no more."""
    require_file(path, "list of a checkpoint's files", "give one that Hugging Face's libraries have written")
    verify(path)
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: could not be read as JSON ({error})") from None
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise UserError(f"{path}: expected weight_map, an object with the file of each weight")
    whole: dict[str, Tensor] = {}
    for name in dict.fromkeys(files.values()):
        part = path.with_name(name) if name and Path(name).name == name else None
        if part is None or name.endswith(INDEX):
            raise UserError(f"{path}: {some([repr(name)])} is no name of a file beside it")
        if not os.path.lexists(part):
            raise UserError(f"{part}: missing; {path} names it as a part of the checkpoint; copy it, too")
        found, listed = _one_file(part), {weight for weight, file in files.items() if file == name}
        if lost := sorted(listed - found.keys()):
            raise UserError(f"{part}: {some(lost)} missing, which {path.name} says to be in it; copy both anew")
        if more := sorted(found.keys() - listed):
            raise UserError(f"{part}: holds {some(more)}, of which {path.name} says nothing; copy both anew")
        whole |= found
    return whole


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
        reason = first_line(error)
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

            # "format": without it some versions of Hugging Face's libraries refuse a file
            metadata = {"format": "pt", _SHARED: json.dumps(shared), _CHECKSUM: _checksum(tensors, shared)}
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
        raise OSError(errno.EIO, first_line(error)) from error
