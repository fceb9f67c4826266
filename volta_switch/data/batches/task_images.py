"""What a task's samples hold about one image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.regions import Regions, global_feature, locations


@dataclass(frozen=True, eq=False)
class TaskImage:
    """The regions that samples hold, and their inputs.

    inputs: image_feat (n, F), as the store holds it, image_loc (n, num_locs), global_feat (F,), both float32; not to be
    written into.
    """

    regions: Regions
    inputs: Mapping[str, np.ndarray]


class TaskImages:
    """Images by their id.

    Unlike in pre-training nothing is hidden, so that an image is prepared once where the store keeps its images in
    memory. max_regions: only the first ones; the global feature is the mean of all, as in VOLTA.
    """

    def __init__(self, store: FeatureStore, num_locs: int, max_regions: int | None = None) -> None:
        self._store = store
        self._num_locs = num_locs
        self._max_regions = max_regions
        self._prepared: dict[str, TaskImage] = {}

    def __getitem__(self, image_id: str | int) -> TaskImage:
        image_id = str(image_id)
        if image_id in self._prepared:
            return self._prepared[image_id]
        everything = self._store[image_id]
        regions = everything.first(self._max_regions)
        inputs = {
            "image_feat": regions.features,
            "image_loc": locations(regions, self._num_locs),
            "global_feat": global_feature(everything.features),
        }
        image = TaskImage(regions, inputs)
        if self._store.in_memory:
            self._prepared[image_id] = image
        return image
