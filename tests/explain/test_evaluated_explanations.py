"""Rates of explanations: by hand on made-up explanations, and that occlusion names the truth more often than chance."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from volta_switch import UserError
from volta_switch.cli import main
from volta_switch.explain import evaluation
from volta_switch.explain.evaluation import ANCHOR, OTHERS, TRUTH, WORDS, Hits, evaluate, rates_text
from volta_switch.explain.world_truth import TrueText, TrueWord
from volta_switch.predict import load_model
from volta_switch.statistics import by_group, estimate_mean


def text_of(target, objects, decides, words):
    true = tuple(TrueWord(is_attribute=kind != "-", decides=kind == "d") for kind in words)
    return TrueText("7", "", "", target, objects, decides, true, scene=None)


def explanation(words, regions):
    subject = SimpleNamespace(words=list(words), places=list(regions))
    return SimpleNamespace(
        subject=subject, of_words=lambda method: np.array(words), of_regions=lambda method: np.array(regions)
    )


def test_what_is_ranked_and_what_is_right():
    found = explanation([0.1, 0.9, 0.3], [np.nan, 0.2, 0.5, 0.1])
    objects = [2, 0, 1, 3]  # the region of each object
    text = text_of(1, (0,), True, "d-a")  # region 0 is the answer, region 2 the anchor
    ranked = list(evaluation._ranked(text, objects, found))
    assert ranked == [(WORDS, [0, 2], {0}), (ANCHOR, [1, 2, 3], {2})]
    hits = evaluation._hits([found], ANCHOR, [1, 2, 3], {2})
    assert hits == {"occlusion": [1.0], "attention": [1.0], "gradient": [1.0], "chance": [1 / 3]}
    assert evaluation._hits([found], WORDS, [0, 2], {0})["occlusion"] == [0.0]  # the word at 1 is no attribute
    two = list(evaluation._ranked(text_of(1, (0, 3), False, "da-"), objects, found))
    assert two[1] == (OTHERS, [1, 2, 3], {2, 3})
    of_question = list(evaluation._ranked(text_of(None, (0, 1), False, "---"), objects, found))
    assert of_question == [(WORDS, [], set()), (TRUTH, [0, 1, 2, 3], {0, 2})]
    assert list(evaluation._ranked(text_of(1, (), False, "da-"), objects, found))[1][2] == set()  # counts for nothing
    cut = explanation([0.1, 0.2], [0.0, 1.0, 2.0, 3.0])
    assert [name for name, *_ in evaluation._ranked(text, objects, cut)] == [ANCHOR]


def test_rates_are_means_with_intervals_over_images_and_over_seeds():
    drawn = np.random.default_rng(0)
    for models in (1, 3):
        values = drawn.integers(0, 2, (60, models)).astype(float)
        images = [str(at // 3) for at in range(60)]
        hits = Hits({"occlusion": values.tolist(), "chance": [[0.25] * models] * 60}, images)
        found = evaluation._rates(hits, models)
        assert (found["texts"], found["images"]) == (60, 20)
        rate = found["methods"]["occlusion"]
        assert rate["rate"] == pytest.approx(100 * values.mean())
        assert rate["above chance"] == pytest.approx(100 * values.mean() - 25)
        grouped = 100 * by_group(values.T, images)
        wanted = estimate_mean(grouped if models > 1 else grouped[0]).interval()
        assert rate["interval"] == pytest.approx(list(wanted))
        assert rate["above interval"] == pytest.approx([edge - 25 for edge in wanted])
    always = Hits({"occlusion": [[1.0]] * 59 + [[0.0]], "chance": [[0.5]] * 60}, [str(at) for at in range(60)])
    assert evaluation._rates(always, 1)["methods"]["occlusion"]["interval"][1] == 100  # and not more
    few = Hits({"occlusion": [[1.0], [0.0]], "chance": [[0.5], [0.5]]}, ["1", "2"])
    assert evaluation._rates(few, 1)["methods"]["occlusion"]["interval"] is None


def test_only_texts_count_that_are_answered_rightly(asked, world, monkeypatch):
    """A model with random weights is right by accident alone."""
    of = asked("TASK10")
    model = load_model(of.folder)
    found = evaluate([model], world.path, 40)
    results = of.task.test(model, "test", 64, torch.device("cpu")).results
    right = sum(result["IOU"] > 0.5 for result in results)
    assert found["texts"] == 40 and found["right"] == right
    assert "40 texts are answered rightly by the model" in rates_text(found)
    monkeypatch.setattr(evaluation, "_is_right", lambda *given: False)
    with pytest.raises(UserError, match="of 40 texts the models answer 0 rightly"):
        evaluate([model], world.path, 40)


def test_the_command_prints_rates_of_one_or_several_models(asked, world, capsys):
    of = asked("TASK1")
    flags = ["explain", str(of.folder), str(of.folder), "--evaluate", str(world.path), "--samples", "40"]
    main([*flags, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["models"] == 2 and set(found["measures"]) <= {WORDS, TRUTH}
    for measure in found["measures"].values():
        for rate in measure["methods"].values():
            assert 0 <= rate["rate"] <= 100
    main(flags)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("TASK1: ") and "2 seeds and images" in lines[0]
    assert len(lines) == 2 + 4 * len(found["measures"])
