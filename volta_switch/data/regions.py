"""What a detector saw in one image, and the numbers the models are given about it.

Legend: n regions of one image, F feature width, C object classes (index 0 is the background), A attribute classes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

GlobalPlace = Literal["first", "last"]
LOCATION_WIDTHS = (4, 5, 7)


@dataclass(frozen=True, eq=False)
class Regions:
    """The detected regions of one image; optional fields are None where a file does not hold them (or was not asked).

    image_id: key of the image in its feature file.
    features: (n, F) float32.
    boxes: (n, 4) float32: x1, y1, x2, y2 in pixels.
    image_w, image_h: pixels.
    objects_id, attrs_id: (n,) int64, 0-based *without* the background; objects_conf, attrs_conf: (n,) float32.
    cls_prob: (n, C) float32, index 0 = background, rows sum to 1.
    attr_scores: (n, A) float32.
    """

    image_id: str
    features: np.ndarray
    boxes: np.ndarray
    image_w: int
    image_h: int
    objects_id: np.ndarray | None = None
    objects_conf: np.ndarray | None = None
    attrs_id: np.ndarray | None = None
    attrs_conf: np.ndarray | None = None
    cls_prob: np.ndarray | None = None
    attr_scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int | None) -> Regions:
        """Return the first `count` regions (detectors list the surest first); all where count is None."""
        if count is None or len(self) <= count:
            return self
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        cut: dict[str, Any] = {name: array[:count] for name, array in arrays.items() if isinstance(array, np.ndarray)}
        return replace(self, **cut)


def locations(regions: Regions, num_locs: int) -> np.ndarray:
    """Where each region lies, as shares of the image: (n, num_locs) float32.

    4: x1/w, y1/h, x2/w, y2/h; 5: the same and the share of the image's area; 7: the four, width, height, area.
    The order of the float32 operations is VOLTA's, so that values are the same to the last bit or so.
    """
    if num_locs not in LOCATION_WIDTHS:
        raise ValueError(f"num_locs is {num_locs}, expected one of {LOCATION_WIDTHS}")
    boxes = np.asarray(regions.boxes, dtype=np.float32)
    width, height = float(regions.image_w), float(regions.image_h)
    location = np.empty((len(boxes), num_locs), dtype=np.float32)
    if num_locs >= 5:
        location[:, -1] = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 2] - boxes[:, 0]) / (width * height)
    np.divide(boxes, np.array([width, height, width, height], dtype=np.float32), out=location[:, :4])
    if num_locs == 7:
        location[:, 4:6] = location[:, 2:4] - location[:, 0:2]
    return location


def global_location(num_locs: int) -> np.ndarray:
    """The location of the whole image: (num_locs,) float32, 0 0 1 1 and ones."""
    location = np.ones(num_locs, dtype=np.float32)
    location[:2] = 0
    return location


def global_feature(features: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
    """The mean of the regions that are `visible` ((n,) bool; None: all): (F,) float32. All regions if none is visible.

    Differs from VOLTA's pre-training, which divides the sum over all (zeroed) regions by the number of those that
    overlap no masked one; it equals what VOLTA does in fine-tuning.
    """
    if visible is not None and visible.any():
        features = features[visible]
    return features.sum(axis=0) / max(len(features), 1)


def with_global(
    features: np.ndarray, location: np.ndarray, where: GlobalPlace | None, visible: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, F) and locations (n, num_locs) with the global region first, last, or (None) without one."""
    if where is None:
        return features, location
    feature = global_feature(features, visible)[None]  # (1, F)
    whole = global_location(location.shape[1])[None]  # (1, num_locs)
    if where == "first":
        return np.concatenate([feature, features]), np.concatenate([whole, location])
    return np.concatenate([features, feature]), np.concatenate([location, whole])


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of every box (n, 4) with every other (m, 4): (n, m) float32.

    Boxes are x1, y1, x2, y2 in pixels, both ends *included*, as in VOLTA (and the Faster R-CNN code before it): a side
    is x2 - x1 + 1 long, so that boxes a pixel apart still touch, and boxes given as shares of the image mean nothing.
    """
    boxes = np.asarray(boxes, dtype=np.float32)[:, None]  # (n, 1, 4)
    others = np.asarray(others, dtype=np.float32)[None]  # (1, m, 4)
    sides = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2]) + 1  # (n, m, 2)
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection / (_area(boxes) + _area(others) - intersection)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
