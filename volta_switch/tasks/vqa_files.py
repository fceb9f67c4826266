"""VQA's files: questions, labels, soft targets and what ten people answered; making soft targets."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import id_number, id_order, plain_id
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import (
    Choice,
    check_split,
    coco_test_ids,
    id_field,
    read_entries,
    reason,
    refuse_twice,
    text_field,
)

LABELS = ("trainval_ans2label.pkl", "trainval_label2ans.pkl")  # of VQA and GQA
VQA_SPLITS = {  # the official files that each split's questions come from
    "train": ("train",),
    "val": ("val",),
    "trainval": ("train", "val"),
    "minval": ("val",),
    "mteval": ("train",),
    "test": ("test",),
    "test-dev": ("test-dev",),
}

# The official evaluator's normal form of an answer.
ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # the apostrophe and the colon stay
_MOST_PERIODS = 32  # that are taken out: the evaluator hands its regular expression a flag in the place of a count

# Words that the evaluator knows with an apostrophe, by their ending. "somebody'd" is not among them: it maps that word
# to "somebodyd", and so do we.
_ENDINGS = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were wo would",
    "'ve": "could might must not should they we what where who would you",
    "'d": "he how it someone something there they where who you",
    "'ll": "how it somebody someone something they what who why you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
    "n't've": "could had might should would",
    "'d've": "he it she somebody someone something there they we who y'all you",
    "": "ma'am o'clock 'ow's'at 'twas y'all y'all'll",
}


def _contractions() -> dict[str, str]:
    """Returns each known word by every spelling that lacks one of its apostrophes."""
    words = [base + ending for ending, bases in _ENDINGS.items() for base in bases.split()]
    lacking = {
        word[:place] + word[place + 1 :]: word for word in words for place, sign in enumerate(word) if sign == "'"
    }
    return lacking | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()


# --- Which they are ---------------------------------------------------------------------------------------------------


def vqa_files(dataroot: Path, split: str) -> list[Choice]:
    """Returns VQAv2's labels, questions and targets; those of a test may have none."""
    check_split(dataroot, "VQA", split, tuple(VQA_SPLITS))
    needed: list[Choice] = [(dataroot / name,) for name in LABELS]
    for name in VQA_SPLITS[split]:
        needed.append((questions_file(dataroot, name),))
        if not is_test(name):
            needed.append(targets_file(dataroot, name))
    return [*needed, (coco_test_ids(dataroot),)] if split == "mteval" else needed


def questions_file(dataroot: Path, name: str) -> Path:
    """Returns the official file of the questions of train, val, test or test-dev."""
    return dataroot / f"v2_OpenEnded_mscoco_{name}{_year(name)}_questions.json"


def answers_file(dataroot: Path, name: str) -> Path:
    """Returns the official file of the annotators' answers to the questions of train or val."""
    return dataroot / f"v2_mscoco_{name}{_year(name)}_annotations.json"


def targets_file(dataroot: Path, name: str) -> Choice:
    """Returns the places of soft targets: cache/, or where VOLTA's documentation puts them, one level up."""
    return tuple(folder / f"{name}_target.pkl" for folder in (dataroot / "cache", dataroot))


def is_test(name: str) -> bool:
    """Whether an official file is a test's, whose answers are not public."""
    return name.startswith("test")


def _year(name: str) -> int:
    return 2015 if is_test(name) else 2014


# --- Questions, labels and soft targets -------------------------------------------------------------------------------


