"""The fields of a model configuration: VOLTA's JSON schema, plus the section ``switch`` for Switch-BERT."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from volta_switch.config import checks
from volta_switch.config.checks import ACTIVATIONS, FUSION_METHODS, IMAGE_EMBEDDINGS, VISUAL_TARGETS
from volta_switch.config.variants import ALIGNMENT_NORMS, ATTENTION_MODES, FUSIONS, PAPER_MODES, Fusion
from volta_switch.errors import UserError
from volta_switch.ranges import (
    DROPOUT,
    FRACTION,
    PATH,
    WIDTH,
    WORDS,
    Choice,
    Many,
    Number,
    OrNone,
    Section,
    Table,
    Truth,
    Unread,
    bounded,
    read_fields,
    whole,
)

SHARE = Number(0.0, 1.0, above=True)
TEMPERATURE = Number(1e-3, 1e6)  # beyond these a softmax is one-hot, or even, to rounding
HEADS = whole(1, 4096)
SUBLAYER = whole(0, 9999)  # a sublayer's number, or a BERT layer's


@dataclass(frozen=True)
class SwitchConfig:
    """The ``switch`` section: what Switch-BERT may choose, and how.

    ``temperature``, ``min_temperature``, ``anneal_rate`` and ``finetune_temperature`` are the paper's
    (supplementary 2); ``alignment``, ``hidden_size`` and all that stands below ``finetune_temperature`` are not given
    by the paper.
    """

    attention: bool = bounded(True, Truth())  # Switch-Attention Blocks; False: every layer joint ("SIB-ONLY")
    input: bool = bounded(True, Truth())  # Switch-Input Blocks; False: inputs fixed ("SAB-ONLY")
    # any non-empty subset of SS, SC, CS, J
    modes: tuple[str, ...] = bounded(PAPER_MODES, Many(Choice(*ATTENTION_MODES)))
    input_candidates: int = bounded(3, Choice(3, 4))  # 3, or 4 with (l-2, l-2), which skips a layer whole
    top_k: int = bounded(4, whole(1, 1000))  # active modes per sample; values above len(modes) mean all of them
    alignment: str = bounded("concat", Choice("concat", "mul"))  # how the two pooled states are fused
    hidden_size: int = bounded(454, WIDTH)  # width of the switcher's MLP
    temperature: float = bounded(5.0, TEMPERATURE)  # Gumbel-softmax temperature at the start of pre-training
    min_temperature: float = bounded(0.2, TEMPERATURE)
    anneal_rate: float = bounded(1e-6, FRACTION)  # per training sample; shares take precedence
    # at the start of a run that begins from another run's weights
    finetune_temperature: float = bounded(1.0, TEMPERATURE)
    # the temperature reaches its floor at this share of a run, in pre-training and in fine-tuning; None: by the rate
    anneal_share: float | None = bounded(None, OrNone(SHARE))
    finetune_anneal_share: float | None = bounded(None, OrNone(SHARE))
    # how the alignment vector is normalised: not, by its statistics over the batches of training, or by itself
    alignment_norm: str = bounded("none", Choice(*ALIGNMENT_NORMS))
    # what the older input of an input block is: layer l-2's output, or layer l-1's own, already switched input
    older_input: str = bounded("output", Choice("output", "input"))
    initial_scale: float = bounded(0.0, Number(0.0, 10.0))  # standard deviation of the switchers' last layers' weights

    def __post_init__(self) -> None:
        read_fields(self, "switch.")
        if not self.modes or len(set(self.modes)) != len(self.modes):
            raise UserError(
                f"switch.modes: expected a non-empty list of different modes out of {', '.join(ATTENTION_MODES)}, "
                f"found {list(self.modes)}"
            )
        if not self.attention and "J" not in self.modes:
            raise UserError("switch.modes: with switch.attention=false every layer is joint, so the list must hold J")

    def to_dict(self) -> dict[str, Any]:
        """Returns the section; what is not given by the paper and off is left out, as files of before have it."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in OPTIONS or value != OPTIONS[name]}

    @property
    def active_modes(self) -> int:
        """K, at most the number of modes."""
        return min(self.top_k, len(self.modes))


