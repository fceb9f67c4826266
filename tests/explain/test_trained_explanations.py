"""Occlusion names what a trained model rests on: the deciding attribute, the anchor, the regions of the truth."""

import pytest

from explain.trained_models import train_refer, train_vqa
from volta_switch.explain.evaluation import ANCHOR, TRUTH, WORDS, evaluate
from volta_switch.predict import load_model

pytestmark = pytest.mark.long
# Measured with seed 0 (docs/asking.md); the bounds leave room for other machines' rounding.
ABOVE = {WORDS: 15, ANCHOR: 40, TRUTH: 9}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.mark.parametrize(("train", "wanted"), [(train_refer, (WORDS, ANCHOR)), (train_vqa, (TRUTH,))])
def test_occlusion_beats_chance_clearly(folder, train, wanted):
    model = load_model(train(folder, seed=0))
    found = evaluate([model], folder / "world", 400)
    assert found["right"] > 200
    for measure in wanted:
        rate = found["measures"][measure]["methods"]["occlusion"]
        assert rate["above interval"][0] > 0 and rate["above chance"] > ABOVE[measure], (measure, rate)
