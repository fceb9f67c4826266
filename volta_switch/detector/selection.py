"""Which proposals of a picture become its regions: as VOLTA's Caffe scripts chose, or as its later ones do.

| | ``caffe`` | ``maxnms`` |
|---|---|---|
| box of a region | the proposal | the proposal, moved as the class says |
| dropped for overlapping a surer one | class by class, above 0.3 | by the best class, above 0.5, or up to 0.9 |
| confidence | of the best class in which it is not dropped | of the best class |
| kept | those with 0.2 or more, within two bounds | a number of them, the surest first |
| attributes | probabilities with "none of them" | without |

A region's feature is that of the proposal in both: a moved box has none. What was extracted by one is not what a model
expects that was trained on the other.

Legend: n proposals of one picture, C classes of objects, the background as one more: the last in the network, the first
in VOLTA's files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from volta_switch.detector.boxes import apply_deltas, clipped, highest_unsuppressed, suppressed
from volta_switch.detector.flags import KINDS
from volta_switch.detector.network import Detected
from volta_switch.detector.settings import DetectorConfig
from volta_switch.errors import UserError

CAFFE_NMS, CAFFE_CONFIDENCE = 0.3, 0.2
MAXNMS = (0.5, 0.6, 0.7, 0.8, 0.9)
_NUMBERS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class Selection:
    """How regions are chosen.

    Attributes:
        kind: one of ``KINDS``.
        least, most: regions of a picture; the same number for ``maxnms``.
    """

    kind: str = "maxnms"
    least: int = 36
    most: int = 36

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"{self.kind!r:.30}: expected one of {', '.join(KINDS)}")
        if not 1 <= self.least <= self.most:
            raise ValueError(f"{self.numbers} regions: expected a number, or two rising ones")
        if self.kind == "maxnms" and self.least != self.most:
            raise ValueError(f"{self.numbers} regions: maxnms keeps one number of them, as 36; caffe may keep 10-100")

    @classmethod
    def named(cls, kind: str, numbers: str) -> Selection:
        """Returns the selection of a kind with numbers as a flag spells them, "36" or "10-100".

        Raises:
            ValueError: they mean nothing.
        """
        found = _NUMBERS.fullmatch(numbers)
        if found is None:
            raise ValueError(f"{numbers!r:.30} regions: expected a number as 36, or two as 10-100")
        return cls(kind, int(found[1]), int(found[2] or found[1]))

    @property
    def numbers(self) -> str:
        """The numbers as a flag spells them."""
        return str(self.least) if self.least == self.most else f"{self.least}-{self.most}"


def asked_selection(kind: str, numbers: str) -> Selection:
    """Returns the selection that --select and --regions ask for; raises UserError where there is none such."""
    try:
        return Selection.named(kind, numbers)
    except ValueError as error:
        raise UserError(f"--select, --regions: {error}") from None


@dataclass(frozen=True)
class Chosen:
    """The regions of one picture.

    Attributes:
        rows: (n,), the proposals that they are.
        boxes: (n, 4), pixels of the picture.
        objects: (n, C + 1), probabilities, the background first.
        attributes: (n, attributes + 1), probabilities, "none of them" first.
    """

    rows: Tensor
    boxes: Tensor
    objects: Tensor
    attributes: Tensor


def choose(
    detected: Detected,
    selection: Selection,
    config: DetectorConfig,
    scale: tuple[float, float],
    inputs: tuple[int, int],
    given: Tensor | None = None,
) -> Chosen:
    """Returns the regions of one picture.

    Args:
        detected: what the network said.
        selection: how they are chosen.
        config: the detector's.
        scale: pixels of the picture per pixel of the input, across and down.
        inputs: rows and columns of the input.
        given: (n, 4), boxes from outside in pixels of the picture; all of them are regions, in their order.
    """
    objects = detected.said.objects.softmax(dim=1)
    factors = torch.tensor([*scale, *scale], device=objects.device)
    if given is not None:
        rows, boxes = torch.arange(len(given), device=objects.device), given
    elif selection.kind == "caffe":
        boxes = detected.proposals * factors
        rows = caffe_rows(boxes, objects[:, :-1], selection.least, selection.most)
        boxes = boxes[rows]
    else:
        confidences, classes = objects[:, :-1].max(dim=1)
        deltas = detected.said.deltas[torch.arange(len(classes), device=classes.device), classes]  # (n, 4)
        moved = clipped(apply_deltas(deltas, detected.proposals, config.box_weights), inputs[1], inputs[0])
        rows = maxnms_rows(moved, confidences, selection.most)
        boxes = moved[rows] * factors
    said = attribute_probabilities(detected.said.attributes[rows], selection.kind)
    return Chosen(rows, boxes, objects[rows].roll(1, dims=1), said)


def caffe_rows(boxes: Tensor, confidences: Tensor, least: int, most: int) -> Tensor:
    """Returns the proposals that Caffe's selection keeps.

    Where their number is between the bounds they stand in the proposals' order, else the surest first. Of equal
    confidences the earlier proposal comes first.

    Args:
        boxes: (n, 4), pixels of the picture.
        confidences: (n, C), without the background.
        least, most: the bounds; fewer than ``least`` are kept only where there are fewer.
    """
    highest = highest_unsuppressed(boxes, confidences, CAFFE_NMS, extra=1.0)
    sure = (highest >= CAFFE_CONFIDENCE).nonzero()[:, 0]
    if least <= len(sure) <= most:
        return sure
    order = highest.sort(descending=True, stable=True).indices
    return order[: least if len(sure) < least else most]


def maxnms_rows(boxes: Tensor, confidences: Tensor, count: int) -> Tensor:
    """Returns the proposals that the later selection keeps, the surest first.

    It drops less and less for overlapping, until ``count`` are left; fewer only where the last threshold leaves fewer.

    Args:
        boxes: (n, 4), moved.
        confidences: (n,), of the most probable class.
        count: how many.
    """
    rows = torch.empty(0, dtype=torch.int64)
    for threshold in MAXNMS:
        rows = suppressed(boxes, confidences, threshold, count)
        if len(rows) == count:
            break
    return rows


def attribute_probabilities(logits: Tensor, kind: str) -> Tensor:
    """Returns probabilities (n, attributes + 1), "none of them" first, of logits with it at the end.

    Caffe's are over all columns. The later scripts leave "none" out before the softmax: it is 0, the others sum to 1.
    """
    if kind == "caffe":
        return logits.softmax(dim=1).roll(1, dims=1)
    return torch.cat([logits.new_zeros(len(logits), 1), logits[:, :-1].softmax(dim=1)], dim=1)
