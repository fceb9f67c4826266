"""Attention and feed-forward sublayers under VOLTA's names, driven by its sublayer lists.

What a sublayer lacks is not built: a modality without the sublayer passes through unchanged.

Legend: B batch, n packed rows (n_t of text, n_v of vision), N slots of the longest sample (T of text, R of vision),
Q slots of the rows that later layers need, D hidden, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config, attention_size, intermediate_size
from volta_switch.model.attention import attend, attend_mixed
from volta_switch.model.noise import Site, dropout, fold_in
from volta_switch.model.rows import PackedLayout, PackedRows, States, join, pair_keys

Heads = tuple[Tensor, Tensor, Tensor]  # query (B, H, Q, d), key and value (B, H, N, d)
Projections = tuple[nn.Linear, nn.Linear, nn.Linear]
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
        return self.LayerNorm(dropout(self.dense(update), self.dropout, self.training, keys=keys, onto=states))

    def vision(self, update: Tensor, states: Tensor, keys: Tensor | None = None) -> Tensor:
        """Adds an update (n, width) to the vision states (n, D_v)."""
        return self.v_LayerNorm(dropout(self.v_dense(update), self.v_dropout, self.training, keys=keys, onto=states))


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
        self,
        states: States,
        layout: PackedLayout,
        kept: PackedLayout,
        *,
        weights: Tensor | None = None,
        modes: tuple[str, ...] = (),
    ) -> States:
        """Returns the new states of the rows that later layers need; all rows are attended to.

        Args:
            states: of the rows of ``layout``.
            layout: where they lie.
            kept: the rows that later layers need: ``layout`` itself, or pruned from it.
            weights, modes: (B, M) and the M names, the switched mixture in place of the static pairs.
        """
        if not self.shared:
            return self._apart(states, layout, kept)
        joined: States = (join(states),)
        needed = join(kept.keep(joined, layout))
        heads = self._heads("text", joined[0], needed, rows=(layout.joined, kept.joined))
        context = kept.joined.merge_heads(self._shared(heads, layout, kept, weights=weights, modes=modes))
        keys = fold_in(kept.joined.rng_keys, Site.OUTPUT, self.number)
        return (self.attention_output.text(context, needed, keys),)

    def _apart(self, states: States, layout: PackedLayout, kept: PackedLayout) -> States:
        """As ``forward``, where each modality has weights of its own or passes through; modes are not switched."""
        before, after = layout.split(states), list(kept.split(kept.keep(states, layout)))
        outputs, text, vision = self.attention_output, None, None
        if self.has_text:
            text = self._heads("text", before[0], after[0], rows=(layout.text, kept.text))
        if self.has_vision:
            vision = self._heads("vision", before[1], after[1], rows=(layout.vision, kept.vision))
        contexts = self._gated(text, vision, layout=layout, kept=kept)
        if contexts[0] is not None:
            keys = fold_in(kept.text.rng_keys, Site.OUTPUT, self.number)
            after[0] = outputs.text(kept.text.merge_heads(contexts[0]), after[0], keys)
        if contexts[1] is not None:
            keys = fold_in(kept.vision.rng_keys, Site.OUTPUT, self.number)
            after[1] = outputs.vision(kept.vision.merge_heads(contexts[1]), after[1], keys)
        return tuple(after)

    def _heads(self, side: str, states: Tensor, needed: Tensor, *, rows: tuple[PackedRows, PackedRows]) -> Heads:
        """Returns the query (B, H, Q, d) of the needed rows, key and value (B, H, N, d) of all.

        ``rows``: where all and the needed ones lie. Where weights are shared, joined rows are projected as text.
        """
        heads, (every, kept) = self.heads if side == "text" else self.v_heads, rows
        query, key, value = self.attention_self.of_text if side == "text" else self.attention_self.of_vision
        return (
            kept.split_heads(query(needed), heads),
            every.split_heads(key(states), heads),
            every.split_heads(value(states), heads),
        )

    def _shared(
        self,
        heads: Heads,
        layout: PackedLayout,
        kept: PackedLayout,
        *,
        weights: Tensor | None,
        modes: tuple[str, ...],
    ) -> Tensor:
        """Returns the context of the needed rows, (B, H, Q, d), where both modalities share their weights."""
        Q, T = kept.text.N, layout.text.N
        if weights is None and not (self.tt and self.tv and self.vt and self.vv):
            query, key, value = heads
            text = query[:, :, :Q], key[:, :, :T], value[:, :, :T]
            vision = query[:, :, Q:], key[:, :, T:], value[:, :, T:]
            contexts = self._gated(text, vision, layout=layout, kept=kept)
            return torch.cat([part for part in contexts if part is not None], dim=2)
        rate, keys = self.dropout if self.training else 0.0, pair_keys(kept.joined, layout.joined, self.number)
        if weights is None:
            return attend(*heads, real=layout.joined.real, dropout=rate, noise_keys=keys)
        real = layout.text.real, layout.vision.real
        return attend_mixed(
            *heads, real=real, weights=weights, modes=modes, dropout=rate, text_queries=Q, noise_keys=keys
        )

    def _gated(
        self, text: Heads | None, vision: Heads | None, *, layout: PackedLayout, kept: PackedLayout
    ) -> tuple[Tensor | None, Tensor | None]:
        """Returns each modality's context, (B, H, Q, d), over the keys that the sublayer lists allow it.

        ``text`` and ``vision`` are query, key and value; None where the modality passes through.
        """
        contexts: list[Tensor | None] = []
        for own, queries, allowed, rate in (
            (text, kept.text, (self.tt, self.tv), self.dropout),
            (vision, kept.vision, (self.vt, self.vv), self.v_dropout),
        ):
            if own is None or not any(allowed):
                contexts.append(None)
                continue
            seen = [heads for heads, is_seen in zip((text, vision), allowed, strict=True) if is_seen and heads]
            key, value = (_side_by_side([heads[part] for heads in seen]) for part in (1, 2))
            keys = layout.joined if all(allowed) else layout.text if allowed[0] else layout.vision
            contexts.append(
                attend(
                    own[0],
                    key,
                    value,
                    real=keys.real,
                    dropout=rate if self.training else 0.0,
                    noise_keys=pair_keys(queries, keys, self.number),
                )
            )
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

    def forward(self, states: States, layout: PackedLayout | None = None) -> States:
        """Returns the new states of packed rows; a modality without this sublayer passes through.

        ``layout``: where they lie; None: noise is not keyed, and the states come apart.
        """
        half, output = self.intermediate, self.output
        if self.shared:
            keys = None if layout is None else fold_in(layout.joined.rng_keys, Site.OUTPUT, self.number)
            joined = join(states)
            return (output.text(half.activation(half.dense(joined)), joined, keys),)
        text, vision = states if layout is None else layout.split(states)
        if self.has_text:
            keys = None if layout is None else fold_in(layout.text.rng_keys, Site.OUTPUT, self.number)
            text = output.text(half.activation(half.dense(text)), text, keys)
        if self.has_vision:
            keys = None if layout is None else fold_in(layout.vision.rng_keys, Site.OUTPUT, self.number)
            vision = output.vision(half.v_activation(half.v_dense(vision)), vision, keys)
        return text, vision
