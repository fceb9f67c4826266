"""One process over NCCL (gloo on a CPU), started by torchrun: a step by DDP and one by FSDP2 beside the plain model's.

    python -m torch.distributed.run --standalone --nproc-per-node 1 tests/gpu/one_process.py

The last line that it prints is JSON: for each way the largest difference of a loss and of a gradient from the plain
model's, as ``steps.Found`` measures them, and what backend carried the exchange.
"""

from __future__ import annotations

import copy
import json
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from gpu.device import DEVICE
from gpu.steps import Found, prepared
from model.parts_of_batches import IDS, B
from volta_switch.data.batches.collate import ON_HOST, Batch
from volta_switch.model.noise import sample_keys
from volta_switch.train.device import autocast
from volta_switch.train.pretraining import Pretraining
from volta_switch.train.ranks import Ranks, ranks
from volta_switch.train.replicas import AveragedLearner, shard


def main() -> None:
    """Takes the steps and compares them."""
    with ranks():  # this project's own group, where it makes one for a single process
        own = not dist.is_initialized()
        if own:
            dist.init_process_group("cpu:gloo,cuda:nccl" if DEVICE.type == "cuda" else "gloo")
        if DEVICE.type == "cuda":
            torch.cuda.set_device(0)
        found = {}
        for name in ("ctrl_uniter", "switch, K = 4"):
            for dtype in (torch.float32, torch.bfloat16):
                plain = step(name, "plain", dtype)
                for way in ("ddp", "fsdp"):
                    given = step(name, way, dtype)
                    key = f"{way} {name} {str(dtype).removeprefix('torch.')}"
                    found[key] = given.loss_error(plain), given.gradient_error(plain)
        backend = dist.get_backend(dist.new_group(backend="nccl" if DEVICE.type == "cuda" else "gloo"))
        total = torch.ones(3, device=DEVICE)
        dist.all_reduce(total)
        assert total.tolist() == [1.0, 1.0, 1.0]
        if own:
            dist.destroy_process_group()
    print(json.dumps({"backend": backend, "errors": found}))


def step(name: str, way: str, dtype: torch.dtype) -> Found:
    """Losses and gradients of one pass, whole."""
    kept, inputs = prepared(name)
    learner = Pretraining(copy.deepcopy(kept).to(DEVICE), 0)  # type: ignore[arg-type]
    averaged = AveragedLearner(learner, Ranks()) if way == "ddp" else None
    if way == "fsdp":
        shard(learner.model, init_device_mesh(DEVICE.type, (1,)), dtype, ON_HOST)
    batch = Batch(inputs, None, IDS).to(DEVICE)
    batch.inputs["noise_keys"] = sample_keys(3, 1, IDS, B)
    with nullcontext() if averaged is None else averaged.step(learner.losses):
        with autocast(DEVICE, dtype):
            losses = (averaged or learner)(batch)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    gradients = {
        parameter: whole(value.grad)
        for parameter, value in learner.model.named_parameters()
        if value.grad is not None and whole(value.grad).any()  # FSDP gives zeros where others give none
    }
    return Found({loss: float(value.detach()) for loss, value in losses.items()}, gradients)


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, of a divided one all of it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


if __name__ == "__main__":
    main()
