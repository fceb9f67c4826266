"""The packed states of a forward pass: where both modalities' rows lie, and which of them later layers still need.

Legend: B batch, n packed rows (n_t of text, n_v of vision), K key slots, Q query slots, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from volta_switch.model.noise import Site, fold_in, row_keys
from volta_switch.model.rows import PackedRows, copy_to

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
        """As the attributes; ``sample_keys`` as ``noise.sample_keys`` gives them, on the host or the device."""
        self.sample_keys = None if sample_keys is None else copy_to(sample_keys, text.sample.device)
        for rows, site in ((text, Site.TEXT), (vision, Site.VISION)):
            if self.sample_keys is not None and rows.rng_keys is None:
                rows.rng_keys = row_keys(self.sample_keys, rows.sample, rows.slot, site)
        self.text, self.vision = text, vision
        self.kept_text, self.kept_vision = kept_text, kept_vision
        if text.B == vision.B:
            self.joined = PackedRows.joined(text, vision)
            # (n,) which side of which sample each joined row belongs to: 0 to B - 1 its text, B to 2 B - 1 its vision.
            self.side = copy_to(torch.cat((text.host[0], vision.host[0] + text.B)), text.sample.device)

    @classmethod
    def of(
        cls, masks: Sequence[Tensor], device: torch.device | None = None, sample_keys: Tensor | None = None
    ) -> PackedLayout:
        """Returns the layout of a batch's real tokens and regions, which masks (B, T) and (B, R) tell, on a device."""
        text, vision = (PackedRows.of(mask != 0, device) for mask in masks)
        return cls(text, vision, sample_keys)

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
