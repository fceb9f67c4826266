"""Region features by image id, whatever file they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from volta_switch.data.files.raw_values import OtherForm
from volta_switch.data.image_ids import ImageIndex, examples, id_text
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord


class FeatureStore(ABC):
    """`Regions` by image id (str or int). Can be handed to forked and spawned workers.

    An id that the file does not hold as it stands is looked for under its other spellings (`ImageIndex`): every format
    finds "9" as "COCO_train2014_000000000009", "000000000009" or "9.jpg", and the other way round.

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
        self._index: ImageIndex | None = None  # made where an id is not stored as it was asked for

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the image ids, in the file's order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _holds(self, image_id: str) -> bool:
        """Whether an image is stored under exactly this id."""

    @abstractmethod
    def _read(self, image_id: str) -> Regions:
        """Decode an image that is stored under this id; raises OtherForm, or whatever a damaged record leads to."""

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __contains__(self, image_id: object) -> bool:
        name = id_text(image_id)
        return self._holds(name) or self.index.has(name)

    @property
    def index(self) -> ImageIndex:
        """The stored ids by all their spellings."""
        if self._index is None:
            self._index = ImageIndex(self.keys())
        return self._index

    def sample(self, count: int) -> Iterator[Regions]:
        """Read up to so many images, spread evenly over the file; those that cannot be used are passed over."""
        keys = self.keys()
        for place in spread(len(keys), count):
            try:
                yield self[keys[place]]
            except BadRecord:
                continue

    def _stored(self, image_id: str) -> str:
        """Return the id under which an image is stored. Raises BadRecord where it is not, or under several."""
        if self._holds(image_id):
            return image_id
        found = self.index.find(image_id)
        if len(found) == 1:
            return found[0]
        if found:
            raise BadRecord(
                f"{self.path}: image {image_id!r} may be {' or '.join(map(repr, found[:3]))}; name it as the file does"
            )
        raise BadRecord(
            f"{self.path}: no image {image_id!r} among its {len(self)} ({examples(self.index)}, ...); "
            "extract its features, or point the task at the feature file that belongs to the annotations"
        )

    def __getitem__(self, image_id: str | int) -> Regions:
        image_id = id_text(image_id)
        if image_id in self._decoded:
            return self._decoded[image_id]
        stored = self._stored(image_id)
        if stored != image_id:
            return self[stored]
        regions = self._decode(image_id)
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

    def _decode(self, image_id: str) -> Regions:
        """Read an image that is there; every error names it, and says what to do."""
        try:
            return self._read(image_id)
        except BadRecord:
            raise
        except OtherForm as error:
            raise BadRecord(f"{self.source(image_id)}: {error}") from None
        except Exception as error:  # a damaged record can fail in any way
            raise BadRecord(
                f"{self.source(image_id)}: not a record of region features ({type(error).__name__}: {error}); "
                "it is damaged: copy the file again, or write it again"
            ) from error

    def source(self, image_id: str) -> str:
        """Name an image's record in errors."""
        return f"{self.path}, image {image_id!r}"


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` places of `length`, evenly spread, first and last among them."""
    if count >= length:
        return list(range(length))
    return [place * (length - 1) // max(count - 1, 1) for place in range(count)]
