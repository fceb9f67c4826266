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
    for module in (*encoder_of(model).layer, model):
        sharded = fully_shard(module, mesh=mesh)
        if mesh.device_type == "cpu":
            # PyTorch 2.8's gloo sums where an average is asked for, and says nothing: gradients were too large by the
            # number of processes (github.com/pytorch/pytorch/issues/162338). A sum, divided afterwards, is the average.
            sharded.set_force_sum_reduction_for_comms(True)
