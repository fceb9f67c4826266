"""GQA's questions and answers, as VOLTA keeps them."""

from __future__ import annotations

from pathlib import Path

from volta_switch.data.annotations.file_names import GQA_TESTDEV, chosen, gqa_files
from volta_switch.data.annotations.vqa import VqaAnnotations, VqaEntry, load_labels, load_targets, soft_answer
from volta_switch.data.files.json_files import read_json
from volta_switch.errors import UserError

_MINVAL = 3000  # the last questions of trainval, which VOLTA keeps for validation
_PARTS = {"trainval": slice(None, -_MINVAL), "minval": slice(-_MINVAL, None)}  # of the others all


def load_gqa(dataroot: str | Path, split: str, num_labels: int | None = None) -> VqaAnnotations:
    """Read a split: train, val, trainval (without its last 3,000 questions), minval (those), test or testdev.

    The latter two are testdev_balanced_questions.json, in the file's order; the others are ordered by question id.
    An answer that has no label leaves its question without one, so that no prediction is right. Ids are strings, as in
    GQA's files: some begin with zeros, which VOLTA loses.
    Raises UserError for missing or contradictory files, another number of answers than num_labels, an empty split.
    """
    dataroot = Path(dataroot)
    *_, questions = gqa_files(dataroot, split)
    label2ans = load_labels(dataroot, num_labels)
    if split in GQA_TESTDEV:
        entries = _load_testdev(chosen(questions), label2ans)
    else:
        entries = _load_targets(chosen(questions), len(label2ans))[_PARTS.get(split, slice(None))]
    if not entries:
        raise UserError(f"{dataroot}: split {split!r} of GQA is empty; check its files")
    return VqaAnnotations(entries, label2ans)


def _load_targets(path: Path, num_labels: int) -> list[VqaEntry]:
    try:
        return [
            VqaEntry(
                str(target["question_id"]),
                str(target["image_id"]),
                str(target["question"]),
                *soft_answer(target, num_labels, path),
            )
            for target in load_targets(path)
        ]
    except KeyError as error:
        raise UserError(f"{path}: expected targets with question_id, image_id, question ({error!r})") from error


def _load_testdev(path: Path, label2ans: list[str]) -> list[VqaEntry]:
    ans2label = {answer: label for label, answer in enumerate(label2ans)}
    content = read_json(path)
    entries = []
    try:
        for question_id, item in content.items():
            labels: tuple[int, ...] | None = None
            if "answer" in item:
                labels = (ans2label[item["answer"]],) if item["answer"] in ans2label else ()
            scores = None if labels is None else (1.0,) * len(labels)
            entries.append(VqaEntry(question_id, str(item["imageId"]), str(item["question"]), labels, scores))
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected GQA's questions by id, with imageId and question ({error!r})") from error
    without = [entry.question_id for entry in entries if entry.labels is None]
    if without and len(without) < len(entries):
        raise UserError(f"{path}: question {without[0]} has no answer and others do; expected all or none to have one")
    return entries
