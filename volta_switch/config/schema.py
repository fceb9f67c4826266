"""The fields of a model configuration: VOLTA's JSON schema, plus the section ``switch`` for Switch-BERT."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from volta_switch.config import checks
from volta_switch.config.checks import ATTENTION_MODES
from volta_switch.errors import UserError


@dataclass(frozen=True)
class SwitchConfig:
    """What Switch-BERT may choose, and how (the ``switch`` section).

    ``temperature``, ``min_temperature``, ``anneal_rate`` and ``finetune_temperature`` are the paper's
    (supplementary 2); ``alignment`` and ``hidden_size`` are not given by the paper.
    """

    attention: bool = True  # Switch-Attention Blocks; False: every layer joint ("SIB-ONLY")
    input: bool = True  # Switch-Input Blocks; False: inputs fixed ("SAB-ONLY")
    modes: tuple[str, ...] = ATTENTION_MODES  # any non-empty subset of SS, SC, CS, J
    input_candidates: int = 3  # 3, or 4 with (l-2, l-2), which skips a layer whole
    top_k: int = 4  # active modes per sample; values above len(modes) mean all of them
    alignment: str = "concat"  # how the two pooled states are fused: "concat" or "mul"
    hidden_size: int = 454  # width of the switcher's MLP
    temperature: float = 5.0  # Gumbel-softmax temperature at the start of pre-training
    min_temperature: float = 0.2
    anneal_rate: float = 1e-6  # per training sample
    finetune_temperature: float = 1.0  # start temperature of a run that begins from another run's weights

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in ATTENTION_MODES]
        if unknown or not self.modes or len(set(self.modes)) != len(self.modes):
            raise UserError(
                f"switch.modes: expected a non-empty list of different modes out of {', '.join(ATTENTION_MODES)}, "
                f"found {list(self.modes)}"
            )
        if not self.attention and "J" not in self.modes:
            raise UserError("switch.modes: with switch.attention=false every layer is joint, so the list must hold J")
        checks.require(self.input_candidates in (3, 4), "switch.input_candidates", "3 or 4", self.input_candidates)
        checks.require(self.top_k >= 1, "switch.top_k", "at least 1", self.top_k)
        checks.require(self.alignment in ("concat", "mul"), "switch.alignment", '"concat" or "mul"', self.alignment)
        checks.require(self.hidden_size >= 1, "switch.hidden_size", "at least 1", self.hidden_size)
        for name in ("temperature", "min_temperature", "finetune_temperature"):
            checks.require(getattr(self, name) > 0, f"switch.{name}", "a positive number", getattr(self, name))
        checks.require(self.anneal_rate >= 0, "switch.anneal_rate", "0 or more", self.anneal_rate)

    @property
    def active_modes(self) -> int:
        """K, at most the number of modes."""
        return min(self.top_k, len(self.modes))


@dataclass(frozen=True)
class Config:
    """One architecture, field by field as VOLTA names them.

    Sizes are in units (neurons), probabilities in [0, 1]. Sublayers are numbered from 0; each is either an attention
    sublayer (named in one of the four ``*_attn_sublayers``: who attends to whom, query first) or a feed-forward one
    (``t_ff_sublayers``, ``v_ff_sublayers``). ``shared_sublayers`` use one set of weights for both modalities.
    """

    # Text
    vocab_size: int = 30522
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    pad_token_id: int = 0
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    pooler_size: int = 768
    bert_model: str = "bert-base-uncased"  # where the vocabulary lies: a folder with vocab.txt, or a hub name
    model: str = "bert"
    do_lower_case: bool = True
    # Vision
    num_locs: int = 5  # values per box: 4 corners, + area (5), + width, height and area (7)
    max_boxes: int = 36
    v_coordinate_embeddings_dim: int | None = None  # VL-BERT: sine/cosine dimensions per coordinate
    add_global_imgfeat: str | None = None  # the global region stands "first", "last", or there is none
    image_embeddings: str = "vilbert"
    v_feature_size: int = 2048
    v_hidden_size: int = 768
    v_num_attention_heads: int = 12
    v_intermediate_size: int = 3072
    v_hidden_act: str = "gelu"
    v_hidden_dropout_prob: float = 0.1
    v_attention_probs_dropout_prob: float = 0.1
    v_initializer_range: float = 0.2
    v_pooler_size: int = 1024
    v_num_classes: int = 1601  # the detector's classes, background first (fixed in VOLTA)
    v_num_attributes: int = 401  # the detector's attributes, background first (fixed in VOLTA)
    # Text and vision
    tt_attn_sublayers: tuple[int, ...] = ()
    tv_attn_sublayers: tuple[int, ...] = ()
    vt_attn_sublayers: tuple[int, ...] = ()
    vv_attn_sublayers: tuple[int, ...] = ()
    t_ff_sublayers: tuple[int, ...] = ()
    v_ff_sublayers: tuple[int, ...] = ()
    shared_sublayers: tuple[int, ...] = ()
    single_ln_sublayers: tuple[int, ...] = ()
    sublayer2attn_hidden_size: Mapping[str, int] = field(default_factory=dict)
    sublayer2num_attention_heads: Mapping[str, int] = field(default_factory=dict)
    sublayer2intermediate_size: Mapping[str, int] = field(default_factory=dict)
    sublayer2v_attn_hidden_size: Mapping[str, int] = field(default_factory=dict)
    sublayer2v_num_attention_heads: Mapping[str, int] = field(default_factory=dict)
    sublayer2v_intermediate_size: Mapping[str, int] = field(default_factory=dict)
    bert_layer2attn_sublayer: Mapping[str, int] = field(default_factory=dict)  # where BERT's layers start from
    bert_layer2ff_sublayer: Mapping[str, int] = field(default_factory=dict)
    # Heads
    fusion_method: str = "mul"
    fusion_act: str = "relu"
    image_head_ln: bool = True
    itm_dim: int = 2
    visual_target_weights: Mapping[str, float] = field(default_factory=lambda: {"0": 1.0})
    clf_hidden_size: int = 1536
    objective: int = 0
    # This project's
    switch: SwitchConfig | None = None
    route: tuple[str, ...] = ()  # optional label: the mode that each attention sublayer spells out; checked, not used

    def __post_init__(self) -> None:
        checks.check_choices(self)
        checks.check_sublayers(self)
        checks.check_widths(self)
        if self.route:
            checks.check_route(self)
        if self.switch is not None:
            checks.check_switchable(self)

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
        """The configuration as JSON types; ``load_config`` of it gives an equal configuration."""
        values = dataclasses.asdict(self)
        if self.switch is None:
            del values["switch"]
        if not self.route:
            del values["route"]
        return json.loads(json.dumps(values))
