"""Referring expressions as the REFER tool stores them: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.data.annotations.coco_test_ids import load_coco_test_ids
from volta_switch.data.annotations.file_names import refer_boxes, refer_references
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json
from volta_switch.errors import UserError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ReferEntry:
    """One expression and the box it names: x1, y1, x2, y2 in pixels. split: the file's own name of it ("testA")."""

    caption: str
    sent_id: int
    ref_id: int
    image_id: int
    box: Box
    split: str = ""


def load_refer(dataroot: str | Path, task: str, split: str) -> list[ReferEntry]:
    """Read the expressions of one split, in VOLTA's order.

    dataroot: the directory that holds `<task>/refs(<unc|umd>).p` and `<task>/instances.json`.
    split: train, val, testA, testB, test for every split whose name contains "test", or mteval for the training
    expressions of the images that `<dataroot>/cache/coco_test_ids.npy` lists (other tasks' test images).
    The text is the sentence's `raw`, as in VOLTA. Raises UserError for missing or contradictory files and for a split
    without expressions.
    """
    refs_path, boxes_path = refer_references(Path(dataroot), task), refer_boxes(Path(dataroot), task)
    refs = safe_pickle.load(refs_path)
    boxes = _read_boxes(boxes_path)
    chosen_images = load_coco_test_ids(dataroot) if split == "mteval" else None
    stored = "train" if split == "mteval" else split
    entries: list[ReferEntry] = []
    try:
        for ref in refs:
            if not (ref["split"] == stored or (split == "test" and "test" in ref["split"])):
                continue
            if chosen_images is not None and int(ref["image_id"]) not in chosen_images:
                continue
            if ref["ann_id"] not in boxes:
                raise UserError(
                    f"{boxes_path}: no annotation {ref['ann_id']}, which {refs_path.name} names in "
                    f"ref {ref['ref_id']}; take both files from one release"
                )
            entries += _expressions(ref, boxes[ref["ann_id"]])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{refs_path}: not the list of references that REFER writes ({type(error).__name__}: {error})"
        ) from error
    if not entries:
        found = ", ".join(sorted({str(ref["split"]) for ref in refs})) or "none"
        raise UserError(f"{refs_path}: split {split!r} is empty; splits in the file: {found}")
    return entries


def _expressions(ref: Mapping[str, Any], box: Box) -> list[ReferEntry]:
    entries = []
    for sentence, sent_id in zip(ref["sentences"], ref["sent_ids"], strict=True):
        if not isinstance(sentence["raw"], str):
            raise TypeError(f"the sentence {sent_id} is no text")
        entries.append(ReferEntry(sentence["raw"], sent_id, ref["ref_id"], ref["image_id"], box, ref["split"]))
    return entries


def _read_boxes(path: Path) -> dict[int, Box]:
    """COCO's annotations: the box of each, as corners, by its id."""
    boxes = {}
    try:
        for item in read_json(path)["annotations"]:
            x, y, width, height = map(float, item["bbox"])
            if not math.isfinite(x + y + width + height):
                raise ValueError(f"the box of {item['id']} is not finite")
            boxes[item["id"]] = (x, y, x + width, y + height)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: expected COCO's annotations, each with id and bbox x, y, width, height "
            f"({type(error).__name__}: {error})"
        ) from error
    return boxes
