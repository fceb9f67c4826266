"""RoIPool: the maximum of a feature map over the cells of a box, in a grid of fixed size.

Not RoIAlign: corners are rounded to whole cells, as the detector was trained. The rounding is float32's, step by step
that of the operator of the same name elsewhere, so that borders fall on the same cells.

Legend: H, W rows and columns of the feature map, D its channels, n boxes, P cells along a side of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor


def roi_pool(features: Tensor, boxes: Tensor, scale: float, pooled: int) -> Tensor:
    """Pools a feature map over boxes.

    Args:
        features: (D, H, W), of one image.
        boxes: (n, 4), pixels of the input.
        scale: cells per pixel.
        pooled: P.

    Returns:
        (n, D, P, P); 0 where a cell of the result covers nothing of the feature map.
    """
    depth, height, width = features.shape
    by_place = features.permute(1, 2, 0).contiguous()  # (H, W, D): what is gathered lies together
    corners = _rounded(boxes.cpu().float() * scale)  # a few numbers, by which slices are chosen
    rows = _bins(corners[:, 1], corners[:, 3], height, pooled)
    columns = _bins(corners[:, 0], corners[:, 2], width, pooled)
    found = [_pooled(by_place, *(part[place] for part in (*rows, *columns))) for place in range(len(boxes))]
    if not found:
        return features.new_zeros(0, depth, pooled, pooled)
    return torch.stack(found).permute(0, 3, 1, 2)


def _rounded(values: Tensor) -> Tensor:
    """Rounds halves away from 0, as C does; to whole numbers."""
    exact = values.double()  # in which the half is added without rounding
    return (exact.abs() + 0.5).floor().mul(exact.sign()).long()


def _bins(starts: Tensor, ends: Tensor, size: int, pooled: int) -> tuple[Tensor, Tensor]:
    """Returns first and last (excluded) cell of each bin along one side, (n, P) each."""
    length = (ends - starts + 1).clamp(min=1).float()  # (n,)
    step = (length / pooled)[:, None]
    number = torch.arange(pooled, device=starts.device, dtype=torch.float32)
    first = (number * step).floor().long() + starts[:, None]
    last = ((number + 1) * step).ceil().long() + starts[:, None]
    return first.clamp(0, size), last.clamp(0, size)


def _pooled(features: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Returns the maxima of one box, (P, P, D): first over rows, then over columns."""
    pooled, depth = len(top), features.shape[2]
    filled = (bottom > top)[:, None] & (right > left)[None]  # (P, P)
    if not bool(filled.any()):
        return features.new_zeros(pooled, pooled, depth)
    device = features.device
    start, end = int(left.min()), int(right.max())
    rows = _covered(top, bottom, features.shape[0])
    found = features[:, start:end][rows.to(device)].amax(dim=1)  # (P, columns of the box, D)
    columns = _covered(left - start, right - start, end - start)
    found = found[:, columns.to(device)].amax(dim=2)  # (P, P, D)
    return torch.where(filled[:, :, None].to(device), found, found.new_zeros(()))


def _covered(first: Tensor, last: Tensor, size: int) -> Tensor:
    """Returns the cells of each bin, (P, longest bin); the last one of a shorter bin stands there several times."""
    longest = max(int((last - first).max()), 1)
    cells = first[:, None] + torch.arange(longest, device=first.device)
    return torch.minimum(cells, (last - 1)[:, None]).clamp(0, size - 1)
