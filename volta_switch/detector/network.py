"""The network: ResNet-101 up to res4, proposals, and res5 over pooled boxes with what it says of each.

Legend: B pictures, h, w rows and columns of the input, H, W of the feature map (a sixteenth), A anchors of a cell, n
boxes, P cells along a side of a pooled box, F features, C classes of objects, the background as one more at the end.

Names of weights are those of Hugging Face's ``modeling_frcnn.py``. Where pictures of a batch differ in size, the
padding is set to 0 after each convolution that another one with neighbours follows: every number of a picture is then
what it would be alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from volta_switch.detector.boxes import apply_deltas, cell_anchors, clipped, grid_anchors, suppressed
from volta_switch.detector.pooling import roi_pool
from volta_switch.detector.settings import STRIDE, DetectorConfig

AT_ONCE = 64  # boxes that go through res5 together: 100 MB of its widest layer
Size = tuple[int, int]  # rows and columns


class NormedConv(nn.Conv2d):
    """A convolution without bias, and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W')."""
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 beside a shortcut; the stride is in the first, as in the first ResNets."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.shortcut = NormedConv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = NormedConv(inputs, inner, 1, stride)
        self.conv2 = NormedConv(inner, inner, 3, 1, dilation)
        self.conv3 = NormedConv(inner, outputs, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H', W'); mask: (B, 1, H', W'), 0 for padding."""
        out = _masked(functional.relu_(self.conv1(x)), mask)
        out = functional.relu_(self.conv2(out))
        out = self.conv3(out)
        out += x if self.shortcut is None else self.shortcut(x)
        return functional.relu_(out)


class Stage(nn.Sequential):
    """The blocks between two halvings of the resolution; only the first has a stride."""

    def __init__(self, inputs: int, inner: int, outputs: int, count: int, stride: int, dilation: int = 1) -> None:
        blocks = [Bottleneck(inputs, inner, outputs, stride, dilation)]
        blocks += [Bottleneck(outputs, inner, outputs, 1, dilation) for _ in range(count - 1)]
        super().__init__(*blocks)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """As ``Bottleneck.forward``."""
        for block in self:
            x = block(x, mask)
        return x


class Stem(nn.Module):
    """The first convolution and the pooling: a quarter of the resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(3, width, 7, 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, 3, h, w) -> (B, width, H, W); mask: (B, 1, h / 2, w / 2), 0 for padding."""
        x = _masked(functional.relu_(self.conv1(x)), mask)
        return functional.max_pool2d(x, 3, 2, padding=0, ceil_mode=True)


class Backbone(nn.Module):
    """Up to res4, whose cells are ``STRIDE`` pixels apart."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        inner, outer = config.bottleneck_width, config.stage_width
        self.stem = Stem(config.stem_width)
        self.res2 = Stage(config.stem_width, inner, outer, config.blocks[0], 1)
        self.res3 = Stage(outer, 2 * inner, 2 * outer, config.blocks[1], 2)
        self.res4 = Stage(2 * outer, 4 * inner, 4 * outer, config.blocks[2], 2)

    def forward(self, x: Tensor, sizes: Sequence[Size]) -> tuple[Tensor, list[Size]]:
        """Returns the feature map (B, D, H, W), padding set to 0, and each picture's own rows and columns of it.

        Args:
            x: (B, 3, h, w), 0 below and right of a picture smaller than that.
            sizes: rows and columns of each picture's own input.
        """
        padded = any(size != tuple(x.shape[2:]) for size in sizes)
        sizes = [(halved(rows), halved(columns)) for rows, columns in sizes]
        x = self.stem(x, mask_of(sizes, (halved(x.shape[2]), halved(x.shape[3])), x.device) if padded else None)
        sizes = [(pooled_size(rows), pooled_size(columns)) for rows, columns in sizes]
        for number, stage in enumerate((self.res2, self.res3, self.res4)):
            if number:
                sizes = [(halved(rows), halved(columns)) for rows, columns in sizes]
            shape = (x.shape[2], x.shape[3]) if not number else (halved(x.shape[2]), halved(x.shape[3]))
            mask = mask_of(sizes, shape, x.device) if padded else None
            x = _masked(stage(x, mask), mask)
        return x, list(sizes)


