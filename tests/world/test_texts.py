"""Expressions, captions and questions are checked against tests/world/small_truth.py."""

import random
from collections import Counter

import pytest
from small_truth import denoted, true_answer

from volta_switch.world.balance import retrieval_ceiling
from volta_switch.world.phrases import Caption, Phrase
from volta_switch.world.questions import ANSWERS, LABELS, annotate


def expressions(drawn):
    return [(entry.scene, *said) for part in drawn.refer.values() for entry in part for said in entry.expressions]


def questions(drawn):
    return [(entry.scene, *asked) for part in drawn.vqa.values() for entry in part for asked in entry.questions]


def test_every_expression_denotes_its_referent_and_nothing_else(drawn):
    for scene, target, phrase in expressions(drawn):
        assert denoted(scene, phrase) == denoted(scene, phrase, sure=False) == [target], phrase.words()


def test_every_anchor_of_an_expression_denotes_one_object(drawn):
    for scene, _, phrase in expressions(drawn):
        while phrase.anchor is not None:
            phrase = phrase.anchor
            assert len(denoted(scene, phrase)) == len(denoted(scene, phrase, sure=False)) == 1


def test_no_relation_is_superfluous(drawn):
    related = [(scene, phrase) for scene, _, phrase in expressions(drawn) if phrase.anchor is not None]
    for scene, phrase in related:
        assert len(denoted(scene, Phrase(phrase.values))) > 1, phrase.words()


def test_easy_and_chained_expressions_are_mixed(drawn):
    hops = Counter(phrase.hops() for _, _, phrase in expressions(drawn))
    assert set(hops) == {0, 1, 2}
    assert min(hops.values()) > 0.08 * hops.total()


def test_a_referent_is_as_likely_to_be_any_object(drawn):
    ranks = Counter()
    for scene, target, _ in expressions(drawn):
        leftmost_first = sorted(range(len(scene.objects)), key=lambda index: scene.centre(index)[0])
        ranks[leftmost_first.index(target)] += len(scene.objects) / len(expressions(drawn))
    assert all(0.85 < ranks[rank] < 1.15 for rank in range(7))


def test_every_caption_is_true_of_its_image(drawn):
    for part in (*drawn.concap.values(), *drawn.retrieval.values()):
        for entry in part:
            for caption in entry.captions:
                assert all(denoted(entry.scene, clause) for clause in caption.clauses), caption.words()


def test_a_caption_of_another_image_is_seldom_true(drawn):
    assert retrieval_ceiling(drawn.retrieval["test"])["ceiling_r1"] >= 0.9


def test_truth_of_a_caption_needs_every_clause(drawn):
    scene = drawn.retrieval["test"][0].scene
    own = drawn.retrieval["test"][0].captions[0]
    absent = next(
        Phrase(values) for values in ((0, colour, 0, shape) for colour in range(6) for shape in range(5))
        if not denoted(scene, Phrase(values))
    )  # fmt: skip
    assert own.is_true(scene)
    assert not Caption((*own.clauses, absent)).is_true(scene)


def test_every_answer_is_what_one_sees(drawn):
    for scene, question, reply, _ in questions(drawn):
        assert true_answer(scene, question) == reply, question.words()


def test_questions_of_all_kinds_are_asked_and_only_known_answers_given(drawn):
    kinds = Counter(question.kind for _, question, _, _ in questions(drawn))
    assert set(kinds) == {"colour", "shape", "material", "count", "where", "exists", "compare"}
    assert {reply for _, _, reply, _ in questions(drawn)} <= set(LABELS)


def test_a_question_never_says_what_it_asks(drawn):
    for _, question, reply, _ in questions(drawn):
        if question.kind in ("colour", "shape", "material"):
            assert question.phrase.values[("size", "colour", "material", "shape").index(question.kind)] is None
            assert reply not in question.words().split()[:3]


@pytest.mark.parametrize(("kind", "right"), [("colour", "red"), ("count", "2"), ("exists", "no")])
def test_ten_annotators_mostly_agree_and_err_within_the_kind(kind, right):
    given = [annotate(random.Random(seed), kind, right) for seed in range(200)]
    assert all(len(answers) == 10 and set(answers) <= set(ANSWERS[kind]) for answers in given)
    agreement = sum(answers.count(right) for answers in given) / 2000
    assert 0.9 < agreement < 1
