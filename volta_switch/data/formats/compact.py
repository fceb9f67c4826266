"""The compact store: VOLTA's records at a quarter of their size, without base64 and without pickle.

A directory with data.mdb (an LMDB) and manifest.json. Records stand under b"r" and their place (8 bytes, big-endian);
b"i" and an image id gives the place, where the store holds images and not pairs; b"c" and a block's place gives the
SHA-256 of its records. ``repack`` writes it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volta_switch.checksums import read_recorded
from volta_switch.data.feature_files import Format
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout
from volta_switch.data.files.lmdb_pages import LmdbPages
from volta_switch.data.files.stores import FeatureStore, Inspection, Kind, PairStore, Records, spread
from volta_switch.data.image_ids import ImageIndex
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

VERSION = "volta_switch compact store 1"
MANIFEST = "manifest.json"
BLOCK = 128  # records under one checksum, written in one transaction
LONGEST_ID = 510  # bytes: an LMDB's key has 511
_PLACE = struct.Struct(">Q")


def record_key(place: int) -> bytes:
    """Returns the key of a record."""
    return b"r" + _PLACE.pack(place)


def image_key(image_id: str) -> bytes:
    """Returns the key under which the place of an image stands."""
    return b"i" + image_id.encode()


def block_key(block: int) -> bytes:
    """Returns the key of a block's checksum."""
    return b"c" + _PLACE.pack(block)


