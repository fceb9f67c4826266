"""What a layout's file holds, by its names: where each of its weights goes, under this project's names.

A layout is read in two parts. The *trunk* is everything below the prefix of the word embeddings (``uniter.``,
``lxmert.``, ``bert.bert.``), which differs between programs. The rest are heads. Both stand here without prefixes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from volta_switch.errors import UserError
from volta_switch.weights.loading import some

WORDS = "embeddings.word_embeddings.weight"
ANSWERS = "answers; --task TASK1 keeps them as that task's head"
DECODER = "cls.predictions.decoder"
FIRST = "encoder.layer.0"
ENDS = ("weight", "bias")
BOTH = ("", "v_")  # a shared sublayer's weights stand under the names of text and vision
TEXT, VISION = ("",), ("v_",)
PARTS = ("query", "key", "value", "dense", "LayerNorm")  # of an attention sublayer


def attention_parts(own: str = "attention.self", out: str = "attention.output") -> dict[str, str]:
    """Returns what a program calls an attention's parts, by the modules that it puts them into."""
    return {part: f"{own if part in PARTS[:3] else out}.{part}" for part in PARTS}


SELF = attention_parts()


@dataclass(frozen=True)
class GivenWeights:
    """A file's weights, names without prefixes, and what its program wrote beside them."""

    trunk: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    """Of the ``config.json`` beside the file, and what ``--set`` says; empty without."""
    source: str
    """For messages."""

    def width(self, name: str, side: int = 0) -> int:
        """Returns a side of a weight of the trunk.

        Raises:
            UserError: there is no such weight, or it has no such side.
        """
        tensor = self.trunk.get(name)
        if tensor is None or tensor.dim() <= side:
            raise UserError(f"{self.source}: {name} is missing; without it the model's sizes are not known")
        return int(tensor.shape[side])

    def count(self, layers: str) -> int:
        """Returns the number of layers ``layers.0``, ``layers.1``, ... of the trunk.

        Raises:
            UserError: one between them is missing.
        """
        start = f"{layers}."
        numbers = {int(part) for name in self.trunk if name.startswith(start) and (part := _number(name, start))}
        if lost := [number for number in range(len(numbers)) if number not in numbers]:
            raise UserError(f"{self.source}: {start}{lost[0]} is missing, where {start}{max(numbers)} is there")
        return len(numbers)

    def head(self, *names: str) -> str:
        """Returns the first of these heads that the file has something of, "" without one."""
        return next((name for name in names if any(own.startswith(f"{name}.") for own in self.heads)), "")

    def attention_heads(self, key: str, width: int, each: int) -> int:
        """Returns their number by the settings, else for heads of ``each`` neurons, as those that were published have.

        Raises:
            UserError: the settings lack it, and the width is no multiple of ``each``.
        """
        found = self.settings.get(key)
        if type(found) is int and found > 0:
            return found
        if width % each:
            raise UserError(
                f"{self.source}: {key} is not known, and weights do not tell it (a width of {width} is no multiple of "
                f"{each}); put its config.json beside the file, or give --set {key}=N"
            )
        return width // each


@dataclass
class Places:
    """Where a file's weights go. All of the trunk must be there; of a head all or nothing."""

    of: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of theirs, without prefix -> the names of ours that have it."""
    heads: dict[str, str] = field(default_factory=dict)
    """Name of theirs -> the head that it belongs to."""
    swapped: set[str] = field(default_factory=set)
    """Of theirs: two rows that stand for mismatched and aligned, in that order; ours are the other way round."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Beginning of theirs -> why no model here has it."""

    def module(self, theirs: str, *ours: str, head: str = "") -> None:
        """Places weight and bias of a module."""
        for end in ENDS:
            self.tensor(f"{theirs}.{end}", *(f"{name}.{end}" for name in ours), head=head)

    def tensor(self, theirs: str, *ours: str, head: str = "") -> None:
        """Places one weight."""
        self.of[theirs] = ours
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
        self.tensor("cls.predictions.bias", "cls.predictions.bias", head="cls.predictions")
        self.tensor("cls.predictions.decoder.weight", "cls.predictions.decoder.weight", head="cls.predictions")

    def matching_head(self, theirs: str, swapped: bool = False) -> None:
        """Places image-text matching; ``swapped``: in theirs row 1 is aligned, in ours row 0."""
        self.module(theirs, "cls.bi_seq_relationship", head=theirs)
        if swapped:
            self.swapped |= {f"{theirs}.{end}" for end in ENDS}

    def answers_head(self, theirs: str, task: str) -> None:
        """Places two linear layers with a LayerNorm between them: VOLTA's classifier. Without a task it is left out."""
        if not task:
            self.left_out[f"{theirs}."] = ANSWERS
            return
        for part in ("0", "2", "3"):
            self.module(f"{theirs}.{part}", f"clfs_dict.{task}.logit_fc.{part}", head=theirs)

    def missing(self, given: Iterable[str]) -> list[str]:
        """Returns the names without which the trunk, or a head that is there in part, is not whole."""
        there = set(given)
        begun = {head for name, head in self.heads.items() if name in there}
        return [name for name in self.of if name not in there and self.heads.get(name, "") in {"", *begun}]

    def reason(self, name: str) -> str:
        """Returns why a weight is left out; "" where nothing says so."""
        return next((why for start, why in self.left_out.items() if name.startswith(start)), "")


