"""VQAv2's questions and soft answers, as VOLTA keeps them."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.data.annotations.coco_test_ids import load_coco_test_ids
from volta_switch.data.annotations.fields import id_field, read_entries, reason, refuse_twice, text_field
from volta_switch.data.annotations.file_names import (
    LABELS,
    VQA_SPLITS,
    chosen,
    is_test,
    vqa_files,
    vqa_questions,
    vqa_targets,
)
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import id_order, plain_id
from volta_switch.errors import UserError

_MINVAL = 3000  # the last questions of val, which VOLTA keeps for validation when it trains on trainval


@dataclass(frozen=True)
class VqaEntry:
    """One question. labels and scores: the answers' indices and their soft scores in 0..1; None where not given."""

    question_id: str
    image_id: str
    question: str
    labels: tuple[int, ...] | None
    scores: tuple[float, ...] | None


@dataclass(frozen=True)
class VqaAnnotations:
    """The questions of a split and the answer that each label stands for."""

    entries: list[VqaEntry]
    label2ans: list[str]


def load_vqa(dataroot: str | Path, split: str, num_labels: int | None = None) -> VqaAnnotations:
    """Read a split, ordered by question id.

    split: train, val, trainval (train and val without its last 3,000 questions), minval (those 3,000), mteval (train's
    questions on the images in cache/coco_test_ids.npy), test and test-dev (without answers unless there are targets
    for them: VQAv2's are not public, a small world's are). Targets lie in cache/, or where VOLTA's documentation puts
    them, one level up.
    num_labels: the number of answers that the task's head has.
    Raises UserError for missing or contradictory files, another number of answers, and an empty split.
    """
    dataroot = Path(dataroot)
    vqa_files(dataroot, split)  # which knows the splits
    label2ans = load_labels(dataroot, num_labels)
    parts = {name: _load_part(dataroot, name, len(label2ans)) for name in VQA_SPLITS[split]}
    if split == "trainval":
        entries = parts["train"] + parts["val"][:-_MINVAL]
    elif split == "minval":
        entries = parts["val"][-_MINVAL:]
    elif split == "mteval":
        wanted = load_coco_test_ids(dataroot)
        entries = [entry for entry in parts["train"] if plain_id(entry.image_id) in wanted]
    else:
        entries = parts[split]
    if not entries:
        raise UserError(f"{dataroot}: split {split!r} of VQA is empty; check its questions file")
    return VqaAnnotations(entries, label2ans)


def load_labels(dataroot: Path, num_labels: int | None = None) -> list[str]:
    """Read the answer that each label stands for, from trainval_label2ans.pkl and its mirror, trainval_ans2label.pkl.

    Raises UserError where one is missing or contradicts the other, or the number of answers is not num_labels.
    """
    path, mirror = (dataroot / name for name in LABELS)
    ans2label, label2ans = safe_pickle.load(path), safe_pickle.load(mirror)
    try:
        mirrored = isinstance(label2ans, list) and all(isinstance(answer, str) for answer in label2ans)
        mirrored = mirrored and ans2label == {answer: label for label, answer in enumerate(label2ans)}
    except ValueError:  # arrays for labels
        mirrored = False
    if not mirrored:
        raise UserError(f"{path}: does not mirror {mirror.name}; take both files from one release")
    if num_labels is not None and len(label2ans) != num_labels:
        raise UserError(
            f"{path}: {len(label2ans)} answers, but the task's head has {num_labels}; set num_labels in the task file"
        )
    return label2ans


def load_targets(path: Path) -> list[dict[str, Any]]:
    """Read a list of targets, ordered by question id. Raises UserError for another form."""
    targets = safe_pickle.load(path)
    try:
        if not isinstance(targets, list) or not all(isinstance(target, dict) for target in targets):
            raise TypeError("no list of dictionaries")
        return sorted(targets, key=lambda target: target["question_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected targets with question_id, labels, scores ({error!r})") from error


def soft_answer(target: Mapping[str, Any], num_labels: int, path: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return a target's labels and scores. Raises UserError where they are not there or do not fit."""
    try:
        labels, scores = tuple(operator.index(label) for label in target["labels"]), tuple(target["scores"])
        fit = len(labels) == len(scores) and all(0 <= label < num_labels for label in labels)
        fit = fit and len(set(labels)) == len(labels) and all(0 <= score <= 1 for score in scores)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: question {target.get('question_id')!r:.40}: {reason(error)}; expected question_id, labels, scores"
        ) from error
    if not fit:
        raise UserError(
            f"{path}: question {target['question_id']} has labels {labels} and scores {scores}; "
            f"expected as many of each, labels below {num_labels}, each once, scores from 0 to 1"
        )
    return labels, scores


def load_questions(path: Path) -> list[dict[str, str]]:
    """Read an official questions file, ordered by question id: question_id, image_id and question, all as text.

    Raises UserError for another form, and for a question that stands twice.
    """
    content = read_json(path)
    expected = "question_id, image_id, question"
    if not isinstance(content, dict) or not isinstance(content.get("questions"), list):
        found = f"an object with {', '.join(content):.100}" if isinstance(content, dict) else "a list"
        raise UserError(
            f"{path}: {found}; expected VQAv2's questions: an object with a list of 'questions', each with {expected}"
        )
    questions = read_entries(path, content["questions"], vqa_question, expected, "question")
    refuse_twice(path, (question["question_id"] for question in questions), "question")
    return sorted(questions, key=lambda question: id_order(question["question_id"]))


def vqa_question(item: Any, _: int) -> dict[str, str]:
    """Read one question. Raises one of `fields.WRONG`."""
    return {
        "question_id": id_field(item, "question_id"),
        "image_id": id_field(item, "image_id"),
        "question": text_field(item, "question"),
    }


def _load_part(dataroot: Path, name: str, num_labels: int) -> list[VqaEntry]:
    """Read the questions of one official file with their targets; those of a test may have none."""
    questions = load_questions(vqa_questions(dataroot, name))
    path = chosen(vqa_targets(dataroot, name))
    if is_test(name) and not path.is_file():
        return [VqaEntry(q["question_id"], q["image_id"], q["question"], None, None) for q in questions]
    targets = load_targets(path)
    ids = read_entries(path, targets, lambda target, _: id_field(target, "question_id"), "question_id", "target")
    by_id = dict(zip(ids, targets, strict=True))
    if len(by_id) != len(ids) or by_id.keys() != {question["question_id"] for question in questions}:
        raise UserError(
            f"{path}: {len(targets)} targets do not have the ids of the {len(questions)} questions in "
            f"{vqa_questions(dataroot, name).name}; take both files from one release"
        )
    entries = []
    for question in questions:
        image_id, target = question["image_id"], by_id[question["question_id"]]
        if "image_id" in target and plain_id(str(target["image_id"])) != plain_id(image_id):
            raise UserError(
                f"{path}: question {question['question_id']} is about image {target['image_id']!r}, in "
                f"{vqa_questions(dataroot, name).name} about {image_id!r}; take both files from one release"
            )
        labels, scores = soft_answer(target, num_labels, path)
        entries.append(VqaEntry(**question, labels=labels, scores=scores))
    return entries
