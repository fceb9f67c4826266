"""A learner on several processes whose gradients are averaged: DDP, without its search for unused parameters.

A process's part of a batch may reach fewer parameters than another's: it may have no masked word. DDP can search for
what was not reached (``find_unused_parameters``), but then it exchanges what it found in every step, and waits for the
device in every step in which something was not reached: referring expressions leave out the poolers. (Its walk over the
graph is cheap: 0.05 ms of the host for UNITER's 12 layers, 0.15 for Switch-BERT's; to reach all parameters, as here,
takes 0.29 and 0.16.) Which parameters a whole step reaches depends only on which losses have anything to be a mean of,
on any process; so it is found out once for each such set of losses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from volta_switch.data.batches.collate import Batch
from volta_switch.train.learner import Learner, Losses
from volta_switch.train.ranks import Ranks

LOOK_AGAIN = 500  # steps of a set of losses until it is looked again, whether it still reaches the same


class Averaged:
    """A learner that is called as before; in the last part of a step gradients become means over the processes.

    Parameters that no process reached have no gradient afterwards, as on one process: the optimiser passes over them.
    """

    def __init__(self, learner: Learner, ranks: Ranks):
        self._learner, self._ranks = learner, ranks
        self._called = DistributedDataParallel(learner, gradient_as_bucket_view=True)
        self._parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self._steps: dict[tuple[str, ...], int] = {}
        self._unreached: dict[tuple[str, ...], list[int]] = {}  # numbers of parameters

    def __call__(self, batch: Batch) -> Losses:
        """The losses of this process's part."""
        losses = self._called(batch)
        return dict(zip(losses, _Reaching.apply(len(losses), *losses.values(), *self._parameters), strict=True))

    def exchanging(self, last: bool) -> Any:
        """A block in which one part's gradients are computed; of the last one they are averaged with the others'."""
        return nullcontext() if last else self._called.no_sync()

    @contextmanager
    def step(self, losses: Sequence[str]) -> Iterator[None]:
        """All parts of one step. ``losses``: those that have anything to be a mean of, the same on all processes."""
        names = tuple(losses)
        looks = self._steps.get(names, 0) % LOOK_AGAIN == 0
        self._steps[names] = self._steps.get(names, 0) + 1
        if looks:
            with self._noting() as reached:
                yield
            self._learn(names, reached)
        else:
            yield
        for number in self._unreached[names]:
            self._parameters[number].grad = None

    @contextmanager
    def _noting(self) -> Iterator[set[int]]:
        """The numbers of the parameters that get a gradient from this process's parts."""
        reached: set[int] = set()

        def note(parameter: Tensor, number: int) -> None:
            if parameter.grad is not None:  # DDP, which gives zeros where nothing came, comes after this
                reached.add(number)

        hooks = [
            parameter.register_post_accumulate_grad_hook(partial(note, number=number))
            for number, parameter in enumerate(self._parameters)
        ]
        try:
            yield reached
        finally:
            for hook in hooks:
                hook.remove()

    def _learn(self, names: tuple[str, ...], reached: set[int]) -> None:
        everywhere = set().union(*self._ranks.gathered(sorted(reached)))
        unreached = [number for number in range(len(self._parameters)) if number not in everywhere]
        if self._unreached.setdefault(names, unreached) != unreached:
            raise RuntimeError(f"the losses {', '.join(names)} reach other parameters than {LOOK_AGAIN} steps ago")


class _Reaching(torch.autograd.Function):
    """Losses as they are, from which the backward pass reaches every parameter, with no gradient of its own.

    DDP waits for each parameter to be reached.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *losses_and_parameters: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """``count`` scalars, then parameters; returns the scalars."""
        ctx.set_materialize_grads(False)
        ctx.parameters = len(losses_and_parameters) - count
        return tuple(loss.view_as(loss) for loss in losses_and_parameters[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """The losses' gradients, and none for parameters."""
        return (None, *grads, *[None] * ctx.parameters)
