"""Dropout whose randomness does not cost more than the layer that it regularises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = 2**16  # a rate is rounded to a multiple of 1 / STEPS on the CPU


def dropout(states: Tensor, rate: float, training: bool = True) -> Tensor:
    """Zeroes each element with probability ``rate`` and scales the others by 1 / (1 - rate).

    On a GPU it is PyTorch's own. On a CPU, where PyTorch draws one random number for each element, four elements share
    one of 64 bits, and the probability is ``drawn_rate``.
    """
    if not training or rate == 0.0:
        return states
    if not _shares_draws(rate, states.device):
        return F.dropout(states, rate)
    return _Drop.apply(states, None, drawn_rate(rate, states.device))


def add_dropped(states: Tensor, update: Tensor, rate: float, training: bool = True) -> Tensor:
    """``states + dropout(update)``, in one pass less; of one shape."""
    if not training or rate == 0.0 or not _shares_draws(rate, update.device):
        return dropout(update, rate, training) + states
    return _Drop.apply(update, states, drawn_rate(rate, update.device))


def drawn_rate(rate: float, device: torch.device) -> float:
    """The probability that ``keep_mask`` has: on a CPU the nearest multiple of 1 / 65536 (0.100006 for 0.1)."""
    return min(round(rate * STEPS), STEPS - 1) / STEPS if _shares_draws(rate, device) else rate


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


def keep_mask(shape: Sequence[int], rate: float, device: torch.device) -> Tensor | None:
    """Which elements of a tensor of this shape stay, bool; None where all do."""
    if rate == 0.0:
        return None
    if not _shares_draws(rate, device):
        return torch.rand(tuple(shape), device=device) >= rate
    count = math.prod(shape)
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    lowest_kept = round(drawn_rate(rate, device) * STEPS) - STEPS // 2
    return (bits.view(torch.int16)[:count] >= lowest_kept).view(tuple(shape))


def _shares_draws(rate: float, device: torch.device) -> bool:
    """Whether four elements share one draw: on a CPU, where nothing is compiled, which knows only plain draws."""
    return device.type == "cpu" and rate < 1.0 and not torch.compiler.is_compiling()


class _Drop(torch.autograd.Function):
    """Elements that are zeroed with a probability, the others scaled; added to ``onto`` where that is given."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, onto: Tensor | None, rate: float) -> Tensor:  # type: ignore[override]
        """Any shape."""
        kept = keep_mask(values.shape, rate, values.device)
        assert kept is not None
        ctx.scale, ctx.onto = 1 / (1 - rate), onto is not None
        ctx.save_for_backward(kept)
        left = values * kept.view(torch.uint8)
        return left.mul_(ctx.scale) if onto is None else torch.add(onto, left, alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        """Through the same elements."""
        (kept,) = ctx.saved_tensors
        return (grad * kept.view(torch.uint8)).mul_(ctx.scale), grad if ctx.onto else None, None
