"""Reading pickles that come with data sets, without letting them run code.

A pickle may name any callable of any installed module. This reader knows the names that plain data and NumPy arrays
need, does itself what they ask for, and stops at everything else. Records with arrays are read by the standard
library's reader in Python: the one in C is ten times as fast, but can be made to reserve any amount of memory and to
overrun its stack, so that it is given only what a glance at every opcode shows to be lists, dicts, texts and numbers.
"""

from __future__ import annotations

import functools
import io
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from volta_switch.checksums import read_recorded, require_file
from volta_switch.errors import UserError
from volta_switch.files import replacing

_NDARRAY = "numpy.ndarray"  # stands for the class, which a pickle may name but not call
_DTYPE = re.compile(r"[biufcSU]\d{1,7}", re.ASCII)  # numbers and strings of a fixed size: no objects, no fields
_KEYS = (str, bytes, int, float, complex, np.generic, type(None))
_LONGEST_KEY = 16  # values of a tuple; hashing a nested one can take for ever


class _PlainUnpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(self, data: bytes | memoryview, source: str, encoding: str) -> None:
        super().__init__(io.BytesIO(data), encoding=encoding)
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        """Gives what stands for a name that a pickle asks for, if plain data needs it."""
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            asked = f"{module}.{name}"
            raise UserError(
                f"{self._source}: the pickle asks for {asked[:200]}, which plain data and NumPy arrays do not need; "
                "it was not run: get the file from a source you trust, or write it again with plain containers"
            ) from None

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if function not in _FUNCTIONS or not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")
        self.stack[-1] = function(*arguments)

    def _build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, np.ndarray):
            _fill(built, *state[-4:])
        elif isinstance(built, np.dtype):
            _set_byte_order(built, state[1])
        else:
            raise pickle.UnpicklingError(f"a state for a {type(built).__name__}")

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _dict(self.stack[-1])[_key(key)] = value

    def _set_items(self) -> None:
        items = self.pop_mark()
        _dict(self.stack[-1]).update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def _put_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))

    def _add_items(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError(f"items of a set for a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(map(_key, items))

    def _put_frozenset(self) -> None:
        items = self.pop_mark()  # which changes where append leads
        self.append(frozenset(map(_key, items)))

    def _append_item(self) -> None:
        value = self.stack.pop()
        _list(self.stack[-1]).append(value)

    def _append_items(self) -> None:
        items = self.pop_mark()
        _list(self.stack[-1]).extend(items)

    def _put_bytearray(self) -> None:
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def _old_instance(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii", "replace") for _ in range(2))
        self.find_class(module, name)
        self._refuse()

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an instance of a class, an extension code or a buffer outside the file")

    for _codes, _does in (
        (pickle.REDUCE, _reduce),
        (pickle.BUILD, _build),
        (pickle.SETITEM, _set_item),
        (pickle.SETITEMS, _set_items),
        (pickle.DICT, _put_dict),
        (pickle.ADDITEMS, _add_items),
        (pickle.FROZENSET, _put_frozenset),
        (pickle.APPEND, _append_item),
        (pickle.APPENDS, _append_items),
        (pickle.BYTEARRAY8, _put_bytearray),
        (pickle.INST, _old_instance),
        (pickle.OBJ + pickle.NEWOBJ + pickle.NEWOBJ_EX + pickle.PERSID + pickle.BINPERSID, _refuse),
        (pickle.EXT1 + pickle.EXT2 + pickle.EXT4 + pickle.NEXT_BUFFER + pickle.READONLY_BUFFER, _refuse),
    ):
        dispatch.update(dict.fromkeys(_codes, _does))


_FIXED = re.compile(  # opcodes of a known size that make or hold plain data; neither tuples nor frozensets
    rb"(?:[\x80Kqh].|[N\x88\x89\]\})(\x94aesu\x8f\x90]|M..|[Jj]....|G.{8}|\x95.{8})*+", re.DOTALL
)
_SIZED = {  # opcode -> bytes that say how much follows
    **dict.fromkeys(pickle.SHORT_BINUNICODE + pickle.SHORT_BINSTRING + pickle.SHORT_BINBYTES + pickle.LONG1, 1),
    **dict.fromkeys(pickle.BINUNICODE + pickle.BINSTRING + pickle.BINBYTES, 4),
    **dict.fromkeys(pickle.BINUNICODE8 + pickle.BINBYTES8, 8),
}


def _load_guarded(data: bytes | memoryview, source: str, encoding: str) -> Any:
    return _PlainUnpickler(data, source, encoding).load()


def _plain(data: bytes | memoryview) -> bool:
    """Whether a pickle consists of opcodes that the reader in C can be trusted with."""
    at = 0
    while True:
        found = _FIXED.match(data, at)
        assert found is not None  # it matches nothing at all, too
        at = found.end()
        if at >= len(data):
            return False
        code = data[at]
        if code == pickle.STOP[0]:
            return True
        if code in _SIZED:
            start = at + 1 + _SIZED[code]
            at = start + int.from_bytes(data[at + 1 : start], "little")
        elif code == pickle.LONG_BINPUT[0] and int.from_bytes(data[at + 1 : at + 5], "little") <= len(data):
            at += 5
        else:
            return False


def _key(key: Any) -> Any:
    """Lets through what can be hashed at once."""
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) > _LONGEST_KEY or not all(isinstance(part, _KEYS) for part in parts):
        raise pickle.UnpicklingError(f"a {type(key).__name__} as a key, or one of more than plain values")
    return key


def _dict(container: Any) -> dict[Any, Any]:
    if type(container) not in (dict, OrderedDict):
        raise pickle.UnpicklingError(f"items of a dict for a {type(container).__name__}")
    return container


def _list(container: Any) -> list[Any]:
    if type(container) is not list:
        raise pickle.UnpicklingError(f"items of a list for a {type(container).__name__}")
    return container


# --- What a pickle may call -----------------------------------------------------------------------------------------


def _encode(text: str, encoding: str) -> bytes:
    """What Python writes for bytes in protocols 0 to 2, with that one encoding only."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode with {encoding!r:.20}")
    return text.encode("latin1")


def _bytearray(data: bytes | str = b"", encoding: str = "latin-1") -> bytearray:
    if isinstance(data, str) and encoding == "latin-1":
        return bytearray(data.encode(encoding))
    if not isinstance(data, bytes):  # a number would say how many bytes to reserve
        raise pickle.UnpicklingError(f"bytearray of a {type(data).__name__}")
    return bytearray(data)


def _set(items: Iterable[Any] = ()) -> set[Any]:
    return set(map(_key, items))


def _frozenset(items: Iterable[Any] = ()) -> frozenset[Any]:
    return frozenset(map(_key, items))


def _ordered(items: Iterable[Any] = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_key(key), value) for key, value in items)


def _complex(real: float, imaginary: float) -> complex:
    return complex(real, imaginary)


def _dtype(name: str, align: bool = False, copy: bool = True) -> np.dtype:
    if not (isinstance(name, str) and _DTYPE.fullmatch(name)):
        raise pickle.UnpicklingError(f"an array of {name!r:.20}, which are no numbers or strings")
    return np.dtype(name, False, True)  # type: ignore[call-overload]  # a copy: its byte order may be set


def _new_array(kind: str, shape: Any, dtype: Any) -> np.ndarray:
    """An array to be filled; its shape comes with its content."""
    if kind is not _NDARRAY:
        raise pickle.UnpicklingError(f"an array that is a {type(kind).__name__}")
    return np.empty(0, dtype=np.int8)


def _from_buffer(data: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    _check_content(shape, dtype, data)
    return np.frombuffer(data, dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _scalar(dtype: np.dtype, data: bytes | str) -> np.generic:
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2's
    _check_content((), dtype, raw)
    return np.frombuffer(raw, dtype)[0]


def _fill(array: np.ndarray, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, data: bytes | str) -> None:
    raw = data.encode("latin1") if isinstance(data, str) else data  # Python 2's
    _check_content(shape, dtype, raw)
    if array.shape != (0,) or not array.flags.owndata:
        raise pickle.UnpicklingError("an array with two contents")
    array.__setstate__((1, shape, dtype, bool(fortran), raw))  # type: ignore[arg-type]


def _check_content(shape: Any, dtype: Any, data: Any) -> None:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array of objects, or without content")
    if not (isinstance(shape, tuple) and len(shape) <= 32 and all(type(size) is int and size >= 0 for size in shape)):
        raise pickle.UnpicklingError("an array without a shape")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {shape!s:.50} and {len(data)} bytes")


def _set_byte_order(dtype: np.dtype, order: str) -> None:
    """Does what matters of a state: a whole one could make NumPy read beyond an array."""
    if order not in ("<", ">", "|", "="):
        raise pickle.UnpicklingError("a dtype of no byte order")
    sizes = (dtype.itemsize, dtype.alignment) if dtype.kind in "SU" else (-1, -1)
    dtype.__setstate__((3, order, None, None, None, *sizes, 0))  # type: ignore[attr-defined]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _dtype,
}
for _builtin in (_set, _frozenset, _bytearray, _complex):
    _name = _builtin.__name__.removeprefix("_")
    _ALLOWED[("builtins", _name)] = _ALLOWED[("__builtin__", _name)] = _builtin
for _package in ("numpy.core", "numpy._core"):  # NumPy 2 moved these; files name either place
    _ALLOWED[(f"{_package}.multiarray", "_reconstruct")] = _new_array
    _ALLOWED[(f"{_package}.multiarray", "scalar")] = _scalar
    _ALLOWED[(f"{_package}.numeric", "_frombuffer")] = _from_buffer
_FUNCTIONS: tuple[Callable[..., Any], ...] = tuple(value for value in _ALLOWED.values() if callable(value))


def loads(data: bytes | memoryview, source: str) -> Any:
    """Returns the plain containers, numbers, strings and arrays that a pickle holds; ``source`` names it in errors.

    Strings written by Python 2 are read as UTF-8, or Latin-1 where they are not.

    Raises:
        UserError: it holds anything else, or is no pickle.
    """
    try:
        reader = pickle.loads if _plain(data) else functools.partial(_load_guarded, source=source)
        try:
            return reader(data, encoding="utf-8")
        except UnicodeDecodeError:
            return reader(data, encoding="latin1")
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise UserError(
            f"{source}: not a readable pickle ({type(error).__name__}: {str(error)[:200]}); "
            "copy or write the file again"
        ) from error


def load(path: str | Path) -> Any:
    """``loads`` of a file. Raises UserError where it is missing."""
    require_file(Path(path), "file", "check the data root of the task")
    try:
        data = read_recorded(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the data root of the task") from error
    return loads(data, str(path))


def dump(path: str | Path, obj: Any) -> None:
    """Writes a pickle whole or not at all; protocol 4, which VOLTA's Python reads too."""
    with replacing(Path(path)) as unfinished:
        unfinished.write_bytes(pickle.dumps(obj, protocol=4))
