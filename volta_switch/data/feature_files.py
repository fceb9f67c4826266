"""Feature files of every format: which format a file has, by what is in it, and opening it.

A format is one module of ``formats/`` that describes itself in a ``Format`` named ``FORMAT``. Nothing else names it:
the modules of that folder are imported, all together, when the first file is opened.
"""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import verify
from volta_switch.data import formats as folder
from volta_switch.data.files.pair_files import Split, find_pairs, is_address
from volta_switch.data.files.shard_cache import ShardCache
from volta_switch.data.files.stores import FeatureStore, ImageRecords, JoinedPairs, Kind, Pairs, PairStore, Records
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError
from volta_switch.files import require_file

PROBES = 64  # records, drawn by their number, whose content stands for a file's
_HEAD = 4096  # bytes that tell the formats apart
_DATA = "data.mdb"  # an LMDB in a folder
_OTHERS = (  # what files taken for features turn out to be
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"PK\x03\x04", "a zip archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x93NUMPY", "a NumPy array: VOLTA's npy_to_lmdb.py makes an LMDB of it and its _info.npy"),
    (b"\x80", "a pickle"),
    (b"{", "JSON"),
    (b"[", "JSON"),
    (b"<", "a web page or XML: download the file itself"),
)


@dataclass(frozen=True)
class Candidate:
    """A path that may be a feature file of some format.

    Attributes:
        path: the file or folder; of an address nothing that exists.
        address: whether an address was given.
    """

    path: Path
    address: bool = False

    @property
    def data(self) -> Path:
        """The file whose first bytes count: of a folder its LMDB."""
        return self.path / _DATA if self.path.is_dir() else self.path

    @cached_property
    def head(self) -> bytes:
        """The first bytes; b"" where there is no regular file. Raises UserError where they cannot be read."""
        if not self.data.is_file():
            return b""
        try:
            with self.data.open("rb") as file:
                return file.read(_HEAD)
        except OSError as error:
            raise UserError(f"{self.data}: cannot be read ({error.strerror}); check its permissions") from error


@dataclass(frozen=True)
class Target:
    """One way to write a format, as ``volta-switch data convert --to`` names it.

    Attributes:
        name: the value of ``--to``.
        write: (path, images) or, for pairs, (path, pairs of regions and caption); whole or not at all.
        refuse_id: raises ValueError for an image's id that the format has no place for.
        refuse: the same for regions.
        pairs: whether image-caption pairs are written.
    """

    name: str
    write: Callable[[Path, Iterator[Any]], None]
    refuse_id: Callable[[str], object] = lambda image_id: None
    refuse: Callable[[Regions], object] = lambda regions: None
    pairs: bool = False


@dataclass(frozen=True)
class Format:
    """One format of feature files.

    Attributes:
        name: in fingerprints and errors.
        title: in reports, such as "features of a task (H5)".
        label: what is expected of a user, such as "H5 file".
        fits: whether a path is of this format, by its first bytes or the files in it, without reading its records. It
            may raise UserError for a relative of the format that is not read.
        images: opens the features of a task; takes the arguments of ``FeatureStore``. None where it holds none.
        pairs: opens image-caption pairs; takes the arguments of ``PairStore``. None where it holds none.
        records: opens either by place; without it ``images`` or ``pairs`` does.
        kind: what one file holds, where the format has both.
        targets: how it is written; nothing where it is only read.
        suffixes: by which a damaged file is still taken for one.
        not_images: what to say where the features of a task are expected and these are pairs.
        order: formats of a lower number are asked and listed first, those of one number by their names.
    """

    name: str
    title: str
    label: str
    fits: Callable[[Candidate], bool]
    images: Callable[..., FeatureStore] | None = None
    pairs: Callable[..., PairStore] | None = None
    records: Callable[[Path], Records] | None = None
    kind: Callable[[Path], Kind] | None = None
    targets: tuple[Target, ...] = ()
    suffixes: tuple[str, ...] = ()
    not_images: str = ""
    order: int = 50

    def kind_of(self, path: Path) -> Kind:
        """Returns what a file of this format holds."""
        if self.kind is not None:
            return self.kind(path)
        return "images" if self.pairs is None else "pairs"

    def open_records(self, path: Path | str) -> Records:
        """Opens a file's records by their place."""
        if self.records is not None:
            return self.records(Path(path))
        if self.pairs is not None:
            return self.pairs(path)
        assert self.images is not None
        return ImageRecords(self.images(path, detections=True))


