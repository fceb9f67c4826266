"""Numbers as records of other projects spell them: sizes of any type, arrays of any float type in base64.

An array in base64 does not say of which type its numbers are. Their type follows from its length, the number of boxes
and the width, where the width is known. Else it is the one in which the numbers are as close to each other as real
ones: bytes of another type look like numbers of every magnitude. VOLTA's own files hold float32.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from typing import Any

import numpy as np

from volta_switch.data.image_ids import shown

_FLOATS = ("<f4", "<f8", "<f2")
_INTEGERS = ("<i8", "<i4", "<i2")
_SAMPLE = 1024  # bytes that are looked at for the type
_FIRST = 32  # numbers that tell whether they must be
_CLOSER = 4.0  # times: reading halves of numbers, or pairs, as numbers spreads them by 8
_NEAR = 0.1
_FARTHEST = 1e5  # pixels
_SCALARS = (str, int, float, np.integer, np.floating)
_ENOUGH = 4  # numbers whose spread says something
_MAGNITUDES = (1e-30, 1e30)  # of numbers in another type than float32


class OtherForm(ValueError):
    """A record that is whole, but of a form that is not read; the message says which, and what to do."""


def whole_number(value: Any, name: str) -> int:
    """Reads a size or a count from a number, a text such as "480" or "480.0", bytes, or an array of one element.

    Raises:
        OtherForm: it is none of them, or has a fraction.
    """
    found = value[0] if isinstance(value, list | tuple) and len(value) == 1 else value
    if isinstance(found, np.ndarray) and found.size == 1:
        found = found.reshape(-1)[0]
    try:
        if isinstance(found, bytes | np.bytes_):
            found = found.decode("ascii")
        if isinstance(found, bool) or not isinstance(found, _SCALARS):
            raise ValueError
        number = int(found) if isinstance(found, str) and found.strip().isdecimal() else float(found)
        if not math.isfinite(number) or number != int(number):
            raise ValueError
        return int(number)
    except (ValueError, TypeError, OverflowError):
        raise OtherForm(f"{name} is {shown(value)}, expected a whole number; write it so") from None


def float_array(
    value: Any, name: str, rows: int | None, width: int | None = None, usual_width: int | None = None
) -> np.ndarray:
    """Reads an array of floats as float32, in the shape that it has; from base64 it is flat.

    Args:
        value: an array, or base64 of the bytes of float32, float64 or float16.
        rows: the number of boxes; None where the record does not say it.
        width: values of a box, None where the record may hold any.
        usual_width: what it is most likely to be then.

    Raises:
        OtherForm: no type fits, or the array is of another kind.
    """
    if isinstance(value, str | bytes):
        data = _decoded(value, name)
        return _as_float32(np.frombuffer(data, _float_type(data, name, rows, width, usual_width)))
    array = _given_array(value, name)
    if array.dtype.kind != "f" and name != "boxes":  # pixels may be whole
        raise OtherForm(f"{name}: {array.dtype}, expected floats; whole numbers have lost their scale: write float32")
    return _as_float32(array)


def integer_array(value: Any, name: str, rows: int) -> np.ndarray:
    """Reads an array of (rows,) whole numbers as int64, from base64 of the bytes of int64, int32 or int16, or an array.

    Raises OtherForm as ``float_array`` does.
    """
    if isinstance(value, str | bytes):
        data = _decoded(value, name)
        kind = next((kind for kind in _INTEGERS if len(data) == rows * np.dtype(kind).itemsize), None)
        if kind is None:
            raise OtherForm(f"{name}: {len(data)} bytes, expected {8 * rows} for {rows} boxes (int64); write both anew")
        return np.frombuffer(data, kind).astype("<i8", copy=False)
    array = _given_array(value, name)
    if array.dtype.kind not in "iu" and not np.array_equal(array, np.floor(array)):
        raise OtherForm(f"{name}: {array.dtype}, expected whole numbers; write int64")
    with np.errstate(invalid="ignore"):
        return np.ascontiguousarray(array, dtype="<i8")


def encoded(array: np.ndarray, kind: str) -> bytes:
    """Returns the base64 of an array's bytes in a type."""
    return base64.b64encode(np.asarray(array, dtype=kind).tobytes())


def _given_array(value: Any, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):  # lists can be nested and shared until there is no end to them
        raise OtherForm(f"{name}: a {type(value).__name__}, expected a NumPy array or base64; write one of these")
    if value.dtype.kind not in "fiub":
        raise OtherForm(f"{name}: an array of {value.dtype}, expected numbers; write float32")
    return value


