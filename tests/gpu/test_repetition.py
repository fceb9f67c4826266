"""The same command gives the same weights, and a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import signal
from contextlib import closing

import pytest
import torch

from gpu.device import DEVICE, needs

needs("msgpack", "safetensors", "tensorboard", "tqdm")

from gpu.in_memory import trainer
from gpu.scripts import HERE, TORCHRUN, ended, started
from volta_switch.errors import Stopped
from volta_switch.train.ranks import Ranks

RUN = ("--device", DEVICE, "--num_train_epochs", 2, "--learning_rate", 3e-3, "--precision", "bf16")
SCRIPT = HERE / "in_memory.py"


@pytest.fixture(scope="module")
def checksums(tmp_path_factory):
    """Of the final weights of four runs in processes of their own: twice the same, under torchrun, another seed."""
    folder = tmp_path_factory.mktemp("repeated")

    def run(number, *before, seed=1):
        flags = (*RUN, "--deterministic", "--seed", seed)
        return started(*before, SCRIPT, "switchbert", folder / str(number), *flags)

    running = [run(0), run(1), run(2, *TORCHRUN), run(3, seed=2)]
    return [ended(process) for process in running]


def test_the_same_command_gives_the_same_weights_bit_for_bit(checksums):
    assert checksums[0] == checksums[1]


def test_one_process_under_torchrun_is_the_same_run(checksums):
    assert checksums[0] == checksums[2]


def test_another_seed_gives_other_weights(checksums):
    """A checksum that could not differ would show nothing."""
    assert checksums[0] != checksums[3]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, precision):
    """Dropout and Gumbel noise are drawn from the device's generator, whose state is in the checkpoint."""
    whole = losses_of(tmp_path / "whole", precision)
    parts = losses_of(tmp_path / "parts", precision, stop_at=5) + losses_of(tmp_path / "parts", precision, "--resume")
    assert [step for step, *_ in parts] == [step for step, *_ in whole] == list(range(1, 9))
    for (_, loss, scale), (_, expected, its_scale) in zip(parts, whole, strict=True):
        assert loss == pytest.approx(expected, rel=2e-3) and scale == its_scale


def test_other_noise_is_seen_in_the_losses(tmp_path):
    """The comparison above is not blind: without the generator's state the losses behind the stop are others."""
    whole = losses_of(tmp_path / "whole", "fp32")
    losses_of(tmp_path / "parts", "fp32", stop_at=5)
    rest = losses_of(tmp_path / "parts", "fp32", "--resume", reseed=True)
    pairs = zip(rest, whole[5:], strict=True)
    assert any(abs(loss / expected - 1) > 1e-2 for (_, loss, _), (_, expected, _) in pairs)


def losses_of(folder, precision, *flags, stop_at=0, reseed=False):
    """The step, the loss and the loss scale, where there is one, of every line that one start of a run wrote."""
    flags = (*RUN[:-1], precision, "--log_every", 1, "--keep_checkpoints", 5, *flags)
    made = trainer("switchbert", folder, *flags, rank=Ranks())
    before = made.progress.step
    if reseed:
        torch.manual_seed(99)
    if stop_at:

        def stop(*_):
            if made.progress.step == stop_at - 1:
                made.stop.signal = signal.SIGTERM

        made.learner.register_forward_pre_hook(stop)
    with closing(made.run):
        if stop_at:
            with pytest.raises(Stopped):
                made.fit()
        else:
            made.fit()
    lines = [json.loads(line) for line in (made.run.path / "log.jsonl").read_text().splitlines()]
    own = [line for line in lines if line["kind"] == "train" and line["step"] > before]
    return [(line["step"], line["loss"], line.get("loss_scale")) for line in own]
