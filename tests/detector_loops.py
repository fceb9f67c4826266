"""What the detector's operators compute, as plain loops."""

from __future__ import annotations

import math

import numpy as np


def overlap(one, other, extra=0.0) -> float:
    """In float32 numbers, in the order in which the operators elsewhere take them."""
    one, other, extra = np.float32(one), np.float32(other), np.float32(extra)
    across = max(min(one[2], other[2]) - max(one[0], other[0]) + extra, np.float32(0))
    down = max(min(one[3], other[3]) - max(one[1], other[1]) + extra, np.float32(0))
    area = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (one, other)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(across * down / (area[0] + area[1] - across * down))


def left_by_loops(boxes, scores, threshold, extra=0.0) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda index: -scores[index])  # stable
    left: list[int] = []
    for index in order:
        if not any(overlap(boxes[other], boxes[index], extra) > threshold for other in left):
            left.append(index)
    return left


def rounded(value: np.float32) -> int:
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def pooled_by_loops(features: np.ndarray, boxes, scale: float, pooled: int) -> np.ndarray:
    depth, height, width = features.shape
    result = np.zeros((len(boxes), depth, pooled, pooled), np.float32)
    for number, box in enumerate(boxes):
        left, top, right, bottom = (rounded(np.float32(edge) * np.float32(scale)) for edge in box)
        down = np.float32(max(bottom - top + 1, 1)) / np.float32(pooled)
        across = np.float32(max(right - left + 1, 1)) / np.float32(pooled)
        for row in range(pooled):
            for column in range(pooled):
                first = min(max(math.floor(np.float32(row) * down) + top, 0), height)
                last = min(max(math.ceil(np.float32(row + 1) * down) + top, 0), height)
                start = min(max(math.floor(np.float32(column) * across) + left, 0), width)
                end = min(max(math.ceil(np.float32(column + 1) * across) + left, 0), width)
                if first < last and start < end:
                    result[number, :, row, column] = features[:, first:last, start:end].max(axis=(1, 2))
    return result
