"""Rows without padding: the states of a batch lie packed, one row per real token or region.

Everything but the attention itself works row by row, so that padding costs nothing there. The attention sees the rows
of each sample side by side, as short as the longest sample of the batch allows. A layout has the rows of both
modalities, and says which of them later layers still need.

Which rows there are is found on the host, from masks that stay there, and copied to the device: a step never waits for
the device to say how many rows it has.

Legend: B batch, W width of the batch as it was given, N longest sample, n packed rows (n_t of text, n_v of vision), H
heads, d head width, K key slots, Q query slots, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from volta_switch.model.noise import Site, fold_in, row_keys


class PackedRows:
    """Where the packed rows of one modality, or of both, come from and where they stand in the attention.

    Tensors are on the states' device but for those of the host. Rows are ordered by modality, sample and position: of
    two modalities, the second's lie behind all of the first's, and no view has a sample's rows side by side.

    Attributes:
        B, W, N, count: as in the legend; ``count`` is n.
        sample: (n,) the sample of each row.
        position: (n,) its place in that sample as given.
        slot: (n,) its place among the sample's packed rows, in the attention.
        source, cell: (n,) its place in the batch as given, flat in (B, W), and in the attention, flat in (B, N).
        real: (B, N) True where a slot has a row.
        numbers: (B, W) the row at each position as given, on the host; -1 where there is none.
        host, host_real: on the host, (3, n) sample, position and slot, and ``real``.
        rng_keys: (n,) int64 of keyed noise (``noise``); None: noise is drawn from PyTorch's generators.
        is_whole: the rows are a view of what was given: all of it, sample by sample.
        is_full: the rows are a view of the attention's slots: samples of one length, one after the other.
    """

    def __init__(
        self, host: Tensor, real: Tensor, numbers: Tensor, *, device: torch.device, rng_keys: Tensor | None = None
    ):
        """``host`` (3, n): sample, position and slot of each row; like ``real`` and ``numbers`` on the host."""
        self.B, self.N, self.W, self.count = *real.shape, numbers.shape[1], host.shape[1]
        sample, position, slot = host
        places = torch.cat((host, (sample * self.W + position)[None], (sample * self.N + slot)[None]))
        # Copies: torch.compile takes no views as inputs.
        rows = (row.clone() for row in copy_to(places, device))
        self.sample, self.position, self.slot, self.source, self.cell = rows
        self.real, self.numbers, self.rng_keys = copy_to(real, device), numbers, rng_keys
        self.host, self.host_real = host, real
        is_ordered = self.B == 1 or bool((sample[1:] >= sample[:-1]).all())  # not where two modalities are joined
        self.is_whole = is_ordered and self.count == self.B * self.W
        self.is_full = is_ordered and self.count == self.B * self.N
        self._head_indices: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, mask: Tensor, device: torch.device | None = None) -> PackedRows:
        """Returns the rows at which ``mask`` (B, W) is True, for states on a device (that of the mask by default)."""
        device, mask = mask.device if device is None else device, mask.cpu()
        sample, position = mask.nonzero(as_tuple=True)
        lengths = mask.sum(1)
        row = torch.arange(len(sample))
        slot = row - (lengths.cumsum(0) - lengths)[sample]
        real = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
        numbers = torch.full(mask.shape, -1).masked_scatter_(mask, row)
        return cls(torch.stack((sample, position, slot)), real, numbers, device=device)

    @classmethod
    def joined(cls, first: PackedRows, second: PackedRows) -> PackedRows:
        """Returns the rows of two modalities, each sample's of the second behind its longest of the first."""
        moved = second.host + torch.tensor([[0], [first.W], [first.N]])
        numbers = torch.where(second.numbers >= 0, second.numbers + first.count, -1)
        keys = None
        if first.rng_keys is not None and second.rng_keys is not None:
            keys = torch.cat((first.rng_keys, second.rng_keys))
        return cls(
            torch.cat((first.host, moved), 1),
            torch.cat((first.host_real, second.host_real), 1),
            torch.cat((first.numbers, numbers), 1),
            device=first.sample.device,
            rng_keys=keys,
        )

    def select(self, wanted: Tensor) -> tuple[PackedRows, Tensor]:
        """Returns the rows at the positions ``wanted`` (B, W), and their numbers among the present ones."""
        device = self.sample.device
        chosen = wanted.cpu() & (self.numbers >= 0)
        numbers = copy_to(self.numbers[chosen], device)
        rows = PackedRows.of(chosen, device)
        rows.rng_keys = None if self.rng_keys is None else self.rng_keys.index_select(0, numbers)
        return rows, numbers

    def pack(self, given: Tensor) -> Tensor:
        """Packs what was given for every position, (B, W, ...) to (n, ...)."""
        flat = given.flatten(0, 1)
        return flat if self.is_whole else _Take.apply(flat, self.source)

    def unpack(self, rows: Tensor) -> Tensor:
        """Puts rows where they came from, (n, ...) to (B, W, ...), zero elsewhere."""
        if self.is_whole:
            return rows.unflatten(0, (self.B, self.W))
        padded = rows.new_zeros((self.B * self.W, *rows.shape[1:]))
        return padded.index_copy(0, self.source, rows).unflatten(0, (self.B, self.W))

    def in_slots(self, rows: Tensor) -> Tensor:
        """Lays each sample's rows side by side, (n, ...) to (B, N, ...), zero in empty slots."""
        if self.is_full:
            return rows.unflatten(0, (self.B, self.N))
        slots = rows.new_zeros((self.B * self.N, *rows.shape[1:]))
        return slots.index_copy(0, self.cell, rows).unflatten(0, (self.B, self.N))

    def row_of_each(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Takes the row at one position (B,) of every sample, (n, D) to (B, D); zero where there is none."""
        if self.count == 0:
            return rows.new_zeros((self.B, *rows.shape[1:])) + rows.sum()  # the sum of nothing, for the gradient's sake
        numbers = copy_to(self.numbers.gather(1, positions.cpu()[:, None]).squeeze(1), rows.device)
        return rows.index_select(0, numbers.clamp(min=0)) * (numbers >= 0).to(rows.dtype)[:, None]

    def rows_at(self, rows: Tensor, wanted: Tensor) -> Tensor:
        """Takes the rows at the positions ``wanted`` (B, W), which all have one, (n, D) to (m, D)."""
        return rows.index_select(0, copy_to(self.numbers[wanted.cpu()], rows.device))

    def mean(self, rows: Tensor) -> Tensor:
        """Mean of each sample's rows, (n, D) to (B, D); zero for a sample without any."""
        return self.in_slots(rows).sum(1) / self.lengths(rows.dtype)

    def lengths(self, dtype: torch.dtype) -> Tensor:
        """(B, 1) how many rows each sample has, but at least 1."""
        return self.real.sum(1, keepdim=True).clamp(min=1).to(dtype)

    def per_row(self, values: Tensor) -> Tensor:
        """Gives each row what its sample has, (B, ...) to (n, ...)."""
        return values.index_select(0, self.sample)

    def split_heads(self, rows: Tensor, heads: int) -> Tensor:
        """Projected rows (n, H * d) to (B, H, N, d); what stands in empty slots is not to be read."""
        if self.is_full:
            return rows.view(self.B, self.N, heads, -1).transpose(1, 2)
        if self.count == 0:
            return rows.new_zeros((self.B, heads, self.N, rows.shape[1] // heads)) + rows.sum()
        slots = _Regroup.apply(rows.reshape(self.count * heads, -1), *self._head_index(heads))
        return slots.view(self.B, heads, self.N, -1)

    def merge_heads(self, context: Tensor) -> Tensor:
        """(B, H, N, d) to (n, H * d)."""
        B, H, N, d = context.shape
        if self.is_full:
            return context.transpose(1, 2).reshape(B * N, H * d)
        return _Take.apply(context.reshape(B * H * N, d), self._head_index(H)[1]).view(self.count, H * d)

    def _head_index(self, H: int) -> tuple[Tensor, Tensor]:
        """Which (row, head) stands in each (sample, head, slot), and the other way round; made once for each H."""
        # A graph must not depend on what was asked for before it.
        if H in self._head_indices and not torch.compiler.is_compiling():
            return self._head_indices[H]
        device = self.sample.device
        numbers = torch.zeros(self.B * self.N, dtype=torch.long, device=device)  # an empty slot shows any row
        numbers = numbers.index_copy(0, self.cell, torch.arange(self.count, device=device))
        head = torch.arange(H, device=device)
        there = numbers.view(self.B, 1, self.N) * H + head[:, None]
        back = (self.sample[:, None] * H + head) * self.N + self.slot[:, None]  # (n, H)
        if torch.compiler.is_compiling():
            return there.flatten(), back.flatten()
        self._head_indices[H] = there.flatten(), back.flatten()
        return self._head_indices[H]


def copy_to(host: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor of the host to a device; asynchronously to a GPU."""
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
    """Rows to slots that each show one row; slots that ``back`` does not name are never read."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, there: Tensor, back: Tensor) -> Tensor:  # type: ignore[override]
        """(n, d) to (slots, d)."""
        ctx.save_for_backward(back)
        return rows.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """(slots, d) to (n, d)."""
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


# The packed states of both modalities: text (n_t, D) and vision (n_v, D_v), or both joined in one tensor (n, D), text
# first. Sublayers with shared weights read them joined, others apart: an encoder of one stream never splits them, and
# one of two streams never joins them.
States = tuple[Tensor, ...]


class PackedLayout:
    """Where the packed rows of both modalities lie; ``joined`` has the text's first.

    Attributes:
        text, vision: the rows.
        joined: the rows of both; there are none where texts and images are not paired yet (``pairs``).
        sample_keys: (B,) int64 of keyed noise; None: noise is drawn from PyTorch's generators.
        kept_text, kept_vision: of a pruned layout, the numbers of its rows in the one before; None: all of them.
    """

    def __init__(
        self,
        text: PackedRows,
        vision: PackedRows,
        sample_keys: Tensor | None = None,
        *,
        kept_text: Tensor | None = None,
        kept_vision: Tensor | None = None,
    ):
        """As the attributes, all of them on the states' device."""
        self.sample_keys = sample_keys
        for rows, site in ((text, Site.TEXT), (vision, Site.VISION)):
            if sample_keys is not None and rows.rng_keys is None:
                rows.rng_keys = row_keys(sample_keys, rows.sample, rows.slot, site)
        self.text, self.vision = text, vision
        self.kept_text, self.kept_vision = kept_text, kept_vision
        if text.B == vision.B:
            self.joined = PackedRows.joined(text, vision)  # now: a compiled sublayer could not make it

    @classmethod
    def of(
        cls, masks: Sequence[Tensor], device: torch.device | None = None, sample_keys: Tensor | None = None
    ) -> PackedLayout:
        """Returns the layout of real tokens and regions, from masks (B, T) and (B, R) and keys (B,) on the host."""
        text, vision = (PackedRows.of(mask != 0, device) for mask in masks)
        return cls(text, vision, None if sample_keys is None else copy_to(sample_keys, text.sample.device))

    def prune(self, text: Tensor | None, vision: Tensor | None) -> PackedLayout:
        """Returns the layout of the rows at some positions, (B, T) and (B, R); None: all of that modality."""
        if text is None and vision is None:
            return self
        text_rows, kept_text = (self.text, None) if text is None else self.text.select(text)
        vision_rows, kept_vision = (self.vision, None) if vision is None else self.vision.select(vision)
        return PackedLayout(text_rows, vision_rows, self.sample_keys, kept_text=kept_text, kept_vision=kept_vision)

    def keep(self, states: States, before: PackedLayout) -> States:
        """Returns the states of this layout's rows, out of those of the layout from which it was pruned."""
        if self is before:
            return states
        text, vision = before.split(states)
        text = text if self.kept_text is None else text.index_select(0, self.kept_text)
        return text, vision if self.kept_vision is None else vision.index_select(0, self.kept_vision)

    def split(self, states: States) -> States:
        """Returns the states apart, text (n_t, D) and vision (n_v, D_v)."""
        return states if len(states) == 2 else states[0].split((self.text.count, self.vision.count))

    def means(self, states: States) -> Tensor:
        """Returns the mean state of every sample's text and of its vision, (2, B, D); zero where there is no row."""
        return _Means.apply(join(states), self)

    @cached_property
    def side(self) -> Tensor:
        """(n,) which side of which sample each joined row belongs to: 0 to B - 1 its text, B to 2 B - 1 its vision."""
        host = torch.cat((self.text.host[0], self.vision.host[0] + self.text.B))
        return copy_to(host, self.text.sample.device)

    def per_row(self, values: Tensor) -> Tensor:
        """Gives each joined row what its side of its sample has, (2, B, ...) to (n, ...)."""
        return values.flatten(0, 1).index_select(0, self.side)


def join(states: States) -> Tensor:
    """Returns the states joined, (n, D), text rows first."""
    return states[0] if len(states) == 1 else torch.cat(states)


def pair_keys(queries: PackedRows, keys: PackedRows, number: int) -> Tensor | None:
    """Returns the keys of the noise on an attention sublayer's weights, (B, K, Q); None: noise is not keyed."""
    if queries.rng_keys is None or keys.rng_keys is None:
        return None
    of_keys = fold_in(keys.in_slots(keys.rng_keys), Site.KEY, number)
    of_queries = fold_in(queries.in_slots(queries.rng_keys), Site.QUERY, number)
    assert of_keys is not None and of_queries is not None
    return of_keys[:, :, None] + of_queries[:, None]


class _Means(torch.autograd.Function):
    """Means of both sides of every sample; a row's gradient is its side's share, made in one pass."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, layout: PackedLayout) -> Tensor:  # type: ignore[override]
        """(n, D) to (2, B, D)."""
        ctx.layout, count = layout, layout.text.count
        return torch.stack((layout.text.mean(joined[:count]), layout.vision.mean(joined[count:])))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """(2, B, D) to (n, D)."""
        layout = ctx.layout
        lengths = torch.stack((layout.text.lengths(grad.dtype), layout.vision.lengths(grad.dtype)))  # (2, B, 1)
        return layout.per_row(grad / lengths), None
