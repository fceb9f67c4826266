"""SNLI-VE's pairs of an image and a hypothesis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from volta_switch.data.annotations.fields import id_field, read_entries, refuse_twice, text_field
from volta_switch.data.annotations.file_names import chosen, snli_ve_files
from volta_switch.data.annotations.vqa import VqaAnnotations, VqaEntry
from volta_switch.data.files.json_files import read_json_lines
from volta_switch.data.image_ids import plain_id
from volta_switch.errors import UserError

RELATIONS = ["contradiction", "neutral", "entailment"]  # by label, as VOLTA numbers them
IMAGE = ("Flikr30kID", "Flickr30kID", "Flickr30K_ID")  # the releases spell it in these ways
_NO_GOLD = "-"  # the annotators did not agree


def load_snli_ve(dataroot: str | Path, split: str, path: Path | None = None) -> VqaAnnotations:
    """Read train, dev or test from ``<split>.jsonl`` or ``snli_ve_<split>.jsonl``, in the file's order.

    path: another file, for any split. An entry's question is the hypothesis; its id is pairID or, where the file has
    none, the number of its line from 0, which VOLTA uses. A pair without a gold label has no labels: () and ().
    Raises UserError for a missing file, an empty one, a line of another form, and a pairID that stands twice.
    """
    (choice,) = snli_ve_files(Path(dataroot), split, path)
    path = chosen(choice)
    expected = f"{IMAGE[0]}, sentence2 and a gold_label of {', '.join(RELATIONS)} or {_NO_GOLD}"
    entries = read_entries(path, read_json_lines(path), snli_ve_entry, expected)
    if not entries:
        raise UserError(f"{path}: the split is empty; expected a line of JSON for each pair")
    refuse_twice(path, (entry.question_id for entry in entries), "pair")
    return VqaAnnotations(entries, RELATIONS)


def snli_ve_entry(line: Any, number: int) -> VqaEntry:
    """Read one line. Raises one of `fields.WRONG`. The image may be called by its file or by a caption's, "7.jpg#2"."""
    gold = text_field(line, "gold_label")
    if gold not in (*RELATIONS, _NO_GOLD):
        raise ValueError(f"gold_label is {gold!r:.60}")
    labels = () if gold == _NO_GOLD else (RELATIONS.index(gold),)
    name = id_field(line, "pairID") if "pairID" in line else str(number)
    image_id = plain_id(id_field(line, *IMAGE).partition("#")[0])
    return VqaEntry(name, image_id, text_field(line, "sentence2"), labels, (1.0,) * len(labels))
