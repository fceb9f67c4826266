"""One image as VOLTA's task files and those of its ancestors spell it: the same arrays under other names and types.

"tsv": every value a string, arrays base64. "h5": NumPy arrays and scalars. "npy": features and boxes as base64 bytes,
sizes as int. LMDB records have all three; a TSV line is the first, a group of an H5 file the second. ViLBERT, 12-in-1
and MMF call the sizes and the boxes by other names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from volta_switch.data.files.raw_values import OtherForm, encoded, float_array, integer_array, whole_number
from volta_switch.data.regions import Regions, Scores, TopScores

SYNONYMS = {  # what a record must hold, by the names under which projects store it
    "img_id": ("img_id", "image_id"),
    "features": ("features",),
    "boxes": ("boxes", "bbox"),
    "img_w": ("img_w", "image_w", "image_width"),
    "img_h": ("img_h", "image_h", "image_height"),
    "num_boxes": ("num_boxes",),
}
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
_SCORES = ("cls_prob", "attr_scores")


def h5_names(detections: bool) -> list[str]:
    """Returns the names that a record in the "h5" spelling may hold."""
    regions = [name for names in SYNONYMS.values() for name in names]
    return [*regions, *(names[1] for names, _ in _DETECTIONS.values() if detections)]


def decode_record(
    image_id: str, record: Mapping[str, Any], detections: bool, feature_size: int | None = None
) -> Regions:
    """Reads a record in any of the spellings; feature_size: the width that features are likely to have.

    Raises:
        OtherForm: it is whole, but of a form that is not read; else whatever a damaged one leads to.
    """
    stated = _found(record, "num_boxes")
    rows = None if stated is None else whole_number(stated, "num_boxes")
    if rows is not None and rows < 0:
        raise OtherForm(f"num_boxes is {rows}; write it anew")
    boxes = _table(float_array(_needed(record, "boxes"), "boxes", rows, 4), "boxes", rows, 4)
    rows = len(boxes)
    features = _table(float_array(_needed(record, "features"), "features", rows, None, feature_size), "features", rows)
    return Regions(
        image_id=image_id,
        features=features,
        boxes=boxes,
        image_w=whole_number(_needed(record, "img_w"), "the image's width"),
        image_h=whole_number(_needed(record, "img_h"), "the image's height"),
        **(_detections(record, rows) if detections else {}),
    )


def _detections(record: Mapping[str, Any], rows: int) -> dict[str, np.ndarray]:
    found = {}
    for name, (spellings, kind) in _DETECTIONS.items():
        value = next((record[spelling] for spelling in spellings if record.get(spelling) is not None), None)
        if value is None or (isinstance(value, str) and not value and rows):
            continue  # an empty cell of a TSV file stands for nothing
        if name in _SCORES:
            found[name] = _table(float_array(value, name, rows), name, rows)
        elif kind == "<i8":
            found[name] = integer_array(value, name, rows)
        else:
            found[name] = float_array(value, name, rows, 1)
    return found


def _found(record: Mapping[str, Any], name: str) -> Any:
    return next((record[spelling] for spelling in SYNONYMS[name] if record.get(spelling) is not None), None)


def _needed(record: Mapping[str, Any], name: str) -> Any:
    value = _found(record, name)
    if value is None:
        names = ", ".join(sorted(map(str, record)))
        raise OtherForm(f"it has no {' or '.join(SYNONYMS[name])}, only {names:.200}; add it to the record")
    return value


def _table(array: np.ndarray, name: str, rows: int | None, width: int | None = None) -> np.ndarray:
    """Returns an array as (rows, width), whose values must stand in that order: flat, or with axes of 1 in front."""
    while array.ndim > 2 and len(array) == 1:
        array = array[0]
    if array.ndim < 2:
        rows = array.size // width if rows is None and width else rows
        if rows is None or array.size % max(rows, 1) or (rows == 0 and array.size):
            raise OtherForm(f"{name}: {array.size} values, which {rows} boxes cannot share; write num_boxes anew")
        array = array.reshape(rows, array.size // rows if rows else width or 0)
    if array.ndim != 2 or (rows is not None and len(array) != rows) or (width and array.shape[1] != width):
        expected = f"({'n' if rows is None else rows}, {width or 'F'})"
        cure = "write x1, y1, x2, y2 of num_boxes boxes" if name == "boxes" else "write a row for each box"
        raise OtherForm(f"{name}: shape {array.shape}, expected {expected}; {cure}")
    return array


def encode_tsv(regions: Regions) -> dict[str, str]:
    """Spells an image as a TSV row; fields that are None are left out."""
    record = {"img_id": regions.image_id, "img_h": str(regions.image_h), "img_w": str(regions.image_w)}
    record["num_boxes"] = str(len(regions))
    record["boxes"] = encoded(regions.boxes, "<f4").decode()
    record["features"] = encoded(regions.features, "<f4").decode()
    for name, (spellings, kind) in _DETECTIONS.items():
        array = getattr(regions, name)
        if array is not None:
            record[spellings[0]] = encoded(dense(array), kind).decode()
    if "cls_prob" in record:
        record["classes"] = record["cls_prob"]  # VOLTA's rows hold the distribution under both names
    return record


def encode_h5(regions: Regions) -> dict[str, Any]:
    """Spells an image as arrays; fields that are None are left out."""
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
    """Spells an image as the converter of .npy files does: of the detections only classes."""
    record = {
        "feature_path": regions.image_id,
        "features": encoded(regions.features, "<f4"),
        "boxes": encoded(regions.boxes, "<f4"),
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
    """Returns scores as a full array."""
    return array.dense() if isinstance(array, TopScores) else array
