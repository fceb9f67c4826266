"""The temperature's floor at a share of a run, however the run is divided, cut short and resumed; and what is said."""

import math

import pytest

from synthetic_world import log_of, weights_of
from train.short_runs import PRETRAINING
from train.test_several_processes import NO_DROPOUT, divided, from_step, newest, same_end_weights, same_training
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.model.bert import switch_encoder
from volta_switch.weights import fingerprint, load_volta
from volta_switch.weights.loading import FLOOR_SAMPLES

SHARE = {"switch.anneal_share": 0.5, "switch.alignment_norm": "batch"}
FLOOR = 20  # of 40 samples


def temperatures(run):
    return [line["temperature"] for line in log_of(run, "train")]


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    return divided(world, tmp_path_factory.mktemp("whole"), 1, 1, **NO_DROPOUT, **SHARE)


def test_the_floor_comes_at_the_share(whole):
    """20 pairs in batches of 6, two epochs: the temperature is that of the samples before a step."""
    *seen, last = 0, *(line["samples"] for line in log_of(whole, "train"))
    assert last == 40
    expected = [max(0.2, 5.0 * (0.2 / 5.0) ** (samples / FLOOR)) for samples in seen]
    assert temperatures(whole) == pytest.approx(expected, rel=1e-5)
    weights = weights_of(whole, "pytorch_model_1.bin")
    assert int(weights["bert.encoder.switch_floor_samples"]) == FLOOR
    assert all(int(steps) == 8 for name, steps in weights.items() if name.endswith("norm.steps"))


@pytest.mark.parametrize(("processes", "parts"), [(2, 1), (1, 2), (2, 2)])
def test_it_depends_on_no_division(world, whole, tmp_path, processes, parts):
    """With four parts some are empty: what stands in for them is in no statistics."""
    run = divided(world, tmp_path, processes, parts, **NO_DROPOUT, **SHARE)
    assert same_training(run, whole) and temperatures(run) == temperatures(whole)


def test_it_depends_on_no_batch_size(world, tmp_path):
    flags = ("--num_train_epochs", 2, "--save_best_only", "--log_every", 1)
    for size in (5, 10):
        run = world.run("train_concap", tmp_path / str(size), "switchbert", *flags, "--train_batch_size", size, **SHARE)
        for line in log_of(run, "train"):
            expected = max(0.2, 5.0 * (0.2 / 5.0) ** ((line["samples"] - size) / FLOOR))
            assert line["temperature"] == pytest.approx(expected, rel=1e-5)


def test_a_resumed_run_goes_on_with_both(world, whole, tmp_path):
    from_step(whole, 2, tmp_path)
    run = divided(world, tmp_path, 2, 1, "--resume", **NO_DROPOUT, **SHARE)
    assert same_end_weights(run, whole) and newest(run).model.keys() == newest(whole).model.keys()


def test_a_run_that_ends_early_anneals_as_the_whole_one(world, tmp_path, whole):
    run = divided(world, tmp_path, 1, 1, "--max_steps", 3, **NO_DROPOUT, **SHARE)
    assert temperatures(run) == temperatures(whole)[:3]


def test_fine_tuning_has_a_share_of_its_own(world, tmp_path):
    few = world.copy(tmp_path / "world")
    few.keep("refer", 20)
    flags = ("--num_epoch", 2, "--batch_size", 10, "--from_pretrained", "", "--log_every", 1)
    changes = {"switch.anneal_share": 0.1, "switch.finetune_anneal_share": 0.75}
    run = few.run("train_task", tmp_path, "switchbert", *flags, task="refer", **changes)
    expected = [max(0.2, 0.2 ** (samples / 30)) for samples in (0, 10, 20, 30)]
    assert temperatures(run) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"switch.anneal_share": 0.05}, "after 5 of 100 samples"),
        ({"switch.anneal_rate": 0.5}, "after 6 of 100 samples"),
        ({"switch.anneal_share": 0.1}, ""),
        ({"switch.anneal_rate": 1e-3}, ""),
    ],
)
def test_a_floor_inside_the_warm_up_is_told_at_the_start(world, tmp_path, capfd, changes, told):
    world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, "--save_best_only", "--max_steps", 1, **changes)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("note: the temperature")]
    assert len(lines) == bool(told)
    assert not told or (told in lines[0] and "warm-up of 10" in lines[0] and "switch.anneal_share=1" in lines[0])


def test_weights_of_before_there_were_shares_are_read_and_known(world, whole):
    weights = weights_of(whole)
    old = {name: value for name, value in weights.items() if not name.endswith(FLOOR_SAMPLES)}
    assert len(old) == len(weights) - 1
    models = [BertForVLPreTraining(world.config("switchbert", **SHARE)) for _ in range(2)]
    assert load_volta(models[0], old) == load_volta(models[1], weights) == []
    assert fingerprint(models[0]) == fingerprint(models[1])
    encoder = switch_encoder(models[0])
    expected = 5.0 * math.exp(-encoder.switch.anneal_rate * int(encoder.switch_samples))
    assert float(encoder.temperature) == pytest.approx(expected, rel=1e-5)
    models[1].load_state_dict(old)  # as VOLTA's own scripts do
    assert int(switch_encoder(models[1]).switch_floor_samples) == 0


def test_a_configuration_without_options_says_what_it_said_before(world):
    plain, other = world.config("switchbert").to_dict()["switch"], world.config("switchbert", **SHARE)
    assert not {"anneal_share", "finetune_anneal_share", "alignment_norm", "older_input", "initial_scale"} & set(plain)
    assert other.to_dict()["switch"] == {**plain, "anneal_share": 0.5, "alignment_norm": "batch"}
    assert load_config(other.to_dict()) == other
