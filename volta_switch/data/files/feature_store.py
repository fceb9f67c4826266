"""Region features by image id, whatever file they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord


class FeatureStore(ABC):
    """`Regions` by image id (str or int). Can be handed to forked and spawned workers.

    feature_size: the width F that the model expects; None accepts any.
    detections: also decode the detector's classes and attributes (not needed by the tasks, and slow to decode).
    in_memory: keep every decoded image (295 kB each at VOLTA's size: for small files only).
    Making one raises UserError where the file is missing or of another format; reading an image raises BadRecord where
    it is missing, damaged, holds numbers that are not finite, or has another width.
    """

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        self.path = Path(path)
        self.feature_size = feature_size
        self.detections = detections
        self.in_memory = in_memory
        self._decoded: dict[str, Regions] = {}

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the image ids, in the file's order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __contains__(self, image_id: object) -> bool: ...

    @abstractmethod
    def _read(self, image_id: str) -> Regions:
        """Decode an image that is there; the error for one that cannot be decoded is a BadRecord that names it."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __getitem__(self, image_id: str | int) -> Regions:
        image_id = str(image_id)
        if image_id in self._decoded:
            return self._decoded[image_id]
        if image_id not in self:
            raise BadRecord(
                f"{self.path}: no image {image_id!r} among its {len(self)}; "
                "extract its features, or point the task at the feature file that belongs to the annotations"
            )
        regions = self._read(image_id)
        try:
            regions.check()
        except ValueError as error:
            raise BadRecord(f"{self.source(image_id)}: {error}; extract its features again") from None
        width = regions.features.shape[1]
        if self.feature_size is not None and len(regions) == 0:  # no box says how wide a feature would be
            regions = replace(regions, features=regions.features.reshape(0, self.feature_size))
        elif self.feature_size is not None and width != self.feature_size:
            raise BadRecord(
                f"{self.source(image_id)}: features are {width} wide, the model expects {self.feature_size}; "
                f"set v_feature_size to {width}, or give the feature file that the model was made for"
            )
        if self.in_memory:
            regions = self._decoded[image_id] = regions.copied()
        return regions

    def source(self, image_id: str) -> str:
        """Name an image's record in errors."""
        return f"{self.path}, image {image_id!r}"
