"""Reading pickles that come with data sets, without letting them run code.

A pickle may name any callable of any installed module. This reader knows the names that plain data and NumPy arrays
need, and stops at everything else.
"""

from __future__ import annotations

import codecs
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.errors import UserError
from volta_switch.files import replacing

try:  # NumPy 2 moved these; files name either place
    from numpy._core import multiarray, numeric
except ImportError:  # NumPy 1.26
    from numpy.core import multiarray, numeric  # type: ignore[no-redef]


def _encode_latin1(text: str, encoding: str) -> bytes:
    """What Python writes for bytes in protocols 0 to 2, with that one encoding only."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode with {encoding!r}")
    return codecs.encode(text, "latin1")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode_latin1,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
for _builtin in (set, frozenset, bytearray, complex):
    _ALLOWED[("builtins", _builtin.__name__)] = _ALLOWED[("__builtin__", _builtin.__name__)] = _builtin
for _package in ("numpy.core", "numpy._core"):
    _ALLOWED[(f"{_package}.multiarray", "_reconstruct")] = multiarray._reconstruct  # type: ignore[attr-defined]
    _ALLOWED[(f"{_package}.multiarray", "scalar")] = multiarray.scalar  # type: ignore[attr-defined]
    _ALLOWED[(f"{_package}.numeric", "_frombuffer")] = numeric._frombuffer  # type: ignore[attr-defined]


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes | memoryview, source: str, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._source = source

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Give the callable that a pickle asks for, if plain data needs it."""
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise UserError(
                f"{self._source}: the pickle asks for {module}.{name}, which plain data and NumPy arrays do not need; "
                "it was not run: get the file from a source you trust, or write it again with plain containers"
            ) from None


def loads(data: bytes | memoryview, source: str) -> Any:
    """Return the plain containers, numbers, strings and NumPy arrays that a pickle holds; `source` names it in errors.

    Strings written by Python 2 are read as UTF-8, or Latin-1 where they are not. Raises UserError for any other
    content and for bytes that are no pickle.
    """
    try:
        try:
            return _PlainUnpickler(data, source, "utf-8").load()
        except UnicodeDecodeError:
            return _PlainUnpickler(data, source, "latin1").load()
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{source}: not a readable pickle ({type(error).__name__}: {error}); copy or write the file again"
        ) from error


def load(path: str | Path) -> Any:
    """`loads` of a file. Raises UserError where it is missing."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the data root of the task") from error
    return loads(data, str(path))


def dump(path: str | Path, obj: Any) -> None:
    """Write a pickle whole or not at all; protocol 4, which VOLTA's Python reads too."""
    with replacing(Path(path)) as unfinished:
        unfinished.write_bytes(pickle.dumps(obj, protocol=4))
