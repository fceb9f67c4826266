"""Checks of whole configurations: sublayer lists, widths, values that depend on each other.

The range of each field by itself stands beside the field (``schema``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volta_switch.config.variants import ATTENTION_MODES, FUSIONS
from volta_switch.errors import UserError

if TYPE_CHECKING:
    from volta_switch.config.schema import Config

IMAGE_EMBEDDINGS = ("vilbert", "lxmert", "vl-bert", "visualbert", "uniter")
FUSION_METHODS = tuple(FUSIONS)
ACTIVATIONS = ("gelu", "relu", "swish")
VISUAL_TARGETS = ("0", "1", "2", "3", "4", "5", "6")
TYPES = {"vl-bert": 3, "uniter": 2, "visualbert": 2}  # token types that these embeddings look up


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raises ``UserError`` with the key, the expected and the found value, unless the condition holds."""
    if not condition:
        raise UserError(f"{key}: expected {expected}, found {found!r}")


def check_dependent(config: Config) -> None:
    """Checks values that depend on each other.

    Raises:
        UserError: two values contradict each other.
    """
    if config.image_embeddings == "vl-bert":
        dim = config.v_coordinate_embeddings_dim
        # The 4 x 2 x dim coordinate values stand beside the feature in a vector of twice the feature's width.
        valid = dim is not None and 8 * dim == config.v_feature_size
        require(valid, "v_coordinate_embeddings_dim", f"v_feature_size / 8 = {config.v_feature_size / 8:g}", dim)
    else:
        dim = config.v_coordinate_embeddings_dim
        none = f"null for {config.image_embeddings}, which has none"
        require(dim is None, "v_coordinate_embeddings_dim", none, dim)
    if FUSIONS[config.fusion_method].joins_images:  # and only the types of their regions tell the images apart
        start = f"fusion_method {config.fusion_method}: image_embeddings"
        require(config.image_embeddings == "visualbert", start, "visualbert", config.image_embeddings)
        start = f"fusion_method {config.fusion_method}: add_global_imgfeat"
        require(config.add_global_imgfeat is None, start, "null (VisualBERT has none)", config.add_global_imgfeat)
    types = TYPES.get(config.image_embeddings, 1)
    enough = config.type_vocab_size >= types
    require(enough, "type_vocab_size", f"{types} or more for {config.image_embeddings}", config.type_vocab_size)
    inside = config.pad_token_id < config.vocab_size
    require(inside, "pad_token_id", f"below vocab_size ({config.vocab_size})", config.pad_token_id)


def check_sublayers(config: Config) -> None:
    """Checks sublayer numbers: contiguous, of one kind each, shared only where both modalities exist.

    Raises:
        UserError: the lists contradict each other.
    """
    attention, ff = config.attention_sublayers, config.ff_sublayers
    both = sorted(set(attention) & set(ff))
    if both:
        raise UserError(f"sublayers {both} are named both as attention and as feed-forward sublayers")
    count = len(attention) + len(ff)
    if count == 0:
        raise UserError("no sublayers: name them in tt/tv/vt/vv_attn_sublayers and t/v_ff_sublayers")
    missing = sorted(set(range(count)) - {*attention, *ff})
    if missing:
        raise UserError(f"sublayer numbers must run from 0 to {count - 1} without gaps: {missing} are missing")
    text = {*config.tt_attn_sublayers, *config.tv_attn_sublayers}
    vision = {*config.vt_attn_sublayers, *config.vv_attn_sublayers}
    for key, has_keys, other in (("tv", vision, "vision"), ("vt", text, "text")):
        lost = sorted(set(getattr(config, f"{key}_attn_sublayers")) - has_keys)
        if lost:
            raise UserError(f"{key}_attn_sublayers: in sublayers {lost} the {other} side has no attention of its own")
    shareable = (text & vision) | (set(config.t_ff_sublayers) & set(config.v_ff_sublayers))
    for key, allowed, reason in (
        ("shared_sublayers", shareable, "do not exist for both modalities"),
        ("single_ln_sublayers", shareable & set(config.shared_sublayers), "are not shared by both modalities"),
    ):
        wrong = sorted(set(getattr(config, key)) - allowed)
        if wrong:
            raise UserError(f"{key}: sublayers {wrong} {reason}")
    for kind, sublayers in (("attn", attention), ("ff", ff)):
        layers = getattr(config, f"bert_layer2{kind}_sublayer")
        stray = sorted(set(layers.values()) - set(sublayers))
        if stray:
            raise UserError(f"bert_layer2{kind}_sublayer: {stray} are no such sublayers")
    text_ff, vision_ff = set(config.t_ff_sublayers), set(config.v_ff_sublayers)
    for modality, of_attention, of_ff in (("", text, text_ff), ("v_", vision, vision_ff)):
        for name, sized in (("attn_hidden_size", of_attention), ("num_attention_heads", of_attention),
                            ("intermediate_size", of_ff)):  # fmt: skip
            key = f"sublayer2{modality}{name}"
            stray = sorted({int(number) for number in getattr(config, key)} - sized)
            if stray:
                raise UserError(f"{key}: {stray} are no sublayers that have this size; leave them out")


