"""What a detector saw in one image, and the numbers the models are given about it.

Legend: n regions of one image, F feature width, C object classes (index 0 is the background), A attribute classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

GlobalPlace = Literal["first", "last"]
LOCATION_WIDTHS = (4, 5, 7)


@dataclass(frozen=True, eq=False)
class TopScores:
    """The k highest scores of each region; all others are taken to share what is left equally.

    Attributes:
        ids: (n, k) int16, columns of the full array.
        scores: (n, k) float16 or float32.
        rest: (n,) float32, the sum of the scores that are not kept.
        width: columns of the full array.
    """

    ids: np.ndarray
    scores: np.ndarray
    rest: np.ndarray
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        """The full array's."""
        return len(self.ids), self.width

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Any) -> TopScores:
        """Chooses regions by a slice, a mask or indices."""
        return TopScores(self.ids[rows], self.scores[rows], self.rest[rows], self.width)

    def copy(self) -> TopScores:
        """Returns the same scores in memory of their own."""
        return TopScores(self.ids.copy(), self.scores.copy(), self.rest.copy(), self.width)

    def dense(self) -> np.ndarray:
        """Returns the full array, (n, width) float32."""
        others = max(self.width - self.ids.shape[1], 1)
        full = np.repeat((self.rest / others)[:, None], self.width, axis=1).astype(np.float32)
        np.put_along_axis(full, self.ids.astype(np.int64), self.scores.astype(np.float32), axis=1)
        return full


Scores = np.ndarray | TopScores


