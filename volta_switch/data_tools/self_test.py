"""The detector beside features that are known to be right: ``data extract --self-test --photos FOLDER``.

The folder has pictures in ``images/`` and a TSV with the features that Caffe's detector gave of them, 36 regions each
(py-bottom-up-attention has ten of COCO's). Two things are compared:

| | measured of each picture | must reach |
|---|---|---|
| given the file's boxes | median cosine of features; share with the same class | ``COSINE``, ``SAME_CLASS`` |
| found by itself (``caffe``, 36) | share of the file's boxes that a found one overlaps by ``IOU`` | ``FOUND`` |

Caffe and PyTorch resize and round differently, so that no picture is equal to the last digit; a wrong order of colours,
size of the input or pooling misses the marks by far.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from volta_switch.data.feature_files import open_features
from volta_switch.data.regions import Regions, pairwise_iou
from volta_switch.data_tools.picture_sources import find_pictures
from volta_switch.detector.detect import Detector
from volta_switch.detector.pictures import read_picture
from volta_switch.detector.selection import Selection
from volta_switch.errors import UserError

COSINE, SAME_CLASS = 0.9, 0.7
IOU, FOUND = 0.7, 0.5
IMAGES = "images"


@dataclass(frozen=True)
class Agreement:
    """How one picture's regions agree with the file's.

    Attributes:
        image_id: the picture's.
        cosine: median over regions, of features of the file's boxes.
        same_class: share of the regions.
        found: share of the file's boxes.
        iou: median over the file's boxes, of the best one found.
    """

    image_id: str
    cosine: float
    same_class: float
    found: float
    iou: float

    @property
    def fine(self) -> bool:
        """Whether all marks are reached."""
        return self.cosine >= COSINE and self.same_class >= SAME_CLASS and self.found >= FOUND


def self_test(detector: Detector, photos: str | Path) -> list[Agreement]:
    """Compares a detector with a folder of photographs and their features.

    Raises:
        UserError: the folder lacks pictures or the TSV, or the features are of another width.
    """
    folder = Path(photos)
    files = sorted(folder.glob("*.tsv"))
    if len(files) != 1 or not (folder / IMAGES).is_dir():
        raise UserError(f"{folder}: expected one TSV of features and the pictures in {IMAGES}/")
    expected = open_features(files[0], detector.config.features, detections=True)
    return [
        _agreement(detector, expected[file.image_id], read_picture(file.path))
        for file in find_pictures(folder / IMAGES).files
    ]


def _agreement(detector: Detector, expected: Regions, picture: object) -> Agreement:
    selection = Selection("caffe", len(expected), len(expected))
    named = [(expected.image_id, picture)]
    (given,) = detector(named, selection, [expected.boxes])  # type: ignore[arg-type]
    (own,) = detector(named, selection)  # type: ignore[arg-type]
    products = (given.features * expected.features).sum(axis=1)
    lengths = np.linalg.norm(given.features, axis=1) * np.linalg.norm(expected.features, axis=1)
    best = pairwise_iou(expected.boxes, own.boxes).max(axis=1)
    return Agreement(
        expected.image_id,
        cosine=float(np.median(products / np.maximum(lengths, 1e-12))),
        same_class=float(np.mean(given.objects_id == expected.objects_id)),
        found=float(np.mean(best >= IOU)),
        iou=float(np.median(best)),
    )


def self_test_text(found: list[Agreement]) -> str:
    """Returns the comparison as a table, the marks in its head, and a last line with the verdict."""
    head = ["picture", f"cosine (>= {COSINE})", f"same class (>= {SAME_CLASS})", f"boxes found (>= {FOUND})", "IoU"]
    rows = [[each.image_id, each.cosine, each.same_class, each.found, each.iou] for each in found]
    wrong = [each.image_id for each in found if not each.fine]
    verdict = f"{len(wrong)} of {len(found)} pictures miss a mark: {', '.join(wrong)}" if wrong else "all marks reached"
    return f"{tabulate(rows, head, floatfmt='.3f')}\n{verdict}"
