"""With noise by keys, a batch's losses and gradients are the sum of its parts', however it is divided and padded.

Dropout is 0.1 everywhere, routes are drawn with Gumbel noise, models are in training mode.
"""

import pytest
import torch

from model.parts_of_batches import (
    IDS,
    INPUTS,
    LOSSES,
    MODELS,
    TASKS,
    B,
    batch_of,
    config_of,
    counts_of,
    gradients,
    model_of,
    padded,
    part,
    share_of_losses,
)
from volta_switch import BertForVLTasks, load_config
from volta_switch.model.noise import batch_dependent, sample_keys


def descended(name, parts, totals, epoch=0):
    """Losses and gradients of (rows, further tokens, further regions) one after the other, weighted by their counts."""
    model = model_of(name)
    keys, losses = sample_keys(7, epoch, IDS, B), dict.fromkeys(LOSSES, 0.0)
    batch = batch_of(name)
    for rows, tokens, regions in parts:
        given = part(batch, rows)
        torch.randn(3)  # PyTorch's generators have no say
        out = model(**padded(given, name, tokens, regions), noise_keys=keys[rows])
        shares = share_of_losses(out, counts_of(given, name), totals)
        torch.stack(list(shares.values())).sum().backward()
        losses = {key: losses[key] + float(share.detach()) for key, share in shares.items()}
    return losses, gradients(model)


DIVISIONS = {
    "shuffled": [([4, 2, 0, 5, 1, 3], 0, 0)],
    "halves": [([0, 2, 4], 0, 0), ([1, 3, 5], 0, 0)],
    "one by one": [([row], 0, 0) for row in (3, 5, 0, 1, 4, 2)],
    "padded": [(list(range(B)), 4, 3)],
    "uneven and padded": [([5, 0], 0, 2), ([1, 4, 3, 2], 5, 0)],
}


def close(found, expected, tolerance=1e-5):
    largest = max(float(gradient.abs().max()) for gradient in expected[1].values())
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for key, gradient in expected[1].items():
        assert (found[1][key] - gradient).abs().max() < tolerance * max(1.0, largest), key


@pytest.mark.parametrize("division", DIVISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_parts_of_a_batch_add_up_to_the_whole(name, division):
    parts = DIVISIONS[division]
    if name == "ctrl_vl-bert":  # the number of region slots moves its words
        parts = [(rows, 0, 0) for rows, _, _ in parts]
    totals = counts_of(batch_of(name), name)
    close(descended(name, parts, totals), descended(name, [(list(range(B)), 0, 0)], totals))


@pytest.mark.parametrize("name", MODELS)
def test_another_epoch_draws_other_noise(name):
    totals = counts_of(batch_of(name), name)
    one, other = (descended(name, DIVISIONS["shuffled"], totals, epoch)[0] for epoch in (0, 1))
    assert all(abs(one[key] - other[key]) > 1e-4 for key in LOSSES)


@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_vilbert", "switch"])
@pytest.mark.parametrize("task", TASKS)
def test_task_scores_are_the_same_in_any_part_of_a_batch(name, task):
    model, batch = model_of(name, BertForVLTasks), batch_of(name)
    keys = sample_keys(7, 0, ["a", "b", "c"], B)  # two rows of each sample
    whole = model(task, **{key: batch[key] for key in INPUTS}, noise_keys=keys).scores
    assert not torch.allclose(whole, model.eval()(task, **{key: batch[key] for key in INPUTS}).scores, atol=1e-3)
    model.train()
    found = []
    for rows in (slice(0, 2), slice(2, 6)):
        given = padded(part(batch, rows), name, 2, 0)
        found.append(model(task, **{key: given[key] for key in INPUTS}, noise_keys=keys[rows]).scores)
    assert torch.allclose(torch.cat(found), whole, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_keys_draw_nothing_in_evaluation_and_nothing_from_the_generators(name):
    model, batch = model_of(name), batch_of(name)
    keys = sample_keys(7, 0, IDS, B)
    before = torch.get_rng_state()
    model(**batch, noise_keys=keys)
    assert torch.equal(torch.get_rng_state(), before)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(**batch, noise_keys=keys).loss, model(**batch).loss)
    model.train()


def test_equal_rows_of_different_samples_are_routed_differently():
    model = model_of("switch")
    batch = part(batch_of("switch"), [0, 0, 0])
    keys = torch.stack([*sample_keys(7, 0, ["a", "b"], 2), sample_keys(7, 0, ["a"], 1)[0]])
    with torch.no_grad():
        routes = model(**batch, noise_keys=keys).routes
    for weights in (routes.modes, routes.inputs[:, 1:]):
        assert torch.allclose(weights[0], weights[2], atol=1e-6)
        assert ((weights[0] - weights[1]).abs().amax(-1) > 1e-3).all()  # in every layer
        differences = (weights[0, 1:] - weights[0, :-1]).abs().amax(-1)
        assert (differences > 1e-3).all()


def test_keyed_noise_is_as_large_as_ordinary_noise():
    """The mean loss over 40 draws of either kind, at a rate that shows."""
    model, batch = model_of("ctrl_uniter", rate=0.3), batch_of("ctrl_uniter")
    torch.manual_seed(0)
    with torch.no_grad():
        keyed = [float(model(**batch, noise_keys=sample_keys(7, epoch, IDS, B)).loss_mlm) for epoch in range(40)]
        drawn = [float(model(**batch).loss_mlm) for _ in range(40)]
    keyed, drawn = torch.tensor(keyed), torch.tensor(drawn)
    assert abs(keyed.mean() - drawn.mean()) < 3.5 * (keyed.var() / 40 + drawn.var() / 40).sqrt()
    assert 0.5 < keyed.std() / drawn.std() < 2


def test_models_whose_samples_depend_on_their_batch_are_named():
    assert "shortest text" in batch_dependent(config_of("ctrl_vl-bert"))
    contrast = load_config({**config_of("ctrl_uniter").to_dict(), "visual_target_weights": {"0": 1.0, "2": 1.0}})
    assert "target 2" in batch_dependent(contrast)
    assert all(batch_dependent(config_of(name)) == "" for name in MODELS if name != "ctrl_vl-bert")
