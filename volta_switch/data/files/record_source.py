"""Any feature file as a sequence of records, for the commands that go through whole files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from volta_switch.checksums import verify
from volta_switch.data.files.compact_store import CompactFile, is_compact, read_manifest
from volta_switch.data.files.concap_lmdb import ConcapFile, is_concap
from volta_switch.data.files.feature_files import feature_format, open_features
from volta_switch.data.files.pair_files import is_address, is_sharded
from volta_switch.data.files.shard_pairs import ShardPairs
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord

PROBES = 64  # records, drawn by their number, whose content stands for a file's


class RecordSource:
    """The records of a file by their place: regions with everything the file holds, and the caption ("" for none).

    kind: "pairs" for Conceptual Captions, "images" for the features of a task. Making one raises UserError where the
    file has a checksum (`volta_switch.checksums`) and is not what was written; that reads all of it.
    """

    format: str
    kind: Literal["images", "pairs"]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_address(path):
            verify(self.path)
        self._pairs: ConcapFile | CompactFile | ShardPairs | None = None
        if is_address(path):
            self._pairs = ShardPairs(path)
            self.format, self.kind = "shards", "pairs"
        elif is_compact(self.path):
            self._pairs = CompactFile(self.path)
            self.format = "compact"
            self.kind = "pairs" if self._pairs.kind == "pairs" else "images"
        elif is_sharded(self.path):
            self._pairs = ShardPairs(self.path)
            self.format, self.kind = "shards", "pairs"
        elif is_concap(self.path):
            self._pairs = ConcapFile(self.path)
            self.format, self.kind = "concap", "pairs"
        else:
            self.format, self.kind = feature_format(self.path), "images"
            self._images = open_features(self.path, detections=True)
            self._keys = self._images.keys()

    def __len__(self) -> int:
        return len(self._keys) if self._pairs is None else len(self._pairs)

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Read one record; raises BadRecord where it is damaged."""
        return (self._images[self._keys[place]], "") if self._pairs is None else self._pairs[place]

    def fingerprint(self) -> dict[str, Any]:
        """Say what the file holds, wherever it lies: format, number of records, and a SHA-256.

        Of a compact store and of shards it is that of their manifest's checksums, which cover every byte. Of other
        files it is that of the names of all images and of `PROBES` records: where n records are there and one has
        changed, it is missed with probability 1 - PROBES / n.
        """
        digest = hashlib.sha256(f"{self.kind} {len(self)}".encode())
        if isinstance(self._pairs, ShardPairs):
            digest.update(repr(self._pairs.index).encode())
        elif (manifest := self._manifest()) is not None:
            digest.update(json.dumps(manifest, sort_keys=True).encode())
        else:
            for key in self._keys if self._pairs is None else ():
                digest.update(f"{len(key)} {key}".encode())
            for place in self._probed():
                digest.update(self._content(place))
        return {"format": self.format, "records": len(self), "fingerprint": digest.hexdigest()}

    def _manifest(self) -> dict[str, Any] | None:
        """What a compact store's manifest says of its records."""
        if self.format != "compact":
            return None
        manifest = read_manifest(self.path)
        return {name: manifest[name] for name in ("format", "kind", "layout", "records", "sha256")}

    def _probed(self) -> list[int]:
        """Return the places of `PROBES` records, the same for all files of one length; all of a short file's."""
        count = len(self)
        if count <= PROBES:
            return list(range(count))
        draws = (hashlib.sha256(f"{count} {draw}".encode()).digest() for draw in range(PROBES))
        return sorted({int.from_bytes(draw, "big") % count for draw in draws})

    def _content(self, place: int) -> bytes:
        """Return a checksum of all that a record holds."""
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
    """Open a file of any format. Raises UserError where it is missing or of none."""
    return RecordSource(path)
