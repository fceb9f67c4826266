"""The feature files of VOLTA's tasks: one LMDB record per image, found by the image's key.

VOLTA has three writers, which differ in how a record spells its arrays (feature_records.py); all three are read.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Literal

from volta_switch.data.feature_files import Format, Target
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.feature_records import decode_record, encode_h5, encode_npy, encode_tsv
from volta_switch.data.files.lmdb_environment import writing
from volta_switch.data.files.lmdb_pages import LmdbPages, is_lmdb
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.image_ids import id_text
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

Variant = Literal["tsv", "h5", "npy"]
_KEYS = b"keys"
_LONGEST_KEY = 511  # bytes


def write_features(path: str | Path, regions: Iterable[Regions], variant: Variant = "tsv") -> None:
    """Writes a directory LMDB as VOLTA's task readers expect it. Detector fields that are None are left out."""
    encode = {"tsv": encode_tsv, "h5": encode_h5, "npy": encode_npy}[variant]
    with writing(path, directory=True) as put:
        keys = []
        for image in regions:
            keys.append(image.image_id.encode())
            put(keys[-1], pickle.dumps(encode(image), protocol=4))
        put(_KEYS, pickle.dumps(keys, protocol=4))


class LmdbFeatures(FeatureStore):
    """A task feature file of VOLTA's, any of the three variants."""

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        super().__init__(path, feature_size, detections=detections, in_memory=in_memory)
        self._file = LmdbPages(self.path, "image features")
        listed = self._file.get(_KEYS)
        if listed is None:
            self._keys = dict.fromkeys(self._found_keys())
            return
        names = safe_pickle.loads(listed, f"{self.path}, entry 'keys'")
        if not isinstance(names, list | tuple):
            raise UserError(f"{self.path}: entry 'keys' is a {type(names).__name__}, expected a list; write it again")
        try:
            self._keys = dict.fromkeys(map(_image_id, names))  # an ordered set
        except (TypeError, ValueError) as error:
            raise UserError(f"{self.path}: entry 'keys' holds no image ids ({error}); write it again") from None

    def _found_keys(self) -> list[str]:
        """Returns the keys of a file that does not list them, where the first record is an image's."""
        try:
            keys = [key.decode() for key in self._file.keys()]  # noqa: SIM118 (no mapping)
            if keys:
                self._decode(keys[0])
        except (UnicodeDecodeError, UserError) as error:
            raise UserError(
                f"{self.path}: no entry 'keys', and not the feature file of a VOLTA task ({error}); expected a pickled "
                "record for each image (Conceptual Captions files have another format: see ConcapFile)"
            ) from None
        return keys

    def keys(self) -> list[str]:
        """Returns the image ids, in the file's order."""
        return list(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _holds(self, image_id: str) -> bool:
        return image_id in self._keys

    def _read(self, image_id: str) -> Regions:
        source = self.source(image_id)
        value = self._file.get(image_id.encode())
        if value is None:
            raise BadRecord(f"{source}: listed in 'keys', but its record is missing; write the file again")
        try:
            record = safe_pickle.loads(value, source)
        except UserError as error:
            raise BadRecord(str(error)) from error
        return decode_record(image_id, record, self.detections, self.feature_size)


def _image_id(name: object) -> str:
    """Returns what a list of keys calls an image; raises TypeError or ValueError for what is no id."""
    text = id_text(name)
    text.encode()  # a lone surrogate has no bytes
    return text


def _refuse(image_id: str) -> None:
    """Raises ValueError for an image id that cannot be a key."""
    key = image_id.encode()
    if not 0 < len(key) <= _LONGEST_KEY:
        raise ValueError(f"image id of {len(key)} bytes; an LMDB's keys have 1 to {_LONGEST_KEY}")
    if key == _KEYS:
        raise ValueError(f"image id {image_id!r}, under which the file has the list of all ids")


FORMAT = Format(
    "lmdb",
    "features of a task (LMDB)",
    "LMDB file",
    fits=lambda candidate: is_lmdb(candidate.head),
    images=LmdbFeatures,
    targets=(
        Target("tsv-lmdb", partial(write_features, variant="tsv"), _refuse),
        Target("h5-lmdb", partial(write_features, variant="h5"), _refuse),
        Target("npy-lmdb", partial(write_features, variant="npy"), _refuse),
    ),
    suffixes=(".lmdb",),
    order=40,
)
