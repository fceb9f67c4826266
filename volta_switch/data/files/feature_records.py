"""One image as VOLTA's task files spell it: the same arrays under other names and in other coats.

"tsv": every value a string, arrays base64. "h5": NumPy arrays and scalars. "npy": features and boxes as base64 bytes,
sizes as int. LMDB records have all three; a TSV line is the first, a group of an H5 file the second.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from volta_switch.data.regions import Regions, Scores, TopScores

# field of Regions -> (names in "tsv", "h5" and "npy", dtype)
_DETECTIONS = {
    "objects_id": (("objects_id", "obj_id", "objects"), "<i8"),
    "objects_conf": (("objects_conf", "obj_conf", ""), "<f4"),
    "attrs_id": (("attrs_id", "attr_id", ""), "<i8"),
    "attrs_conf": (("attrs_conf", "attr_conf", ""), "<f4"),
    "cls_prob": (("cls_prob", "cls_prob", "cls_prob"), "<f4"),
    "attr_scores": (("attrs", "attr_scores", ""), "<f4"),
}
DETECTION_NAMES = tuple(_DETECTIONS)
REGION_NAMES = ("features", "boxes", "img_w", "img_h")
_COCO = re.compile(r"COCO_\w+_(\d{1,18})", re.ASCII)


def image_key(name: str) -> str:
    """Return the id under which tasks ask for an image: COCO's number for COCO's file names, else the name itself.

    "COCO_train2014_000000000009" -> "9", as VOLTA's converter of MS COCO does and its annotations have it.
    """
    match = _COCO.fullmatch(name)
    return str(int(match[1])) if match else name


def h5_names(detections: bool) -> list[str]:
    """Return the names that a record in the "h5" spelling may hold."""
    return [*REGION_NAMES, *(names[1] for names, _ in _DETECTIONS.values() if detections)]


def decode_record(image_id: str, record: Mapping[str, Any], detections: bool) -> Regions:
    """Read a record in any of the spellings; raises whatever a damaged one leads to."""
    boxes = _array(record["boxes"], "<f4").reshape(-1, 4)
    features = _array(record["features"], "<f4")
    if features.size % max(len(boxes), 1):
        raise ValueError(f"{features.size} feature values for {len(boxes)} boxes")
    width = features.size // len(boxes) if len(boxes) else 0
    found = {}
    for name, (spellings, kind) in _DETECTIONS.items() if detections else ():
        value = next((record[spelling] for spelling in spellings if record.get(spelling) is not None), None)
        if value is None or (isinstance(value, str) and not value and len(boxes)):
            continue  # an empty cell of a TSV file stands for nothing
        array = _array(value, kind)
        if name in ("cls_prob", "attr_scores"):
            array = array.reshape(len(boxes), -1 if len(boxes) else array.shape[-1])
        found[name] = array
    return Regions(
        image_id=image_id,
        features=features.reshape(len(boxes), width),
        boxes=boxes,
        image_w=int(record["img_w"]),
        image_h=int(record["img_h"]),
        **found,
    )


def encode_tsv(regions: Regions) -> dict[str, str]:
    """Spell an image as a TSV row; fields that are None are left out."""
    record = {"img_id": regions.image_id, "img_h": str(regions.image_h), "img_w": str(regions.image_w)}
    record["num_boxes"] = str(len(regions))
    record["boxes"] = _base64(regions.boxes, "<f4").decode()
    record["features"] = _base64(regions.features, "<f4").decode()
    for name, (spellings, kind) in _DETECTIONS.items():
        array = getattr(regions, name)
        if array is not None:
            record[spellings[0]] = _base64(dense(array), kind).decode()
    if "cls_prob" in record:
        record["classes"] = record["cls_prob"]  # VOLTA's rows hold the distribution under both names
    return record


def encode_h5(regions: Regions) -> dict[str, Any]:
    """Spell an image as arrays; fields that are None are left out."""
    record: dict[str, Any] = {
        "img_id": regions.image_id,
        "features": np.asarray(regions.features, dtype=np.float32),
        "boxes": np.asarray(regions.boxes, dtype=np.float32),
        "img_h": np.int64(regions.image_h),
        "img_w": np.int64(regions.image_w),
    }
    for name, (spellings, kind) in _DETECTIONS.items():
        array = getattr(regions, name)
        if array is not None:
            record[spellings[1]] = np.asarray(dense(array), dtype=kind)
    return record


def encode_npy(regions: Regions) -> dict[str, Any]:
    """Spell an image as the converter of .npy files does: of the detections only classes."""
    record = {
        "feature_path": regions.image_id,
        "features": _base64(regions.features, "<f4"),
        "boxes": _base64(regions.boxes, "<f4"),
        "img_h": regions.image_h,
        "img_w": regions.image_w,
        "num_boxes": len(regions),
    }
    for name, (spellings, kind) in _DETECTIONS.items():
        array = getattr(regions, name)
        if array is not None and spellings[2]:
            record[spellings[2]] = np.asarray(dense(array), dtype=kind)
    return record


def dense(array: Scores) -> np.ndarray:
    """Return scores as a full array."""
    return array.dense() if isinstance(array, TopScores) else array


def _array(value: Any, kind: str) -> np.ndarray:
    if isinstance(value, str | bytes):
        return np.frombuffer(base64.b64decode(value), dtype=kind)
    if not isinstance(value, np.ndarray):  # lists can be nested and shared until there is no end to them
        raise TypeError(f"a {type(value).__name__} instead of an array")
    if value.dtype.kind not in "fiub":
        raise TypeError(f"an array of {value.dtype} instead of numbers")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused later
        return np.ascontiguousarray(value, dtype=kind)


def _base64(array: np.ndarray, kind: str) -> bytes:
    return base64.b64encode(np.asarray(array, dtype=kind).tobytes())
