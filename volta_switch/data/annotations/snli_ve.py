"""SNLI-VE's pairs of an image and a hypothesis."""

from __future__ import annotations

from pathlib import Path

from volta_switch.data.annotations.file_names import chosen, snli_ve_files
from volta_switch.data.annotations.vqa import VqaAnnotations, VqaEntry
from volta_switch.data.files.json_files import read_json_lines
from volta_switch.errors import UserError

RELATIONS = ["contradiction", "neutral", "entailment"]  # by label, as VOLTA numbers them
_NO_GOLD = "-"  # the annotators did not agree


def load_snli_ve(dataroot: str | Path, split: str, path: Path | None = None) -> VqaAnnotations:
    """Read train, dev or test from ``<split>.jsonl`` or ``snli_ve_<split>.jsonl``, in the file's order.

    path: another file, for any split. An entry's question is the hypothesis; its id is pairID or, where the file has
    none, the number of its line from 0, which VOLTA uses. A pair without a gold label has no labels: () and ().
    Raises UserError for a missing file, an empty one, and a line of another form.
    """
    (choice,) = snli_ve_files(Path(dataroot), split, path)
    path = chosen(choice)
    entries = []
    for number, line in enumerate(read_json_lines(path)):
        try:
            gold = line["gold_label"]
            if gold not in (*RELATIONS, _NO_GOLD):
                raise ValueError(f"gold_label is {gold!r}")
            image_id = str(int(str(line["Flikr30kID"]).split(".")[0]))
            labels = () if gold == _NO_GOLD else (RELATIONS.index(gold),)
            name = str(line.get("pairID", number))
            entries.append(VqaEntry(name, image_id, str(line["sentence2"]), labels, (1.0,) * len(labels)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, entry {number + 1}: expected Flikr30kID, sentence2 and a gold_label of "
                f"{', '.join(RELATIONS)} or {_NO_GOLD} ({type(error).__name__}: {error})"
            ) from error
    if not entries:
        raise UserError(f"{path}: the split is empty; expected a line of JSON for each pair")
    return VqaAnnotations(entries, RELATIONS)
