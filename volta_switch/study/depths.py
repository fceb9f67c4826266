"""Architectures of other depths, from a shipped configuration: overrides of its sublayer lists."""

from __future__ import annotations

import json
from typing import Any

from volta_switch.config import Config
from volta_switch.errors import UserError


def with_layers(config: Config, layers: int) -> tuple[str, ...]:
    """A single-stream encoder, static or switched, of so many layers (paper's comparison of 6 and 12).

    BERT's first layers initialise it.

    Raises:
        UserError: an architecture of another kind, or no layer.
    """
    count = len(config.attention_sublayers) + len(config.ff_sublayers)
    joint = [tuple(getattr(config, f"{pair}_attn_sublayers")) for pair in ("tt", "tv", "vt", "vv")]
    if layers < 1 or any(lists != tuple(range(0, count, 2)) for lists in joint):
        raise UserError(f"layers: expected 1 or more, of a single-stream model, found {layers}")
    attention, feed_forward = list(range(0, 2 * layers, 2)), list(range(1, 2 * layers, 2))
    both = list(range(2 * layers))
    lists: dict[str, Any] = {f"{pair}_attn_sublayers": attention for pair in ("tt", "tv", "vt", "vv")}
    lists |= {"t_ff_sublayers": feed_forward, "v_ff_sublayers": feed_forward}
    lists |= {key: both for key in ("shared_sublayers", "single_ln_sublayers") if getattr(config, key)}
    return _overrides(lists, _from_bert(attention, feed_forward))


def with_text_layers(config: Config, layers: int) -> tuple[str, ...]:
    """ViLBERT with so many layers of text alone before the first co-attention (paper figure 1a); the rest stays.

    The text's layers are initialised by BERT's in their order, as many as BERT has; differs from the paper: it does not
    say what becomes of the layers behind the first co-attention.

    Raises:
        UserError: an architecture that does not begin with layers of text alone, or fewer than none.
    """
    crossing = config.tv_attn_sublayers
    before = min(crossing, default=0)  # sublayers of text alone
    alone = [n for n in config.tt_attn_sublayers if n < before] == list(range(0, before, 2))
    seen = min((*config.vv_attn_sublayers, *config.vt_attn_sublayers, *config.v_ff_sublayers), default=0) < before
    if layers < 0 or not crossing or not alone or seen or {*crossing} & {*config.tt_attn_sublayers}:
        raise UserError(f"text_layers: expected 0 or more, of a model that begins like ViLBERT, found {layers}")
    shift = 2 * layers - before
    names = [f"{pair}_attn_sublayers" for pair in ("tt", "tv", "vt", "vv")]
    names += ["t_ff_sublayers", "v_ff_sublayers", "shared_sublayers", "single_ln_sublayers"]
    lists = {name: [n + shift for n in getattr(config, name) if n >= before] for name in names}
    lists["tt_attn_sublayers"] = [*range(0, 2 * layers, 2), *lists["tt_attn_sublayers"]]
    lists["t_ff_sublayers"] = [*range(1, 2 * layers, 2), *lists["t_ff_sublayers"]]
    attention = lists["tt_attn_sublayers"]
    own = [next(n for n in lists["t_ff_sublayers"] if n > sublayer) for sublayer in attention]
    return _overrides(lists, _from_bert(attention, own))


def _from_bert(attention: list[int], feed_forward: list[int], most: int = 12) -> dict[str, dict[str, int]]:
    """Which sublayers BERT's layers initialise."""
    return {
        "bert_layer2attn_sublayer": {str(n): sublayer for n, sublayer in enumerate(attention[:most])},
        "bert_layer2ff_sublayer": {str(n): sublayer for n, sublayer in enumerate(feed_forward[:most])},
    }


def _overrides(*fields: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for some in fields for key, value in some.items())
