"""What decides the operations of a step: the real rows of a batch, the rows read at the end, and the predictions.

Legend: B batch, T text slots, R region slots (the global one included), N boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.config import Config

SLOTS, BOXES, FEATURES, CLASSES, LOCATIONS = 38, 36, 2048, 1601, 5  # of VOLTA's pre-training
TaskHead = Mapping[str, Any]  # an entry of a task file: type, num_labels, num_clf_layers


@dataclass(frozen=True)
class RowCounts:
    """Numbers of rows of one modality, of each sample of a batch (B,)."""

    lengths: tuple[int, ...]

    @classmethod
    def from_mask(cls, mask: Tensor) -> RowCounts:
        """Counts the true entries of a mask (B, slots)."""
        return cls(tuple(mask.sum(1).tolist()))

    @property
    def rows(self) -> int:
        """The number of rows of the batch."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """The rows of the longest sample: the attention's slots."""
        return max(self.lengths)


@dataclass(frozen=True)
class BatchCounts:
    """The rows of a batch, and those of them that are read at the end.

    Attributes:
        samples: B, image-text pairs.
        text, vision: all real rows.
        read_text, read_vision: rows that heads and poolers read.
        words, boxes: masked ones, of the whole batch.
        task: the task's head; None counts pre-training.
    """

    samples: int
    text: RowCounts
    vision: RowCounts
    read_text: RowCounts  # masked words, and what is pooled
    read_vision: RowCounts  # masked boxes, and what is pooled; all regions where each is scored
    words: int  # masked
    boxes: int  # masked
    task: TaskHead | None = None

    @classmethod
    def from_batch(cls, config: Config, batch: Mapping[str, Tensor], task: TaskHead | None = None) -> BatchCounts:
        """Counts a batch as a model takes it.

        Args:
            config: the architecture.
            batch: tensors by name; of a task's batch, pre-training's labels are not looked at.
            task: the task's head; None for pre-training.
        """
        real, regions = batch["attention_mask"] != 0, batch["image_attention_mask"] != 0
        if task is None:
            words, boxes = batch["masked_lm_labels"] != -1, batch["image_label"] == 1
            where = config.add_global_imgfeat
            boxes = boxes if where is None else F.pad(boxes, (1, 0) if where == "first" else (0, 1))
        else:
            words, boxes = torch.zeros_like(real), torch.zeros_like(regions)
        read_text, read_vision = words & real, boxes & regions
        read_text[:, 0] |= config.fusion.pools_text
        read_vision[:, 0] |= config.fusion.pools_vision
        if task is not None and task["type"] == "V-logit":
            read_vision = regions
        of = RowCounts.from_mask
        parts = (of(real), of(regions), of(read_text), of(read_vision))
        return cls(len(real), *parts, int(words.sum()), int(boxes.sum()), task)

    def rows_still_needed(self, config: Config, number: int) -> tuple[RowCounts, RowCounts]:
        """Returns the rows of text and of vision that layers after sublayer ``number`` need.

        Once nothing attends to a modality any more, these are the rows that are read.
        """
        last_text = max((*config.tt_attn_sublayers, *config.vt_attn_sublayers), default=-1)
        last_vision = max((*config.tv_attn_sublayers, *config.vv_attn_sublayers), default=-1)
        return (
            self.read_text if 0 <= last_text <= number else self.text,
            self.read_vision if 0 <= last_vision <= number else self.vision,
        )


def some_batch(B: int, seed: int = 0, config: Config | None = None) -> dict[str, Tensor]:
    """Draws a batch of pre-training as VOLTA's loader gives it: 12 +- 4 word pieces in 38 slots, 37 regions.

    Args:
        B: samples.
        seed: of the random numbers.
        config: gives the sizes of features, locations and classes, and the global region; by default they are VOLTA's.
    """
    widths, R = (FEATURES, LOCATIONS, CLASSES), BOXES + 1
    if config is not None:
        widths = (config.v_feature_size, config.num_locs, config.v_num_classes)
        R = BOXES + (config.add_global_imgfeat is not None)
    g = torch.Generator().manual_seed(seed)
    lengths = (torch.randn(B, generator=g) * 4 + 12).round().clamp(3, SLOTS - 2).long() + 2  # [CLS] and [SEP]
    mask = torch.arange(SLOTS) < lengths[:, None]
    words = torch.randint(1000, 30000, (B, SLOTS), generator=g) * mask
    inner = mask & (torch.arange(SLOTS) > 0) & (torch.arange(SLOTS) < lengths[:, None] - 1)
    match = torch.rand(B, generator=g) < 0.5
    hidden = inner & (torch.rand(B, SLOTS, generator=g) < 0.15)
    boxes = torch.rand(B, BOXES, generator=g) < 0.15
    features = torch.randn(B, R, widths[0], generator=g).relu().half().float()  # the same in either type
    features[:, R - BOXES :][boxes] = 0
    corners = torch.rand(B, R, 4, generator=g).sort(-1).values
    return {
        "input_ids": torch.where(hidden, 103, words),
        "image_feat": features,
        "image_loc": torch.cat((corners, torch.rand(B, R, widths[1] - 4, generator=g)), -1),
        "token_type_ids": torch.zeros_like(words),
        "attention_mask": mask.long(),
        "image_attention_mask": torch.ones(B, R, dtype=torch.long),
        "masked_lm_labels": torch.where(hidden & ~match[:, None], words, -1),
        "image_label": torch.where(boxes & ~match[:, None], 1, -1),
        "image_cls": torch.randn(B, BOXES, widths[2], generator=g).softmax(-1),
        "next_sentence_label": match.long(),
    }
