"""The packed states of a forward pass: both modalities' rows, where they lie, and which of them go on.

Legend: B batch, n packed rows (n_t of text, n_v of vision), K key slots, Q query slots, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from volta_switch.model.attention import KeyMask
from volta_switch.model.noise import Noise, Site, at
from volta_switch.model.rows import Once, Rows

Sides = tuple[str, ...]  # out of "text" and "vision"


class Layout:
    """Where the packed rows of both modalities lie; ``joined`` has the text's first."""

    def __init__(self, text: Rows, vision: Rows, noise: Noise | None = None):
        """``noise``: the rows' keys; None: what is random is drawn from PyTorch's generators."""
        self.text, self.vision, self.noise = text, vision, noise
        self._once = Once()

    @property
    def joined(self) -> Rows:
        """The rows of both, each sample's side by side in the attention."""
        return self._once("joined", lambda: Rows.beside(self.text, self.vision))

    @property
    def side(self) -> Tensor:
        """(n,) which side of which sample each joined row belongs to: 0 to B - 1 its text, B to 2 B - 1 its vision."""
        return self._once("side", lambda: torch.cat((self.text.sample, self.vision.sample + self.text.B)))

    def means(self, joined: Tensor) -> Tensor:
        """Mean state of every sample's text and of its vision, (n, D) to (2, B, D); zero where there is no row."""
        return _Means.apply(joined, self)

    def per_row(self, values: Tensor) -> Tensor:
        """What every side of a sample has, for each of its joined rows, (2, B, ...) to (n, ...)."""
        return values.flatten(0, 1).index_select(0, self.side)

    @property
    def real(self) -> KeyMask:
        """Which slots of the attention have a row."""
        return self._once("real", lambda: KeyMask(self.text.real, self.vision.real))

    def sample_keys(self, site: Site, number: int = 0) -> Tensor | None:
        """(B,) keys of the noise that every sample gets at a site; None: ordinary noise."""
        return None if self.noise is None else at(self.noise.sample, site, number)

    def text_keys(self, site: Site, number: int = 0) -> Tensor | None:
        """(n_t,) keys of the noise at a site of every row of text; None: ordinary noise."""
        return None if self.noise is None else at(self.noise.text, site, number)

    def vision_keys(self, site: Site, number: int = 0) -> Tensor | None:
        """(n_v,), as ``text_keys``."""
        return None if self.noise is None else at(self.noise.vision, site, number)

    def joined_keys(self, site: Site, number: int = 0) -> Tensor | None:
        """(n,), as ``text_keys``."""
        return None if self.noise is None else at(self.noise.joined, site, number)

    def weight_keys(self, kept: Layout, queries: Sides, keys: Sides, number: int) -> Tensor | None:
        """(B, K, Q) keys of the noise on the weights of an attention sublayer; None: ordinary noise.

        ``kept``: where the queries lie; ``queries`` and ``keys``: of which modalities they are, in this order.
        """
        if self.noise is None or kept.noise is None:
            return None
        of_keys = at(self._slots(keys), Site.KEY, number)
        return of_keys[:, :, None] + at(kept._slots(queries), Site.QUERY, number)[:, None]

    def _slots(self, sides: Sides) -> Tensor:
        """(B, N) the keys of the rows in the attention's slots; 0 where there is none."""
        assert self.noise is not None
        both = {"text": (self.text, self.noise.text), "vision": (self.vision, self.noise.vision)}
        return torch.cat([rows.side_by_side(keys) for rows, keys in (both[side] for side in sides)], 1)


class _Means(torch.autograd.Function):
    """Means of both sides of every sample; a row's gradient is its side's share, made in one pass."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor, layout: Layout) -> Tensor:  # type: ignore[override]
        """(n, D) to (2, B, D)."""
        ctx.layout, count = layout, layout.text.count
        return torch.stack((layout.text.mean(joined[:count]), layout.vision.mean(joined[count:])))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """(2, B, D) to (n, D)."""
        layout = ctx.layout
        lengths = torch.stack((layout.text.lengths(grad.dtype), layout.vision.lengths(grad.dtype)))  # (2, B, 1)
        return layout.per_row(grad / lengths), None


@dataclass
class Streams:
    """The packed states of both modalities, kept joined (n, D) or apart, whichever was written last.

    Sublayers with shared weights read ``joined``; the others read ``text`` (n_t, D) and ``vision`` (n_v, D_v). Either
    form is made from the other on demand, so that a single-stream encoder never splits and a dual one never joins.
    What wraps a sublayer (FSDP's hooks, recomputation) finds the tensors in the fields.
    """

    apart: tuple[Tensor, Tensor] | None
    whole: Tensor | None = None
    count: int = 0  # rows of text

    def __post_init__(self) -> None:
        if self.apart is not None:
            self.count = len(self.apart[0])

    @property
    def joined(self) -> Tensor:
        """(n, D), text rows first."""
        if self.whole is None:
            assert self.apart is not None
            self.whole = torch.cat(self.apart)
        return self.whole

    @property
    def text(self) -> Tensor:
        """(n_t, D)."""
        return self.apart[0] if self.apart else self.joined[: self.count]

    @property
    def vision(self) -> Tensor:
        """(n_v, D_v)."""
        return self.apart[1] if self.apart else self.joined[self.count :]

    def rejoined(self, joined: Tensor) -> Streams:
        """New states of the same rows, joined."""
        return Streams(None, joined, self.count)


torch.export.register_dataclass(Streams)


@dataclass(frozen=True)
class Kept:
    """The rows that go on from an attention sublayer, and their numbers among those that came in; None: all of them."""

    layout: Layout
    text: Tensor | None
    vision: Tensor | None

    def of(self, states: Streams) -> Streams:
        """The states of the rows that go on."""
        if self.text is None and self.vision is None:
            return states
        text = states.text if self.text is None else states.text.index_select(0, self.text)
        return Streams((text, states.vision if self.vision is None else states.vision.index_select(0, self.vision)))
