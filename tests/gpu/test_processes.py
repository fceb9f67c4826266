"""DDP and FSDP2 over NCCL, with the one process that one GPU allows: the same step as without them."""

from __future__ import annotations

import json

import pytest

from gpu.device import DEVICE, needs

needs("msgpack", "safetensors", "tensorboard", "tqdm")

from gpu.scripts import HERE, TORCHRUN, ended, started


@pytest.fixture(scope="module")
def found():
    return json.loads(ended(started(*TORCHRUN, HERE / "one_process.py")))


def test_tensors_of_the_gpu_travel_by_nccl(found):
    assert found["backend"] == ("nccl" if DEVICE.type == "cuda" else "gloo")


@pytest.mark.parametrize("name", ["ctrl_uniter", "switch, K = 4"])
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_step_is_that_of_the_plain_model(found, way, name):
    loss, gradient = found["errors"][f"{way} {name} float32"]
    assert loss < 1e-5 and gradient < 1e-4


@pytest.mark.parametrize("name", ["ctrl_uniter", "switch, K = 4"])
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_step_in_bfloat16_is_that_of_the_plain_model(found, way, name):
    """FSDP2 on a GPU gathers the LayerNorms' weights in bfloat16, too, which autocast leaves alone."""
    loss, gradient = found["errors"][f"{way} {name} bfloat16"]
    assert loss < 0.02 and gradient < 0.15
