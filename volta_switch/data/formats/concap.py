"""VOLTA's Conceptual Captions file: one LMDB record per image-caption pair, everything the detector said included.

A record is a msgpack list of 13: eight arrays in the form msgpack-numpy gives them, then five strings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from volta_switch.data.feature_files import Candidate, Format, Target
from volta_switch.data.files.feature_records import DETECTION_NAMES
from volta_switch.data.files.lmdb_environment import writing
from volta_switch.data.files.lmdb_pages import LmdbPages, is_lmdb
from volta_switch.data.files.raw_values import OtherForm, whole_number
from volta_switch.data.files.stores import PairStore
from volta_switch.data.image_ids import id_text, shown
from volta_switch.data.regions import Regions, TopScores
from volta_switch.errors import BadRecord, UserError

_ARRAYS = (  # fields 0 to 7, in the file's order
    ("features", "<f4"),
    ("cls_prob", "<f4"),
    ("objects_id", "<i8"),
    ("objects_conf", "<f4"),
    ("attrs_id", "<i8"),
    ("attrs_conf", "<f4"),
    ("attr_scores", "<f4"),
    ("boxes", "<f4"),
)
_STRINGS = 5  # fields 8 to 12: num_boxes, image_h, image_w, image_id, caption
_LIST_OF_STRINGS = bytes([0x90 + _STRINGS])  # msgpack's head of a list of five
_KEYS = b"__keys__"
_FIRST = b"00000000"


def write_concap(path: str | Path, pairs: Iterable[tuple[Regions, str]]) -> None:
    """Writes pairs of regions and caption to a single-file LMDB as VOLTA's train_concap.py reads it.

    Any number of regions and any widths F, C, A are written (VOLTA itself reads 36, 2048, 1601, 401 only).

    Raises:
        ValueError: regions lack one of the detector's fields, for whose absence the format has no place.
    """
    with writing(path, directory=False) as put:
        keys = []
        for index, (regions, caption) in enumerate(pairs):
            keys.append(f"{index:08d}".encode())
            put(keys[-1], _encode(regions, caption))
        put(_KEYS, msgpack.packb(keys, use_bin_type=True))


class ConcapFile(PairStore):
    """A file of VOLTA's."""

    def __init__(self, path: str | Path, in_memory: bool = False, check: bool = True) -> None:
        super().__init__(path, in_memory, check)
        self._file = LmdbPages(self.path, "Conceptual Captions features")
        self._places: _Places | None = None
        listed = self._file.get(_KEYS)
        self._length = self._file.entries - (listed is not None)
        # records are named by their place, but a file may list other names
        named_by_place = self._length == 0 or self._file.get(_FIRST) is not None
        if not named_by_place and listed is None:
            raise UserError(
                f"{self.path}: no record 00000000 and no list of keys; expected VOLTA's Conceptual Captions format "
                "(task features have another: see LmdbFeatures)"
            )
        self._keys: list[bytes] | None = None if named_by_place else self._listed_keys(listed)

    def _listed_keys(self, listed: memoryview | None) -> list[bytes]:
        try:
            keys = msgpack.unpackb(listed)
            if not (isinstance(keys, list) and all(isinstance(key, bytes) for key in keys)):
                raise ValueError("not a list of bytes")
            if len(keys) != self._length:
                raise ValueError(f"{len(keys)} keys for {self._length} records")
        except Exception as error:  # damaged bytes can fail in any way
            raise UserError(f"{self.path}: entry '__keys__' is damaged ({error}); write the file again") from error
        return keys

    def __len__(self) -> int:
        return self._length

    def _read(self, index: int) -> tuple[Regions, str]:
        key = f"{index:08d}".encode() if self._keys is None else self._keys[index]
        value = self._file.get(key)
        if value is None:
            raise BadRecord(f"{self.path}: record {key!r} is missing; write the file again")
        try:
            regions, caption = self._decode(value)
            self._check(regions)
        except OtherForm as error:
            raise BadRecord(f"{self.path}: record {key!r}: {error}") from None
        except Exception as error:  # a damaged record can fail in any way
            raise BadRecord(
                f"{self.path}: record {key!r} is not a list of 13 in VOLTA's format "
                f"({type(error).__name__}: {error}); write the file again"
            ) from error
        return regions, caption

    def _decode(self, value: memoryview) -> tuple[Regions, str]:
        """Takes the arrays from where they stood in the last record; looks for them only where that does not hold."""
        places = self._places
        if places is None or not places.fit(value):
            places = self._places = _find_arrays(value)
        arrays = {
            name: np.frombuffer(value, kind, count, start).reshape(shape)
            for name, kind, shape, count, start in places.arrays
        }
        for name, kind in places.others:
            arrays[name] = arrays[name].astype(kind)
        strings = msgpack.unpackb(_LIST_OF_STRINGS + value[places.end :])
        num_boxes, image_h, image_w, image_id, caption = strings
        if not isinstance(caption, str):
            raise OtherForm(f"the caption is {shown(caption)}, expected a text; write it, or leave the pair out")
        count = whole_number(num_boxes, "num_boxes")
        if len(arrays["features"]) != count:
            raise OtherForm(f"features have {len(arrays['features'])} rows, num_boxes is {count}; write it anew")
        width, height = whole_number(image_w, "the image's width"), whole_number(image_h, "the image's height")
        regions = Regions(image_id=id_text(image_id), image_w=width, image_h=height, **arrays)
        return regions, caption


