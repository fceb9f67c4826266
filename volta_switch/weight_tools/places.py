"""Where the weights of a layout go: names of theirs, without prefixes -> names of ours; and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.weight_tools.given import WORDS, GivenWeights

ANSWERS = "answers; --task TASK1 keeps them as that task's head"
PAIRS = "VL-binary-classifier"  # the type of a task about two images, whose answers are of this kind:
PAIR_ANSWERS = ANSWERS.replace("TASK1", "TASK12")
FIRST = "encoder.layer.0"
REGION_HEAD = "cls.imagePredictions"  # predicts masked regions, in ours and in ViLBERT's
ENDS = ("weight", "bias")
BOTH = ("", "v_")  # a shared sublayer's weights stand under the names of text and vision
TEXT, VISION = ("",), ("v_",)
PARTS = ("query", "key", "value", "dense", "LayerNorm")  # of an attention sublayer
CLASSIFIER = ("0", "2", "3")  # of VOLTA's: linear, (activation,) LayerNorm, linear
# What stands in settings and configurations under one name: what the trunk's weights tell, and what they do not.
SIZES = ("vocab_size", "hidden_size", "max_position_embeddings", "type_vocab_size", "intermediate_size")
OF_BOTH = ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob")  # of text, and with v_ of vision


def attention_parts(own: str = "attention.self", out: str = "attention.output") -> dict[str, str]:
    """Returns what a program calls an attention's parts, by the modules that it puts them into."""
    return {part: f"{own if part in PARTS[:3] else out}.{part}" for part in PARTS}


SELF = attention_parts()


@dataclass
class Places:
    """Where a file's weights go. All of the trunk must be there; of a head all or nothing."""

    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of theirs, without prefix -> the names of ours that have it."""
    heads: dict[str, str] = field(default_factory=dict)
    """Name of theirs -> the prediction head that it belongs to."""
    swapped: set[str] = field(default_factory=set)
    """Of theirs: two rows that stand for mismatched and aligned, in that order; ours are the other way round."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Beginning of theirs -> why no model here has it."""
    not_theirs: dict[str, str] = field(default_factory=dict)
    """Beginning of ours -> why an export leaves it out."""
    task_type: str = "VL-classifier"
    """Of the task whose head the answers become, as task files have it."""

    def module(self, theirs: str, *ours: str, head: str = "") -> None:
        """Places weight and bias of a module."""
        for end in ENDS:
            self.tensor(f"{theirs}.{end}", *(f"{name}.{end}" for name in ours), head=head)

    def tensor(self, theirs: str, *ours: str, head: str = "") -> None:
        """Places one weight."""
        self.targets[theirs] = ours
        if head:
            self.heads[theirs] = head

    def text_embeddings(self) -> None:
        """Places BERT's."""
        for kind in ("word", "position", "token_type"):
            self.tensor(f"embeddings.{kind}_embeddings.weight", f"bert.embeddings.{kind}_embeddings.weight")
        self.module("embeddings.LayerNorm", "bert.embeddings.LayerNorm")

    def attention(self, theirs: str, sublayer: int, streams: tuple[str, ...], parts: Mapping[str, str] = SELF) -> None:
        """Places the attention of a layer.

        Args:
            theirs: the layer: "encoder.layer.3".
            sublayer: ours.
            streams: ``TEXT``, ``VISION`` or ``BOTH``.
            parts: each of ``PARTS`` -> what theirs calls it, below the layer.
        """
        ours = f"bert.encoder.layer.{sublayer}"
        for part, name in parts.items():
            module = "attention_self" if part in PARTS[:3] else "attention_output"
            self.module(f"{theirs}.{name}", *(f"{ours}.{module}.{stream}{part}" for stream in streams))

    def feed_forward(
        self, theirs: str, sublayer: int, streams: tuple[str, ...], between: str = "intermediate", out: str = "output"
    ) -> None:
        """Places the feed-forward sublayer of a layer; arguments as in ``attention``."""
        ours = f"bert.encoder.layer.{sublayer}"
        self.module(f"{theirs}.{between}.dense", *(f"{ours}.intermediate.{stream}dense" for stream in streams))
        for part in ("dense", "LayerNorm"):
            self.module(f"{theirs}.{out}.{part}", *(f"{ours}.output.{stream}{part}" for stream in streams))

    def layer(self, theirs: str, attention: int, streams: tuple[str, ...]) -> None:
        """Places one of BERT's layers in an attention sublayer and the feed-forward one behind it."""
        self.attention(theirs, attention, streams)
        self.feed_forward(theirs, attention + 1, streams)

    def words_head(self) -> None:
        """Places BERT's head for masked words, whose decoder is the table of words."""
        for part in ("transform.dense", "transform.LayerNorm"):
            self.module(f"cls.predictions.{part}", f"cls.predictions.{part}", head="cls.predictions")
        for name in ("cls.predictions.bias", "cls.predictions.decoder.weight"):
            self.tensor(name, name, head="cls.predictions")

    def matching_head(self, theirs: str, swapped: bool = False) -> None:
        """Places image-text matching; ``swapped``: in theirs row 1 is aligned, in ours row 0."""
        self.module(theirs, "cls.bi_seq_relationship", head=theirs)
        if swapped:
            self.swapped |= {f"{theirs}.{end}" for end in ENDS}

    def answers_head(self, theirs: str, task: str) -> None:
        """Places a classifier like VOLTA's as a task's head; without a task it is left out."""
        for part in CLASSIFIER:
            if task:
                self.module(f"{theirs}.{part}", f"clfs_dict.{task}.logit_fc.{part}", head=theirs)
            else:
                self.left_out |= {f"{theirs}.{part}.{end}": ANSWERS for end in ENDS}

    def missing(self, given: Iterable[str]) -> list[str]:
        """Returns the names without which the trunk, or a head that is there in part, is not whole."""
        there = set(given)
        begun = {head for name, head in self.heads.items() if name in there}
        return [name for name in self.targets if name not in there and self.heads.get(name, "") in {"", *begun}]

    def reason(self, name: str) -> str:
        """Returns why a weight is left out; "" where nothing says so."""
        return next((why for start, why in self.left_out.items() if name.startswith(start)), "")


