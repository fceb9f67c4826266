"""Compiled layers give what eager ones give, on the device whose compiler it is."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
import torch

from gpu.device import DEVICE, needs
from gpu.steps import a_pass


@pytest.mark.parametrize("name", ["ctrl_uniter", "switch, K = 4"])
def test_compiled_layers_give_the_same_losses_and_gradients(name):
    eager, compiled = a_pass(name, DEVICE), a_pass(name, DEVICE, compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert compiled.loss_error(eager) < 1e-5
    assert compiled.gradient_error(eager) < 1e-4


def test_a_compiled_run_learns_what_an_eager_one_learns(tmp_path):
    """In bfloat16, through the loop, with batches of several lengths; noise by sample, the same in both."""
    needs("msgpack", "safetensors", "tensorboard", "tqdm")
    from gpu.in_memory import trainer
    from volta_switch.train.ranks import Ranks

    common = ("--device", DEVICE, "--precision", "bf16", "--deterministic")
    losses = []
    for flags in ((), ("--compile",)):
        length = ("--num_train_epochs", 1, "--log_every", 1)
        made = trainer("ctrl_uniter", tmp_path / str(flags), *common, *length, *flags, rank=Ranks())
        with closing(made.run):
            made.fit()
        lines = [json.loads(line) for line in (made.run.path / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert len(losses[0]) == 4
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
