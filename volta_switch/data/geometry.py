"""Whether boxes can be what they are taken for: x1, y1, x2, y2 in pixels of their image.

Boxes as shares of the image, as x, y, width, height, or of another image give no error anywhere, only bad numbers. Here
they are counted by what is strange about them; a data set in which most images are strange is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from volta_switch.data.regions import Regions
from volta_switch.errors import UserError

LOOKED_AT = 64  # images that are looked at before a run
_MOST = 0.5  # of the images: more of them are no accident
_SOME = 0.1  # of an image's boxes: detectors give a few without area
_ROUNDING = 2.0  # pixels that a box may reach out of its image,
_OVERHANG = 0.01  # or this share of its side
_FEWEST = 4  # images, or annotated boxes, that a refusal needs unless all boxes lie within 0..1

_KINDS = {  # what is strange about boxes, and the likely cause and cure where no other is found
    "normalised": ("all within 0..1", "they are shares of the image: multiply them by its width and height"),
    "exchanged": ("that fit only with width and height exchanged", "exchange image_w and image_h"),
    "reversed": ("with x2 < x1 or y2 < y1", "their columns stand for something else: write x1, y1, x2, y2 in pixels"),
    "no_area": ("without area", "one corner stands there twice: write x1, y1, x2, y2 in pixels"),
    "outside": ("outside of the image", "they belong to another size of the image, or image_w and image_h do"),
}
_AS_WIDTHS = "they fit as x, y, width, height: add x and y to the last two columns"
_AS_CORNERS = "they fit as x1, y1, x2, y2, where COCO's are x, y, width, height: subtract the first two numbers"


@dataclass
class Geometry:
    """How many of some images have boxes that are strange, by what is strange about them.

    Attributes:
        images: those with a box.
        strange: images by what.
        as_widths: images whose strange boxes fit as x, y, width, height.
        as_corners: the same of annotated boxes that were given as corners.
        boxes: strange ones, by what.
    """

    images: int = 0
    strange: Counter[str] = field(default_factory=Counter)
    boxes: Counter[str] = field(default_factory=Counter)
    as_widths: int = 0
    as_corners: int = 0

    def add(self, boxes: np.ndarray, width: float, height: float, annotated: bool = False) -> None:
        """Counts one image's boxes, (n, 4) as x1, y1, x2, y2; annotated: they were given as x, y, width, height."""
        if not len(boxes) or not np.isfinite(boxes).all():  # which is told elsewhere
            return
        self.images += 1
        boxes = np.asarray(boxes, dtype=np.float64)
        found = _strange(boxes, width, height)
        self.boxes.update({what: int(which.sum()) for what, which in found.items()})
        kinds = [what for what, which in found.items() if which.mean() > _SOME]
        self.strange.update(kinds)
        if kinds and kinds != ["normalised"]:
            sides = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
            self.as_widths += not annotated and _plausible(sides, width, height)
            corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            self.as_corners += annotated and _plausible(corners, width, height)

    def shares(self) -> dict[str, float]:
        """Returns the share of the images, by what is strange; nothing where nothing is."""
        return {what: count / self.images for what, count in self.strange.items() if count}

    def notes(self) -> list[str]:
        """Returns a line for each thing that is strange, about images or about single boxes."""
        lines = []
        for what, (said, _) in _KINDS.items():
            if self.strange[what]:
                count = self.strange[what]
                lines.append(f"{count} of {self.images} images ({count / self.images:.1%}) have boxes {said}")
            elif self.boxes[what]:
                lines.append(f"{self.boxes[what]} boxes {said}")
        return lines

    def problem(self) -> str | None:
        """Says in one line why most of the images cannot be what they are taken for; None where they can."""
        what = next((what for what in _KINDS if self.strange[what] > _MOST * self.images), None)
        if what is None or (self.images < _FEWEST and what != "normalised"):  # which is no accident in one image
            return None
        said, cause = _KINDS[what]
        if 2 * self.as_widths > self.images:
            cause = _AS_WIDTHS
        elif 2 * self.as_corners > self.images:
            cause = _AS_CORNERS
        count = self.strange[what]
        return f"{count} of {self.images} images ({count / self.images:.0%}) have boxes {said}; most likely {cause}"


def geometry_of(images: Iterable[Regions]) -> Geometry:
    """Counts the regions of images."""
    geometry = Geometry()
    for regions in images:
        geometry.add(regions.boxes, regions.image_w, regions.image_h)
    return geometry


def refuse_strange_boxes(images: Iterable[Regions], source: str) -> None:
    """Raises UserError, naming a source, where most of some images cannot have the boxes that they have."""
    problem = geometry_of(images).problem()
    if problem is not None:
        raise UserError(f"{source}: {problem} (`volta-switch data check` looks at all images)")


def _strange(boxes: np.ndarray, width: float, height: float) -> dict[str, np.ndarray]:
    """Returns which boxes are strange, (n,) bool, by what; of one box only what explains it best."""
    sides = boxes[:, 2:] - boxes[:, :2]
    normalised = np.full(len(boxes), bool((boxes >= -0.01).all() and (boxes <= 1.01).all()) and max(width, height) > 2)
    if normalised.any():
        return {"normalised": normalised}
    outside = ~_inside(boxes, width, height)
    exchanged = np.full(len(boxes), bool(outside.any()) and bool(_inside(boxes, height, width).all()))
    reversed_ = (sides < 0).any(axis=1)
    return {
        "exchanged": exchanged & (width != height),
        "reversed": reversed_,
        "no_area": (sides == 0).any(axis=1) & ~reversed_,
        "outside": outside & ~exchanged,
    }


def _inside(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Returns which boxes lie in an image, up to rounding: (n,) bool."""
    over = np.maximum(_ROUNDING, _OVERHANG * np.array([width, height] * 2))
    inside = (boxes >= -over) & (boxes <= np.array([width, height] * 2) + over)  # (n, 4)
    return np.asarray(inside.all(axis=1))


def _plausible(boxes: np.ndarray, width: float, height: float) -> bool:
    return bool(_inside(boxes, width, height).all() and (boxes[:, 2:] > boxes[:, :2]).mean() > 1 - _SOME)
