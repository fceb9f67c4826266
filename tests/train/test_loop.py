"""The training loop by itself, over a model that can be followed by hand."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from volta_switch import UserError, load_config
from volta_switch.data.batches.collate import Batch
from volta_switch.model.encoder import routed
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.train.loop import LOG_EVERY, Trainer
from volta_switch.train.optimisation import Hyperparameters, Learner, Validation, clipped_step
from volta_switch.train.ranks import Ranks
from volta_switch.train.replicas import Replicas
from volta_switch.train.run_folder import RunFolder
from volta_switch.train.step_log import Meter


class Numbers(Learner):
    """A weight of 1 that is pulled down by its own value, times the mean of a batch's numbers."""

    losses = ("loss",)

    def __init__(self):
        super().__init__(nn.Linear(1, 1, bias=False))
        nn.init.ones_(self.model.weight)

    def forward(self, batch):
        return {"loss": self.model.weight.sum() * batch.inputs["numbers"].mean()}

    def counts(self, batch):
        return {"loss": len(batch)}


def batch_of(*numbers):
    return Batch({"numbers": torch.tensor(numbers)}, None, [f"{number}" for number in numbers])


ONES = (batch_of(1.0, 1.0),)


class Loader:
    """Batches of two numbers, in parts; the interface that the loop uses."""

    def __init__(self, batches, parts):
        self.batches, self.parts, self.dataset, self.started = batches, parts, self, []
        self.batch_sampler = SimpleNamespace(batches_per_epoch=batches, set_epoch=lambda epoch: None, start=0)
        self.text_lengths = []

    def set_epoch(self, epoch):
        self.started.append(epoch)

    def __iter__(self):
        for _ in range(self.batches - self.batch_sampler.start):
            yield from self.parts


def trainer(tmp_path, scores=(0.0, 0.0), batches=2, parts=ONES, max_skipped=10, **changes):
    """A trainer of one weight, validated with the scores given."""
    found = iter(scores)
    settings = {"epochs": len(scores), "batch_size": 2, "learning_rate": 0.1, "warmup_proportion": 0.0, **changes}
    run = RunFolder(tmp_path / "run")
    run.start(load_config("demo/ctrl_uniter"), [], {}, resumed=False, step=0)
    return Trainer(
        replicas=Replicas(Numbers(), Ranks(), torch.device("cpu")),
        loader=Loader(batches, parts),
        validation=(),
        validate=lambda _: Validation(next(found), {}),
        hyper=Hyperparameters(**settings),
        run=run,
        store=CheckpointStore(run.path / "checkpoints"),
        device=torch.device("cpu"),
        precision=torch.float32,
        identity={},
        accumulate=len(parts),
        max_skipped=max_skipped,
    )


def lines(made, kind):
    return [line for line in map(json.loads, (made.run.path / "log.jsonl").open()) if line["kind"] == kind]


def test_the_best_epoch_wins_and_a_later_tie_does_not(tmp_path):
    progress = trainer(tmp_path, scores=(1.0, 3.0, 3.0, 2.0)).fit()
    assert (progress.best_epoch, progress.best_score, progress.epoch, progress.step) == (1, 3.0, 4, 8)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_stops_the_run_and_keeps_what_was_written_before(tmp_path, score):
    made = trainer(tmp_path, scores=(-5.0, score, 7.0))
    with pytest.raises(UserError, match=r"validation after step .: score (nan|-?inf)\b.*no weights are written"):
        made.fit()
    assert made.run.metrics()["best_validation"]["epoch"] == made.run.metrics()["last_validation"]["epoch"] == 0
    assert sorted(path.name for path in tmp_path.rglob("*.bin")) == ["pytorch_model_0.bin", "pytorch_model_best.bin"]


def test_a_run_whose_every_step_was_left_out_has_learnt_nothing_and_writes_no_weights(tmp_path):
    made = trainer(tmp_path, scores=(0.0,), batches=3, parts=(batch_of(1.0, float("inf")),))
    with pytest.raises(UserError, match=r"all 3 steps were left out.*none are written; lower the learning rate"):
        made.fit()
    assert made.run.metrics() == {} and not list(tmp_path.rglob("*.bin"))


