"""What the tests ask of a picture: that it is one, where its marks lie, and whether its labels are apart."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import combinations

import numpy as np

from volta_switch.statistics import estimate_mean
from volta_switch.study.records import ArmScore, ReportedEstimate
from volta_switch.study.report.svg import text_width

SVG = "{http://www.w3.org/2000/svg}"
LONG = [f"an-extraordinarily-long-name-that-nobody-would-type-{number}" for number in range(12)]


def score(*values: float, published: object = None) -> ArmScore:
    """A score as in a made table."""
    found = np.array(values, dtype=float)
    estimate = ReportedEstimate.of(estimate_mean(found))
    return ArmScore(float(found.mean()), values=values, published=published, estimate=estimate)


class Drawn:
    """A picture that was read back."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)
        self.width, self.height = (float(side) for side in self.root.get("viewBox", "").split()[2:])

    def all(self, tag: str, **wanted: str) -> list[ElementTree.Element]:
        """Elements with these attributes."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in wanted.items()}
        found = self.root.iter(SVG + tag)
        return [each for each in found if all(each.get(key) == value for key, value in wanted.items())]

    def arm(self, name: str) -> Drawn:
        """The part of one arm."""
        part = Drawn.__new__(Drawn)
        (part.root,) = self.all("g", data_arm=name)
        return part

    def texts(self) -> list[str]:
        """All visible words, in order."""
        return [
            "".join(part for part in (each.text, *(child.tail for child in each)) if part) for each in self.all("text")
        ]

    def hovers(self) -> list[str]:
        """All words that are shown under the pointer."""
        return [each.text or "" for each in self.root.iter(SVG + "title")]

    def boxes(self) -> list[tuple[float, float, float, float]]:
        """(left, top, right, bottom) of all visible words, as wide as they may be."""
        found = []
        for each, text in zip(self.all("text"), self.texts(), strict=True):
            size = float(each.get("font-size", ""))
            width = text_width(text, size, bold=each.get("font-weight") == "bold")
            x, y = float(each.get("x", "")), float(each.get("y", ""))
            left = x - {"middle": width / 2, "end": width}.get(each.get("text-anchor", ""), 0.0)
            found.append((left, y - 0.75 * size, left + width, y + 0.25 * size))
        return found

    def readable(self) -> None:
        """Asserts that no words are smaller than 12, cut off, or over others."""
        assert all(float(each.get("font-size", "0")) >= 12 for each in self.all("text"))
        boxes, texts = self.boxes(), self.texts()
        for box, text in zip(boxes, texts, strict=True):
            assert box[0] >= 0 and box[1] >= 0 and box[2] <= self.width and box[3] <= self.height, (text, box)
        for (one, said), (other, told) in combinations(zip(boxes, texts, strict=True), 2):
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (said, told)


def middle(mark: ElementTree.Element) -> tuple[float, float]:
    """Of a circle, or of a polygon that is as wide to the left as to the right."""
    if mark.tag == SVG + "circle":
        return float(mark.get("cx", "")), float(mark.get("cy", ""))
    corners = [tuple(map(float, pair.split(","))) for pair in mark.get("points", "").split()]
    across, down = ([corner[axis] for corner in corners] for axis in (0, 1))
    return (min(across) + max(across)) / 2, (min(down) + max(down)) / 2
