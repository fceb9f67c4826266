"""Rows without padding: the states of a batch lie packed, one row per real token or region.

Everything but the attention itself works row by row, so that padding costs nothing there. The attention sees the rows
of each sample side by side, as short as the longest sample of the batch allows.

Which rows there are is found on the host, from masks that stay there, and sent to the device: a step never waits for
the device to say how many rows it has.

Legend: B batch, W width of the batch as it was given, N longest sample, n packed rows, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Once:
    """What is made when it is first asked for, and kept as long as its owner."""

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def __call__(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, which is called once for each key."""
        if torch.compiler.is_compiling():  # a graph must not depend on what was asked for before it
            return make()
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class Rows:
    """Where the packed rows of one modality, or of both, come from and where they stand in the attention.

    ``sample`` (n,) is the sample of each row, ``position`` (n,) its place in that sample as given, ``slot`` (n,) its
    place among the sample's packed rows; all on the states' device. Rows are ordered by modality, sample and position:
    of two modalities, the second's lie behind all of the first's, and no view has a sample's rows side by side
    (``by_sample`` is False).
    """

    def __init__(
        self,
        sample: Tensor,
        position: Tensor,
        slot: Tensor,
        B: int,
        W: int,
        N: int,
        host: Tensor | None = None,
        by_sample: bool = True,
    ):
        """``host`` (3, n): sample, position and slot on the CPU."""
        self.sample, self.position, self.slot, self._host = sample, position, slot, host
        self.B, self.W, self.N = B, W, N
        self.count = len(sample)
        self.whole = by_sample and self.count == B * W  # nothing was left out
        self.full = by_sample and self.count == B * N  # all samples are of one length
        self._once = Once()

    @classmethod
    def of(cls, real: Tensor, device: torch.device | None = None) -> Rows:
        """The rows at which ``real`` (B, W) is True, for states on a device (that of ``real`` by default)."""
        device = real.device if device is None else device
        real = real.cpu()
        sample, position = real.nonzero(as_tuple=True)
        lengths = real.sum(1)
        before = lengths.cumsum(0) - lengths  # rows of earlier samples
        host = torch.stack((sample, position, torch.arange(len(sample)) - before[sample]))
        B, W = real.shape
        sample, position, slot = (row.clone() for row in sent(host, device))  # torch.compile takes no views as inputs
        return cls(sample, position, slot, B, W, max(1, int(lengths.max())), host)

    @classmethod
    def beside(cls, first: Rows, second: Rows) -> Rows:
        """The rows of two modalities, each sample's of the second behind its longest of the first."""
        slot = torch.cat((first.slot, second.slot + first.N))
        position = torch.cat((first.position, second.position + first.W))
        sample = torch.cat((first.sample, second.sample))
        B, W, N = first.B, first.W + second.W, first.N + second.N
        return cls(sample, position, slot, B, W, N, by_sample=B == 1)

    @property
    def real(self) -> Tensor:
        """(B, N) True where a slot has a row."""
        return self._once("real", self._real)

    def _real(self) -> Tensor:
        slots = torch.zeros(self.B * self.N, dtype=torch.bool, device=self.sample.device)
        return slots.index_fill(0, self._cells(self.slot, self.N), True).view(self.B, self.N)

    @property
    def numbers(self) -> Tensor:
        """(B, W) the row at each position as given, on the CPU; -1 where there is none."""
        return self._once("numbers", self._numbers)

    def _numbers(self) -> Tensor:
        sample, position = (self.sample.cpu(), self.position.cpu()) if self._host is None else self._host[:2]
        cells = torch.full((self.B, self.W), -1)
        cells[sample, position] = torch.arange(self.count)
        return cells

    def take(self, given: Tensor) -> Tensor:
        """Packs what was given for every position, (B, W, ...) to (n, ...)."""
        flat = given.flatten(0, 1)
        return flat if self.whole else _Take.apply(flat, self._cells(self.position, self.W))

    def spread(self, rows: Tensor, width: int | None = None) -> Tensor:
        """Puts rows where they came from, (n, ...) to (B, W, ...), zero elsewhere; ``width`` replaces W."""
        width = self.W if width is None else width
        if self.whole and width == self.W:
            return rows.unflatten(0, (self.B, self.W))
        cells = rows.new_zeros((self.B * width, *rows.shape[1:]))
        return cells.index_copy(0, self._cells(self.position, width), rows).unflatten(0, (self.B, width))

    def select(self, wanted: Tensor) -> tuple[Rows, Tensor]:
        """The rows at the positions ``wanted`` (B, W), and their numbers among the present ones."""
        device = self.sample.device
        chosen = wanted.cpu() & (self.numbers >= 0)
        return Rows.of(chosen, device), sent(self.numbers[chosen], device)

    def at(self, rows: Tensor, positions: Tensor) -> Tensor:
        """The row at one position of every sample, (n, D) and (B,) to (B, D); zero where there is none."""
        if self.count == 0:
            return rows.new_zeros((self.B, *rows.shape[1:])) + rows.sum()  # the sum of nothing, for the gradient's sake
        numbers = sent(self.numbers.gather(1, positions.cpu()[:, None]).squeeze(1), rows.device)
        return rows.index_select(0, numbers.clamp(min=0)) * (numbers >= 0).to(rows.dtype)[:, None]

    def where(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """The rows at the positions ``wanted`` (B, W), all of which there are, (n, D) to (K, D)."""
        return rows.index_select(0, sent(self.numbers[wanted.cpu()], rows.device))

    def mean(self, rows: Tensor) -> Tensor:
        """Mean of each sample's rows, (n, D) to (B, D); zero for a sample without any."""
        return self.side_by_side(rows).sum(1) / self.lengths(rows.dtype)

    def per_row(self, values: Tensor) -> Tensor:
        """What every sample has, for each of its rows, (B, ...) to (n, ...)."""
        return values.index_select(0, self.sample)

    def split_heads(self, rows: Tensor, heads: int) -> Tensor:
        """Projected rows (n, H * d) to (B, H, N, d); what stands in empty slots is not to be read."""
        if self.full:
            return rows.view(self.B, self.N, heads, -1).transpose(1, 2)
        if self.count == 0:
            return rows.new_zeros((self.B, heads, self.N, rows.shape[1] // heads)) + rows.sum()
        there, back = self._head_index(heads)
        cells = _Regroup.apply(rows.reshape(self.count * heads, -1), there, back)
        return cells.view(self.B, heads, self.N, -1)

    def merge_heads(self, context: Tensor) -> Tensor:
        """(B, H, N, d) to (n, H * d)."""
        B, H, N, d = context.shape
        if self.full:
            return context.transpose(1, 2).reshape(B * N, H * d)
        _, back = self._head_index(H)
        return _Take.apply(context.reshape(B * H * N, d), back).view(self.count, H * d)

    def lengths(self, dtype: torch.dtype) -> Tensor:
        """(B, 1) how many rows each sample has, but at least 1."""
        return self.real.sum(1, keepdim=True).clamp(min=1).to(dtype)

    def side_by_side(self, rows: Tensor) -> Tensor:
        """(n, D) to (B, N, D), zero in empty slots."""
        if self.full:
            return rows.unflatten(0, (self.B, self.N))
        cells = rows.new_zeros((self.B * self.N, *rows.shape[1:]))
        return cells.index_copy(0, self._cells(self.slot, self.N), rows).unflatten(0, (self.B, self.N))

    def _cells(self, place: Tensor, width: int) -> Tensor:
        """(n,) index into a (B, width) layout, flat."""
        key = ("position" if place is self.position else "slot", width)
        return self._once(key, lambda: self.sample * width + place)

    def _head_index(self, H: int) -> tuple[Tensor, Tensor]:
        """Which (row, head) stands in each (sample, head, slot), and the other way round."""
        return self._once(("heads", H), lambda: self._index_heads(H))

    def _index_heads(self, H: int) -> tuple[Tensor, Tensor]:
        device = self.sample.device
        numbers = torch.zeros(self.B * self.N, dtype=torch.long, device=device)  # an empty slot shows any row
        numbers = numbers.index_copy(0, self._cells(self.slot, self.N), torch.arange(self.count, device=device))
        head = torch.arange(H, device=device)
        there = numbers.view(self.B, 1, self.N) * H + head[:, None]
        back = (self.sample[:, None] * H + head) * self.N + self.slot[:, None]  # (n, H)
        return there.flatten(), back.flatten()


def also(mask: Tensor, positions: Tensor | None) -> Tensor:
    """A mask (B, W), True also at one position (B,) of every sample; None: as it is."""
    return mask if positions is None else mask.scatter(1, positions[:, None], True)


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; nobody waits for the copy."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


class _Take(torch.autograd.Function):
    """Different rows of a matrix; their gradients are put back, not added up."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """(m, ...) and (n,) to (n, ...)."""
        ctx.save_for_backward(index)
        ctx.size = len(matrix)
        return matrix.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """(n, ...) to (m, ...), zero where nothing was taken."""
        (index,) = ctx.saved_tensors
        return grad.new_zeros((ctx.size, *grad.shape[1:])).index_copy_(0, index, grad), None


class _Regroup(torch.autograd.Function):
    """Rows to cells that each show one row; cells that ``back`` does not name are never read."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:  # type: ignore[override]
        """(n, d) to (cells, d)."""
        ctx.save_for_backward(back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """(cells, d) to (n, d)."""
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None