class CompactFile(Records):
    """The records of a store by their place. Can be handed to forked and spawned workers.

    Raises:
        UserError: the store is missing, damaged, or of another version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        self.kind: Kind = self.manifest["kind"]
        self.codec = RecordCodec(RecordLayout(**self.manifest["layout"]))
        self._length: int = self.manifest["records"]
        self._file = LmdbPages(self.path, "a compact store")
        if self._length and self._file.get(record_key(self._length - 1)) is None:
            raise UserError(f"{self.path}: fewer records than the {self._length} of its manifest; repack it again")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Returns regions and caption ("" where there is none), as views into the file: copy what outlives it."""
        record = self._file.get(record_key(place))
        if record is None:
            raise BadRecord(f"{self.path}: record {place} is missing; repack it again")
        try:
            return self.codec.decode(record, place)
        except ValueError as error:
            raise BadRecord(f"{self.path}: record {place} is damaged ({error}); repack it again") from None

    def place(self, image_id: str) -> int | None:
        """Returns the place of an image; None where it is not there."""
        found = self._file.get(image_key(image_id)) if 0 < len(image_id.encode()) <= LONGEST_ID else None
        if found is None:
            return None
        if len(found) != _PLACE.size:
            raise BadRecord(f"{self.path}: the place of image {image_id!r} is damaged; repack it again")
        return _PLACE.unpack(found)[0]

    def image_ids(self) -> Iterator[str]:
        """Goes through the ids of a store of images, sorted by their bytes."""
        return (key[1:].decode("utf-8", "replace") for key in self._file.keys(b"i"))

    def identity(self) -> bytes:
        """Returns what the manifest says of the records, with the checksum of all their checksums."""
        said = {name: self.manifest[name] for name in ("format", "kind", "layout", "records", "sha256")}
        return json.dumps(said, sort_keys=True).encode()

    def inspect(self, whole: bool) -> Inspection:
        """Compares the blocks' checksums where every byte is to be read."""
        if not whole:
            return Inspection(left_out="checksums were not compared")
        try:
            damaged = self.damaged_blocks()
        except UserError as error:
            return Inspection(problems=[str(error)])
        advice = "do not have their checksum; repack the store again"
        return Inspection(problems=[f"records from {first} on {advice}" for first in damaged])

    def damaged_blocks(self) -> list[int]:
        """Returns the places of the first record of each block whose checksum does not hold; reads everything."""
        root = hashlib.sha256()
        damaged = []
        for first in range(0, self._length, BLOCK):
            digest = hashlib.sha256()
            for place in range(first, min(first + BLOCK, self._length)):
                digest.update(self._file.get(record_key(place)) or b"")
            stored = bytes(self._file.get(block_key(first // BLOCK)) or b"")
            root.update(stored)
            if digest.digest() != stored:
                damaged.append(first)
        if not damaged and root.hexdigest() != self.manifest["sha256"]:
            raise UserError(f"{self.path / MANIFEST}: not the manifest of these records; repack the store again")
        return damaged


class CompactPairs(PairStore):
    """A compact store of image-caption pairs; the counterpart of ConcapFile."""

    def __init__(self, path: str | Path, in_memory: bool = False, check: bool = True) -> None:
        super().__init__(path, in_memory, check)
        self._file = CompactFile(path)
        self.layout = self._file.codec.layout
        if self._file.kind != "pairs":
            raise UserError(f"{self.path}: holds images of a task; expected image-caption pairs for pre-training")

    def __len__(self) -> int:
        return len(self._file)

    def _read(self, index: int) -> tuple[Regions, str]:
        regions, caption = self._file[index]
        try:
            self._check(regions)
        except ValueError as error:
            raise BadRecord(f"{self.path}: record {index} is damaged ({error}); repack it again") from None
        return regions, caption


class CompactFeatures(FeatureStore):
    """A compact store by image id."""

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        super().__init__(path, feature_size, detections=detections, in_memory=in_memory)
        self.file = CompactFile(path)
        if self.file.kind != "images":
            raise UserError(f"{self.path}: holds image-caption pairs for pre-training; expected images of a task")

    def keys(self) -> list[str]:
        """Returns the image ids, in the file's order."""
        places = {image_id: self.file.place(image_id) for image_id in self.file.image_ids()}  # records may be damaged
        return sorted(places, key=lambda image_id: places[image_id] or 0)

    @property
    def index(self) -> ImageIndex:
        """The stored ids by all their spellings, without reading the records, which are many times as long."""
        if self._index is None:
            self._index = ImageIndex(self.file.image_ids())
        return self._index

    def __len__(self) -> int:
        return len(self.file)

    def inspect(self, whole: bool) -> Inspection:
        """Looks at the file as ``CompactFile`` does."""
        return self.file.inspect(whole)

    def _holds(self, image_id: str) -> bool:
        return self.file.place(image_id) is not None

    def sample(self, count: int) -> Iterator[Regions]:
        """Reads images by their place, since looking for their ids would read the whole file."""
        for place in spread(len(self.file), count):
            try:
                regions = self.file[place][0]
                regions.check()
            except (BadRecord, ValueError):
                continue
            yield regions

    def _read(self, image_id: str) -> Regions:
        place = self.file.place(image_id)
        assert place is not None
        regions = self.file[place][0]
        if regions.image_id != image_id:
            raise BadRecord(f"{self.source(image_id)}: record {place} is image {regions.image_id!r}; repack it again")
        return regions


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns a store's manifest; raises UserError where it is missing, damaged, or of another version."""
    file = path / MANIFEST
    try:
        manifest = json.loads(read_recorded(file))
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); expected a compact store in {path}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not JSON ({error}); repack the store again") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != VERSION:
        raise UserError(f"{file}: format is {found!r:.50}, expected {VERSION!r}; repack the store with this version")
    try:
        RecordLayout(**manifest["layout"])
        count, kind, digest = manifest["records"], manifest["kind"], manifest["sha256"]
        if not (type(count) is int and 0 <= count < 2**63 and kind in ("images", "pairs") and isinstance(digest, str)):
            raise ValueError("records, kind or sha256")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: incomplete ({error}); repack the store again") from None
    return manifest


FORMAT = Format(
    "compact",
    "compact store",
    "compact store",
    fits=lambda candidate: (candidate.path / MANIFEST).is_file(),
    images=CompactFeatures,
    pairs=CompactPairs,
    records=CompactFile,
    kind=lambda path: CompactFile(path).kind,
    order=10,
)