def load_labels(dataroot: Path, num_labels: int | None = None) -> list[str]:
    """Reads the answer that each label stands for, from trainval_label2ans.pkl and its mirror, trainval_ans2label.pkl.

    Raises:
        UserError: one is missing or contradicts the other, or the number of answers is not ``num_labels``.
    """
    from volta_switch.data.files import safe_pickle

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
    """Reads a list of targets, ordered by question id; UserError for another form."""
    from volta_switch.data.files import safe_pickle

    targets = safe_pickle.load(path)
    try:
        if not isinstance(targets, list) or not all(isinstance(target, dict) for target in targets):
            raise TypeError("no list of dictionaries")
        return sorted(targets, key=lambda target: target["question_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected targets with question_id, labels, scores ({error!r})") from error


def soft_answer(target: Mapping[str, Any], num_labels: int, path: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Returns a target's labels and scores; UserError where they are not there or do not fit."""
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
    """Reads an official questions file, ordered by question id: question_id, image_id and question, all as text.

    Raises:
        UserError: the file has another form, or a question stands twice.
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
    """Reads one question; raises one of ``dataset.WRONG``."""
    return {
        "question_id": id_field(item, "question_id"),
        "image_id": id_field(item, "image_id"),
        "question": text_field(item, "question"),
    }


# --- What people answered ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnnotatedQuestion:
    """What people answered to one question; ``consensus`` is the dataset's own choice among their answers."""

    question_id: str
    image_id: str
    consensus: str
    answers: tuple[str, ...]


def load_annotators(path: str | Path) -> list[AnnotatedQuestion]:
    """Reads an official annotation file (``v2_mscoco_train2014_annotations.json``), ordered by question id.

    Raises:
        UserError: it is missing, of another form or empty, has no answer to a question, or names a question twice.
    """
    content = read_json(path)
    expected = "question_id, image_id, multiple_choice_answer, answers"
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise UserError(f"{path}: expected VQA's annotations: an object whose 'annotations' is a list, with {expected}")
    questions = read_entries(path, content["annotations"], _annotated, expected, "annotation")
    questions.sort(key=lambda question: id_order(question.question_id))
    if not questions:
        raise UserError(f"{path}: there are no annotations in it; take the official file")
    for question in questions:
        if not question.answers:
            raise UserError(f"{path}: question {question.question_id} has no answers; take the official file")
    refuse_twice(path, (question.question_id for question in questions), "question")
    return questions


def _annotated(item: Any, _: int) -> AnnotatedQuestion:
    return AnnotatedQuestion(
        id_field(item, "question_id"),
        id_field(item, "image_id"),
        text_field(item, "multiple_choice_answer"),
        tuple(text_field(given, "answer") for given in item["answers"]),
    )


def as_written(answer: str) -> str:
    """Returns an answer with blanks for line breaks and tabs and none around it; all that is done where all agree."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalised(answer: str) -> str:
    """Returns an answer in lower case without punctuation and articles, numbers as digits, apostrophes restored.

    The rules, with their quirks, are those of VQA's official evaluator: punctuation that touches a blank, or any in an
    answer with a comma between digits, is taken out, and other punctuation leaves a blank.
    """
    words = _without_punctuation(answer).lower().split()
    words = [DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _without_punctuation(answer: str) -> str:
    grouped = re.search("[0-9],[0-9]", answer) is not None  # 1,000
    without = answer
    for sign in PUNCTUATION:
        gone = grouped or f"{sign} " in answer or f" {sign}" in answer
        without = without.replace(sign, "" if gone else " ")
    return re.sub(r"\.(?![0-9])", "", without, count=_MOST_PERIODS)


# --- Making soft targets ----------------------------------------------------------------------------------------------


def make_vqa_targets(dataroot: Path, min_occurrences: int = 9, keep_labels: bool = True) -> dict[str, int]:
    """Writes cache/{train,val}_target.pkl and, where they are not kept, trainval_{ans2label,label2ans}.pkl.

    Args:
        dataroot: the folder with the official questions and annotations.
        min_occurrences: an answer gets a label where it is the consensus on so many questions of train and val.
        keep_labels: a pair of label maps that is there stays; a head trained with it fits no other.

    Returns:
        The number of answers with a label (``answers``), of targets of each part (``train``, ``val``), and of those
        whose annotators all gave answers without a label (``train_unlabelled``, ``val_unlabelled``).

    Raises:
        UserError: files are missing, or questions and annotations differ.
    """
    from volta_switch.data.files import safe_pickle

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
    """Returns the normalised answers that are the consensus on so many questions, in the order of their first."""
    counts = Counter(normalised(question.consensus).replace(",", "") for question in questions)
    return [answer for answer, count in counts.items() if count >= min_occurrences]


def soft_target(question: AnnotatedQuestion, ans2label: dict[str, int]) -> dict:
    """Returns one entry of a target file.

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
    """Returns VOLTA's soft label of an answer that ``votes`` of ten annotators gave: 0, .3, .6, .9, 1."""
    return min(1.0, 3 * votes / 10)


def _load_annotated(dataroot: Path, name: str) -> list[AnnotatedQuestion]:
    path, asked_in = answers_file(dataroot, name), questions_file(dataroot, name)
    questions = load_questions(asked_in)
    annotated = load_annotators(path)
    asked = [(question["question_id"], plain_id(question["image_id"])) for question in questions]
    if asked != [(question.question_id, plain_id(question.image_id)) for question in annotated]:
        raise UserError(
            f"{path}: {len(annotated)} annotations do not have the ids of the {len(asked)} questions in "
            f"{asked_in.name}; take both files from one release"
        )
    return annotated
