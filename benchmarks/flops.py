"""Floating-point operations of a pre-training step, by arithmetic and by PyTorch's counter.

A matrix product of (m, k) and (k, n) is 2 m k n; nothing else counts. What counts is useful work as this project does
it: real tokens and regions, heads at masked positions, in the last layers the rows that are read. The attention's
products are over the slots of the longest sample of the batch, as executed (about 1 % of the whole at 38 + 37 slots).
VOLTA does the same work and more, so that its useful operations are these, too.

Legend: B batch, T text slots, R region slots, D hidden, P pooler width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from volta_switch.config import Config, attention_size, intermediate_size
from volta_switch.model.visual_targets import target_widths

FIRST, INNER = 2, 3  # products of a training step for one of the forward pass: where its input takes no gradient; else


@dataclass(frozen=True)
class Part:
    """Rows of one modality: how many in all, and of the longest sample."""

    rows: int
    longest: int

    @classmethod
    def of(cls, mask: Tensor) -> Part:
        """Of a mask (B, slots) of them."""
        lengths = mask.sum(1)
        return cls(int(lengths.sum()), int(lengths.max()))


@dataclass(frozen=True)
class Counts:
    """What a batch of pre-training has, and what of it is read at the end."""

    samples: int
    text: Part
    vision: Part
    read_text: Part  # masked words, and what is pooled
    read_vision: Part  # masked boxes, and what is pooled
    words: int  # masked
    boxes: int  # masked

    @classmethod
    def of(cls, config: Config, batch: Mapping[str, Tensor]) -> Counts:
        """Of a batch as a model takes it."""
        real, regions = batch["attention_mask"] != 0, batch["image_attention_mask"] != 0
        words, boxes = batch["masked_lm_labels"] != -1, batch["image_label"] == 1
        where = config.add_global_imgfeat
        boxes = boxes if where is None else F.pad(boxes, (1, 0) if where == "first" else (0, 1))
        read_text, read_vision = words & real, boxes & regions
        read_text[:, 0] |= config.fusion_method != "none"
        read_vision[:, 0] |= config.fusion_method in ("mul", "sum")
        of = Part.of
        return cls(len(real), of(real), of(regions), of(read_text), of(read_vision), int(words.sum()), int(boxes.sum()))


def counted(run: Callable[[], Any]) -> int:
    """What PyTorch's counter sees of a forward and backward pass, also inside autograd functions of our own."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def training_step(config: Config, counts: Counts) -> float:
    """Forward and backward pass of pre-training, by arithmetic.

    Every product has two more in the backward pass, one for each factor; what regions are embedded from takes no
    gradient, but in VL-BERT, where masked features are learnt.
    """
    first = INNER if config.image_embeddings == "vl-bert" else FIRST
    inner = encoder(config, counts) + switchers(config, counts) + heads(config, counts)
    return 2.0 * (first * region_embedding(config, counts) + INNER * inner)


def region_embedding(config: Config, counts: Counts) -> int:
    """Products of regions' features and locations with their projections; multiplications."""
    D, F_v = config.v_hidden_size, config.v_feature_size
    if config.image_embeddings == "vl-bert":  # coordinates as wide as the features
        further = (counts.vision.rows + counts.samples) * D * config.hidden_size
        return counts.vision.rows * 2 * F_v * D + (further if config.hidden_size != D else 0)
    located = 0 if config.image_embeddings == "visualbert" else config.num_locs
    return counts.vision.rows * D * (F_v + located)


def encoder(config: Config, counts: Counts) -> int:
    """All sublayers of the forward pass; multiplications."""
    last_text = max((*config.tt_attn_sublayers, *config.vt_attn_sublayers), default=-1)
    last_vision = max((*config.tv_attn_sublayers, *config.vv_attn_sublayers), default=-1)
    text, vision, macs = counts.text, counts.vision, 0
    for number in range(len(config.attention_sublayers) + len(config.ff_sublayers)):
        if number in config.attention_sublayers:
            keys = (text, vision)
            text = counts.read_text if number == last_text else text
            vision = counts.read_vision if number == last_vision else vision
            macs += attention(config, number, counts.samples, (text, vision), keys)
        else:
            for part, modality, D, numbers in (
                (text, "", config.hidden_size, config.t_ff_sublayers),
                (vision, "v_", config.v_hidden_size, config.v_ff_sublayers),
            ):
                if number in numbers:
                    macs += 2 * part.rows * D * intermediate_size(config, number, modality)
    return macs


def attention(config: Config, number: int, samples: int, queries: tuple[Part, Part], keys: tuple[Part, Part]) -> int:
    """One attention sublayer of the forward pass, text and vision in turn; multiplications.

    Switch-BERT's modes are parts of one score matrix and one product with the values, whatever their number is.
    """
    pairs = ((config.tt_attn_sublayers, config.tv_attn_sublayers), (config.vt_attn_sublayers, config.vv_attn_sublayers))
    macs = 0
    for index, (modality, D) in enumerate((("", config.hidden_size), ("v_", config.v_hidden_size))):
        to_text, to_vision = (number in numbers for numbers in pairs[index])
        if not (to_text or to_vision):
            continue
        width, _ = attention_size(config, number, modality)
        macs += 2 * (queries[index].rows + keys[index].rows) * D * width  # query and output; key and value
        slots = to_text * keys[0].longest + to_vision * keys[1].longest
        macs += 2 * samples * queries[index].longest * slots * width  # scores; weights by values
    return macs


def switchers(config: Config, counts: Counts) -> int:
    """Switch-BERT's decisions, one of each kind a layer but for the first one's input; multiplications."""
    if config.switch is None:
        return 0
    switch, layers = config.switch, len(config.attention_sublayers)
    pooled = config.hidden_size * (2 if switch.alignment == "concat" else 1)
    each = [len(switch.modes)] * layers * switch.attention + [switch.input_candidates] * (layers - 1) * switch.input
    return sum(counts.samples * switch.hidden_size * (pooled + options) for options in each)


def heads(config: Config, counts: Counts) -> int:
    """Masked words, masked regions, poolers and matching; multiplications."""
    D, D_v, P = config.hidden_size, config.v_hidden_size, config.pooler_size
    widths = (w for target, w in target_widths(config).items() if config.visual_target_weights.get(target, 0) > 0)
    macs = counts.words * D * (D + config.vocab_size) + counts.boxes * D_v * (D_v + sum(widths))
    if config.fusion_method != "none":
        macs += counts.samples * P * (D + 2)
    if config.fusion_method in ("mul", "sum"):
        macs += counts.samples * config.v_pooler_size * D_v
    return macs
