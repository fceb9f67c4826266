"""The training loop by itself, over a model that can be followed by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from volta_switch import UserError, load_config
from volta_switch.train.loop import LOG_EVERY, Meter, Trainer, Validation, routed
from volta_switch.train.optimisation import Hyperparameters
from volta_switch.train.run_folder import RunFolder


class Samples(list):
    """A batch of numbers."""

    def to(self, device, non_blocking=False):
        return self


class Loader:
    """Batches of two numbers; the interface that the loop uses."""

    def __init__(self, batches):
        self.batches, self.dataset, self.started = batches, self, []
        self.batch_sampler = SimpleNamespace(batches_per_epoch=batches, set_epoch=lambda epoch: None)
        self.text_lengths = []

    def set_epoch(self, epoch):
        self.started.append(epoch)

    def __iter__(self):
        return iter([Samples([1.0, 1.0])] * self.batches)


def trainer(tmp_path, scores=(0.0, 0.0), batches=2, **changes):
    """A trainer of one weight that is pulled down by its own value, validated with the scores given."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    found = iter(scores)
    settings = {"epochs": len(scores), "batch_size": 2, "learning_rate": 0.1, "warmup_proportion": 0.0, **changes}
    run = RunFolder(tmp_path / "run")
    run.start(load_config("demo/ctrl_uniter"), [], {}, resumed=False, step=0)
    return Trainer(
        model=model,
        losses=lambda batch: {"loss": model.weight.sum() * sum(batch) / len(batch)},
        loader=Loader(batches),
        validate=lambda: Validation(next(found), {}),
        hyper=Hyperparameters(**settings),
        run=run,
        device=torch.device("cpu"),
        precision=torch.float32,
        identity={},
    )


def lines(made, kind):
    return [line for line in map(json.loads, (made.run.path / "log.jsonl").open()) if line["kind"] == kind]


def test_the_best_epoch_wins_and_a_later_tie_does_not(tmp_path):
    progress = trainer(tmp_path, scores=(1.0, 3.0, 3.0, 2.0)).fit()
    assert (progress.best_epoch, progress.best_score, progress.epoch, progress.step) == (1, 3.0, 4, 8)


def test_a_score_that_is_no_number_is_never_the_best(tmp_path):
    made = trainer(tmp_path, scores=(float("nan"), -5.0, float("nan")))
    assert made.fit().best_epoch == 1 and made.run.metrics()["best_validation"]["epoch"] == 1


def test_progress_is_logged_every_twenty_steps_and_at_the_epochs_end(tmp_path):
    made = trainer(tmp_path, scores=(0.0,), batches=45)
    made.fit()
    assert LOG_EVERY == 20 and [line["step"] for line in lines(made, "train")] == [20, 40, 45]
    assert [line["samples"] for line in lines(made, "train")] == [40, 80, 90]


def test_gradients_are_clipped_after_they_are_gathered(tmp_path, monkeypatch):
    seen = []

    def step(optimizer, limit):
        seen.append((optimizer.param_groups[0]["params"][0].grad.item(), limit))
        optimizer.step()

    monkeypatch.setattr("volta_switch.train.loop.clipped_step", step)
    trainer(tmp_path, scores=(0.0,), batches=6, batch_size=6, grad_acc_steps=3, clip_grad_norm=0.5).fit()
    assert seen == [(pytest.approx(1.0), 0.5)] * 2  # the mean of three parts, each of gradient 1


def test_the_model_trains_in_training_mode_and_is_validated_in_evaluation_mode(tmp_path):
    made = trainer(tmp_path, scores=(0.0, 0.0))
    modes = []
    losses, validate = made.losses, made.validate
    made.losses = lambda batch: modes.append(made.model.training) or losses(batch)
    made.validate = lambda: modes.append(made.model.training) or validate()
    made.fit()
    assert modes == [True, True, False] * 2


def test_every_epoch_is_drawn_anew(tmp_path):
    made = trainer(tmp_path, scores=(0.0, 0.0, 0.0))
    made.fit()
    assert made.loader.started == [0, 1, 2]


def test_an_incomplete_last_group_is_left_out(tmp_path):
    made = trainer(tmp_path, scores=(0.0, 0.0), batches=5, batch_size=4, grad_acc_steps=2)
    progress = made.fit()
    assert (progress.step, progress.samples) == (4, 16)


def test_too_few_batches_for_one_step_are_refused(tmp_path):
    with pytest.raises(UserError, match="gives 1 batches, fewer than one optimiser step needs"):
        trainer(tmp_path, batches=1, batch_size=4, grad_acc_steps=2)


def test_the_meter_gives_means_since_the_last_reading():
    meter = Meter(torch.device("cpu"))
    for value in (1.0, 3.0):
        meter.add({"loss": torch.tensor(value), "mlm": torch.tensor(2 * value)}, 5)
    values = meter.read()
    assert (values["loss"], values["mlm"]) == (2.0, 4.0) and values["samples_per_second"] > 0
    meter.add({"loss": torch.tensor(7.0)}, 5)
    assert meter.read()["loss"] == 7.0 and meter.samples == 0


def test_routing_is_put_back_even_after_an_error():
    switch = SimpleNamespace(routing="auto")
    with pytest.raises(RuntimeError), routed(switch, "soft"):
        assert switch.routing == "soft"
        raise RuntimeError
    assert switch.routing == "auto"
