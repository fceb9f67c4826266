"""VOLTA's pickles, read without running code: its annotations and records, and its caches with tensors in them."""

from __future__ import annotations

import io
import pickle
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch._utils import _rebuild_tensor_v2

from volta_switch.errors import UserError


def _storage(data: bytes) -> Any:
    """What a pickled tensor asks for: its storage, in a file of PyTorch's own."""
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
        """A name that plain data, arrays and tensors need."""
        if (module, name) in _TORCH:
            return _TORCH[module, name]
        if (module, name) in _NUMPY or (module, name) in _PLAIN:
            return super().find_class(module, name)
        raise UserError(
            f"the pickle asks for {module}.{name}, which plain data, arrays and tensors do not need; it was not run: "
            "get the file from a source you trust"
        )


def load(file: IO[bytes], **_options: Any) -> Any:
    """As ``pickle.load``.

    Raises:
        UserError: the file asks for anything but plain data, arrays and tensors; it is named.
    """
    try:
        return _Unpickler(file).load()
    except UserError as error:
        raise UserError(f"{getattr(file, 'name', 'a record')}: {error}") from None


def loads(data: bytes, **_options: Any) -> Any:
    """As ``pickle.loads``; raises as ``load``."""
    return load(io.BytesIO(data))


SAFE = SimpleNamespace(load=load, loads=loads, dump=pickle.dump, dumps=pickle.dumps)  # in place of pickle's module