def sizes(
    given: GivenWeights, features: str, boxes: str = "", between: str = f"{FIRST}.intermediate.dense"
) -> list[str]:
    """Returns the overrides of a configuration that the trunk's weights tell, and compares the settings with them.

    Args:
        given: the weights.
        features: the map from region features.
        boxes: the map from boxes; "": there is none.
        between: the first layer's map to the feed-forward width.

    Raises:
        UserError: a weight is missing, or the settings are another model's.
    """
    words = given.width(WORDS, 1)
    tables = (given.width(f"embeddings.{kind}_embeddings.weight") for kind in ("position", "token_type"))
    known = dict(zip(SIZES, (given.width(WORDS), words, *tables, given.width(f"{between}.weight")), strict=True))
    given.expect(**known)
    known["num_attention_heads"] = given.attention_heads("num_attention_heads", words, 64)
    known["v_feature_size"] = given.width(f"{features}.weight", 1)
    if boxes:
        known["num_locs"] = given.width(f"{boxes}.weight", 1)
    return [f"{key}={value}" for key, value in known.items()]


def vision_like_text(given: GivenWeights, between: str = f"{FIRST}.intermediate.dense") -> list[str]:
    """Returns the overrides of a model whose streams are equally wide, and whose poolers end in tanh.

    Args:
        given: the weights.
        between: the first layer's map to the feed-forward width.

    Raises:
        UserError: as ``sizes``.
    """
    hidden = given.width(WORDS, 1)
    return [
        *(f"{key}={hidden}" for key in ("v_hidden_size", "pooler_size", "v_pooler_size")),
        f"v_num_attention_heads={given.attention_heads('num_attention_heads', hidden, 64)}",
        f"v_intermediate_size={given.width(f'{between}.weight')}",
        "fusion_act=tanh",
    ]


def training_settings(given: GivenWeights, *more: str) -> list[str]:
    """Returns the overrides that the settings tell and shapes do not, of those that the layout's program reads.

    Args:
        given: the weights and settings.
        more: settings beside activation, dropout and initial values that the program reads, such as "layer_norm_eps".
    """
    settings = given.settings
    known = {key: settings[key] for key in (*OF_BOTH, "initializer_range", *more) if key in settings}
    for key in OF_BOTH:
        if key in settings or f"v_{key}" in settings:
            known[f"v_{key}"] = settings.get(f"v_{key}", settings.get(key))
    return [f"{key}={json.dumps(value)}" for key, value in known.items()]


def text_settings(config: Config, *more: str) -> dict[str, Any]:
    """Returns what a layout's program reads of a configuration under the same names, ``more`` beside the usual ones."""
    names = (*SIZES, "num_attention_heads", *OF_BOTH, "initializer_range", *more)
    return {name: getattr(config, name) for name in names}


def fits(config: Config, **values: Any) -> None:
    """Compares a configuration with what a layout's program has built in.

    Raises:
        UserError: a field has another value.
    """
    for key, value in values.items():
        if (found := getattr(config, key)) != value:
            raise UserError(f"{key} is {found!r}, and always {value!r} in this layout")


def head_widths(
    given: GivenWeights, classes: str = "", attributes: str = "", answers: str = "", background: bool = False
) -> list[str]:
    """Returns the overrides that heads tell, each where the file has it.

    Args:
        given: the weights.
        classes, attributes: the decoders of the detector's classes and attributes.
        answers: the first layer of the classifier.
        background: the decoders have a row for no object, as VOLTA's have; else it is counted in addition.
    """
    more = 0 if background else 1
    known = {"v_num_classes": (classes, more), "v_num_attributes": (attributes, more), "clf_hidden_size": (answers, 0)}
    found = {key: (given.heads.get(f"{name}.weight"), more) for key, (name, more) in known.items()}
    return [f"{key}={len(tensor) + more}" for key, (tensor, more) in found.items() if tensor is not None]
