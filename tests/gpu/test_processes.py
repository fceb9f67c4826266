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


@pytest.mark.parametrize("way", ["ddp ctrl_uniter", "ddp switch", "fsdp ctrl_uniter", "fsdp switch"])
def test_a_step_is_that_of_the_plain_model(found, way):
    loss, gradient = found["errors"][way]
    assert loss < 1e-5 and gradient < 1e-4
