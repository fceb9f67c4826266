"""SNLI-VE's hypotheses are read word by word and checked against the places of the objects; then the files."""

import json
import re
from collections import Counter

import numpy as np
import pytest
from small_truth import found, stands

from volta_switch.data.feature_files import open_features
from volta_switch.world import write_world
from volta_switch.world.balance import hypothesis_priors
from volta_switch.world.content import draw_world
from volta_switch.world.phrases import Phrase
from volta_switch.world.spec import WorldSpec
from volta_switch.world.statements import UNDECIDED, VERDICTS, Hypothesis

SNLI_VE = "datasets/snli_ve/annotations"
FEATURES = "datasets/flickr30k/resnet101_faster_rcnn_genome_imgfeats/volta/flickr30k_feat.lmdb"
SPLITS = {"train": "train", "dev": "val", "test": "test"}


def true_verdict(scene, sentence):
    """The verdict by looking; fails where a phrase does not denote one object."""
    phrase, direction, other = re.fullmatch("(.*) is (left of|right of|above|below) (.*)", sentence).groups()
    (index,), (anchor,) = found(scene, phrase), found(scene, other)
    if stands(scene, index, direction, anchor, [], sure=True):
        return "entailment"
    return "neutral" if stands(scene, index, direction, anchor, [], sure=False) else "contradiction"


def decided(entry):
    return [(hypothesis, verdict) for hypothesis, verdict in entry.hypotheses if verdict != UNDECIDED]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "world"
    write_world(out, images=64, eval_images=30, render=False, data_sets=["retrieval", "snli_ve"])
    return out


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_verdict_is_what_one_sees(drawn, split):
    for entry in drawn.snli_ve[split]:
        for hypothesis, verdict in decided(entry):
            assert true_verdict(entry.scene, hypothesis.words()) == verdict == hypothesis.verdict(entry.scene), (
                hypothesis.words()
            )


def test_an_image_has_as_many_claims_of_each_verdict_in_each_direction(drawn):
    for entries in drawn.snli_ve.values():
        for entry in entries:
            seen = Counter((hypothesis.direction, verdict) for hypothesis, verdict in decided(entry))
            assert all(
                seen[direction, verdict] == count for (direction, _), count in seen.items() for verdict in VERDICTS
            )


def test_most_images_have_claims_and_those_without_have_no_two_objects_too_close_to_call(drawn):
    entries = drawn.snli_ve["train"]
    silent = [entry.scene for entry in entries if not decided(entry)]
    assert 0 < len(silent) < 0.4 * len(entries)
    for scene in silent:
        for direction in ("left of", "above"):
            pairs = [(i, j) for i in range(len(scene.objects)) for j in range(i)]
            close = [
                pair
                for pair in pairs
                if not any(stands(scene, *order, sure=True) for order in _orders(pair, direction))
            ]
            assert not close


def _orders(pair, direction):
    return ((pair[0], direction, pair[1], []), (pair[1], direction, pair[0], []))


def test_no_claim_about_an_image_is_made_twice(drawn):
    for entry in drawn.snli_ve["train"]:
        said = [(hypothesis.words(), verdict) for hypothesis, verdict in decided(entry)]
        assert len(set(said)) == len(said)


def test_blind_guesses_are_worth_a_third(drawn):
    priors = hypothesis_priors(drawn.snli_ve["train"], drawn.snli_ve["test"])
    assert priors["claims"] == sum(len(decided(entry)) for entry in drawn.snli_ve["test"]) > 150
    assert priors["majority"] == priors["by_image"] == pytest.approx(1 / 3)
    assert priors["prior_by_wording"] < 0.42


def test_the_words_of_a_claim_say_nothing_about_its_verdict():
    content = draw_world(WorldSpec(images=1200, eval_images=100, data_sets=("retrieval", "snli_ve"))).snli_ve
    train = [asked for entry in content["train"] for asked in decided(entry)]
    test = [asked for split in ("val", "test") for entry in content[split] for asked in decided(entry)]
    words = sorted({word for hypothesis, _ in train for word in hypothesis.words().split()})

    def bags(hypotheses):
        sides = [hypothesis.words().split(" is ") for hypothesis, _ in hypotheses]
        return np.array([[side.split().count(word) for side in both for word in words] + [1] for both in sides], float)

    def verdicts(hypotheses):
        return np.array([VERDICTS.index(verdict) for _, verdict in hypotheses])

    x, y = bags(train), np.eye(3)[verdicts(train)]
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    accuracy = ((bags(test) @ weights).argmax(axis=1) == verdicts(test)).mean()
    assert len(test) > 400 and accuracy < 1 / 3 + 0.05


def test_a_claim_about_what_is_not_there_has_no_verdict(drawn):
    scene = drawn.snli_ve["test"][0].scene
    anything = Phrase((None, None, None, None))
    assert Hypothesis(anything, "above", Phrase(scene.objects[0])).verdict(scene) is None


@pytest.mark.parametrize("name", SPLITS)
def test_lines_name_images_that_have_regions_and_few_are_undecided(written, name):
    scenes = {
        entry.scene.image_id: entry.scene
        for entry in draw_world(WorldSpec(images=64, eval_images=30, data_sets=("retrieval", "snli_ve"))).snli_ve[
            SPLITS[name]
        ]
    }
    features = set(open_features(written / FEATURES).keys())
    lines = [json.loads(line) for line in (written / SNLI_VE / f"{name}.jsonl").read_text().splitlines()]
    labels = Counter(line["gold_label"] for line in lines)
    assert 0 < labels.pop("-") <= 0.1 * len(lines)
    assert set(labels) == set(VERDICTS) and len(set(labels.values())) == 1
    for line in lines:
        image, ending = line["Flikr30kID"].split(".")
        assert ending == "jpg" and image in features
        if line["gold_label"] != "-":
            assert true_verdict(scenes[int(image)], line["sentence2"]) == line["gold_label"]