@cache
def formats() -> tuple[Format, ...]:
    """Returns all formats, in the order in which they are asked."""
    modules = (
        importlib.import_module(f"{folder.__name__}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)
    )
    return tuple(sorted((module.FORMAT for module in modules), key=lambda each: (each.order, each.name)))


def find_format(path: str | Path) -> Format | None:
    """Returns the format of a file, a folder or an address; None where it has none.

    Raises:
        UserError: the path cannot be read, is damaged, or is of a kind that is known and not read.
    """
    candidate = Candidate(Path(path), is_address(path))
    return next((found for found in formats() if found.fits(candidate)), None)


def known_format(path: str | Path) -> Format:
    """Returns the format of a file as ``find_format`` does; raises UserError that says what it is instead."""
    found = find_format(path)
    if found is None:
        raise _refusal(Candidate(Path(path)))
    return found


def image_format(path: str | Path) -> Format:
    """Returns the format of a task's features, by the file's content, without reading its records.

    Raises:
        UserError: it is missing, of none of the formats, or image-caption pairs.
    """
    candidate = Candidate(Path(path))
    for found in formats():
        if (found.images or found.not_images) and found.fits(candidate):
            if found.images is None:
                raise UserError(f"{path}: {found.not_images}")
            return found
    raise _refusal(candidate)


def has_feature_suffix(path: Path) -> bool:
    """Whether a path is named as a feature file, which may be damaged."""
    return any(path.suffix in each.suffixes for each in formats()) or (path / _DATA).exists()


def holds_pairs(path: str | Path) -> bool:
    """Whether a file or folder holds image-caption pairs."""
    found = find_format(path)
    return found is not None and found.kind_of(Path(path)) == "pairs"


def open_features(
    path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
) -> FeatureStore:
    """Opens a task's region features in any format; arguments and errors are those of ``FeatureStore``."""
    opener = image_format(path).images
    assert opener is not None
    return opener(path, feature_size, detections=detections, in_memory=in_memory)


def open_pairs(
    features_path: str | Path,
    split: Split,
    in_memory: bool = False,
    check: bool = True,
    cache: ShardCache | None = None,
) -> Pairs:
    """Opens a split's pairs below VOLTA's features_path, where ``find_pairs`` says that they lie.

    Each file is VOLTA's, or one of that name in another format that holds pairs.

    Args:
        features_path: a folder or an address.
        split: "train" or "valid".
        in_memory, check: as in ``PairStore``.
        cache: for shards behind an address; None for the default.

    Raises:
        UserError: there is none of them, one of several parts is missing, or the parts differ in format.
    """
    found = find_pairs(features_path, split)
    if found.shards:
        from volta_switch.data.formats.shards import open_shards  # here: it is a module of a format, which imports this

        return open_shards(features_path, split, in_memory, check, cache if is_address(features_path) else None)
    parts: list[Pairs] = [_pairs_opener(path)(path, in_memory, check) for path in found.files]
    if len(parts) == 1 and found.files[0] == found.name:
        return parts[0]
    if len({part.layout for part in parts}) > 1:
        raise UserError(f"{found.name}: the parts are stored in different ways; repack all of them, or none")
    return JoinedPairs(parts, found.name)


def _pairs_opener(path: Path) -> Callable[..., PairStore]:
    """Returns what opens a file of pairs: VOLTA's own reader, whose errors name what is wrong, or another format's."""
    *others, voltas = sorted((each for each in formats() if each.pairs), key=lambda each: each.name == "concap")
    found = next((each for each in others if each.fits(Candidate(path))), voltas)
    assert found.pairs is not None
    return found.pairs


class RecordSource:
    """The records of a file by their place, for commands that go through whole files.

    Each is regions with everything that the file holds, and the caption ("" where there is none).

    Attributes:
        path: the file or folder.
        format: the name of its format.
        kind: "pairs" of image and caption, or "images" of a task.
        records: the same records, with what their format knows of the whole file.

    Raises:
        UserError: the file is missing, of no format, or has a checksum (``volta_switch.checksums``) and is not what was
            written; all of it is read for that.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_address(path):
            verify(self.path)
        found = known_format(path)
        self.format = found.name
        self.records = found.open_records(path if is_address(path) else self.path)
        self.kind = self.records.kind

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Reads one record; raises BadRecord where it is damaged."""
        return self.records[place]

    def fingerprint(self) -> dict[str, Any]:
        """Says what the file holds, wherever it lies: format, number of records, and a SHA-256.

        Of a file with checksums of its own, a compact store or shards, it is that of these, which cover every byte. Of
        others it is that of the names of all images and of ``PROBES`` records: where n records are there and one has
        changed, it is missed with probability 1 - PROBES / n.
        """
        digest = hashlib.sha256(f"{self.kind} {len(self)}".encode())
        if identity := self.records.identity():
            digest.update(identity)
        else:
            for name in self.records.names():
                digest.update(f"{len(name)} {name}".encode())
            for place in self._probed():
                digest.update(self._content(place))
        return {"format": self.format, "records": len(self), "fingerprint": digest.hexdigest()}

    def _probed(self) -> list[int]:
        """Returns the places of ``PROBES`` records, the same for all files of one length; all of a short file's."""
        count = len(self)
        if count <= PROBES:
            return list(range(count))
        draws = (hashlib.sha256(f"{count} {draw}".encode()).digest() for draw in range(PROBES))
        return sorted({int.from_bytes(draw, "big") % count for draw in draws})

    def _content(self, place: int) -> bytes:
        """Returns a checksum of all that a record holds."""
        try:
            regions, caption = self[place]
        except BadRecord:  # the others tell files apart
            return f"{place} unusable".encode()
        digest = hashlib.sha256(repr((regions.image_id, regions.image_w, regions.image_h, caption)).encode())
        for name, array in regions.arrays().items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest()


def open_source(path: str | Path) -> RecordSource:
    """Opens a file of any format; errors are those of ``RecordSource``."""
    return RecordSource(path)


def _refusal(candidate: Candidate) -> UserError:
    """Says what a path is that is of no format."""
    path, data = candidate.path, candidate.data
    if not path.exists():
        return UserError(f"{path}: image features not found; check the path, or write the file first")
    if not path.is_dir():
        require_file(path, "file of image features", "check the path")
    elif not data.is_file():
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:3]) or "nothing"
        return UserError(f"{path}: a directory without {_DATA} (it holds {inside}); {_expected()}")
    head = candidate.head
    found = next((name for start, name in _OTHERS if head.startswith(start)), f"bytes {head[:12]!r}...")
    return UserError(f"{data}: {found if head else 'an empty file'}; {_expected()}")


def _expected() -> str:
    """Says which formats a task's features may have: "expected an LMDB, H5 or TSV file of ..., or a compact store"."""
    labels = [each.label for each in formats() if each.images]
    *most, last = [label.removesuffix(" file") for label in labels if label.endswith(" file")]
    folders = "".join(f", or a {label}" for label in labels if not label.endswith(" file"))
    return f"expected an {', '.join(most)} or {last} file of region features{folders}"
