"""Architectures of other depths, as overrides of a shipped configuration's sublayer lists."""

from __future__ import annotations

import json
from collections.abc import Mapping

from volta_switch.config.schema import Config
from volta_switch.errors import UserError

BERTS_LAYERS = 12  # of BERT-base, which initialise a model's first ones


def with_layers(config: Config, layers: int) -> tuple[str, ...]:
    """Returns the overrides of a single-stream encoder, static or switched, with so many layers.

    The paper compares 6 and 12. BERT's first layers initialise the model.

    Raises:
        UserError: an architecture of another kind, or no layer.
    """
    count = len(config.attention_sublayers) + len(config.ff_sublayers)
    joint = [tuple(getattr(config, f"{pair}_attn_sublayers")) for pair in ("tt", "tv", "vt", "vv")]
    if layers < 1 or any(lists != tuple(range(0, count, 2)) for lists in joint):
        raise UserError(f"layers: expected 1 or more, of a single-stream model, found {layers}")
    attention, feed_forward = list(range(0, 2 * layers, 2)), list(range(1, 2 * layers, 2))
    both = list(range(2 * layers))
    lists = _sublayers(dict.fromkeys(("tt", "tv", "vt", "vv"), attention), feed_forward, feed_forward)
    lists |= {key: both for key in ("shared_sublayers", "single_ln_sublayers") if getattr(config, key)}
    return _overrides(lists, _from_bert(attention, feed_forward))


def with_text_layers(config: Config, layers: int) -> tuple[str, ...]:
    """Returns the overrides of a ViLBERT with so many text layers before the first co-attention (paper figure 1a).

    The rest stays. The text's layers are initialised by BERT's in their order, as many as BERT has. Differs from the
    paper: it does not say what becomes of the layers behind the first co-attention.

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


def lxmert_layers(text: int, vision: int, crossed: int) -> tuple[str, ...]:
    """Returns the overrides of an LXMERT: layers of text alone, of vision alone, and those in which both meet.

    One of the last is three sublayers: attention to each other, which both share, to oneself, and feed-forward.
    """
    meeting = lxmert_meetings(text, vision, crossed)
    own, feed_forward = [n + 1 for n in meeting], [n + 2 for n in meeting]
    tt, vv = (list(range(0, 2 * alone, 2)) + own for alone in (text, vision))
    t_ff, v_ff = (list(range(1, 2 * alone, 2)) + feed_forward for alone in (text, vision))
    lists = _sublayers({"tt": tt, "tv": meeting, "vt": meeting, "vv": vv}, t_ff, v_ff)
    return _overrides(lists, {"shared_sublayers": meeting, "single_ln_sublayers": []}, _from_bert(tt, t_ff))


def lxmert_meetings(text: int, vision: int, crossed: int) -> list[int]:
    """Returns the sublayers of an LXMERT in which text and vision attend to each other; two of its own follow each."""
    first = 2 * max(text, vision)
    return list(range(first, first + 3 * crossed, 3))


def vilbert_meetings(text: int, crossed: int) -> list[int]:
    """Returns those of a ViLBERT; a feed-forward one and a layer of each stream's own follow each."""
    first = 2 * (text - crossed)
    return list(range(first, first + 4 * crossed, 4))


def vilbert_layers(text: int, crossed: int) -> tuple[str, ...]:
    """Returns the overrides of a ViLBERT: so many text layers, the last of which follow one crossing layer each.

    Vision has as many layers as there are crossing ones. No sublayer is shared.
    """
    alone, meeting = 2 * (text - crossed), vilbert_meetings(text, crossed)
    own = [n + 2 for n in meeting]
    tt, t_ff = [*range(0, alone, 2), *own], [*range(1, alone, 2)]
    after = sorted(n + 1 for n in (*meeting, *own))
    lists = _sublayers({"tt": tt, "tv": meeting, "vt": meeting, "vv": own}, t_ff + after, after)
    from_bert = _from_bert(tt, [n + 1 for n in tt])
    return _overrides(lists, {"shared_sublayers": [], "single_ln_sublayers": []}, from_bert)


def _sublayers(attention: Mapping[str, list[int]], text: list[int], vision: list[int]) -> dict[str, list[int]]:
    """Returns the lists of a configuration: who attends to whom, query first, and the feed-forward ones."""
    lists = {f"{pair}_attn_sublayers": numbers for pair, numbers in attention.items()}
    return {**lists, "t_ff_sublayers": text, "v_ff_sublayers": vision}


def _from_bert(attention: list[int], feed_forward: list[int]) -> dict[str, dict[str, int]]:
    """Returns which sublayers BERT's layers initialise."""
    return {
        "bert_layer2attn_sublayer": {str(n): sublayer for n, sublayer in enumerate(attention[:BERTS_LAYERS])},
        "bert_layer2ff_sublayer": {str(n): sublayer for n, sublayer in enumerate(feed_forward[:BERTS_LAYERS])},
    }


def _overrides(*fields: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for some in fields for key, value in some.items())
