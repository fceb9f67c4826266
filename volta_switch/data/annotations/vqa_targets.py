"""Making VQAv2's soft targets, in VOLTA's format, from the official questions and annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from volta_switch.data.annotations.file_names import LABELS, vqa_answers, vqa_questions
from volta_switch.data.annotations.vqa import load_labels, load_questions
from volta_switch.data.annotations.vqa_answers import AnnotatedQuestion, load_annotators, normalised
from volta_switch.data.files import safe_pickle
from volta_switch.data.image_ids import id_number, plain_id
from volta_switch.errors import UserError


def make_vqa_targets(dataroot: Path, min_occurrences: int = 9, keep_labels: bool = True) -> dict[str, int]:
    """Write cache/{train,val}_target.pkl and, where they are not kept, trainval_{ans2label,label2ans}.pkl.

    min_occurrences: an answer gets a label where it is the consensus on so many questions of train and val.
    keep_labels: a pair of label maps that is there stays; a head trained with it fits no other.
    Returns the number of answers with a label (``answers``), of targets of each part (``train``, ``val``), and of those
    whose annotators all gave answers without a label (``train_unlabelled``, ``val_unlabelled``).
    Raises UserError for missing files, and questions and annotations that differ.
    """
    dataroot = Path(dataroot)
    parts = {name: _load_annotated(dataroot, name) for name in ("train", "val")}
    maps = [dataroot / name for name in LABELS]
    if keep_labels and all(path.is_file() for path in maps):
        label2ans = load_labels(dataroot)
    else:
        label2ans = frequent_answers(chain.from_iterable(parts.values()), min_occurrences)
        if not label2ans:
            raise UserError(f"{dataroot}: no answer is the consensus on {min_occurrences} questions; lower the minimum")
        safe_pickle.dump(maps[0], {answer: label for label, answer in enumerate(label2ans)})
        safe_pickle.dump(maps[1], label2ans)
    ans2label = {answer: label for label, answer in enumerate(label2ans)}
    counts = {"answers": len(label2ans)}
    for name, questions in parts.items():
        targets = [soft_target(question, ans2label) for question in questions]
        safe_pickle.dump(dataroot / "cache" / f"{name}_target.pkl", targets)
        counts[name] = len(targets)
        counts[f"{name}_unlabelled"] = sum(not target["labels"] for target in targets)
    return counts


def frequent_answers(questions: Iterable[AnnotatedQuestion], min_occurrences: int) -> list[str]:
    """The normalised answers that are the consensus on so many questions, in the order in which they first occur."""
    counts = Counter(normalised(question.consensus).replace(",", "") for question in questions)
    return [answer for answer, count in counts.items() if count >= min_occurrences]


def soft_target(question: AnnotatedQuestion, ans2label: dict[str, int]) -> dict:
    """One entry of a target file.

    Answers count as they were given, not normalised: so does the script that this format comes from
    (bottom-up-attention-vqa's compute_softscore).
    """
    votes = {answer: count for answer, count in Counter(question.answers).items() if answer in ans2label}
    return {
        "question_id": id_number(question.question_id),
        "image_id": id_number(question.image_id),
        "labels": [ans2label[answer] for answer in votes],
        "scores": [soft_label(count) for count in votes.values()],
    }


def soft_label(votes: int) -> float:
    """VOLTA's soft VQA label of an answer that ``votes`` of ten annotators gave: 0, .3, .6, .9, 1."""
    return min(1.0, 3 * votes / 10)


def _load_annotated(dataroot: Path, name: str) -> list[AnnotatedQuestion]:
    path = vqa_answers(dataroot, name)
    questions = load_questions(vqa_questions(dataroot, name))
    annotated = load_annotators(path)
    asked = [(question["question_id"], plain_id(question["image_id"])) for question in questions]
    if asked != [(question.question_id, plain_id(question.image_id)) for question in annotated]:
        raise UserError(
            f"{path}: {len(annotated)} annotations do not have the ids of the {len(asked)} questions in "
            f"{vqa_questions(dataroot, name).name}; take both files from one release"
        )
    return annotated
