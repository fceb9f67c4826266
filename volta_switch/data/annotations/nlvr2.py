"""NLVR2's statements about pairs of images, and MaRVL's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.data.annotations.fields import id_field, read_entries, refuse_twice, text_field
from volta_switch.data.annotations.file_names import chosen, nlvr2_files
from volta_switch.data.files.json_files import read_json_lines
from volta_switch.errors import UserError

_TRUTH = {"True": 1, "False": 0, "1": 1, "0": 0}  # as NLVR2 and as MaRVL writes it


@dataclass(frozen=True)
class Nlvr2Entry:
    """One statement about one pair: the names of the left and the right image; label 1 true, 0 false."""

    identifier: str
    image_ids: tuple[str, str]
    sentence: str
    label: int

    @property
    def set_of_pairs(self) -> str:
        """``dev-850`` of ``dev-850-2-0``, whose last numbers are those of the pair in its set and of the sentence.

        Of pairs that are named otherwise the two images.
        """
        pair = self.identifier.rpartition("-")[0]
        return pair.rpartition("-")[0] if self.image_ids[0] == f"{pair}-img0" else " ".join(self.image_ids)


def load_nlvr2(dataroot: str | Path, split: str, path: Path | None = None) -> list[Nlvr2Entry]:
    """Read train, dev or test from ``<split>.jsonl`` or ``<split>.json``, in the file's order.

    path: another file, for any split; its lines may also have MaRVL's form (left_img, right_img, caption, label), whose
    statements are called by their id or, without one, the number of their line from 0.
    Raises UserError for a missing file, an empty one, a line of another form, and an identifier that stands twice.
    """
    (choice,) = nlvr2_files(Path(dataroot), split, path)
    path = chosen(choice)
    expected = "identifier, sentence and label, or MaRVL's left_img, right_img, caption and label"
    entries = read_entries(path, read_json_lines(path), nlvr2_entry, expected)
    if not entries:
        raise UserError(f"{path}: the split is empty; expected a line of JSON for each statement")
    refuse_twice(path, (entry.identifier for entry in entries), "statement")
    return entries


def nlvr2_entry(line: Any, number: int) -> Nlvr2Entry:
    """Read one line of either form. Raises one of `fields.WRONG`.

    The pair's name is the identifier without its last part, which counts the statements about the pair.
    """
    if "left_img" in line:
        return _marvl_entry(line, number)
    identifier = id_field(line, "identifier")
    pair, dash, _ = identifier.rpartition("-")
    if not dash:
        raise ValueError(f"identifier {identifier!r} has no parts")
    return Nlvr2Entry(identifier, (f"{pair}-img0", f"{pair}-img1"), text_field(line, "sentence"), _label(line))


def _marvl_entry(line: Mapping[str, Any], number: int) -> Nlvr2Entry:
    left, right = (Path(text_field(line, side)).name.split(".")[0] for side in ("left_img", "right_img"))
    name = id_field(line, "id") if "id" in line else str(number)
    return Nlvr2Entry(name, (left, right), text_field(line, "caption"), _label(line))


def _label(line: Mapping[str, Any]) -> int:
    label = str(line["label"]).capitalize()
    if label not in _TRUTH:
        raise ValueError(f"label is {line['label']!r:.60}, expected True or False")
    return _TRUTH[label]
