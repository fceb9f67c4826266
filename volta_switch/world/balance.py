"""How far a guess without looking, or without reading, gets in a world: chance, majority and prior scores."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from volta_switch.world.content import (
    RETRIEVAL_IMAGES,
    SceneCaptions,
    SceneExpressions,
    SceneHypotheses,
    SceneQuestions,
    World,
)
from volta_switch.world.phrases import Phrase
from volta_switch.world.questions import Question
from volta_switch.world.statements import LEFT, RIGHT, UNDECIDED, Contrast

VOTES_TO_SCORE = (0.0, 0.3, 0.6, 0.9, 1.0)  # VQA: by the number of annotators who gave an answer; four or more: 1


def annotator_scores(given: Iterable[str]) -> dict[str, float]:
    """Returns the VQA score of each answer that an annotator gave, most frequent first."""
    return {answer: VOTES_TO_SCORE[min(votes, 4)] for answer, votes in Counter(given).most_common()}


def balance(world: World) -> dict:
    """Returns chance, majority and prior scores of every task's test split, and the ceiling of retrieval.

    Of a world with ``test_images``, also chance and ceiling of retrieval in pools as large as tests are without it.
    """
    scores = _balance(world)
    few, many = RETRIEVAL_IMAGES, world.spec.test_images
    if "retrieval" in scores and many is not None and many % few == 0:
        scores["retrieval"]["test"][f"in_pools_of_{few}"] = retrieval_ceiling(world.retrieval["test"], few)
    return scores


def _balance(world: World) -> dict:
    return {
        name: {
            split: _SCORES[name](getattr(world, name)["train"], entries)
            for split, entries in getattr(world, name).items()
            if split != "train"
        }
        for name in world.spec.data_sets
        if name in _SCORES
    }


def refer_chance(entries: list[SceneExpressions]) -> dict[str, float]:
    """Returns the accuracy of choosing one of the image's objects at random."""
    shares = [1 / len(entry.scene.objects) for entry in entries for _ in entry.expressions]
    return {"expressions": len(shares), "chance": sum(shares) / len(shares)}


def vqa_priors(train: list[SceneQuestions], test: list[SceneQuestions]) -> dict:
    """Returns the test score of the best constant answer, overall and per question kind and wording, fitted on train.

    ``prior_by_kind`` is what reading the question's kind is worth: the reference for models that see text only.
    """
    return {
        "questions": sum(len(entry.questions) for entry in test),
        "shares": _shares(test),
        "majority": _constant_score(train, test, lambda question: ""),
        "prior_by_kind": _constant_score(train, test, lambda question: question.kind),
        "prior_by_wording": _constant_score(train, test, lambda question: f"{question.kind} {question.form}"),
    }


def _shares(entries: list[SceneQuestions]) -> dict[str, float]:
    kinds = Counter(question.kind for entry in entries for question, _, _ in entry.questions)
    return {kind: count / kinds.total() for kind, count in sorted(kinds.items())}


def _constant_score(
    train: list[SceneQuestions], test: list[SceneQuestions], group_of: Callable[[Question], str]
) -> float:
    totals: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for entry in train:
        for question, _, given in entry.questions:
            totals[group_of(question)].update(annotator_scores(given))
    best = {group: scores.most_common(1)[0][0] for group, scores in totals.items()}
    earned = [
        annotator_scores(given).get(best.get(group_of(question), ""), 0.0)
        for entry in test
        for question, _, given in entry.questions
    ]
    return sum(earned) / len(earned)


def retrieval_ceiling(entries: list[SceneCaptions], pool_images: int | None = None) -> dict[str, float]:
    """Returns chance and the most that recall at 1 can be when a caption fits other images too.

    A caption counts as fitting an image if no object's place rules it out, so the ceiling errs to the low side.

    Args:
        entries: of a split, at least one.
        pool_images: images of the pools within which captions are ranked, a divisor of their number; None: one pool.
    """
    size = pool_images or len(entries)
    pools = [entries[start : start + size] for start in range(0, len(entries), size)]
    fitting = [
        sum(caption.may_be_true(other.scene) for other in pool)
        for pool in pools
        for entry in pool
        for caption in entry.captions
    ]
    return {
        "images": len(entries),
        "captions": len(fitting),
        "chance_r1": 1 / size,
        "ceiling_r1": sum(1 / number for number in fitting) / len(fitting),
    }


