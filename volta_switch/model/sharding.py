"""FSDP2: every process keeps a share of each parameter, its gradient and its optimiser state."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from volta_switch.model.encoder import encoder_of


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shards a model in place: each sublayer of its encoder is gathered by itself, the rest as one.

    Afterwards parameters can be read in a forward pass of the whole model alone; elsewhere they are DTensors, of which
    this process has a part. The rest (embeddings, switchers, heads) stays gathered from the forward pass to the
    backward pass: the word table is read at both ends of a model.

    Args:
        model: one of ``bert``'s, before its optimiser is made.
        mesh: one-dimensional, of all processes.
    """
    for layer in encoder_of(model).layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
