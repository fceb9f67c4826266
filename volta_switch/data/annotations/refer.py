"""Referring expressions as the REFER tool stores them: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from volta_switch.data.annotations.coco_test_ids import load_coco_test_ids
from volta_switch.data.annotations.fields import id_field, read_entries, refuse_twice, text_field
from volta_switch.data.annotations.file_names import other_splits, refer_boxes, refer_references
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import id_text, plain_id
from volta_switch.errors import UserError

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class ReferEntry:
    """One expression and the box it names: x1, y1, x2, y2 in pixels. split: the file's own name of it ("testA")."""

    caption: str
    sent_id: str
    ref_id: str
    image_id: str
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
    refs = _load_references(refs_path)
    boxes = _read_boxes(boxes_path)
    chosen_images = load_coco_test_ids(dataroot) if split == "mteval" else None
    stored = "train" if split == "mteval" else split

    def expressions(ref: Any, _: int) -> list[ReferEntry]:
        if not (ref["split"] == stored or (split == "test" and "test" in ref["split"])):
            return []
        if chosen_images is not None and plain_id(id_field(ref, "image_id")) not in chosen_images:
            return []
        name = id_field(ref, "ann_id")
        if name not in boxes:
            raise UserError(
                f"{boxes_path}: no annotation {name}, which {refs_path.name} names in "
                f"ref {ref['ref_id']}; take both files from one release"
            )
        return _expressions(ref, boxes[name])

    expected = "ref_id, ann_id, image_id, split, and as many sent_ids as sentences with their raw texts"
    entries = list(chain.from_iterable(read_entries(refs_path, refs, expressions, expected, "reference")))
    refuse_twice(refs_path, (entry.sent_id for entry in entries), "sentence")
    if not entries:
        found = ", ".join(sorted({str(ref["split"]) for ref in refs})) or "none"
        raise UserError(f"{refs_path}: split {split!r} is empty; splits in the file: {found}")
    return entries


def _load_references(path: Path) -> list[Any]:
    """Read REFER's list. Raises UserError; where another set of splits lies beside it, by its name."""
    if not path.exists():
        raise UserError(f"{path}: no such file{other_splits(path)}; take it from REFER's release")
    refs = safe_pickle.load(path)
    if not isinstance(refs, list):
        raise UserError(f"{path}: a {type(refs).__name__}, expected REFER's list of references; take its release again")
    return refs


def _expressions(ref: Mapping[str, Any], box: Box) -> list[ReferEntry]:
    names = id_field(ref, "ref_id"), id_field(ref, "image_id")
    return [
        ReferEntry(text_field(sentence, "raw"), id_text(sent_id), *names, box, ref["split"])
        for sentence, sent_id in zip(ref["sentences"], ref["sent_ids"], strict=True)
    ]


def _read_boxes(path: Path) -> dict[str, Box]:
    """COCO's annotations: the box of each, as corners, by its id."""
    content = read_json(path)
    expected = "id and bbox: x, y, width, height"
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise UserError(
            f"{path}: expected COCO's object with a list of 'annotations', each with {expected}; take its release"
        )

    def box(item: Any, _: int) -> tuple[str, Box]:
        return id_field(item, "id"), corners(item["bbox"])

    return dict(read_entries(path, content["annotations"], box, expected, "annotation"))


def corners(bbox: Any) -> Box:
    """Return x, y, width, height as x1, y1, x2, y2. Raises one of `fields.WRONG` for what is no box."""
    x, y, width, height = map(float, bbox)
    if not math.isfinite(x + y + width + height):
        raise ValueError(f"bbox is {bbox!r:.60}")
    return x, y, x + width, y + height
