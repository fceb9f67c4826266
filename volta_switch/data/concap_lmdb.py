"""VOLTA's Conceptual Captions file: one LMDB record per image-caption pair, everything the detector said included.

A record is a msgpack list of 13: eight arrays in the form msgpack-numpy gives them, then five strings.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np

from volta_switch.data.lmdb_environment import environment, writing
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError

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
_KEYS = b"__keys__"


def write_concap(path: str | Path, pairs: Iterable[tuple[Regions, str]]) -> None:
    """Write pairs of regions and caption to a single-file LMDB as VOLTA's train_concap.py reads it.

    Any number of regions and any widths F, C, A are written (VOLTA itself reads 36, 2048, 1601, 401 only). Raises
    ValueError where a Regions lacks one of the detector's fields: the format has no place for a missing one.
    """
    with writing(path, directory=False) as put:
        keys = []
        for index, (regions, caption) in enumerate(pairs):
            keys.append(f"{index:08d}".encode())
            put(keys[-1], _encode(regions, caption))
        put(_KEYS, msgpack.packb(keys, use_bin_type=True))


class ConcapFile:
    """Pairs of `Regions` and caption, by index. Can be handed to forked and spawned workers.

    in_memory: keep every decoded pair (585 kB each at VOLTA's size: for small files only).
    Raises UserError where the file is missing, damaged or of another format.
    """

    def __init__(self, path: str | Path, in_memory: bool = False) -> None:
        self.path = Path(path)
        self._decoded: dict[int, tuple[Regions, str]] | None = {} if in_memory else None
        self._env: lmdb.Environment | None = None
        self._pid = -1
        env = self._environment()
        with env.begin() as transaction:
            listed = transaction.get(_KEYS)
            self._length = env.stat()["entries"] - (listed is not None)
            # records are named by their place, but a file may list other names
            named_by_place = self._length == 0 or transaction.get(b"00000000") is not None
            if not named_by_place and listed is None:
                raise UserError(
                    f"{self.path}: no record 00000000 and no list of keys; expected VOLTA's Conceptual Captions format "
                    "(task features have another: see FeatureStore)"
                )
            self._keys: list[bytes] | None = None if named_by_place else msgpack.unpackb(listed)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        if not 0 <= index < self._length:
            raise IndexError(index)
        if self._decoded is None:
            return self._read(index)
        if index not in self._decoded:
            self._decoded[index] = self._read(index)
        return self._decoded[index]

    def _read(self, index: int) -> tuple[Regions, str]:
        key = f"{index:08d}".encode() if self._keys is None else self._keys[index]
        with self._environment().begin(buffers=True) as transaction:
            value = transaction.get(key)
            if value is None:
                raise UserError(f"{self.path}: record {key!r} is missing; write the file again")
            try:
                return _decode(value)
            except Exception as error:  # a damaged record can fail in any way
                raise UserError(
                    f"{self.path}: record {key!r} is not a list of 13 in VOLTA's format "
                    f"({type(error).__name__}: {error}); write the file again"
                ) from error

    def _environment(self) -> lmdb.Environment:
        if self._env is None or self._pid != os.getpid():
            self._env, self._pid = environment(self.path, "Conceptual Captions features"), os.getpid()
        return self._env

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None, "_pid": -1}


def _encode(regions: Regions, caption: str) -> bytes:
    record: list[Any] = []
    for name, kind in _ARRAYS:
        array = getattr(regions, name)
        if array is None:
            raise ValueError(f"image {regions.image_id}: Conceptual Captions records hold {name}, which is None")
        array = np.ascontiguousarray(array, dtype=kind)
        shape = list(array.shape)
        record.append({b"nd": True, b"type": kind, b"kind": b"", b"shape": shape, b"data": array.tobytes()})
    numbers = (len(regions), regions.image_h, regions.image_w)
    record += [*map(str, numbers), regions.image_id, caption]
    return msgpack.packb(record, use_bin_type=True)


def _decode(value: memoryview) -> tuple[Regions, str]:
    record = msgpack.unpackb(value, raw=False, strict_map_key=False)
    if len(record) != len(_ARRAYS) + 5:
        raise ValueError(f"it has {len(record)} fields")
    arrays = {name: _array(field, kind) for (name, kind), field in zip(_ARRAYS, record, strict=False)}
    num_boxes, image_h, image_w, image_id, caption = record[len(_ARRAYS) :]
    for name, array in arrays.items():
        if len(array) != int(num_boxes):
            raise ValueError(f"{name} has {len(array)} rows, num_boxes is {num_boxes}")
    return Regions(image_id=image_id, image_w=int(float(image_w)), image_h=int(float(image_h)), **arrays), caption


def _array(field: dict[bytes, Any], kind: str) -> np.ndarray:
    array = np.frombuffer(field[b"data"], dtype=field[b"type"]).reshape(field[b"shape"])
    return array if array.dtype == kind else array.astype(kind)