_OPTIONAL = ("anneal_share", "finetune_anneal_share", "alignment_norm", "older_input", "initial_scale")
OPTIONS = {each.name: each.default for each in dataclasses.fields(SwitchConfig) if each.name in _OPTIONAL}


@dataclass(frozen=True)
class Config:
    """One architecture, field by field as VOLTA names them.

    Sizes are in units (neurons), probabilities in [0, 1]. Sublayers are numbered from 0; each is either an attention
    sublayer (named in one of the four ``*_attn_sublayers``: who attends to whom, query first) or a feed-forward one
    (``t_ff_sublayers``, ``v_ff_sublayers``). ``shared_sublayers`` use one set of weights for both modalities.
    """

    # Text
    vocab_size: int = bounded(30522, whole(1, 10_000_000))
    hidden_size: int = bounded(768, WIDTH)
    num_attention_heads: int = bounded(12, HEADS)
    intermediate_size: int = bounded(3072, WIDTH)
    hidden_act: str = bounded("gelu", Choice(*ACTIVATIONS))
    hidden_dropout_prob: float = bounded(0.1, DROPOUT)
    attention_probs_dropout_prob: float = bounded(0.1, DROPOUT)
    max_position_embeddings: int = bounded(512, WORDS)
    type_vocab_size: int = bounded(2, whole(1, 1000))
    pad_token_id: int = bounded(0, whole(0, 10_000_000))
    layer_norm_eps: float = bounded(1e-12, Number(0.0, 1.0, above=True))
    initializer_range: float = bounded(0.02, Number(0.0, 10.0, above=True))
    pooler_size: int = bounded(768, WIDTH)
    bert_model: str = bounded("bert-base-uncased", PATH)  # the vocabulary: a folder with vocab.txt, or on the hub
    model: str = bounded("bert", Choice("bert"))
    do_lower_case: bool = bounded(True, Truth())
    # Vision
    num_locs: int = bounded(5, Choice(4, 5, 7))  # values per box: 4 corners, + area (5), + width, height and area (7)
    max_boxes: int = bounded(36, Unread(36, why="a task file's max_region_num says how many boxes are taken"))
    # VL-BERT: sine/cosine dimensions per coordinate
    v_coordinate_embeddings_dim: int | None = bounded(None, OrNone(WIDTH))
    # where the global region stands; None: there is none
    add_global_imgfeat: str | None = bounded(None, Choice("first", "last", None))
    image_embeddings: str = bounded("vilbert", Choice(*IMAGE_EMBEDDINGS))
    v_feature_size: int = bounded(2048, WIDTH)
    v_hidden_size: int = bounded(768, WIDTH)
    v_num_attention_heads: int = bounded(12, HEADS)
    v_intermediate_size: int = bounded(3072, WIDTH)
    v_hidden_act: str = bounded("gelu", Choice(*ACTIVATIONS))
    v_hidden_dropout_prob: float = bounded(0.1, DROPOUT)
    v_attention_probs_dropout_prob: float = bounded(0.1, DROPOUT)
    v_initializer_range: float = bounded(  # VOLTA's default and its files' value
        0.2, Unread(0.2, 0.02, why="all weights start from initializer_range, as in VOLTA")
    )
    v_pooler_size: int = bounded(1024, WIDTH)
    # the detector's classes and attributes, background first (fixed in VOLTA)
    v_num_classes: int = bounded(1601, whole(2, 1_000_000))
    v_num_attributes: int = bounded(401, whole(2, 1_000_000))
    # Text and vision
    tt_attn_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    tv_attn_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    vt_attn_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    vv_attn_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    t_ff_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    v_ff_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    shared_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    # VOLTA normalises both modalities of these at once. They are shared, so that it is the same LayerNorm, row by row,
    # as it is one after the other: the result does not depend on the list, which is checked and not used.
    single_ln_sublayers: tuple[int, ...] = bounded((), Many(SUBLAYER))
    sublayer2attn_hidden_size: Mapping[str, int] = bounded({}, Table(SUBLAYER, WIDTH))
    sublayer2num_attention_heads: Mapping[str, int] = bounded({}, Table(SUBLAYER, HEADS))
    sublayer2intermediate_size: Mapping[str, int] = bounded({}, Table(SUBLAYER, WIDTH))
    sublayer2v_attn_hidden_size: Mapping[str, int] = bounded({}, Table(SUBLAYER, WIDTH))
    sublayer2v_num_attention_heads: Mapping[str, int] = bounded({}, Table(SUBLAYER, HEADS))
    sublayer2v_intermediate_size: Mapping[str, int] = bounded({}, Table(SUBLAYER, WIDTH))
    # the sublayers that start from BERT's layers
    bert_layer2attn_sublayer: Mapping[str, int] = bounded({}, Table(SUBLAYER, SUBLAYER))
    bert_layer2ff_sublayer: Mapping[str, int] = bounded({}, Table(SUBLAYER, SUBLAYER))
    # Heads
    fusion_method: str = bounded("mul", Choice(*FUSION_METHODS))
    fusion_act: str = bounded("relu", Choice("relu", "tanh"))
    image_head_ln: bool = bounded(True, Truth())
    itm_dim: int = bounded(2, Choice(2))  # aligned, mismatched
    visual_target_weights: Mapping[str, float] = bounded({"0": 1.0}, Table(Choice(*VISUAL_TARGETS), Number(0.0, 1e6)))
    # of the classifier that a task puts on the pooled vector; None: it is one linear layer
    clf_hidden_size: int | None = bounded(1536, OrNone(WIDTH))
    objective: int = bounded(0, Unread(0, why="train_concap.py --objective {value} says it"))
    # This project's
    # Standard deviation of the initial biases of the map from region features to states; 0: they start at zero, as in
    # VOLTA. A masked region's features are zeros: where a LayerNorm reads their projection alone (UNITER, LXMERT,
    # InterBERT, Switch-BERT), a zero bias gives it zeros, and a gradient 1 / sqrt(layer_norm_eps) times too large. It
    # decides the start alone: weights compute in VOLTA what they compute here. In VOLTA the plug-in does not read it.
    image_bias_range: float = bounded(0.0, Number(0.0, 10.0))
    switch: SwitchConfig | None = bounded(None, OrNone(Section(SwitchConfig)))
    # optional label: the mode that each attention sublayer spells out; checked, not used
    route: tuple[str, ...] = bounded((), Many(Choice(*ATTENTION_MODES)))

    def __post_init__(self) -> None:
        read_fields(self)
        checks.check_dependent(self)
        checks.check_sublayers(self)
        checks.check_widths(self)
        if self.route:
            checks.check_route(self)
        if self.switch is not None:
            checks.check_switchable(self)

    @property
    def fusion(self) -> Fusion:
        """How the pooled vectors become one."""
        return FUSIONS[self.fusion_method]

    @property
    def attention_sublayers(self) -> tuple[int, ...]:
        """Numbers of the attention sublayers, ascending."""
        named = (self.tt_attn_sublayers, self.tv_attn_sublayers, self.vt_attn_sublayers, self.vv_attn_sublayers)
        return tuple(sorted({number for numbers in named for number in numbers}))

    @property
    def ff_sublayers(self) -> tuple[int, ...]:
        """Numbers of the feed-forward sublayers, ascending."""
        return tuple(sorted({*self.t_ff_sublayers, *self.v_ff_sublayers}))

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as JSON types; ``load_config`` of it gives an equal configuration."""
        values = dataclasses.asdict(self)
        if self.switch is None:
            del values["switch"]
        else:
            values["switch"] = self.switch.to_dict()
        if not self.route:
            del values["route"]
        if not self.image_bias_range:
            del values["image_bias_range"]
        return json.loads(json.dumps(values))