@dataclass(frozen=True)
class _Places:
    """Where the arrays of a record stand, and the bytes between them, which are the same in records of one shape.

    Attributes:
        arrays: name, type, shape, number of values and first byte of each.
        between: (from, to, bytes) of what stands between them.
        end: the byte after the last array.
        others: arrays of another type than VOLTA's, and that type.
    """

    arrays: list[tuple[str, str, tuple[int, ...], int, int]]
    between: list[tuple[int, int, bytes]]
    end: int
    others: list[tuple[str, str]]

    def fit(self, value: memoryview) -> bool:
        """Whether a record has the same arrays in the same places."""
        return len(value) > self.end and all(value[start:end] == bytes_ for start, end, bytes_ in self.between)


def _find_arrays(value: memoryview) -> _Places:
    """Walks through a record up to its last array. Raises whatever damaged bytes lead to."""
    unpacker = msgpack.Unpacker(max_buffer_size=0, strict_map_key=False, raw=True)
    unpacker.feed(value)
    if unpacker.read_array_header() != len(_ARRAYS) + _STRINGS:
        raise ValueError("it has another number of fields")
    arrays: list[tuple[str, str, tuple[int, ...], int, int]] = []
    between: list[tuple[int, int, bytes]] = []
    others: list[tuple[str, str]] = []
    end = 0
    for name, kind in _ARRAYS:
        described: dict[bytes, Any] = {}
        for _ in range(unpacker.read_map_header()):
            key = unpacker.unpack()
            described[key] = unpacker.unpack()
        if list(described)[-1] != b"data" or described[b"nd"] is not True:
            raise ValueError(f"{name} is not an array as msgpack-numpy writes it")
        stored = _stored_kind(described[b"type"], name, kind)
        if stored != kind:
            others.append((name, kind))
            kind = stored
        shape = tuple(described[b"shape"])
        count = int(np.prod(shape, dtype=np.int64))
        length = len(described[b"data"])
        if any(size < 0 for size in shape) or count * np.dtype(kind).itemsize != length:
            raise ValueError(f"{name} of shape {shape} has {length} bytes")
        start = unpacker.tell() - length
        between.append((end, start, bytes(value[end:start])))
        arrays.append((name, kind, shape, count, start))
        end = start + length
    return _Places(arrays, between, end, others)


def _stored_kind(described: Any, name: str, kind: str) -> str:
    """Returns the type that a record gives an array; raises OtherForm for one that is not VOLTA's or like it."""
    like = {"<f4": ("<f4", "<f8", "<f2"), "<i8": ("<i8", "<i4", "<i2")}[kind]
    found = described.decode("ascii", "replace") if isinstance(described, bytes) else repr(described)
    if found not in like:
        raise OtherForm(f"{name} is of type {found:.30}, expected {' or '.join(like)}; write {kind}")
    return found


def _encode(regions: Regions, caption: str) -> bytes:
    record: list[Any] = []
    for name, kind in _ARRAYS:
        array = getattr(regions, name)
        if array is None:
            raise ValueError(f"image {regions.image_id}: Conceptual Captions records hold {name}, which is None")
        if isinstance(array, TopScores):
            array = array.dense()
        array = np.ascontiguousarray(array, dtype=kind)
        shape = list(array.shape)
        record.append({b"nd": True, b"type": kind, b"kind": b"", b"shape": shape, b"data": array.tobytes()})
    numbers = (len(regions), regions.image_h, regions.image_w)
    record += [*map(str, numbers), regions.image_id, caption]
    return msgpack.packb(record, use_bin_type=True)


def _fits(candidate: Candidate) -> bool:
    """Whether an LMDB holds Conceptual Captions records; raises UserError where it is damaged."""
    if not is_lmdb(candidate.head):
        return False
    file = LmdbPages(candidate.path, "image features")
    return file.get(_KEYS) is not None or file.get(_FIRST) is not None


def _refuse(regions: Regions) -> None:
    """Raises ValueError for regions that lack what a record holds."""
    missing = [field for field in DETECTION_NAMES if getattr(regions, field) is None]
    if missing:
        names = ", ".join(missing)
        raise ValueError(f"image {regions.image_id!r} has no {names}, which Conceptual Captions records hold")


FORMAT = Format(
    "concap",
    "Conceptual Captions (LMDB)",
    "LMDB file of image-caption pairs",
    _fits,
    pairs=ConcapFile,
    targets=(Target("concap", write_concap, refuse=_refuse, pairs=True),),
    not_images="Conceptual Captions pairs, the pre-training file (--features_path); "
    "expected the image features of a task",
    order=30,
)
