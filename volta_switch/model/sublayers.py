"""Attention and feed-forward sublayers under VOLTA's names, driven by its sublayer lists.

What a sublayer lacks is not built: a modality without the sublayer passes through unchanged.

Legend: B batch, n packed rows (n_t of text, n_v of vision), N slots of the longest sample (T of text, R of vision),
Q slots of the rows that go on, D hidden, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config, attention_size, intermediate_size
from volta_switch.model.attention import attend, attend_mixed
from volta_switch.model.dropout import add_dropped
from volta_switch.model.layout import Kept, Layout, Streams
from volta_switch.model.noise import Site
from volta_switch.model.rows import Rows

Heads = tuple[Tensor, Tensor, Tensor]  # query (B, H, Q, d), key and value (B, H, N, d)
Projections = tuple[nn.Linear, nn.Linear, nn.Linear]
BOTH = ("text", "vision")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}


class SelfAttention(nn.Module):
    """Query, key and value projections of one sublayer (VOLTA's ``attention_self``)."""

    def __init__(self, config: Config, number: int, has_text: bool, has_vision: bool, shared: bool):
        super().__init__()
        if has_text:
            width, _ = attention_size(config, number, "")
            self.query = nn.Linear(config.hidden_size, width)
            self.key = nn.Linear(config.hidden_size, width)
            self.value = nn.Linear(config.hidden_size, width)
        if shared:  # registered under both names, as VOLTA's checkpoints have them
            self.v_query, self.v_key, self.v_value = self.query, self.key, self.value
        elif has_vision:
            width, _ = attention_size(config, number, "v_")
            self.v_query = nn.Linear(config.v_hidden_size, width)
            self.v_key = nn.Linear(config.v_hidden_size, width)
            self.v_value = nn.Linear(config.v_hidden_size, width)

    @property
    def of_text(self) -> Projections:
        """Query, key and value of text, (n, D) to (n, width) each."""
        return self.query, self.key, self.value

    @property
    def of_vision(self) -> Projections:
        """The same of vision."""
        return self.v_query, self.v_key, self.v_value


class ResidualOutput(nn.Module):
    """Output projection, dropout, residual and LayerNorm (VOLTA's ``attention_output`` and ``output``)."""

    def __init__(self, config: Config, widths: tuple[int | None, int | None], shared: bool):
        super().__init__()
        text_width, vision_width = widths
        if text_width is not None:
            self.dense = nn.Linear(text_width, config.hidden_size)
            self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        if shared:
            self.v_dense, self.v_LayerNorm = self.dense, self.LayerNorm
        elif vision_width is not None:
            self.v_dense = nn.Linear(vision_width, config.v_hidden_size)
            self.v_LayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob
        self.v_dropout = config.v_hidden_dropout_prob

    def text(self, update: Tensor, states: Tensor, keys: Tensor | None = None) -> Tensor:
        """Adds an update (n, width) to the text states (n, D); also joined rows where weights are shared.

        ``keys`` (n,): of the dropout.
        """
        return self.LayerNorm(add_dropped(states, self.dense(update), self.dropout, self.training, keys))

    def vision(self, update: Tensor, states: Tensor, keys: Tensor | None = None) -> Tensor:
        """Adds an update (n, width) to the vision states (n, D_v)."""
        return self.v_LayerNorm(add_dropped(states, self.v_dense(update), self.v_dropout, self.training, keys))


class AttentionSublayer(nn.Module):
    """One gated attention sublayer: the pairs tt, tv, vt, vv that it is named in, query first."""

    def __init__(self, config: Config, number: int):
        super().__init__()
        self.number = number
        self.tt = number in config.tt_attn_sublayers
        self.tv = number in config.tv_attn_sublayers
        self.vt = number in config.vt_attn_sublayers
        self.vv = number in config.vv_attn_sublayers
        self.has_text, self.has_vision = self.tt or self.tv, self.vt or self.vv
        self.shared = self.has_text and self.has_vision and number in config.shared_sublayers
        text_width, self.heads = attention_size(config, number, "")
        vision_width, self.v_heads = attention_size(config, number, "v_")
        self.dropout = config.attention_probs_dropout_prob
        self.v_dropout = self.dropout if self.shared else config.v_attention_probs_dropout_prob
        self.attention_self = SelfAttention(config, number, self.has_text, self.has_vision, self.shared)
        widths = (text_width if self.has_text else None, vision_width if self.has_vision else None)
        self.attention_output = ResidualOutput(config, widths, self.shared)

    def forward(
        self, states: Streams, layout: Layout, kept: Kept, weights: Tensor | None = None, modes: tuple[str, ...] = ()
    ) -> Streams:
        """New states of the rows that are kept; all rows are attended to.

        Args:
            states: of the rows of ``layout``.
            layout: where they lie.
            kept: the rows that go on.
            weights: (B, M) over ``modes``, the switched mixture in place of the static pairs.
        """
        going_on = kept.of(states)
        if self.shared:
            context = self._shared(states, going_on, layout, kept.layout, weights, modes)
            keys = kept.layout.joined_keys(Site.OUTPUT, self.number)
            return going_on.rejoined(self.attention_output.text(context, going_on.joined, keys))
        text, vision = going_on.text, going_on.vision
        own, rows, ahead = self.attention_self, layout, kept.layout
        from_text = from_vision = None
        if self.has_text:
            from_text = self._heads(own.of_text, states.text, text, rows.text, ahead.text, self.heads)
        if self.has_vision:
            from_vision = self._heads(own.of_vision, states.vision, vision, rows.vision, ahead.vision, self.v_heads)
        text_context, vision_context = self._gated(from_text, from_vision, layout, ahead)
        if text_context is not None:
            keys = ahead.text_keys(Site.OUTPUT, self.number)
            text = self.attention_output.text(ahead.text.merge_heads(text_context), text, keys)
        if vision_context is not None:
            keys = ahead.vision_keys(Site.OUTPUT, self.number)
            vision = self.attention_output.vision(ahead.vision.merge_heads(vision_context), vision, keys)
        return Streams((text, vision))

    def _shared(
        self,
        states: Streams,
        going_on: Streams,
        layout: Layout,
        kept: Layout,
        weights: Tensor | None,
        modes: tuple[str, ...],
    ) -> Tensor:
        """The context of the rows that go on, (n, H * d), where both modalities share their weights."""
        heads = self._heads(
            self.attention_self.of_text, states.joined, going_on.joined, layout.joined, kept.joined, self.heads
        )
        rate, real = self.dropout if self.training else 0.0, layout.real
        if weights is not None:
            keys = layout.weight_keys(kept, BOTH, BOTH, self.number)
            context = attend_mixed(*heads, real, weights, modes, rate, kept.text.N, keys)
        elif self.tt and self.tv and self.vt and self.vv:
            context = attend(*heads, real.joint, rate, layout.weight_keys(kept, BOTH, BOTH, self.number))
        else:
            Q, T = kept.text.N, layout.text.N
            (query, key, value) = heads
            text = (query[:, :, :Q], key[:, :, :T], value[:, :, :T])
            contexts = self._gated(text, (query[:, :, Q:], key[:, :, T:], value[:, :, T:]), layout, kept)
            context = torch.cat([part for part in contexts if part is not None], dim=2)
        return kept.joined.merge_heads(context)

    def _heads(
        self, project: Projections, states: Tensor, going_on: Tensor, rows: Rows, kept: Rows, heads: int
    ) -> Heads:
        """Query (B, H, Q, d) of the rows that go on, key and value (B, H, N, d) of all."""
        query, key, value = project
        return (
            kept.split_heads(query(going_on), heads),
            rows.split_heads(key(states), heads),
            rows.split_heads(value(states), heads),
        )

    def _gated(
        self, text: Heads | None, vision: Heads | None, layout: Layout, kept: Layout
    ) -> tuple[Tensor | None, Tensor | None]:
        """Each modality's context, (B, H, Q, d), over the keys that the sublayer lists allow it.

        ``text`` and ``vision`` are query, key and value; None where the modality passes through. The keys lie as
        ``layout`` says, the queries as ``kept``.
        """
        real = layout.real
        contexts: list[Tensor | None] = []
        for side, own, to_text, to_vision, rate in (
            ("text", text, self.tt, self.tv, self.dropout),
            ("vision", vision, self.vt, self.vv, self.v_dropout),
        ):
            if own is None or not (to_text or to_vision):
                contexts.append(None)
                continue
            sources = [source for source, allowed in ((text, to_text), (vision, to_vision)) if allowed]
            masks = [mask for mask, allowed in ((real.text, to_text), (real.vision, to_vision)) if allowed]
            key, value = (_side_by_side([source[part] for source in sources if source is not None]) for part in (1, 2))
            mask = masks[0] if len(masks) == 1 else real.joint
            seen = tuple(name for name, allowed in zip(BOTH, (to_text, to_vision), strict=True) if allowed)
            noise_keys = layout.weight_keys(kept, (side,), seen, self.number)
            contexts.append(attend(own[0], key, value, mask, rate if self.training else 0.0, noise_keys))
        return contexts[0], contexts[1]


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


class Intermediate(nn.Module):
    """First half of a feed-forward sublayer (VOLTA's ``intermediate``)."""

    def __init__(self, config: Config, widths: tuple[int | None, int | None], shared: bool):
        super().__init__()
        text_width, vision_width = widths
        if text_width is not None:
            self.dense = nn.Linear(config.hidden_size, text_width)
        if shared:
            self.v_dense = self.dense
        elif vision_width is not None:
            self.v_dense = nn.Linear(config.v_hidden_size, vision_width)
        self.activation, self.v_activation = ACTIVATIONS[config.hidden_act], ACTIVATIONS[config.v_hidden_act]

    def text(self, states: Tensor) -> Tensor:
        """(n, D) to (n, width); also joined rows where weights are shared."""
        return self.activation(self.dense(states))

    def vision(self, states: Tensor) -> Tensor:
        """(n, D_v) to (n, width)."""
        return self.v_activation(self.v_dense(states))


class FeedForwardSublayer(nn.Module):
    """One feed-forward sublayer, for text, vision or both."""

    def __init__(self, config: Config, number: int):
        super().__init__()
        self.number = number
        self.has_text, self.has_vision = number in config.t_ff_sublayers, number in config.v_ff_sublayers
        self.shared = self.has_text and self.has_vision and number in config.shared_sublayers
        widths = (
            intermediate_size(config, number, "") if self.has_text else None,
            intermediate_size(config, number, "v_") if self.has_vision else None,
        )
        self.intermediate = Intermediate(config, widths, self.shared)
        self.output = ResidualOutput(config, widths, self.shared)

    def forward(self, states: Streams, layout: Layout) -> Streams:
        """New states of the rows of ``layout``; a modality without this sublayer passes through."""
        if self.shared:
            joined, keys = states.joined, layout.joined_keys(Site.OUTPUT, self.number)
            return states.rejoined(self.output.text(self.intermediate.text(joined), joined, keys))
        text, vision = states.text, states.vision
        if self.has_text:
            keys = layout.text_keys(Site.OUTPUT, self.number)
            text = self.output.text(self.intermediate.text(text), text, keys)
        if self.has_vision:
            keys = layout.vision_keys(Site.OUTPUT, self.number)
            vision = self.output.vision(self.intermediate.vision(vision), vision, keys)
        return Streams((text, vision))