def sizes(
    given: GivenWeights, features: str, places: str = "", between: str = f"{FIRST}.intermediate.dense"
) -> list[str]:
    """Returns the overrides of a configuration that the trunk's weights and the program's settings tell.

    Args:
        given: the weights.
        features: the map from region features.
        places: the map from boxes; "": there is none.
        between: the first layer's map to the feed-forward width.
    """
    words = given.width(WORDS, 1)
    known = {
        "vocab_size": given.width(WORDS),
        "hidden_size": words,
        "max_position_embeddings": given.width("embeddings.position_embeddings.weight"),
        "type_vocab_size": given.width("embeddings.token_type_embeddings.weight"),
        "intermediate_size": given.width(f"{between}.weight"),
        "num_attention_heads": given.attention_heads("num_attention_heads", words, 64),
        "v_feature_size": given.width(f"{features}.weight", 1),
        **({"num_locs": given.width(f"{places}.weight", 1)} if places else {}),
    }
    # What shapes do not tell. Of another kind of model it would be refused by the configuration's own checks.
    settings, of_both = given.settings, ("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob")
    known |= {key: settings[key] for key in (*of_both, "layer_norm_eps", "initializer_range") if key in settings}
    for key in of_both:
        if key in settings:
            known[f"v_{key}"] = settings.get(f"v_{key}", settings[key])
    return [f"{key}={json.dumps(value)}" for key, value in known.items()]


def head_widths(given: GivenWeights, classes: str = "", attributes: str = "", answers: str = "") -> list[str]:
    """Returns the overrides that heads tell, each where the file has it.

    Args:
        given: the weights.
        classes, attributes: the decoders of the detector's classes and attributes, without a background.
        answers: the first layer of the classifier.
    """
    found = []
    for key, name, more in (
        ("v_num_classes", classes, 1),
        ("v_num_attributes", attributes, 1),
        ("clf_hidden_size", answers, 0),
    ):
        tensor = given.heads.get(f"{name}.weight")
        if tensor is not None:
            found.append(f"{key}={len(tensor) + more}")
    return found


def split(state: Mapping[str, Tensor], settings: Mapping[str, Any], source: str) -> GivenWeights:
    """Divides a file's weights into trunk and heads, by the place of its word embeddings.

    Raises:
        UserError: there are none, or several.
    """
    found = [name for name in state if name.endswith(WORDS)]
    if len(found) != 1:
        raise UserError(f"{source}: expected one table of words ({WORDS}), found {some(found) or 'none'}")
    prefix = found[0].removesuffix(WORDS)
    outer = prefix.removesuffix(".").rpartition(".")[0]  # of "bert.bert.", below which heads lie, too
    trunk = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    rest = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    heads = {name.removeprefix(f"{outer}.") if outer else name: tensor for name, tensor in rest.items()}
    return GivenWeights(trunk, _tied(heads, trunk[WORDS], source), settings, source)


def _tied(heads: dict[str, Tensor], words: Tensor, source: str) -> dict[str, Tensor]:
    """Returns heads with the words' decoder and its bias under one name each: files may leave ties out."""
    bias, twin = f"{DECODER.removesuffix('decoder')}bias", f"{DECODER}.bias"
    if twin in heads:
        other = heads.pop(twin)
        if not torch.equal(heads.setdefault(bias, other), other):
            raise UserError(f"{source}: {bias} and {twin} are one weight in this layout but hold different values")
    if any(name.startswith("cls.predictions.") for name in heads):
        heads.setdefault(f"{DECODER}.weight", words)
    return heads


def _number(name: str, start: str) -> str:
    """Returns the number behind a beginning, "" without one."""
    part = name.removeprefix(start).partition(".")[0]
    return part if part.isascii() and part.isdecimal() and len(part) < 5 else ""