def check_region_loss(config: Config) -> None:
    """Checks that there is a target for masked regions, which pre-training predicts under every objective.

    Raises:
        UserError: no visual target has a weight.
    """
    weights = config.visual_target_weights
    some = any(weight > 0 for weight in weights.values())
    require(some, "visual_target_weights", "at least one target with a weight above 0 for pre-training", dict(weights))


def check_widths(config: Config) -> None:
    """Checks widths and heads that must divide or agree.

    Raises:
        UserError: they do not.
    """
    crossing = {*config.tv_attn_sublayers, *config.vt_attn_sublayers}
    shared = set(config.shared_sublayers)
    for number in config.attention_sublayers:
        (t_width, t_heads), (v_width, v_heads) = (
            attention_size(config, number, ""),
            attention_size(config, number, "v_"),
        )
        for width, heads in ((t_width, t_heads), (v_width, v_heads)):
            if width % heads:
                raise UserError(f"attention sublayer {number}: width {width} is not a multiple of {heads} heads")
        if number in crossing | shared and (t_width, t_heads) != (v_width, v_heads):
            raise UserError(
                f"attention sublayer {number} joins text ({t_width} wide, {t_heads} heads) and vision ({v_width} "
                f"wide, {v_heads} heads): both must have the same sizes"
            )
    for number in config.ff_sublayers:
        if number in shared and intermediate_size(config, number, "") != intermediate_size(config, number, "v_"):
            raise UserError(f"feed-forward sublayer {number} is shared: both modalities must have one width")
    one_stream = shared or config.image_embeddings in ("uniter", "visualbert")
    if one_stream and config.hidden_size != config.v_hidden_size:
        raise UserError(
            f"hidden_size ({config.hidden_size}) and v_hidden_size ({config.v_hidden_size}) must be equal where "
            "sublayers or embeddings are shared"
        )
    if not FUSIONS[config.fusion_method].through_pooler and config.pooler_size != config.hidden_size:
        raise UserError(
            f"fusion_method {config.fusion_method}: heads read a state without a pooler, so that pooler_size "
            f"({config.pooler_size}) must be hidden_size ({config.hidden_size})"
        )
    if FUSIONS[config.fusion_method].pools_vision and config.pooler_size != config.v_pooler_size:
        raise UserError(
            f"fusion_method {config.fusion_method}: pooler_size ({config.pooler_size}) and v_pooler_size "
            f"({config.v_pooler_size}) must be equal"
        )


def check_route(config: Config) -> None:
    """Checks the label ``route`` against the sublayer lists.

    Raises:
        UserError: they differ.
    """
    spelt = tuple(static_mode(config, number) for number in config.attention_sublayers)
    if spelt != config.route:
        raise UserError(f"route: the sublayer lists spell {list(spelt)}, found {list(config.route)}")


def check_switchable(config: Config) -> None:
    """Checks that a configuration with a ``switch`` section is a single stream of joint layers.

    Raises:
        UserError: it is not.
    """
    count = len(config.attention_sublayers)
    alternating = config.attention_sublayers == tuple(range(0, 2 * count, 2)) and len(config.ff_sublayers) == count
    joint = all(static_mode(config, number) == "J" for number in config.attention_sublayers)
    if not (alternating and joint and set(config.shared_sublayers) == set(range(2 * count))):
        raise UserError(
            "switch: a switched encoder needs VOLTA's single stream: attention sublayers 0, 2, 4, ... named in all of "
            "tt, tv, vt, vv, feed-forward sublayers 1, 3, 5, ... in t and v, and all of them shared"
        )


def attention_size(config: Config, number: int, modality: str) -> tuple[int, int]:
    """Returns width and number of heads of an attention sublayer; ``modality`` is ``""`` (text) or ``"v_"``."""
    widths, heads = f"sublayer2{modality}attn_hidden_size", f"sublayer2{modality}num_attention_heads"
    width = getattr(config, widths).get(str(number), getattr(config, f"{modality}hidden_size"))
    return width, getattr(config, heads).get(str(number), getattr(config, f"{modality}num_attention_heads"))


def intermediate_size(config: Config, number: int, modality: str) -> int:
    """Returns the width of a feed-forward sublayer; ``modality`` is ``""`` (text) or ``"v_"``."""
    sizes = getattr(config, f"sublayer2{modality}intermediate_size")
    return sizes.get(str(number), getattr(config, f"{modality}intermediate_size"))


def static_mode(config: Config, number: int) -> str | None:
    """Returns the attention mode (paper table 1) that the lists spell for a sublayer; None for any other pattern."""
    spelt = tuple(number in getattr(config, f"{pair}_attn_sublayers") for pair in ("tt", "tv", "vt", "vv"))
    return next((name for name, mode in ATTENTION_MODES.items() if mode.pairs == spelt), None)
