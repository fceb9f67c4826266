"""Any feature file as a sequence of records, for the commands that go through whole files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from volta_switch.data.files.compact_store import CompactFile, is_compact
from volta_switch.data.files.concap_lmdb import ConcapFile, is_concap
from volta_switch.data.files.feature_files import feature_format, open_features
from volta_switch.data.files.pair_files import is_sharded
from volta_switch.data.files.shard_pairs import ShardPairs
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord

_PROBES = 16  # records, evenly spread, whose content stands for a file's


class RecordSource:
    """The records of a file by their place: regions with everything the file holds, and the caption ("" for none).

    kind: "pairs" for Conceptual Captions, "images" for the features of a task.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pairs: ConcapFile | CompactFile | ShardPairs | None = None
        if is_compact(self.path):
            self._pairs = CompactFile(self.path)
            self.format = "compact"
            self.kind: Literal["images", "pairs"] = "pairs" if self._pairs.kind == "pairs" else "images"
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
        """Say what the file holds, wherever it lies: format, records, and a SHA-256 of some of them, spread evenly."""
        digest = hashlib.sha256()
        count = len(self)
        for place in sorted({round(share * (count - 1) / (_PROBES - 1)) for share in range(_PROBES)} if count else ()):
            try:
                regions, caption = self[place]
            except BadRecord:  # the others tell files apart
                digest.update(f"{place} unusable".encode())
                continue
            digest.update(f"{place} {regions.image_id} {caption}".encode())
            digest.update(regions.features.tobytes() + regions.boxes.tobytes())
        return {"format": self.format, "records": count, "fingerprint": digest.hexdigest()}


def open_source(path: str | Path) -> RecordSource:
    """Open a file of any format. Raises UserError where it is missing or of none."""
    return RecordSource(path)