def _as_float32(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.float32 and array.flags.c_contiguous:
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        return np.ascontiguousarray(array, dtype="<f4")


def _decoded(value: str | bytes, name: str) -> bytes:
    """Returns the bytes that base64 stands for. Python's decoder passes over foreign characters; here they are told."""
    try:
        data = base64.b64decode(value)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name}: no base64 ({error})") from None
    if len(data) != _length(value):
        value = value.encode("latin-1", "replace") if isinstance(value, str) else value
        if len(data) != _length(b"".join(value.split())):  # line breaks are allowed
            raise ValueError(f"{name}: characters that are none of base64")
    return data


def _length(value: str | bytes) -> int:
    """Returns how many bytes clean base64 stands for."""
    padding = value[-2:].count("=") if isinstance(value, str) else value[-2:].count(b"=")
    return len(value) // 4 * 3 - padding


def _float_type(data: bytes, name: str, rows: int | None, width: int | None, usual_width: int | None) -> str:
    """Says of which type the numbers of some bytes are: the first that fits, unless another looks far more like it."""
    if not data and not rows:
        return "<f4"
    known = width or usual_width
    if rows and known and len(data) == 4 * rows * known and _looks_like_float32(data):
        return "<f4"  # as VOLTA's: quickly told
    judge = _JUDGES.get(name, _spread)
    strangeness = {kind: judge(np.frombuffer(data[:_SAMPLE], kind)) for kind in _FLOATS if _whole(data, kind)}
    for kind, mine in strangeness.items():
        closer = _CLOSER if kind == "<f4" else _CLOSER / 2
        if _fits(len(data), kind, rows, width) and not any(
            other + _NEAR < mine / closer for other in strangeness.values()
        ):
            return kind
    wanted = "" if rows is None else f", num_boxes is {rows}" + (f" ({4 * rows * width} of float32)" if width else "")
    raise OtherForm(
        f"{name}: {len(data)} bytes{wanted}; no float type fits, so that one of the two is wrong: "
        "write num_boxes anew, and arrays as float32"
    )


def _whole(data: bytes, kind: str) -> bool:
    return len(data) % np.dtype(kind).itemsize == 0


def _fits(size: int, kind: str, rows: int | None, width: int | None) -> bool:
    count, rest = divmod(size, np.dtype(kind).itemsize)
    if rest or (rows == 0 and count):
        return False
    if rows is None:
        return count % (width or 1) == 0
    return count == rows * width if width is not None else count % max(rows, 1) == 0 and count > 0


def _looks_like_float32(data: bytes) -> bool:
    """Whether none of the first numbers is huge and hardly one tiny, zeros aside, and not every other one is 0."""
    count = min(len(data) // 4, _FIRST)
    numbers = list(map(abs, struct.unpack_from(f"<{count}f", data)))
    tiny = sum(map((1e-8).__gt__, numbers)) - numbers.count(0.0)
    return max(numbers) < 1e8 and 16 * tiny <= count and any(numbers[::2])


def _spread(numbers: np.ndarray) -> float:
    """Returns the standard deviation of the binary logarithms of numbers, those aside that are 0 or not finite.

    Infinite for magnitudes that no detector gives, and where there are too few numbers to say anything.
    """
    if numbers.itemsize < 8 and not _any(numbers[::2]) and _any(numbers[1::2]):
        return math.inf  # the lower halves of round numbers twice as long
    with np.errstate(all="ignore"):
        magnitudes = np.abs(numbers[np.isfinite(numbers) & (numbers != 0)].astype(np.float64))
    if len(magnitudes) < _ENOUGH:
        return 0.0 if numbers.itemsize == 4 else math.inf
    if numbers.itemsize != 4 and not _MAGNITUDES[0] < magnitudes.min() <= magnitudes.max() < _MAGNITUDES[1]:
        return math.inf
    return float(np.log2(magnitudes).std())


def _unordered(numbers: np.ndarray) -> float:
    """Returns the share of boxes whose second corner does not lie beyond the first, or is nowhere near an image."""
    boxes = numbers[: len(numbers) // 4 * 4].reshape(-1, 4)
    with np.errstate(all="ignore"):
        ordered = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (np.abs(boxes) < _FARTHEST).all(axis=1)
    return 1.0 - float(ordered.mean()) if len(boxes) else 1.0


def _improbable(numbers: np.ndarray) -> float:
    """Returns 0 for probabilities, 1 for other numbers; those of float16 that are read as float32 end at 0.008."""
    with np.errstate(all="ignore"):
        return 1.0 - float(numbers.min(initial=0) >= 0 and 0.01 <= numbers.max(initial=0) <= 1.001)


def _any(numbers: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return bool((numbers != 0).any())


_PROBABILITIES = ("objects_conf", "attrs_conf", "cls_prob", "attr_scores")
_JUDGES = {"boxes": _unordered} | dict.fromkeys(_PROBABILITIES, _improbable)  # of other arrays: _spread