class ProposalNetwork(nn.Module):
    """Where objects may be: for each anchor of each cell, how likely one is there, and how its box differs."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.anchor_generator = AnchorGenerator(cell_anchors(config.anchor_sizes, config.anchor_ratios))
        self.rpn_head = ProposalHead(4 * config.stage_width, config.proposal_width, config.anchors)

    def grid(self, rows: int, columns: int) -> Tensor:
        """Returns the anchors of all cells, (H * W * A, 4)."""
        return grid_anchors(self.anchor_generator.cell_anchors[0], rows, columns, STRIDE)

    def forward(self, features: Tensor, sizes: Sequence[Size], inputs: Sequence[Size]) -> list[Tensor]:
        """Returns the proposals of each picture, (n, 4) in pixels of its input, the surest first.

        Args:
            features: (B, D, H, W).
            sizes: each picture's own rows and columns of the feature map.
            inputs: and of the input.
        """
        logits, deltas = self.rpn_head(features)
        found = []
        for picture, ((rows, columns), (height, width)) in enumerate(zip(sizes, inputs, strict=True)):
            own = logits[picture, :rows, :columns].reshape(-1)  # (H * W * A,)
            own_deltas = deltas[picture, :rows, :columns].reshape(-1, 4)
            order = own.sort(descending=True, stable=True).indices[: self.config.before_nms]
            boxes = apply_deltas(own_deltas[order], self.grid(rows, columns)[order], (1.0, 1.0, 1.0, 1.0))
            boxes = clipped(boxes, width, height)
            filled = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, scores = boxes[filled], own[order][filled]
            found.append(boxes[suppressed(boxes, scores, self.config.proposal_nms, self.config.after_nms)])
        return found


class AnchorGenerator(nn.Module):
    """The anchors of a cell, which checkpoints hold among the weights."""

    def __init__(self, anchors: Tensor) -> None:
        super().__init__()
        self.cell_anchors = nn.ParameterList([nn.Parameter(anchors, requires_grad=False)])


class ProposalHead(nn.Module):
    """The proposal network's convolutions."""

    def __init__(self, inputs: int, hidden: int, anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.objectness_logits = nn.Conv2d(hidden, anchors, 1)
        self.anchor_deltas = nn.Conv2d(hidden, 4 * anchors, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, H, W) -> logits (B, H, W, A) and deltas (B, H, W, A, 4)."""
        hidden = functional.relu(self.conv(features))
        logits = self.objectness_logits(hidden).permute(0, 2, 3, 1)
        deltas = self.anchor_deltas(hidden).permute(0, 2, 3, 1)
        return logits, deltas.reshape(*logits.shape, 4)


class Predictions(NamedTuple):
    """What the head says of n boxes.

    Attributes:
        features: (n, F).
        objects: (n, C + 1), logits, the background last.
        attributes: (n, attributes + 1), logits, "none of them" last.
        deltas: (n, C, 4), for each class of object.
    """

    features: Tensor
    objects: Tensor
    attributes: Tensor
    deltas: Tensor


class BoxPredictor(nn.Module):
    """Classes, attributes and deltas from a region's feature."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        width = config.features
        self.cls_score = nn.Linear(width, config.classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * config.classes)
        # uniform: PyTorch takes seconds to import what a normal distribution on its meta device needs
        named = nn.init.uniform_(torch.empty(config.classes + 1, width // 8), -1, 1)
        self.cls_embedding = nn.Embedding.from_pretrained(named, freeze=False)
        self.fc_attr = nn.Linear(width + width // 8, width // 4)
        self.attr_score = nn.Linear(width // 4, config.attributes + 1)

    def forward(self, features: Tensor, classes: Tensor | None = None) -> Predictions:
        """Returns what is said of features (n, F).

        Attributes depend on the class, by default on the most probable one, which may be the background.
        """
        objects = self.cls_score(features)
        named = self.cls_embedding(objects.argmax(dim=1) if classes is None else classes)
        hidden = functional.relu(self.fc_attr(torch.cat([features, named], dim=1)))
        return Predictions(features, objects, self.attr_score(hidden), self.bbox_pred(features).unflatten(1, (-1, 4)))


class RegionHead(nn.Module):
    """res5 over pooled boxes, without a stride and dilated by 2, and the predictor."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.pooled = config.pooled
        inner, outer = 8 * config.bottleneck_width, 8 * config.stage_width
        self.res5 = Stage(outer // 2, inner, outer, config.blocks[3], 1, dilation=2)
        self.box_predictor = BoxPredictor(config)

    def features_of(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Returns the features (n, F) of boxes (n, 4) in pixels of the input, of one picture's map (D, H, W)."""
        parts: Iterator[Tensor] = (
            self.res5(roi_pool(features, part, 1 / STRIDE, self.pooled)).mean(dim=(2, 3))
            for part in boxes.split(AT_ONCE)
        )
        return torch.cat(list(parts)) if len(boxes) else features.new_zeros(0, self.box_predictor.cls_score.in_features)


@dataclass(frozen=True)
class Detected:
    """What the network says of one picture.

    Attributes:
        proposals: (n, 4), pixels of the input.
        said: of each.
    """

    proposals: Tensor
    said: Predictions


class Network(nn.Module):
    """The whole detector: input -> proposals and what is said of them."""

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config)
        self.proposal_generator = ProposalNetwork(config)
        self.roi_heads = RegionHead(config)

    def forward(self, x: Tensor, sizes: Sequence[Size], boxes: Sequence[Tensor] | None = None) -> list[Detected]:
        """Returns what there is in each picture of a batch.

        Args:
            x: (B, 3, h, w), 0 below and right of a picture smaller than that.
            sizes: rows and columns of each picture's own input.
            boxes: (n, 4) for each picture, in pixels of its input, where proposals are given from outside.
        """
        features, cells = self.backbone(x, sizes)
        proposals = self.proposal_generator(features, cells, sizes) if boxes is None else boxes
        found = []
        for picture, ((rows, columns), own) in enumerate(zip(cells, proposals, strict=True)):
            pooled = self.roi_heads.features_of(features[picture, :, :rows, :columns], own)
            found.append(Detected(own, self.roi_heads.box_predictor(pooled)))
        return found


def halved(size: int) -> int:
    """Returns the length of a side after a convolution of stride 2."""
    return (size + 1) // 2


def pooled_size(size: int) -> int:
    """Returns the length of a side after the stem's pooling, of 3 cells with stride 2."""
    return max(1, -(-(size - 3) // 2) + 1)


def mask_of(sizes: Sequence[Size], shape: Size, device: torch.device) -> Tensor:
    """Returns 1 for each picture's own cells and 0 for padding, (B, 1, H, W)."""
    mask = torch.zeros(len(sizes), 1, *shape, device=device)
    for picture, (rows, columns) in enumerate(sizes):
        mask[picture, :, :rows, :columns] = 1
    return mask


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