def statement_priors(train: list[Contrast], test: list[Contrast]) -> dict:
    """Returns the test accuracy of guesses about NLVR2's statements that do not use both images and the text.

    ``majority``, ``by_statement``, ``by_pair``: of the most that the labels, those of each statement and those of each
    pair allow. ``by_one_image``: of reading the statement and seeing what it says of the left image only, or of the
    right one only (the better of the two), with the best guess for each form and finding fitted on train.
    """
    labels = [(number, row, pair, pair == true) for number, contrast in enumerate(test)
              for row, (_, true) in enumerate(contrast.statements) for pair in (0, 1)]  # fmt: skip
    forms = Counter(statement.form for contrast in test for statement, _ in contrast.statements)
    return {
        "statements": len(labels),
        "shares": {form: count / forms.total() for form, count in sorted(forms.items())},
        "majority": _majority([((), label) for *_, label in labels]),
        "by_statement": _majority([((number, row), label) for number, row, _, label in labels]),
        "by_pair": _majority([((number, pair), label) for number, _, pair, label in labels]),
        "by_one_image": max(_one_image(train, test, side) for side in (LEFT, RIGHT)),
    }


def _majority(labels: list[tuple[tuple, Any]]) -> float:
    """Returns the accuracy of the commonest label of each group; ``labels`` are pairs of group and label."""
    groups: defaultdict[tuple, Counter] = defaultdict(Counter)
    for group, label in labels:
        groups[group][label] += 1
    return sum(max(group.values()) for group in groups.values()) / len(labels)


def _one_image(train: list[Contrast], test: list[Contrast], side: int) -> float:
    return _fitted(_findings(train, side), _findings(test, side))


def _fitted(train: list[tuple[tuple, Any]], test: list[tuple[tuple, Any]]) -> float:
    """Returns the accuracy of guessing each group's commonest label of train; a tie counts as wrong."""
    found: defaultdict[tuple, Counter] = defaultdict(Counter)
    for group, label in train:
        found[group][label] += 1
    right = [
        found[group][label] > max((count for other, count in found[group].items() if other != label), default=0)
        for group, label in test
    ]
    return sum(right) / len(right)


def _findings(contrasts: list[Contrast], side: int) -> list[tuple[tuple, bool]]:
    """Return, of each statement and pair, what the image on one side shows of it, and the label."""
    return [
        ((statement.form, statement.attribute, statement.most, statement.evidence(pair[side], side)), number == true)
        for contrast in contrasts
        for statement, true in contrast.statements
        for number, pair in enumerate(contrast.pairs)
    ]


def hypothesis_priors(train: list[SceneHypotheses], test: list[SceneHypotheses]) -> dict:
    """Returns the test accuracy of guesses about SNLI-VE's hypotheses from the image or the text alone.

    ``majority``, ``by_image``: of the most that the verdicts, and those of each image, allow. ``prior_by_wording``: of
    the best guess, fitted on train, for each direction and number of attributes said of either object.
    """
    hypotheses = _hypotheses(test)
    labels = [(image, verdict) for image, _, verdict in hypotheses]
    return {
        "claims": len(hypotheses),
        "undecided": sum(verdict == UNDECIDED for entry in test for _, verdict in entry.hypotheses),
        "majority": _majority([((), verdict) for _, verdict in labels]),
        "by_image": _majority(labels),
        "prior_by_wording": _fitted([part[1:] for part in _hypotheses(train)], [part[1:] for part in hypotheses]),
    }


def _hypotheses(entries: list[SceneHypotheses]) -> list[tuple[tuple, tuple, str]]:
    """Returns the image, the wording's pattern and the verdict of every hypothesis that has one."""
    return [
        (
            (entry.scene.image_id,),
            (hypothesis.direction, _said(hypothesis.phrase), _said(hypothesis.other)),
            verdict,
        )
        for entry in entries
        for hypothesis, verdict in entry.hypotheses
        if verdict != UNDECIDED
    ]


def _said(phrase: Phrase) -> int:
    return sum(value is not None for value in phrase.values)


_SCORES: dict[str, Callable[[list, list], dict]] = {
    "refer": lambda train, test: refer_chance(test),
    "vqa": vqa_priors,
    "retrieval": lambda train, test: retrieval_ceiling(test),
    "nlvr2": statement_priors,
    "refcoco": lambda train, test: refer_chance(test),
    "refcocog": lambda train, test: refer_chance(test),
    "coco": lambda train, test: retrieval_ceiling(test),
    "gqa": vqa_priors,
    "snli_ve": hypothesis_priors,
}
