"""Attention and feed-forward sublayers under VOLTA's names, driven by its sublayer lists.

What a sublayer lacks is not built: a modality without the sublayer passes through unchanged.

Legend: B batch, T text tokens, R regions, S = T + R, D hidden, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config, attention_size, intermediate_size
from volta_switch.model.attention import KeyMask, attend, attend_mixed

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}


class Streams:
    """The states of both modalities, kept joined (B, S, D) or apart, whichever was written last.

    Sublayers with shared weights read ``joined``; the others read ``text`` (B, T, D) and ``vision`` (B, R, D_v). Either
    form is made from the other on demand, so that a single-stream encoder never splits and a dual one never joins.
    """

    def __init__(self, text: Tensor | None, vision: Tensor | None, joined: Tensor | None = None, T: int = 0):
        self._apart = None if text is None or vision is None else (text, vision)
        self._joined = joined
        self.T = T if text is None else text.shape[1]

    @property
    def joined(self) -> Tensor:
        """(B, S, D), text rows first."""
        if self._joined is None:
            assert self._apart is not None
            self._joined = torch.cat(self._apart, dim=1)
        return self._joined

    @property
    def text(self) -> Tensor:
        """(B, T, D)."""
        return self._apart[0] if self._apart else self.joined[:, : self.T]

    @property
    def vision(self) -> Tensor:
        """(B, R, D_v)."""
        return self._apart[1] if self._apart else self.joined[:, self.T :]

    def rejoined(self, joined: Tensor) -> Streams:
        """New states of the same lengths, joined."""
        return Streams(None, None, joined, self.T)


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

    def project_text(self, states: Tensor, heads: int) -> Tensor:
        """(B, T, D) to query, key and value, (3, B, H, T, d)."""
        return _project(states, (self.query, self.key, self.value), heads)

    def project_vision(self, states: Tensor, heads: int) -> Tensor:
        """(B, R, D_v) to query, key and value, (3, B, H, R, d)."""
        return _project(states, (self.v_query, self.v_key, self.v_value), heads)


def _project(states: Tensor, projections: tuple[nn.Linear, ...], heads: int) -> Tensor:
    # One product for all three: the weights stay apart under VOLTA's names and are joined here.
    weight = torch.cat([projection.weight for projection in projections])
    bias = torch.cat([projection.bias for projection in projections])
    mixed = F.linear(states, weight, bias)  # (B, N, 3 * width)
    return mixed.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (3, B, H, N, d)


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

    def text(self, update: Tensor, states: Tensor) -> Tensor:
        """Adds an update (B, T, width) to the text states (B, T, D); also joined rows where weights are shared."""
        return self.LayerNorm(F.dropout(self.dense(update), self.dropout, self.training) + states)

    def vision(self, update: Tensor, states: Tensor) -> Tensor:
        """Adds an update (B, R, width) to the vision states (B, R, D_v)."""
        return self.v_LayerNorm(F.dropout(self.v_dense(update), self.v_dropout, self.training) + states)


class AttentionSublayer(nn.Module):
    """One gated attention sublayer: the pairs tt, tv, vt, vv that it is named in, query first."""

    def __init__(self, config: Config, number: int):
        super().__init__()
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
        self, states: Streams, real: KeyMask, weights: Tensor | None = None, modes: tuple[str, ...] = ()
    ) -> Streams:
        """New states; with ``weights`` (B, M) over ``modes``, the switched mixture in place of the static pairs."""
        if self.shared:
            query, key, value = self.attention_self.project_text(states.joined, self.heads)  # (B, H, S, d) each
            dropout = self.dropout if self.training else 0.0
            if weights is not None:
                context = attend_mixed(query, key, value, real, weights, modes, dropout)
            elif self.tt and self.tv and self.vt and self.vv:
                context = attend(query, key, value, real.joint, dropout)
            else:
                every = torch.stack((query, key, value))  # (3, B, H, S, d)
                text_context, vision_context = self._gated(every[..., : states.T, :], every[..., states.T :, :], real)
                assert text_context is not None and vision_context is not None
                context = torch.cat((text_context, vision_context), dim=2)
            return states.rejoined(self.attention_output.text(_merge_heads(context), states.joined))
        text, vision = states.text, states.vision
        from_text = self.attention_self.project_text(text, self.heads) if self.has_text else None  # (3, B, H, T, d)
        from_vision = self.attention_self.project_vision(vision, self.v_heads) if self.has_vision else None
        text_context, vision_context = self._gated(from_text, from_vision, real)
        if text_context is not None:
            text = self.attention_output.text(_merge_heads(text_context), text)
        if vision_context is not None:
            vision = self.attention_output.vision(_merge_heads(vision_context), vision)
        return Streams(text, vision)

    def _gated(self, text: Tensor | None, vision: Tensor | None, real: KeyMask) -> tuple[Tensor | None, Tensor | None]:
        """Each modality's context, (B, H, T or R, d), over the keys that the sublayer lists allow it.

        ``text`` and ``vision`` are query, key and value, (3, B, H, T or R, d); None where the modality passes through.
        """
        contexts: list[Tensor | None] = []
        for own, to_text, to_vision, rate in (
            (text, self.tt, self.tv, self.dropout),
            (vision, self.vt, self.vv, self.v_dropout),
        ):
            if own is None:
                contexts.append(None)
                continue
            sources = [source for source, allowed in ((text, to_text), (vision, to_vision)) if allowed]
            keys = [keys for keys, allowed in ((real.text, to_text), (real.vision, to_vision)) if allowed]
            key, value = torch.cat([source[1:] for source in sources if source is not None], dim=3)  # (B, H, K, d)
            contexts.append(attend(own[0], key, value, torch.cat(keys, 1), rate if self.training else 0.0))
        return contexts[0], contexts[1]


def _merge_heads(context: Tensor) -> Tensor:
    return context.transpose(1, 2).flatten(2)  # (B, H, N, d) -> (B, N, H * d)


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
        """(B, T, D) to (B, T, width); also joined rows where weights are shared."""
        return self.activation(self.dense(states))

    def vision(self, states: Tensor) -> Tensor:
        """(B, R, D_v) to (B, R, width)."""
        return self.v_activation(self.v_dense(states))


class FeedForwardSublayer(nn.Module):
    """One feed-forward sublayer, for text, vision or both."""

    def __init__(self, config: Config, number: int):
        super().__init__()
        self.has_text, self.has_vision = number in config.t_ff_sublayers, number in config.v_ff_sublayers
        self.shared = self.has_text and self.has_vision and number in config.shared_sublayers
        widths = (
            intermediate_size(config, number, "") if self.has_text else None,
            intermediate_size(config, number, "v_") if self.has_vision else None,
        )
        self.intermediate = Intermediate(config, widths, self.shared)
        self.output = ResidualOutput(config, widths, self.shared)

    def forward(self, states: Streams) -> Streams:
        """New states; a modality without this sublayer passes through."""
        if self.shared:
            joined = states.joined
            return states.rejoined(self.output.text(self.intermediate.text(joined), joined))
        text, vision = states.text, states.vision
        if self.has_text:
            text = self.output.text(self.intermediate.text(text), text)
        if self.has_vision:
            vision = self.output.vision(self.intermediate.vision(vision), vision)
        return Streams(text, vision)
