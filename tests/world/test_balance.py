"""Neither reading alone nor looking alone is worth much: chance, priors, and linear models that see one modality."""

from collections import Counter

import numpy as np
import pytest

from volta_switch.world.balance import annotator_scores, balance, refer_chance, retrieval_ceiling, vqa_priors
from volta_switch.world.content import draw_world
from volta_switch.world.questions import LABELS
from volta_switch.world.scenes import VALUES
from volta_switch.world.spec import BY_DEFAULT, WorldSpec


@pytest.fixture(scope="module")
def vqa():
    """Texts as bags of words, scenes as counts of values, and answer scores, of train and test."""
    content = draw_world(WorldSpec(images=600, eval_images=200, data_sets=("vqa",))).vqa
    words = sorted(
        {word for entry in content["train"] for asked in entry.questions for word in asked[0].words().split()}
    )
    sides = {}
    for split in ("train", "test"):
        texts, scenes, scores = [], [], []
        for entry in content[split]:
            held = [
                sum(o[a] == value for o in entry.scene.objects) for a in range(4) for value in range(len(VALUES[a]))
            ]
            for question, _, given in entry.questions:
                said = Counter(question.words().split())
                texts.append([said[word] for word in words] + [1])
                scenes.append([*held, 1])
                earned = annotator_scores(given)
                scores.append([earned.get(label, 0.0) for label in LABELS])
        sides[split] = tuple(np.array(part, dtype=float) for part in (texts, scenes, scores))
    return content, sides


def linear_score(sides, modality):
    """The test score of ridge regression from one modality to answer scores."""
    x, y = sides["train"][modality], sides["train"][2]
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    chosen = (sides["test"][modality] @ weights).argmax(axis=1)
    return sides["test"][2][np.arange(len(chosen)), chosen].mean()


def test_constant_answers_earn_at_most_thirty_percent(vqa):
    priors = vqa_priors(vqa[0]["train"], vqa[0]["test"])
    assert priors["majority"] <= 0.3 and priors["prior_by_kind"] <= 0.3


def test_the_words_of_a_question_say_little_more_than_its_kind(vqa):
    priors = vqa_priors(vqa[0]["train"], vqa[0]["test"])
    assert linear_score(vqa[1], 0) < priors["prior_by_kind"] + 0.05
    assert priors["prior_by_wording"] < priors["prior_by_kind"] + 0.05


def test_the_objects_of_an_image_are_worth_no_more_than_the_kind_of_question(vqa):
    # Against the best single answer (7 %) they are worth more: few objects make their commonest colour a fair guess.
    priors = vqa_priors(vqa[0]["train"], vqa[0]["test"])
    assert linear_score(vqa[1], 1) < priors["prior_by_kind"] + 0.05


def test_yes_and_no_are_seldom_the_answer(vqa):
    replies = [reply for entry in vqa[0]["train"] for _, reply, _ in entry.questions]
    assert sum(reply in ("yes", "no") for reply in replies) < 0.1 * len(replies)


def test_guessing_an_object_is_right_in_less_than_fifteen_percent(drawn):
    for entries in drawn.refer.values():
        assert refer_chance(entries)["chance"] <= 0.15


@pytest.mark.parametrize("attribute", range(4))
def test_no_kind_of_object_is_referred_to_more_often_than_it_occurs(drawn, attribute):
    entries = [entry for part in drawn.refer.values() for entry in part]
    occurring, referred = Counter(), Counter()
    for entry in entries:
        for target, _ in entry.expressions:
            referred[entry.scene.objects[target][attribute]] += 1
            for values in entry.scene.objects:
                occurring[values[attribute]] += 1 / len(entry.scene.objects)
    assert all(0.85 < referred[value] / occurring[value] < 1.15 for value in occurring)


def test_annotators_votes_become_scores_as_in_vqa():
    given = ["red"] * 5 + ["blue"] * 3 + ["green"] + ["white"]
    assert annotator_scores(given) == {"red": 1.0, "blue": 0.9, "green": 0.3, "white": 0.3}


def test_chance_of_retrieval_is_one_image(drawn):
    found = retrieval_ceiling(drawn.retrieval["test"])
    assert found["images"] == 100 and found["captions"] == 500 and found["chance_r1"] == 0.01


def test_every_evaluation_split_is_reported(drawn):
    assert {task: set(splits) for task, splits in balance(drawn).items()} == {
        task: {"val", "test"} for task in BY_DEFAULT if task != "concap"
    }
