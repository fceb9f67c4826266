"""Options forced or forbidden at a layer, and other whole routes: whom they reroute, what they do to the metric."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from routes.planted import model_and_task, scatter
from volta_switch.routes import measurements as interventions
from volta_switch.routes.measurements import Change, changes, forced_metrics, intervene, substitute_routes
from volta_switch.routes.record import record

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ready(world):
    model, task, encoder = model_and_task(world, "vqa")
    scatter(encoder)

    def batches():
        return task.loader("val", 9, training=False)

    return model, task, encoder, batches, record(task, model, encoder, batches(), CPU)


def test_forcing_sets_one_layer_and_leaves_the_rest(ready):
    kept = ready[-1]
    modes, inputs = Change("force", "modes", 2, 1).applied(kept)
    assert (modes[:, 2] == 1).all() and (inputs == kept.inputs).all()
    assert (np.delete(modes, 2, 1) == np.delete(kept.modes, 2, 1)).all()
    modes, inputs = Change("force", "inputs", 1, 2).applied(kept)
    assert (inputs[:, 1] == 2).all() and (modes == kept.modes).all()


def test_a_forbidden_option_gives_way_to_the_next_best(ready):
    kept = ready[-1]
    option = int(np.bincount(kept.modes[:, 1]).argmax())
    modes, _ = Change("forbid", "modes", 1, option).applied(kept)
    ranked = np.argsort(-kept.mode_scores[:, 1], 1)
    assert (ranked[:, 0] == kept.modes[:, 1]).all()  # what was chosen is the best
    assert (modes[:, 1] == np.where(ranked[:, 0] == option, ranked[:, 1], ranked[:, 0])).all()
    assert 0 < (modes[:, 1] != kept.modes[:, 1]).sum() < len(modes) or (kept.modes[:, 1] == option).all()


def test_every_option_of_every_switcher_is_tried(ready, world):
    encoder = ready[2]
    planned = list(changes(encoder))
    assert len(planned) == len(set(planned)) == 2 * (4 * 4 + 3 * 3)
    assert min(change.layer for change in planned if change.block == "inputs") == 1
    only = model_and_task(world, "vqa", **{"switch.attention": False})[2]
    assert {change.block for change in changes(only)} == {"inputs"}


def test_the_metric_is_that_of_the_model_run_with_these_routes(ready):
    model, task, encoder, batches, kept = ready
    modes, inputs = Change("force", "modes", 0, 2).applied(kept)
    hits, row = [], 0
    for batch in batches():
        end = row + len(batch)
        with torch.no_grad():
            told = {"modes": modes[row:end].tolist(), "inputs": inputs[row:end].tolist()}
            scores = model(task.spec.key, **batch.inputs, **told).scores
        hits.append(task.hits(scores, batch))
        row = end
    expected = 100 * np.concatenate(hits).mean()
    forced = forced_metrics(task, model, encoder, batches(), CPU, (modes, inputs))
    assert forced.score == pytest.approx(expected)
    assert forced.measured["vqa_score"] == np.concatenate(hits).tolist()


def test_changes_are_reported_against_the_unforced_metric(ready, monkeypatch):
    model, task, encoder, batches, kept = ready
    run = []

    def score(*given):
        run.append(given[-1])
        return replace(kept.evaluation, score=3.0)

    monkeypatch.setattr(interventions, "forced_metrics", score)
    made = intervene(task, model, encoder, batches, CPU, kept)
    found = made["interventions"] + made["whole routes"]
    still = [line for line in found if line["rerouted"] == 0]
    assert still and all(line["change"] == 0 and line["vqa_score"] == kept.evaluation.score for line in still)
    moved = [line for line in found if line["rerouted"]]
    assert len(run) == len(moved) and {line["vqa_score"] for line in moved} == {3.0}
    assert all(line["change"] == 3.0 - kept.evaluation.score for line in moved)
    assert {line["samples"] for line in found} == {len(kept.ids)}
    of_one = [
        line["rerouted"] for line in made["interventions"] if (line["layer"], line["option"]) == (2, "vision l-2")
    ]
    taking = int((kept.inputs[:, 1] == 2).sum())
    assert of_one == [len(kept.ids) - taking, taking]  # forced, forbidden


def test_the_commonest_route_and_another_samples(ready):
    kept = ready[-1]
    own = [tuple(route) for route in np.concatenate([kept.modes, kept.inputs], 1).tolist()]
    found = {kind: np.concatenate(routes, 1) for kind, routes in substitute_routes(kept)}
    [one] = {tuple(route) for route in found["most frequent"].tolist()}
    assert own.count(one) == max(own.count(route) for route in own) < len(own)
    drawn = [tuple(route) for route in found["shuffled"].tolist()]
    assert sorted(drawn) == sorted(own) and drawn != own


def test_a_samples_rows_take_the_rows_of_one_other_sample(ready):
    rows = 6  # of three samples, as retrieval's alternatives; the first row of each counts
    routes = np.arange(rows)[:, None].repeat(4, 1)
    counted = np.arange(rows) % 2 == 0
    kept = replace(ready[-1], modes=routes, inputs=routes, ids=[*"aabbcc"], counted=counted)
    drawn = dict(substitute_routes(kept))["shuffled"][0][:, 0].reshape(3, 2)
    assert (drawn[:, 1] - drawn[:, 0] == 1).all() and sorted(drawn[:, 0]) == [0, 2, 4]
    assert dict(substitute_routes(kept))["most frequent"][0][0, 0] in (0, 2, 4)
