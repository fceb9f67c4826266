"""The feature files of VOLTA's tasks: one LMDB record per image, found by the image's key.

VOLTA has three writers, which differ in how a record spells its arrays; all three are read.
"tsv" (B1): every value a string, arrays base64. "h5" (B2): NumPy arrays and scalars. "npy" (B3): features and boxes as
base64 bytes, sizes as int.
"""

from __future__ import annotations

import base64
import binascii
import os
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import lmdb
import numpy as np

from volta_switch.data import safe_pickle
from volta_switch.data.lmdb_environment import environment, writing
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError

Variant = Literal["tsv", "h5", "npy"]
_KEYS = b"keys"
# field of Regions -> (name in "tsv", name in "h5", dtype)
_DETECTIONS = {
    "objects_id": ("objects_id", "obj_id", "<i8"),
    "objects_conf": ("objects_conf", "obj_conf", "<f4"),
    "attrs_id": ("attrs_id", "attr_id", "<i8"),
    "attrs_conf": ("attrs_conf", "attr_conf", "<f4"),
    "cls_prob": ("cls_prob", "cls_prob", "<f4"),
    "attr_scores": ("attrs", "attr_scores", "<f4"),
}


def write_features(path: str | Path, regions: Iterable[Regions], variant: Variant = "tsv") -> None:
    """Write a directory LMDB as VOLTA's task readers expect it. Detector fields that are None are left out."""
    encode = {"tsv": _encode_tsv, "h5": _encode_h5, "npy": _encode_npy}[variant]
    with writing(path, directory=True) as put:
        keys = []
        for image in regions:
            keys.append(image.image_id.encode())
            put(keys[-1], pickle.dumps(encode(image), protocol=4))
        put(_KEYS, pickle.dumps(keys, protocol=4))


class FeatureStore:
    """`Regions` by image id (str or int). Can be handed to forked and spawned workers.

    feature_size: the width F that the model expects; None accepts any.
    detections: also decode the detector's classes and attributes (not needed by the tasks, and slow to decode).
    in_memory: keep every decoded image (295 kB each at VOLTA's size: for small files only).
    Raises UserError where the file, an image or the expected width is missing, naming it.
    """

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        self.path = Path(path)
        self.feature_size = feature_size
        self.in_memory = in_memory
        self._detections = detections
        self._decoded: dict[str, Regions] = {}
        self._env: lmdb.Environment | None = None
        self._pid = -1
        with self._environment().begin() as transaction:
            listed = transaction.get(_KEYS)
        if listed is None:
            raise UserError(
                f"{self.path}: no entry 'keys'; expected the feature file of a VOLTA task "
                "(Conceptual Captions files have another format: see ConcapFile)"
            )
        names = safe_pickle.loads(listed, f"{self.path}, entry 'keys'")
        self._keys = {name.decode() if isinstance(name, bytes) else str(name): None for name in names}  # ordered set

    def keys(self) -> list[str]:
        """Return the image ids, in the file's order."""
        return list(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, image_id: object) -> bool:
        return str(image_id) in self._keys

    def __getitem__(self, image_id: str | int) -> Regions:
        image_id = str(image_id)
        if image_id in self._decoded:
            return self._decoded[image_id]
        regions = self._read(image_id)
        if self.in_memory:
            self._decoded[image_id] = regions
        return regions

    def _read(self, image_id: str) -> Regions:
        with self._environment().begin(buffers=True) as transaction:
            value = transaction.get(image_id.encode())
            if value is None:
                raise UserError(
                    f"{self.path}: no image {image_id!r} among its {len(self._keys)}; "
                    "extract its features, or point the task at the feature file that belongs to the annotations"
                )
            source = f"{self.path}, image {image_id!r}"
            record = safe_pickle.loads(value, source)
        try:
            return self._decode(image_id, record)
        except (KeyError, ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise UserError(
                f"{source}: not a record of a VOLTA task ({type(error).__name__}: {error}); write the file again"
            ) from error

    def _decode(self, image_id: str, record: dict[str, Any]) -> Regions:
        boxes = _array(record["boxes"], "<f4").reshape(-1, 4)
        features = _array(record["features"], "<f4")
        if features.size % max(len(boxes), 1):
            raise ValueError(f"{features.size} feature values for {len(boxes)} boxes")
        width = features.size // len(boxes) if len(boxes) else self.feature_size or 0
        if self.feature_size is not None and width != self.feature_size:
            raise UserError(
                f"{self.path}, image {image_id!r}: features are {width} wide, the model expects {self.feature_size}; "
                f"set v_feature_size to {width}, or give the feature file that the model was made for"
            )
        detections = {}
        for name, (tsv, h5, kind) in _DETECTIONS.items() if self._detections else ():
            value = record.get(tsv, record.get(h5))
            if value is not None:
                array = _array(value, kind)
                detections[name] = array.reshape(len(boxes), -1) if name in ("cls_prob", "attr_scores") else array
        return Regions(
            image_id=image_id,
            features=features.reshape(len(boxes), width),
            boxes=boxes,
            image_w=int(record["img_w"]),
            image_h=int(record["img_h"]),
            **detections,
        )

    def _environment(self) -> lmdb.Environment:
        if self._env is None or self._pid != os.getpid():
            self._env, self._pid = environment(self.path, "image features"), os.getpid()
        return self._env

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None, "_pid": -1}


def _array(value: Any, kind: str) -> np.ndarray:
    if isinstance(value, str | bytes):
        return np.frombuffer(base64.b64decode(value), dtype=kind)
    return np.ascontiguousarray(value, dtype=kind)


def _base64(array: np.ndarray, kind: str) -> bytes:
    return base64.b64encode(np.asarray(array, dtype=kind).tobytes())


def _encode_tsv(regions: Regions) -> dict[str, str]:
    record = {"img_id": regions.image_id, "img_h": str(regions.image_h), "img_w": str(regions.image_w)}
    record["num_boxes"] = str(len(regions))
    record["boxes"] = _base64(regions.boxes, "<f4").decode()
    record["features"] = _base64(regions.features, "<f4").decode()
    for name, (tsv, _, kind) in _DETECTIONS.items():
        array = getattr(regions, name)
        if array is not None:
            record[tsv] = _base64(array, kind).decode()
    if "cls_prob" in record:
        record["classes"] = record["cls_prob"]  # VOLTA's rows hold the distribution under both names
    return record


def _encode_h5(regions: Regions) -> dict[str, Any]:
    record: dict[str, Any] = {
        "img_id": regions.image_id,
        "features": np.asarray(regions.features, dtype=np.float32),
        "boxes": np.asarray(regions.boxes, dtype=np.float32),
        "img_h": np.int64(regions.image_h),
        "img_w": np.int64(regions.image_w),
    }
    for name in ("objects_id", "objects_conf", "attrs_id", "attrs_conf"):
        array = getattr(regions, name)
        if array is not None:
            record[_DETECTIONS[name][1]] = np.asarray(array)
    return record


def _encode_npy(regions: Regions) -> dict[str, Any]:
    return {
        "features": _base64(regions.features, "<f4"),
        "boxes": _base64(regions.boxes, "<f4"),
        "img_h": regions.image_h,
        "img_w": regions.image_w,
        "num_boxes": len(regions),
    }
