"""VQA's annotators: what ten people answered, and the form in which the official evaluator compares answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.data.annotations.fields import id_field, read_entries, refuse_twice, text_field
from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import id_order
from volta_switch.errors import UserError

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
    """Each known word by every spelling that lacks one of its apostrophes."""
    words = [base + ending for ending, bases in _ENDINGS.items() for base in bases.split()]
    lacking = {
        word[:place] + word[place + 1 :]: word for word in words for place, sign in enumerate(word) if sign == "'"
    }
    return lacking | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()


@dataclass(frozen=True)
class AnnotatedQuestion:
    """What people answered to one question; ``consensus`` is the dataset's own choice among their answers."""

    question_id: str
    image_id: str
    consensus: str
    answers: tuple[str, ...]


def load_annotators(path: str | Path) -> list[AnnotatedQuestion]:
    """Read an official annotation file (``v2_mscoco_train2014_annotations.json``), ordered by question id.

    Raises UserError where it is missing, of another form, empty, without an answer to a question, or names a question
    twice.
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
    """An answer with blanks for line breaks and tabs and none around it: all that is done where everybody agrees."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalised(answer: str) -> str:
    """An answer in lower case without punctuation and articles, numbers up to ten as digits, apostrophes restored.

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
