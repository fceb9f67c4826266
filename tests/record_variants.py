"""Feature files as other projects write them, made from a few images: for tests that read them."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from small_regions import some_regions
from volta_switch.data.files.lmdb_environment import writing
from volta_switch.data.regions import Regions

IDS = (300000, 300001, 300002, 300007)
IMAGES = [some_regions(str(image_id), place, 3 + place, 16) for place, image_id in enumerate(IDS)]


def text(array: Any, kind: str) -> str:
    """Returns base64 of an array's bytes in a type."""
    return base64.b64encode(np.asarray(array, dtype=kind).tobytes()).decode()


def tsv_record(image: Regions, feature_type: str = "<f4", box_type: str = "<f4", **changes: Any) -> dict[str, Any]:
    """Returns a record as VOLTA's TSV converters spell it, its arrays in some types."""
    record = {
        "img_id": image.image_id,
        "img_h": str(image.image_h),
        "img_w": str(image.image_w),
        "num_boxes": str(len(image)),
        "boxes": text(image.boxes, box_type),
        "features": text(image.features, feature_type),
    }
    return record | changes


def array_record(image: Regions, **changes: Any) -> dict[str, Any]:
    """Returns a record as VOLTA's H5 converter spells it."""
    sizes = {"img_h": np.int64(image.image_h), "img_w": np.int64(image.image_w)}
    return {"img_id": image.image_id, "features": image.features, "boxes": image.boxes, **sizes} | changes


def write_lmdb(
    path: Path,
    record: Callable[[Regions], Any],
    images: Iterable[Regions] = IMAGES,
    key: Callable[[Regions], Any] = lambda image: image.image_id.encode(),
    listed: bool = True,
) -> Path:
    """Writes records under some keys, and the list of these, which may be bytes, text or numbers."""
    keys = []
    with writing(path, directory=True) as put:
        for image in images:
            name = key(image)
            keys.append(name)
            put(name if isinstance(name, bytes) else str(name).encode(), pickle.dumps(record(image)))
        if listed:
            put(b"keys", pickle.dumps(keys))
    return path


def cells(image: Regions) -> list[str]:
    """Returns the six cells of the first release."""
    record = tsv_record(image)
    return [record[name] for name in ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features")]


def classes(image: Regions) -> str:
    """Returns the cell of the class probabilities."""
    return text(image.cls_prob, "<f4")


def write_lines(path: Path, lines: Iterable[list[str]], start: bytes = b"", end: str = "\n") -> Path:
    """Writes lines of cells, with some bytes in front."""
    path.write_bytes(start + "".join("\t".join(line) + end for line in lines).encode())
    return path


def coco(image: Regions) -> str:
    """Returns an image's name as COCO gives it."""
    return f"COCO_train2014_{int(image.image_id):012d}"
