"""Dropout whose randomness does not cost more than the layer that it regularises."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.model.noise import drawn_rate, keep_mask, shares_draws


def dropout(states: Tensor, rate: float, training: bool = True, keys: Tensor | None = None) -> Tensor:
    """Zeroes each element with probability ``rate`` and scales the others by 1 / (1 - rate).

    With ``keys``, one for each row (all dimensions but the last), what is dropped is a function of them. Else, on a
    GPU, it is PyTorch's own; on a CPU, where PyTorch draws one random number for each element, four elements share one
    of 64 bits. Wherever four share one, the probability is ``drawn_rate``.
    """
    if not training or rate == 0.0:
        return states
    if rate == 1.0 or (keys is None and not shares_draws(rate, states.device)):
        return F.dropout(states, rate)
    return _drop(states, None, rate, keys)


def add_dropped(
    states: Tensor, update: Tensor, rate: float, training: bool = True, keys: Tensor | None = None
) -> Tensor:
    """``states + dropout(update)``, in one pass less; of one shape."""
    if not training or rate in (0.0, 1.0) or (keys is None and not shares_draws(rate, update.device)):
        return dropout(update, rate, training, keys) + states
    return _drop(update, states, rate, keys)


class Dropout(nn.Module):
    """``dropout`` as a module."""

    def __init__(self, rate: float):
        super().__init__()
        self.p = rate

    def forward(self, states: Tensor) -> Tensor:
        """Any shape."""
        return dropout(states, self.p, self.training)

    def extra_repr(self) -> str:
        """The rate."""
        return f"p={self.p}"


def through(layer: nn.Module, states: Tensor, keys: Tensor | None) -> Tensor:
    """``layer(states)``; with keys of the rows, the dropouts in it, or in a sequence of layers, draw by them."""
    if keys is None:
        return layer(states)
    if isinstance(layer, nn.Sequential):
        for part in layer:
            states = through(part, states, keys)
        return states
    if isinstance(layer, Dropout | nn.Dropout):
        return dropout(states, layer.p, layer.training, keys)
    return layer(states)


def _drop(values: Tensor, onto: Tensor | None, rate: float, keys: Tensor | None) -> Tensor:
    kept = keep_mask(values.shape, rate, values.device, keys)
    return _Drop.apply(values, onto, kept, drawn_rate(rate, values.device, keys is not None))


class _Drop(torch.autograd.Function):
    """Elements that are zeroed with a probability, the others scaled; added to ``onto`` where that is given."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, onto: Tensor | None, kept: Tensor, rate: float) -> Tensor:  # type: ignore[override]
        """Any shape."""
        ctx.scale, ctx.onto = 1 / (1 - rate), onto is not None
        ctx.save_for_backward(kept)
        left = values * kept.view(torch.uint8)
        return left.mul_(ctx.scale) if onto is None else torch.add(onto, left, alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        """Through the same elements."""
        (kept,) = ctx.saved_tensors
        return (grad * kept.view(torch.uint8)).mul_(ctx.scale), grad if ctx.onto else None, None, None
