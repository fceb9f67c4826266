"""Operations as the paper counts them: each active path is paid for."""

import pytest
import torch

from volta_switch import load_config
from volta_switch.cost import EPSILON
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import inference, training_step
from volta_switch.cost.paths import Activity, inference_paths, training_paths
from volta_switch.model.switch import Routes

B, L = 8, 12
MODES = ("SS", "SC", "CS", "J")


def counts_of(config, seed=0):
    return BatchCounts.from_batch(config, some_batch(B, seed))


def activity(modes, candidates=(1, 0, 0)):
    """The same in every sample and layer."""
    return Activity(
        torch.tensor(modes, dtype=torch.float64).expand(B, L, -1),
        torch.tensor(candidates, dtype=torch.float64).expand(B, L, -1),
    )


@pytest.mark.parametrize("work", [training_paths, inference_paths])
def test_a_static_architecture_has_one_path(work):
    config = load_config("ctrl_vilbert_base")
    executed = training_step if work is training_paths else inference
    assert work(config, counts_of(config)) == executed(config, counts_of(config))


@pytest.mark.parametrize("shared", [False, True])
def test_a_lone_joint_mode_costs_what_is_executed(shared):
    config = load_config("switchbert")
    counts = counts_of(config)
    found = training_paths(config, counts, activity([0, 0, 0, 1]), shared)
    assert found == pytest.approx(training_step(config, counts), rel=1e-12)


def test_paths_grow_with_k():
    uniter, found = load_config("ctrl_uniter_base"), []
    for top_k in (1, 2, 4):
        config = load_config("switchbert", (f"switch.top_k={top_k}",))
        found.append(training_paths(config, counts_of(config)) / training_step(uniter, counts_of(uniter)))
    assert found[0] < found[1] < found[2]
    assert found == pytest.approx([0.96, 1.25, 1.85], abs=0.02)


def test_shared_projections_would_be_hardly_any_overhead():
    config = load_config("switchbert")
    counts = counts_of(config)
    assert 1.01 < training_paths(config, counts, shared=True) / training_step(config, counts) < 1.03


def test_each_mode_pays_for_its_own_pairs_and_projections():
    """A sublayer of 12: products over T T + R R, T (T + R), R (T + R) and (T + R)^2 slots; keys of what is attended."""
    config = load_config("switchbert")
    counts = counts_of(config)
    of = {
        mode: inference_paths(config, counts, activity(row))
        for mode, row in zip(MODES, torch.eye(4).tolist(), strict=True)
    }
    T, R, D = counts.text.longest, counts.vision.longest, config.hidden_size
    t, v = counts.text.rows, counts.vision.rows
    whole, last = L - 1, 1  # of the last layer, fewer queries
    t_q, v_q = counts.read_text.longest, counts.read_vision.longest

    def products(tt, tv, vt, vv):
        full = T * (tt * T + tv * R) + R * (vt * T + vv * R)
        read = t_q * (tt * T + tv * R) + v_q * (vt * T + vv * R)
        return 2 * 2 * B * D * (whole * full + last * read)

    assert of["J"] - of["SS"] == pytest.approx(products(1, 1, 1, 1) - products(1, 0, 0, 1), rel=1e-6)
    assert of["SS"] - of["SC"] == pytest.approx(products(1, 0, 0, 1) - products(1, 0, 1, 0) + 2 * L * 2 * v * D * D)
    assert of["SS"] - of["CS"] == pytest.approx(products(1, 0, 0, 1) - products(0, 1, 0, 1) + 2 * L * 2 * t * D * D)


def test_tracked_routes_are_paid_for_sample_by_sample():
    """Half of the samples take SS, the others J: the mean of both, weighed by the samples' rows."""
    config = load_config("switchbert")
    counts = counts_of(config)
    modes = torch.zeros(B, L, 4)
    modes[::2, :, 0] = modes[1::2, :, 3] = 1
    inputs = torch.tensor([1.0, 0, 0]).expand(B, L, -1)
    mixed = inference_paths(config, counts, Activity.from_routes(Routes(modes, inputs)))
    alone = [inference_paths(config, counts, activity(row)) for row in ([1, 0, 0, 0], [0, 0, 0, 1])]
    assert mixed == pytest.approx(sum(alone) / 2, rel=1e-6)
    assert alone[0] < mixed < alone[1]


def test_a_path_is_active_where_its_weight_exceeds_epsilon():
    weights = torch.tensor([0.9, 0.1 - 2 * EPSILON, EPSILON, EPSILON * 1.01]).expand(B, L, -1)
    candidates = torch.tensor([1 - 2 * EPSILON, EPSILON, EPSILON]).expand(B, L, -1)
    found = Activity.from_routes(Routes(weights, candidates))
    assert found.modes[0, 0].tolist() == [1, 1, 0, 1] and found.inputs[0, 0].tolist() == [1, 0, 0]
    assert Activity.from_routes(Routes(weights, candidates), 0.5).modes[0, 0].tolist() == [1, 0, 0, 0]


def test_input_candidates_are_weighed_where_several_are_active():
    config = load_config("switchbert")
    counts = counts_of(config)
    joint = [0, 0, 0, 1]
    one, other, two = (inference_paths(config, counts, activity(joint, on)) for on in ([1, 0, 0], [0, 1, 0], [1, 0, 1]))
    assert one == other
    rows = counts.text.rows + counts.vision.rows
    assert two - one == pytest.approx(2 * 2 * L * rows * config.hidden_size)


@pytest.mark.parametrize("off", ["attention", "input"])
def test_a_block_that_is_switched_off_has_one_path(off):
    config = load_config("switchbert", (f"switch.{off}=false",))
    found = Activity.expected(config, B, training=True)
    of = found.modes if off == "attention" else found.inputs
    assert of.sum(2).unique().tolist() == [1] and of[..., 3 if off == "attention" else 0].all()
