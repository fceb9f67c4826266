"""Referring expressions as the REFER tool stores them: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from volta_switch.data import safe_pickle
from volta_switch.data.json_files import read_json
from volta_switch.errors import UserError


@dataclass(frozen=True)
class ReferEntry:
    """One expression and the box it names: x1, y1, x2, y2 in pixels."""

    caption: str
    sent_id: int
    ref_id: int
    image_id: int
    box: tuple[float, float, float, float]


def load_refer(dataroot: str | Path, task: str, split: str) -> list[ReferEntry]:
    """Read the expressions of one split, in VOLTA's order.

    dataroot: the directory that holds `<task>/refs(<unc|umd>).p` and `<task>/instances.json`.
    split: train, val, testA, testB, or test for every split whose name contains "test".
    The text is the sentence's `raw`, as in VOLTA. Raises UserError for missing or contradictory files and for a split
    without expressions.
    """
    directory = Path(dataroot) / task
    refs_path = directory / f"refs({'umd' if task == 'refcocog' else 'unc'}).p"
    instances_path = directory / "instances.json"
    refs = safe_pickle.load(refs_path)
    try:
        boxes = {item["id"]: item["bbox"] for item in read_json(instances_path)["annotations"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{instances_path}: expected COCO's annotations with id and bbox ({error!r})") from error
    entries = []
    try:
        for ref in refs:
            if not (ref["split"] == split or (split == "test" and "test" in ref["split"])):
                continue
            if ref["ann_id"] not in boxes:
                raise UserError(
                    f"{instances_path}: no annotation {ref['ann_id']}, which {refs_path.name} names in ref "
                    f"{ref['ref_id']}; take both files from one release"
                )
            x, y, width, height = boxes[ref["ann_id"]]
            for sentence, sent_id in zip(ref["sentences"], ref["sent_ids"], strict=True):
                box = (x, y, x + width, y + height)
                entries.append(ReferEntry(sentence["raw"], sent_id, ref["ref_id"], ref["image_id"], box))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{refs_path}: not the list of references that REFER writes ({error!r})") from error
    if not entries:
        found = ", ".join(sorted({ref["split"] for ref in refs})) or "none"
        raise UserError(f"{refs_path}: split {split!r} is empty; splits in the file: {found}")
    return entries
