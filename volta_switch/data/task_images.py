"""What a task's samples hold about one image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from volta_switch.data.feature_lmdb import FeatureStore
from volta_switch.data.regions import Regions, global_feature, locations


class TaskImages:
    """Features, locations and global feature of images, by image id.

    Unlike in pre-training nothing is hidden, so that they are computed once for each image where the store keeps its
    images in memory. max_regions: only the first ones; the global feature is the mean of all, as in VOLTA.
    """

    def __init__(self, store: FeatureStore, num_locs: int, max_regions: int | None = None) -> None:
        self.store = store
        self._num_locs = num_locs
        self._max_regions = max_regions
        self._prepared: dict[str, Mapping[str, np.ndarray]] = {}

    def regions(self, image_id: str | int) -> Regions:
        """Return the regions that samples hold."""
        return self.store[image_id].first(self._max_regions)

    def __getitem__(self, image_id: str | int) -> Mapping[str, np.ndarray]:
        """Return image_feat (n, F), image_loc (n, num_locs), global_feat (F,), all float32: not to be written into."""
        image_id = str(image_id)
        if image_id in self._prepared:
            return self._prepared[image_id]
        everything = self.store[image_id]
        regions = everything.first(self._max_regions)
        prepared = {
            "image_feat": regions.features,
            "image_loc": locations(regions, self._num_locs),
            "global_feat": global_feature(everything.features),
        }
        if self.store.in_memory:
            self._prepared[image_id] = prepared
        return prepared
