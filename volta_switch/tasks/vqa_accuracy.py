"""VQA's official accuracy: an answer is as right as ten annotators make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from volta_switch.data.annotations.vqa_answers import as_written, normalised


def vqa_accuracy(predictions: Mapping[str, str], annotators: Mapping[str, Sequence[str]]) -> float:
    """Mean accuracy of the answers predicted, in percent.

    predictions: by question id; annotators: what people answered to each of these questions, and maybe to others.
    """
    accuracies = [answer_accuracy(answer, annotators[question]) for question, answer in predictions.items()]
    return 100.0 * sum(accuracies) / len(accuracies)


def answer_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """How right a prediction is, 0 to 1: ``agreement`` with the annotators' answers (one or more).

    Answers are compared in normalised form, but as written where all annotators wrote the same, as the official
    evaluator does.
    """
    prediction, answers = as_written(prediction), [as_written(answer) for answer in answers]
    if len(set(answers)) > 1:
        prediction, answers = normalised(prediction), [normalised(answer) for answer in answers]
    return agreement(answers.count(prediction), len(answers))


def agreement(matches: int, annotators: int) -> float:
    """The mean of min(1, matches / 3) over the subsets that leave out one annotator each.

    Of these, ``matches`` subsets lack an annotator who agrees, and the others keep all who do.
    """
    without_one = matches * min(1.0, (matches - 1) / 3) if matches else 0.0
    return (without_one + (annotators - matches) * min(1.0, matches / 3)) / annotators
