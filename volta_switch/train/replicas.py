"""The model on all processes: alone, a whole one on each (DDP), or divided among them (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from volta_switch.data.batches.collate import ON_HOST, Batch
from volta_switch.errors import UserError
from volta_switch.model.sharding import shard
from volta_switch.train.averaging import Averaged
from volta_switch.train.learner import Learner, Losses
from volta_switch.train.ranks import Ranks
from volta_switch.weights import to_volta


class Replicas:
    """A learner on all processes; gradients are means over the processes.

    ``learner`` stays what it was: validation and weights go by it.
    """

    def __init__(
        self,
        learner: Learner,
        ranks: Ranks,
        device: torch.device,
        sharded: bool = False,
        precision: torch.dtype = torch.float32,
    ):
        """Raises UserError where there is one process to divide the model among."""
        if sharded and ranks.count == 1:
            raise UserError("--fsdp divides a model among several processes; start them with torchrun")
        self.learner, self.ranks, self.sharded = learner, ranks, sharded
        self._averaged: Averaged | None = None
        if sharded:
            shard(learner.model, init_device_mesh(device.type, (ranks.count,)), precision, ON_HOST)
        elif ranks.count > 1:
            self._averaged = Averaged(learner, ranks)

    def __call__(self, batch: Batch) -> Losses:
        """The losses of this process's part of a batch."""
        called: Callable[[Batch], Losses] = self._averaged or self.learner
        return called(batch)

    def step(self, losses: Sequence[str]) -> AbstractContextManager[None]:
        """All parts of one step. ``losses``: those that have anything to be a mean of, the same on all processes."""
        return nullcontext() if self._averaged is None else self._averaged.step(losses)

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """One part of a step; the processes exchange gradients in the last one."""
        if self.sharded:
            cast(Any, self.learner.model).set_requires_gradient_sync(last)
        with nullcontext() if self._averaged is None else self._averaged.exchanging(last):
            yield

    def weights(self) -> dict[str, Tensor]:
        """The whole model under VOLTA's names, shared weights as one tensor; all processes call it."""
        model = self.learner.model
        parameters = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
        gathered: dict[Any, Tensor] = {}
        whole = {}
        for name, tensor in to_volta(model).items():
            one = parameters.get(name, name)
            if one not in gathered:
                gathered[one] = _whole(tensor)
            whole[name] = gathered[one]
        return whole

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """What the optimiser keeps, ``exp_avg/<parameter>``, whole; all processes call it."""
        kept = {}
        for name, parameter in self.learner.model.named_parameters():
            for kind, value in optimizer.state.get(parameter, {}).items():
                kept[f"{kind}/{name}"] = _whole(value).detach()
        return kept

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, kept: dict[str, Tensor]) -> None:
        """Gives the optimiser what ``optimizer_state`` returned, on any number of processes."""
        of_parameter: dict[str, dict[str, Tensor]] = {}
        for key, value in kept.items():
            kind, name = key.split("/", 1)
            of_parameter.setdefault(name, {})[kind] = value
        for name, parameter in self.learner.model.named_parameters():
            for kind, value in of_parameter.pop(name, {}).items():
                if value.shape != (() if kind == "step" else parameter.shape):
                    raise UserError(f"the optimiser's {kind} of {name} has shape {list(value.shape)}; start anew")
                optimizer.state[parameter][kind] = _like(value, parameter)
        if of_parameter:
            raise UserError(f"the optimiser's state is of parameters that the model lacks ({min(of_parameter)})")


def _whole(tensor: Tensor) -> Tensor:
    """Of a divided tensor all of it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """A value on a parameter's device, and divided as it is; a scalar stays whole."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value.clone()
