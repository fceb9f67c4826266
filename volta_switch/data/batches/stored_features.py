"""Features of a batch that stay in their file until the process that trains copies them from there.

A loader's worker looks at the features, which brings them into memory; that they pass through shared memory, too, would
cost more than all its other work. The file's pages are in memory for every process: who needs the batch copies them
once, into the place where they are used, on a GPU into page-locked memory and in the loader's own thread.
"""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from volta_switch.data.batches.padding import padded

_numbers = itertools.count()
_sources: weakref.WeakValueDictionary[int, Source] = weakref.WeakValueDictionary()


class Source:
    """A sequence of (regions, ...) by place, which batches of this process and of its workers name by a number.

    A worker sends the number, and the process that it works for, which has made the source, knows what it stands for.
    records: None in a worker that was started and not forked; it reads through its data set.
    """

    def __init__(self, records: Any, number: int | None = None) -> None:
        self.records = records
        self._number = next(_numbers) if number is None else number
        if number is None:
            _sources[self._number] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self._number,)


def _received(number: int) -> Source:
    return _sources.get(number) or Source(None, number)


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Which features make up a batch's image_feat.

    places: (B,) int64, in the source. boxes: the first so many of each image at most; None: all. slots: R; start: the
    slot of the first box. zeroed: (Z, 2) int64, image and box. target: also give image_feat_target, (B, N, F), of
    `num_boxes` slots, in which nothing is zeroed.
    """

    source: Source
    places: np.ndarray
    boxes: int | None
    slots: int
    start: int
    zeroed: np.ndarray
    target: bool
    num_boxes: int

    def read(self) -> dict[str, torch.Tensor]:
        """Return image_feat (B, R, F), and image_feat_target where asked for, in the type of the file."""
        records = self.source.records
        features = [records[place][0].first(self.boxes).features for place in self.places.tolist()]
        given = padded(features, self.slots, 0, self.start)  # (B, R, F)
        rows = given.numpy()
        for image, box in self.zeroed.tolist():
            rows[image, self.start + box] = 0
        inputs = {"image_feat": given}
        return inputs | {"image_feat_target": padded(features, self.num_boxes, 0)} if self.target else inputs
