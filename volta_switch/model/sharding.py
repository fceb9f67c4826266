"""FSDP2: every process keeps a share of each parameter, its gradient and its optimiser state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from volta_switch.model.encoder import encoder_of


def shard(
    model: nn.Module, mesh: DeviceMesh, precision: torch.dtype = torch.float32, on_host: Collection[str] = ()
) -> None:
    """Shards a model in place: each sublayer of its encoder is gathered by itself, the rest as one.

    Afterwards parameters can be read in a forward pass of the whole model alone; elsewhere they are DTensors, of which
    this process has a part. The rest (embeddings, switchers, heads) stays gathered from the forward pass to the
    backward pass: the word table is read at both ends of a model.

    Args:
        model: one of ``bert``'s, before its optimiser is made.
        mesh: one-dimensional, of all processes.
        precision: of the forward pass, see ``gathered_as``; the rest of the model is gathered in float32.
        on_host: the forward pass's keyword arguments that stay on the CPU.
    """
    policy = gathered_as(mesh.device_type, precision)
    sharded = [fully_shard(layer, mesh=mesh, mp_policy=policy) for layer in encoder_of(model).layer]
    for module in (*sharded, fully_shard(model, mesh=mesh)):
        if mesh.device_type == "cpu":
            # PyTorch 2.8's gloo sums where an average is asked for, and says nothing: gradients were too large by the
            # number of processes (github.com/pytorch/pytorch/issues/162338). A sum, divided afterwards, is the average.
            module.set_force_sum_reduction_for_comms(True)
    keep_on_host(model, on_host)


def gathered_as(device: str, precision: torch.dtype) -> MixedPrecisionPolicy:
    """How sublayers are gathered: on GPUs in the forward pass's precision, half the bytes in bfloat16.

    Autocast would round the matrices to it in any case; the LayerNorms' weights are rounded beside (differs from DDP),
    and computed with in float32. What is kept, gradients while they are added up, and the residual stream stay float32.
    On a CPU everything is gathered in float32: autocast leaves LayerNorm out there, and its kernel takes no mixture.
    """
    if device != "cuda" or precision == torch.float32:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    return MixedPrecisionPolicy(precision, torch.float32, cast_forward_inputs=False)


def keep_on_host(model: nn.Module, names: Collection[str]) -> None:
    """Takes keyword arguments past what sends all inputs to a GPU before a forward pass, as FSDP2's hook does.

    They are read on the host, so that they would be waited for on their way back.
    """
    kept: dict[str, Tensor] = {}

    def take(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        kept.update({name: given.pop(name) for name in names if name in given})
        return args, given

    def give(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        given = given | kept
        kept.clear()
        return args, given

    model.register_forward_pre_hook(take, prepend=True, with_kwargs=True)
    model.register_forward_pre_hook(give, with_kwargs=True)