@dataclass(frozen=True, eq=False)
class Regions:
    """The detected regions of one image; optional fields are None where a file does not hold them (or was not asked).

    Attributes:
        image_id: key of the image in its feature file.
        features: (n, F) float32, or float16 from a compact store.
        boxes: (n, 4) float32: x1, y1, x2, y2 in pixels.
        image_w, image_h: pixels.
        objects_id, attrs_id: (n,) int64, 0-based *without* the background.
        objects_conf, attrs_conf: (n,) float32.
        cls_prob: (n, C) float32, index 0 = background, rows sum to 1.
        attr_scores: (n, A) float32. Both are TopScores from a compact store.
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
    cls_prob: Scores | None = None
    attr_scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int | None) -> Regions:
        """Returns the first ``count`` regions (detectors list the surest first); all where count is None."""
        if count is None or len(self) <= count:
            return self
        return replace(self, **{name: array[:count] for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, Any]:
        """Returns the fields that hold a row for each region, by name; those that are None are left out."""
        values = ((name, getattr(self, name)) for name in _PER_REGION)
        return {name: value for name, value in values if value is not None}

    def copied(self) -> Regions:
        """Returns the same regions in memory of their own: what a file gives may be views into it."""
        return replace(self, **{name: array.copy() for name, array in self.arrays().items()})

    def check(self) -> None:
        """Raises ValueError, saying what is wrong, for shapes that contradict each other and numbers not finite."""
        self.check_shapes()
        for name in ("features", "boxes", "objects_conf", "attrs_conf"):
            array = getattr(self, name)
            if array is not None and not all_finite(array):
                raise ValueError(f"{name} hold numbers that are not finite")
        for name in ("cls_prob", "attr_scores"):
            if getattr(self, name) is not None:
                check_scores(getattr(self, name), name)
        for labels, scores in (("objects_id", self.cls_prob), ("attrs_id", self.attr_scores)):
            if scores is not None and not within(getattr(self, labels), scores.shape[1] - 1):  # no background
                raise ValueError(f"{labels} holds labels beyond the {scores.shape[1] - 1} that have scores")

    def check_shapes(self) -> None:
        """Does the part of ``check`` that looks at no number of a region."""
        if not (self.image_w >= 1 and self.image_h >= 1):  # NaN neither
            raise ValueError(f"the image is {self.image_w} x {self.image_h} pixels")
        if self.features.ndim != 2 or self.boxes.shape != (len(self.features), 4):
            shapes = f"features of shape {self.features.shape}, boxes of {self.boxes.shape}"
            raise ValueError(f"{shapes}, expected n x F, n x 4")
        for name in _PER_REGION:
            array = getattr(self, name)
            if array is not None and len(array) != len(self.features):
                raise ValueError(f"{name} has {len(array)} rows, features have {len(self.features)}")


_PER_REGION = (
    *("features", "boxes", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("cls_prob", "attr_scores"),
)


def check_scores(scores: Scores, name: str) -> None:
    """Raises ValueError for scores that are not finite, or of columns that there are not."""
    if isinstance(scores, TopScores):
        if not within(scores.ids, scores.width):
            raise ValueError(f"{name} keeps scores of columns beyond its {scores.width}")
        finite = all_finite(scores.scores) and all_finite(scores.rest)
    else:
        finite = all_finite(scores)
    if not finite:
        raise ValueError(f"{name} hold numbers that are not finite")


def within(labels: np.ndarray | None, count: int) -> bool:
    """Whether all labels are 0 to count - 1; read as unsigned numbers, negative ones are too large."""
    return labels is None or labels.size == 0 or int(labels.view(f"u{labels.itemsize}").max()) < count


def all_finite(numbers: np.ndarray) -> bool:
    """Whether no number is NaN or infinite, in one or two passes that the processor does many numbers at a time."""
    if numbers.size == 0:
        return True
    if numbers.dtype == np.float16:  # NumPy has no fast comparison of these: look at the bits of the exponent
        return int((numbers.view(np.uint16) << 1).max()) < 0xF800  # the shift drops the sign
    return math.isfinite(float(numbers.max()) - float(numbers.min()))  # both pass NaN on


def locations(regions: Regions, num_locs: int) -> np.ndarray:
    """Returns where each region lies, as shares of the image: (n, num_locs) float32, see ``box_locations``."""
    return box_locations(regions.boxes, np.array([[regions.image_w, regions.image_h]]), num_locs)


def box_locations(boxes: np.ndarray, sizes: np.ndarray, num_locs: int) -> np.ndarray:
    """Returns where boxes (..., n, 4) lie, as shares of images of some sizes: (..., n, num_locs) float32.

    The order of the float32 operations is VOLTA's, so that values are the same to the last bit or so.

    Args:
        boxes: x1, y1, x2, y2 in pixels.
        sizes: (..., 1, 2), width w and height h of each image in pixels.
        num_locs: 4: x1/w, y1/h, x2/w, y2/h; 5: the same and the share of the image's area; 7: the four, width, height
            and area.
    """
    if num_locs not in LOCATION_WIDTHS:
        raise ValueError(f"num_locs is {num_locs}, expected one of {LOCATION_WIDTHS}")
    boxes = np.asarray(boxes, dtype=np.float32)
    sizes = sizes.astype(np.float64)
    location = np.empty((*boxes.shape[:-1], num_locs), dtype=np.float32)
    if num_locs >= 5:
        areas = (boxes[..., 3] - boxes[..., 1]) * (boxes[..., 2] - boxes[..., 0])
        location[..., -1] = areas / sizes.prod(axis=-1).astype(np.float32)
    np.divide(boxes, np.concatenate([sizes, sizes], axis=-1).astype(np.float32), out=location[..., :4])
    if num_locs == 7:
        location[..., 4:6] = location[..., 2:4] - location[..., 0:2]
    return location


def global_location(num_locs: int) -> np.ndarray:
    """Returns the location of the whole image: (num_locs,) float32, 0 0 1 1 and ones."""
    location = np.ones(num_locs, dtype=np.float32)
    location[:2] = 0
    return location


def as_float32(features: np.ndarray) -> np.ndarray:
    """Returns features as float32; from float16 through PyTorch, which is ten times as fast as NumPy there."""
    if features.dtype != np.float16:
        return features
    return torch.from_numpy(features.copy()).float().numpy()


def global_feature(features: np.ndarray) -> np.ndarray:
    """Returns the mean of all regions: (F,) float32. It is what VOLTA does in fine-tuning."""
    return as_float32(features).sum(axis=0) / max(len(features), 1)


def image_sample(regions: Regions, num_locs: int, max_regions: int | None = None) -> dict[str, np.ndarray]:
    """Returns what a task's sample holds about an image, see ``batches.collate``.

    Args:
        regions: all of the image; the global feature is the mean of all, as in VOLTA.
        num_locs: values of a region's location.
        max_regions: only the first ones are among the others; None: all.

    Returns:
        image_feat (n, F), as the file holds it, image_loc (n, num_locs) and global_feat (F,), both float32.
    """
    shown = regions.first(max_regions)
    return {
        "image_feat": shown.features,
        "image_loc": locations(shown, num_locs),
        "global_feat": global_feature(regions.features),
    }


def pairwise_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the intersection over union of every box (..., n, 4) with every other (..., m, 4): (..., n, m) float32.

    Boxes are x1, y1, x2, y2 in pixels, both ends *included*, as in VOLTA (and the Faster R-CNN code before it): a side
    is x2 - x1 + 1 long, so that boxes a pixel apart still touch, and boxes given as shares of the image mean nothing.
    """
    boxes = np.asarray(boxes, dtype=np.float32)[..., :, None, :]  # (..., n, 1, 4)
    others = np.asarray(others, dtype=np.float32)[..., None, :, :]  # (..., 1, m, 4)
    sides = (
        np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(boxes[..., :2], others[..., :2]) + 1
    )  # (..., n, m, 2)
    np.maximum(sides, 0, out=sides)
    intersection = sides[..., 0] * sides[..., 1]
    return intersection / (_area(boxes) + _area(others) - intersection)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0] + 1) * (boxes[..., 3] - boxes[..., 1] + 1)