def test_progress_is_logged_every_twenty_steps_and_at_the_epochs_end(tmp_path):
    made = trainer(tmp_path, scores=(0.0,), batches=45)
    made.fit()
    assert LOG_EVERY == 20 and [line["step"] for line in lines(made, "train")] == [20, 40, 45]
    assert [line["samples"] for line in lines(made, "train")] == [40, 80, 90]


def test_parts_of_a_step_count_by_their_samples_and_are_clipped_together(tmp_path, monkeypatch):
    seen = []

    def step(optimizer, limit):
        seen.append((optimizer.param_groups[0]["params"][0].grad.item(), limit))
        return clipped_step(optimizer, limit)

    monkeypatch.setattr("volta_switch.train.loop.clipped_step", step)
    parts = (batch_of(1.0, 2.0, 3.0), batch_of(10.0))
    trainer(tmp_path, scores=(0.0,), parts=parts, batch_size=4, clip_grad_norm=0.5).fit()
    assert seen == [(4.0, 0.5)] * 2  # the mean of the four numbers


def test_the_model_trains_in_training_mode_and_is_validated_in_evaluation_mode(tmp_path):
    made = trainer(tmp_path, scores=(0.0, 0.0))
    modes = []
    made.learner.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    validate = made.validate
    made.validate = lambda batches: modes.append(made.learner.training) or validate(batches)
    made.fit()
    assert modes == [True, True, False] * 2


def test_a_step_that_is_not_finite_is_left_out_and_its_samples_are_named(tmp_path, capsys):
    made = trainer(tmp_path, scores=(0.0,), batches=3, parts=(batch_of(1.0, float("inf")),))
    with pytest.raises(UserError, match="all 3 steps"):
        made.fit()
    progress = made.progress
    assert (progress.step, progress.skipped) == (3, 3) and made.learner.model.weight.item() == 1.0
    assert made.optimizer.state[made.learner.model.weight]["exp_avg"].item() == 0.0
    assert [(line["step"], line["ids"]) for line in lines(made, "skipped")] == [(n, ["1.0", "inf"]) for n in (1, 2, 3)]
    assert "step 1 left out: its loss or gradient is not finite (1.0, inf)" in capsys.readouterr().err


def test_too_many_steps_that_are_not_finite_stop_the_run(tmp_path):
    made = trainer(tmp_path, scores=(0.0,), batches=5, parts=(batch_of(float("nan")),), max_skipped=2)
    with pytest.raises(UserError, match=r"3 steps had .* not finite, the last one step 3 \(samples nan\); lower the"):
        made.fit()


def test_running_out_of_memory_names_the_setting_that_keeps_the_batch(tmp_path):
    made = trainer(tmp_path, scores=(0.0,), parts=(batch_of(1.0), batch_of(2.0)))

    def full(*_):
        torch.empty(2**55)

    made.learner.register_forward_pre_hook(full)
    with pytest.raises(UserError, match=r"out of memory: .*--gradient_accumulation_steps 4 halves them and keeps the"):
        made.fit()


def test_every_epoch_is_drawn_anew(tmp_path):
    made = trainer(tmp_path, scores=(0.0, 0.0, 0.0))
    made.fit()
    assert made.loader.started == [0, 1, 2]


def test_the_meter_gives_means_since_the_last_reading():
    meter = Meter(torch.device("cpu"))
    for value in (1.0, 3.0):
        for _ in range(2):  # parts
            meter.add({"itm": torch.tensor(value / 2), "mlm": torch.tensor(value)})
        meter.step_done(5)
    with meter.waiting():
        pass
    values = meter.read()
    assert (values["itm"], values["mlm"], values["loss"]) == (2.0, 4.0, 6.0) and values["samples_per_second"] > 0
    assert 0 < values["memory_gib"] < 1000 and 0 <= values["data_wait"] <= 1
    meter.add({"loss": torch.tensor(7.0)})
    meter.step_done(1)
    assert meter.read()["loss"] == 7.0 and meter.samples == 0


def test_routing_is_put_back_even_after_an_error():
    switch = SimpleNamespace(routing="auto")
    with pytest.raises(RuntimeError), routed(switch, "soft"):
        assert switch.routing == "soft"
        raise RuntimeError
    assert switch.routing == "auto"
