"""Boxes: anchors, deltas, overlap, and the suppression of boxes that overlap surer ones.

Legend: n, m boxes, (n, 4) as x1, y1, x2, y2 in pixels; A anchors of a cell; C classes. A side is x2 - x1 long; only the
selection ``caffe`` counts both ends, ``extra=1``, as the Caffe code before it does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LARGEST_SCALE = math.log(1000 / 16)  # of a delta: a box of 16 pixels may become one of 1,000


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Returns the anchors around the corner of a cell, (A, 4): for each size one of each ratio, height / width."""
    anchors = []
    for size in sizes:
        for ratio in ratios:
            width = math.sqrt(size**2.0 / ratio)
            height = ratio * width
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(anchors)


def grid_anchors(anchors: Tensor, rows: int, columns: int, stride: int) -> Tensor:
    """Returns the anchors of all cells of a feature map, (rows * columns * A, 4), row by row."""
    down = torch.arange(rows, device=anchors.device, dtype=torch.float32) * stride
    across = torch.arange(columns, device=anchors.device, dtype=torch.float32) * stride
    y, x = (each.reshape(-1) for each in torch.meshgrid(down, across, indexing="ij"))
    corners = torch.stack([x, y, x, y], dim=1)  # (rows * columns, 4)
    return (corners[:, None] + anchors[None]).reshape(-1, 4)


def apply_deltas(deltas: Tensor, boxes: Tensor, weights: Sequence[float]) -> Tensor:
    """Moves and scales boxes (..., 4) by deltas (..., 4) of the centre, as shares of a side, and of a side's logarithm.

    ``weights``: by which the four deltas are divided first.
    """
    sides = boxes[..., 2:] - boxes[..., :2]
    centres = boxes[..., :2] + 0.5 * sides
    scale = torch.tensor(weights, device=deltas.device, dtype=deltas.dtype)
    deltas = deltas / scale
    centres = deltas[..., :2] * sides + centres
    sides = deltas[..., 2:].clamp(max=LARGEST_SCALE).exp() * sides
    return torch.cat([centres - 0.5 * sides, centres + 0.5 * sides], dim=-1)


def deltas_between(boxes: Tensor, wanted: Tensor, weights: Sequence[float]) -> Tensor:
    """Returns the deltas (n, 4) that ``apply_deltas`` turns from boxes, with sides above 0, into others."""
    sides, sides_wanted = boxes[:, 2:] - boxes[:, :2], wanted[:, 2:] - wanted[:, :2]
    centres, centres_wanted = boxes[:, :2] + 0.5 * sides, wanted[:, :2] + 0.5 * sides_wanted
    deltas = torch.cat([(centres_wanted - centres) / sides, (sides_wanted / sides).log()], dim=1)
    return deltas * torch.tensor(weights, device=boxes.device)


def clipped(boxes: Tensor, width: float, height: float) -> Tensor:
    """Returns boxes (..., 4) with what reaches out of an image cut off."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def overlaps(boxes: Tensor, others: Tensor, extra: float = 0.0) -> Tensor:
    """Returns the intersection over union of each box with each other one, (n, m); of two empty boxes it is NaN.

    ``extra``: added to the length of every side.
    """
    sides = torch.minimum(boxes[:, None, 2:], others[None, :, 2:]) - torch.maximum(
        boxes[:, None, :2], others[None, :, :2]
    )  # (n, m, 2)
    common = (sides + extra).clamp(min=0).prod(dim=2)
    return common / (_area(boxes, extra)[:, None] + _area(others, extra)[None] - common)


def _area(boxes: Tensor, extra: float) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)


def suppressed(boxes: Tensor, scores: Tensor, threshold: float, most: int | None = None) -> Tensor:
    """Returns which boxes are left once those are dropped that overlap a surer one by more than ``threshold``.

    Args:
        boxes: (n, 4).
        scores: (n,). Of equal ones the first box counts as the surer.
        threshold: of the intersection over union.
        most: as many are returned at most.

    Returns:
        Indices, the surest first, int64.
    """
    left = scores.sort(descending=True, stable=True).indices
    found: list[Tensor] = []
    while len(left) and (most is None or len(found) < most):
        first, left = left[0], left[1:]
        found.append(first)
        over = overlaps(boxes[first][None], boxes[left])[0].double() > threshold  # of NaN it is not
        left = left[~over]
    return torch.stack(found) if found else left


def highest_unsuppressed(boxes: Tensor, scores: Tensor, threshold: float, extra: float = 0.0) -> Tensor:
    """Returns for each box the highest score that is left where overlapping boxes are dropped class by class.

    Args:
        boxes: (n, 4), of all classes alike.
        scores: (n, C).
        threshold: as in ``suppressed``, by which each class is gone through.
        extra: as in ``overlaps``.

    Returns:
        (n,); 0 for a box that is dropped in all classes.
    """
    count, classes = scores.shape
    over = overlaps(boxes, boxes, extra).double() > threshold  # (n, n)
    over.fill_diagonal_(False)
    order = scores.T.sort(dim=1, descending=True, stable=True).indices  # (C, n)
    dropped = torch.zeros(classes, count, dtype=torch.bool, device=boxes.device)
    every = torch.arange(classes, device=boxes.device)
    for place in range(count):  # in all classes at once
        box = order[:, place]  # (C,)
        stays = ~dropped[every, box]
        dropped |= over[box] & stays[:, None]
    return scores.T.masked_fill(dropped, 0).amax(dim=0)
