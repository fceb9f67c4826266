"""GQA: questions about real scenes, each with one answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from volta_switch.data.files.json_files import read_json
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import Choice, check_split, chosen, id_field, read_entries, refuse_twice, text_field
from volta_switch.tasks.task_file import TaskSpec
from volta_switch.tasks.vqa import AnswerTask, VqaAnnotations, VqaEntry
from volta_switch.tasks.vqa_files import LABELS, load_labels, load_targets, soft_answer

_TARGETS = {"train": "train", "val": "val", "trainval": "trainval", "minval": "trainval"}  # the file of each split
_TESTDEV = ("test", "testdev")
_MINVAL = 3000  # the last questions of trainval, which VOLTA keeps for validation
_PARTS = {"trainval": slice(None, -_MINVAL), "minval": slice(-_MINVAL, None)}  # of the others all


def gqa_files(dataroot: Path, split: str) -> list[Choice]:
    """Returns GQA's labels, and the file that holds the split."""
    check_split(dataroot, "GQA", split, (*_TARGETS, *_TESTDEV))
    questions = "testdev_balanced_questions.json" if split in _TESTDEV else f"{_TARGETS[split]}_target.pkl"
    return [(dataroot / name,) for name in (*LABELS, questions)]


def load_gqa(dataroot: str | Path, split: str, num_labels: int | None = None) -> VqaAnnotations:
    """Reads a split: train, val, trainval (without its last 3,000 questions), minval (those), test or testdev.

    The latter two are testdev_balanced_questions.json, in the file's order; the others are ordered by question id.
    An answer that has no label leaves its question without one, so that no prediction is right. Ids are strings, as in
    GQA's files: some begin with zeros, which VOLTA loses.

    Raises:
        UserError: missing or contradictory files, another number of answers than ``num_labels``, or an empty split.
    """
    dataroot = Path(dataroot)
    *_, questions = gqa_files(dataroot, split)
    label2ans = load_labels(dataroot, num_labels)
    if split in _TESTDEV:
        entries = _load_testdev(chosen(questions), label2ans)
    else:
        entries = _load_targets(chosen(questions), len(label2ans))[_PARTS.get(split, slice(None))]
    if not entries:
        raise UserError(f"{dataroot}: split {split!r} of GQA is empty; check its files")
    return VqaAnnotations(entries, label2ans)


def _load_targets(path: Path, num_labels: int) -> list[VqaEntry]:
    def entry(target: Any, _: int) -> VqaEntry:
        ids = id_field(target, "question_id"), id_field(target, "image_id")
        return VqaEntry(*ids, text_field(target, "question"), *soft_answer(target, num_labels, path))

    entries = read_entries(path, load_targets(path), entry, "question_id, image_id, question, labels, scores", "target")
    refuse_twice(path, (entry.question_id for entry in entries), "question")
    return entries


def _load_testdev(path: Path, label2ans: list[str]) -> list[VqaEntry]:
    ans2label = {answer: label for label, answer in enumerate(label2ans)}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected GQA's questions by their ids, found a {type(content).__name__}")

    def entry(item: tuple[str, Any], _: int) -> VqaEntry:
        image_id, question, answer = gqa_question(item[1])
        labels: tuple[int, ...] | None = None
        if answer is not None:
            labels = (ans2label[answer],) if answer in ans2label else ()
        return VqaEntry(item[0], image_id, question, labels, None if labels is None else (1.0,) * len(labels))

    entries = read_entries(path, content.items(), entry, "imageId and question", "question")
    without = [entry.question_id for entry in entries if entry.labels is None]
    if without and len(without) < len(entries):
        raise UserError(f"{path}: question {without[0]} has no answer and others do; expected all or none to have one")
    return entries


def gqa_question(item: Any) -> tuple[str, str, str | None]:
    """Reads the image, the text and the answer, if there is one, of a question; raises one of ``dataset.WRONG``."""
    answer = text_field(item, "answer") if "answer" in item else None
    return id_field(item, "imageId"), text_field(item, "question"), answer


class GqaTask(AnswerTask):
    """Trained as VQA; the score is the share of questions that are answered exactly."""

    data_sets = ("GQA",)
    heads = ("VL-classifier-GQA",)
    second_features = "validation"
    metric = "accuracy"
    headline = ("accuracy",)
    result_keys = ("questionId", "prediction")  # of the official test format

    @classmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """As ``gqa_files``."""
        return gqa_files(spec.path(spec.dataroot), split)

    @classmethod
    def annotations(cls, spec: TaskSpec, split: str) -> VqaAnnotations:
        """Questions of a split."""
        return load_gqa(spec.path(spec.dataroot), split, spec.num_labels)
