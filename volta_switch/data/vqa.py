"""VQAv2's questions and soft answers, as VOLTA keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.data import safe_pickle
from volta_switch.data.json_files import read_json
from volta_switch.errors import UserError

_MINVAL = 3000  # the last questions of val, which VOLTA keeps for validation when it trains on trainval


@dataclass(frozen=True)
class VqaEntry:
    """One question. labels and scores: the answers' indices and their soft scores in 0..1; None where not given."""

    question_id: int
    image_id: int
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

    split: train, val, trainval (train and val without its last 3,000 questions), minval (those 3,000), test
    (without answers unless cache/test_target.pkl gives them: VQAv2's are not public, a small world's are).
    num_labels: the number of answers that the task's head has.
    Raises UserError for missing or contradictory files, another number of answers, and an empty split.
    """
    dataroot = Path(dataroot)
    label2ans = _load_answers(dataroot, num_labels)
    if split == "test" and not (dataroot / "cache" / "test_target.pkl").is_file():
        questions = _load_questions(_questions_path(dataroot, split))
        entries = [VqaEntry(q["question_id"], q["image_id"], q["question"], None, None) for q in questions]
    elif split in ("train", "val", "test"):
        entries = _load_answered(dataroot, split, len(label2ans))
    elif split == "minval":
        entries = _load_answered(dataroot, "val", len(label2ans))[-_MINVAL:]
    elif split == "trainval":
        entries = _load_answered(dataroot, "train", len(label2ans))
        entries += _load_answered(dataroot, "val", len(label2ans))[:-_MINVAL]
    else:
        raise UserError(f"{dataroot}: VQA has no split {split!r}; expected train, val, trainval, minval or test")
    if not entries:
        raise UserError(f"{dataroot}: split {split!r} of VQA is empty; check its questions file")
    return VqaAnnotations(entries, label2ans)


def _load_answers(dataroot: Path, num_labels: int | None) -> list[str]:
    path = dataroot / "trainval_ans2label.pkl"
    ans2label = safe_pickle.load(path)
    label2ans = safe_pickle.load(dataroot / "trainval_label2ans.pkl")
    if not isinstance(ans2label, dict) or not isinstance(label2ans, list) or len(ans2label) != len(label2ans):
        raise UserError(f"{path}: does not mirror trainval_label2ans.pkl; take both files from one release")
    if num_labels is not None and len(ans2label) != num_labels:
        raise UserError(
            f"{path}: {len(ans2label)} answers, but the task's head has {num_labels}; set num_labels in the task file"
        )
    return label2ans


def _questions_path(dataroot: Path, name: str) -> Path:
    return dataroot / f"v2_OpenEnded_mscoco_{name}{2015 if name == 'test' else 2014}_questions.json"


def _load_questions(path: Path) -> list[dict[str, Any]]:
    try:
        return sorted(read_json(path)["questions"], key=lambda question: question["question_id"])
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path}: expected VQAv2's questions with question_id, image_id, question ({error!r})"
        ) from error


def _load_answered(dataroot: Path, name: str, num_labels: int) -> list[VqaEntry]:
    questions_path = _questions_path(dataroot, name)
    answers_path = dataroot / "cache" / f"{name}_target.pkl"
    questions = _load_questions(questions_path)
    entries = []
    try:
        answers = sorted(safe_pickle.load(answers_path), key=lambda answer: answer["question_id"])
        if [q["question_id"] for q in questions] != [a["question_id"] for a in answers]:
            raise UserError(
                f"{answers_path}: {len(answers)} targets do not have the ids of the {len(questions)} questions in "
                f"{questions_path.name}; take both files from one release"
            )
        for question, answer in zip(questions, answers, strict=True):
            labels, scores = tuple(answer["labels"]), tuple(answer["scores"])
            if len(labels) != len(scores) or any(not 0 <= label < num_labels for label in labels):
                raise UserError(
                    f"{answers_path}: question {answer['question_id']} has labels {labels} and scores {scores}; "
                    f"expected as many of each, labels below {num_labels}"
                )
            entry = VqaEntry(question["question_id"], question["image_id"], question["question"], labels, scores)
            entries.append(entry)
    except (KeyError, TypeError) as error:
        raise UserError(f"{answers_path}: expected targets with question_id, labels, scores ({error!r})") from error
    return entries
