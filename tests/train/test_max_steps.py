"""``--max_steps``: a run that ends after so many optimiser steps is the beginning of one that goes on."""

import os
import signal

import pytest

from synthetic_world import equal_weights, json_of, log_of, weights_of
from volta_switch.errors import Stopped
from volta_switch.train.loop import Trainer

SIZES = {
    "train_concap": ("--train_batch_size", 6, "--num_train_epochs", 2),
    "train_task": ("--batch_size", 30, "--num_epoch", 2),
}
STEPS = 4  # of an epoch, of either


@pytest.fixture(params=["train_concap", "train_task"])
def train(request, world, tmp_path):
    """train(name, *flags) -> the run folder of a Switch-BERT with dropout, whose random numbers must go on."""

    def run(name, *flags):
        own = (*SIZES[request.param], "--log_every", 1, *flags)
        dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
        task = "" if request.param == "train_concap" else "refer"
        return world.run(request.param, tmp_path / name, "switchbert", *own, task=task, **dropout)

    return run


def steps_of(run):
    return [line["step"] for line in log_of(run, "train")]


def test_a_run_ends_in_the_middle_of_an_epoch_with_validation_and_weights(train):
    run = train("run", "--max_steps", STEPS - 1)
    assert steps_of(run) == [1, 2, 3] and [line["step"] for line in log_of(run, "valid")] == [3]
    assert json_of(run / "metrics.json")["last_validation"]["epoch"] == 0
    assert weights_of(run).keys() == weights_of(run, "pytorch_model_0.bin").keys()
    record = json_of(run / "run.json")
    assert record["steps"] == 3 and record["settings"]["max_steps"] == 3


@pytest.mark.parametrize("first", [1, STEPS - 1, STEPS, STEPS + 1])
def test_what_goes_on_is_the_run_that_was_never_ended(train, first):
    whole = train("whole")
    parts = train("parts", "--max_steps", first)
    before = log_of(parts, "train")
    rates = [(line["step"], line["lr"], line["loss"]) for line in before]
    assert rates == [
        (line["step"], line["lr"], line["loss"]) for line in log_of(whole, "train")[:first]
    ]  # the schedule
    assert train("parts", "--resume") == parts
    assert steps_of(parts) == steps_of(whole) == list(range(1, 2 * STEPS + 1))
    assert equal_weights(*(weights_of(run, "pytorch_model_1.bin") for run in (whole, parts)))
    found = [json_of(run / "metrics.json")["last_validation"] for run in (whole, parts)]
    assert found[0] == found[1]
    assert "max_steps" not in json_of(parts / "run.json")["settings"]


def test_more_steps_go_on_and_no_more_do_nothing(train):
    run = train("run", "--max_steps", 2)
    before = weights_of(run, "pytorch_model_0.bin")
    for fewer in (1, 2):
        train("run", "--max_steps", fewer, "--resume")
        assert steps_of(run) == [1, 2] and equal_weights(before, weights_of(run, "pytorch_model_0.bin"))
    train("run", "--max_steps", STEPS + 1, "--resume")
    assert steps_of(run) == list(range(1, STEPS + 2))
    assert [line["step"] for line in log_of(run, "valid")] == [2, STEPS, STEPS + 1]


def test_more_steps_than_all_epochs_have_change_nothing(train):
    run = train("run", "--max_steps", 100)
    assert steps_of(run) == list(range(1, 2 * STEPS + 1)) and json_of(run / "run.json")["steps"] == 2 * STEPS


def test_accumulated_parts_are_one_step(train):
    runs = [train(f"parts-{parts}", "--max_steps", 1, "--gradient_accumulation_steps", parts) for parts in (1, 2)]
    assert steps_of(runs[0]) == steps_of(runs[1]) == [1]
    assert len({log_of(run, "train")[0]["samples"] for run in runs}) == 1  # the whole batch


@pytest.mark.parametrize("value", ["-1", "x", "1.5"])
def test_what_is_no_number_of_steps_is_refused(train, value, capsys):
    with pytest.raises(SystemExit) as caught:
        train("run", "--max_steps", value)
    assert caught.value.code == 2 and "--max_steps: expected a whole number from 0 to" in capsys.readouterr().err


def test_a_run_that_is_stopped_while_it_validates_its_last_step_makes_up_for_it(train, monkeypatch):
    whole = train("whole", "--max_steps", 2)
    check, asked = Trainer._until_stopped, []

    def stopped_once(trainer):
        if not asked:
            asked.append(os.kill(os.getpid(), signal.SIGTERM))
        return check(trainer)

    monkeypatch.setattr(Trainer, "_until_stopped", stopped_once)
    with pytest.raises(Stopped):
        train("parts", "--max_steps", 2)
    parts = train("parts", "--max_steps", 2, "--resume")
    assert steps_of(parts) == [1, 2] and [line["step"] for line in log_of(parts, "valid")] == [2]
    assert equal_weights(weights_of(whole), weights_of(parts))
    train("parts", "--max_steps", 2, "--resume")  # once is enough
    assert [line["step"] for line in log_of(parts, "valid")] == [2]


def test_fewer_steps_than_are_done_still_validate_what_was_never_validated(train, monkeypatch):
    step = Trainer._step

    def stopped_in_the_third(trainer, parts):
        step(trainer, parts)
        if trainer.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_step", stopped_in_the_third)
    with pytest.raises(Stopped):
        train("run")
    monkeypatch.setattr(Trainer, "_step", step)
    run = train("run", "--max_steps", 2, "--resume")
    assert steps_of(run)[-1] == 3 and [line["step"] for line in log_of(run, "valid")] == [3]
    assert weights_of(run)
