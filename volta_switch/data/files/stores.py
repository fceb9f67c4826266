"""Region features by image id and image-caption pairs by place, whatever file they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from volta_switch.data.files.compact_record import RecordLayout
from volta_switch.data.files.raw_values import OtherForm
from volta_switch.data.image_ids import ImageIndex, examples, id_text
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord

Kind = Literal["images", "pairs"]


@dataclass
class Inspection:
    """What a format says of a file as a whole, beside its records.

    Attributes:
        counts: what the file has, by name.
        problems: one line each, with the fix.
        notes: worth knowing, not wrong.
        usable: the places whose records can be read; None for all.
        left_out: what was not looked at, as only a sample was wanted.
    """

    counts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    usable: list[int] | None = None
    left_out: str = ""


class FeatureStore(ABC):
    """``Regions`` by image id (str or int). Can be handed to forked and spawned workers.

    An id that the file does not hold as it stands is looked for under its other spellings (``ImageIndex``): every
    format finds "9" as "COCO_train2014_000000000009", "000000000009" or "9.jpg", and the other way round.

    Args:
        path: the file or folder.
        feature_size: the width F that the model expects; None accepts any.
        detections: whether to decode the detector's classes and attributes. The tasks do not need them, and they are
            slow to decode.
        in_memory: whether to keep every decoded image: 295 kB each at VOLTA's size, for small files only.

    Raises:
        UserError: the file is missing or of another format.
        BadRecord: on reading an image that is missing, damaged, not finite or of another width.
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
        """Returns the image ids, in the file's order."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def _holds(self, image_id: str) -> bool:
        """Whether an image is stored under exactly this id."""

    @abstractmethod
    def _read(self, image_id: str) -> Regions:
        """Decodes an image that is stored under this id; raises OtherForm, or whatever a damaged record leads to."""

    def inspect(self, whole: bool) -> Inspection:
        """Looks at the file as a whole: at every byte where the format can, or (``whole`` False) at little of it."""
        return Inspection()

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
        """Reads up to so many images, spread evenly over the file; those that cannot be used are passed over."""
        keys = self.keys()
        for place in spread(len(keys), count):
            try:
                yield self[keys[place]]
            except BadRecord:
                continue

    def _stored(self, image_id: str) -> str:
        """Returns the id under which an image is stored; raises BadRecord where it is not, or under several."""
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
                f"set v_feature_size to {width} for a new model, or give the features that this one was made for"
            )
        if self.in_memory:
            regions = self._decoded[image_id] = regions.copied()
        return regions

    def _decode(self, image_id: str) -> Regions:
        """Reads an image that is there; every error names it, and says what to do."""
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
        """Names an image's record in errors."""
        return f"{self.path}, image {image_id!r}"


def spread(length: int, count: int) -> list[int]:
    """Returns up to ``count`` places of ``length``, evenly spread, first and last among them."""
    if count >= length:
        return list(range(length))
    return [place * (length - 1) // max(count - 1, 1) for place in range(count)]


class Records(ABC):
    """The records of a file by their place, each with its regions and its caption ("" where there is none).

    Attributes:
        kind: "pairs" of image and caption for pre-training, or "images" of a task.
    """

    kind: Kind = "pairs"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Reads one record; raises BadRecord where it is damaged."""

    def names(self) -> list[str]:
        """Returns the ids of a task's images, in the records' order; [] where a file does not list them."""
        return []

    def identity(self) -> bytes:
        """Returns what stands for every byte of the file, such as its own checksums; nothing where it has none."""
        return b""

    def inspect(self, whole: bool) -> Inspection:
        """Looks at the file as a whole, as ``FeatureStore.inspect`` does."""
        return Inspection()


class ImageRecords(Records):
    """A task's images by their place."""

    kind: Kind = "images"

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._names = store.keys()

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        return self._store[self._names[place]], ""

    def names(self) -> list[str]:
        """Returns the image ids, in the file's order."""
        return self._names

    def inspect(self, whole: bool) -> Inspection:
        """Looks at the file as its store does."""
        return self._store.inspect(whole)


class PairStore(Records):
    """Pairs of ``Regions`` and caption. Can be handed to forked and spawned workers.

    Args:
        path: the file, folder or address.
        in_memory: whether to keep every decoded pair: 585 kB each at VOLTA's size, for small files only. Otherwise
            arrays are views into the file: copy what outlives it.
        check: False leaves ``Regions.check`` to the caller, but for its shapes.

    Attributes:
        layout: the widths of all records, where the file says them.
        blocks: (runs,), the sizes of the runs of pairs that lie in one file each, where going from one to another has
            its price.

    Raises:
        UserError: the file is missing, damaged or of another format.
        BadRecord: on reading a pair that is damaged or holds numbers that are not finite.
    """

    layout: RecordLayout | None = None
    blocks: np.ndarray | None = None

    def __init__(self, path: str | Path, in_memory: bool = False, check: bool = True) -> None:
        self.path: Path | str = Path(path)  # an address is none
        self._decoded: dict[int, tuple[Regions, str]] | None = {} if in_memory else None
        self._check = Regions.check if check else Regions.check_shapes

    @abstractmethod
    def _read(self, index: int) -> tuple[Regions, str]:
        """Decodes and ``_check``s a pair; raises BadRecord."""

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._decoded is None:
            return self._read(index)
        if index not in self._decoded:
            regions, caption = self._read(index)
            self._decoded[index] = regions.copied(), caption
        return self._decoded[index]


class Pairs(Protocol):
    """Regions and caption by place: a ``PairStore``, several of them, or a part of one."""

    @property
    def path(self) -> Path | str:
        """What errors name."""

    @property
    def layout(self) -> RecordLayout | None:
        """The widths of all records, where the files say them."""

    @property
    def blocks(self) -> np.ndarray | None:
        """(runs,), the sizes of the runs of pairs that lie in one shard each; None where there are no shards."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Regions, str]: ...


class JoinedPairs:
    """The pairs of several files, one file after the other."""

    def __init__(self, parts: list[Pairs], path: Path) -> None:
        self.path = path
        self.layout, self.blocks = parts[0].layout, None
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self._parts[part][index - int(self._ends[part]) + len(self._parts[part])]


class ChosenPairs:
    """Some pairs of another sequence, by their places in it."""

    def __init__(self, pairs: Pairs, places: np.ndarray) -> None:
        self.path, self.layout = pairs.path, pairs.layout
        self.blocks = None if pairs.blocks is None else _chosen_of(pairs.blocks, places)
        self._pairs = pairs
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Regions, str]:
        return self._pairs[int(self.places[index])]


def _chosen_of(blocks: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Returns how many places, in rising order, are in each block, without the blocks that have none."""
    before = np.searchsorted(places, np.cumsum(blocks))
    counts = np.diff(before, prepend=0)
    return counts[counts > 0]
