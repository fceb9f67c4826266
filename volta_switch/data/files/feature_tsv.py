"""TSV files of the bottom-up-attention detector, read where they stand: one line per image, arrays in base64.

Columns, by their number. 13 and 10: VOLTA's and LXMERT's; 6: the first release's, without detections. An empty cell
stands for a field that is not there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

from volta_switch.data.files.feature_records import decode_record, encode_tsv, image_key
from volta_switch.data.files.feature_store import FeatureStore
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError
from volta_switch.files import replacing

_DETECTIONS = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
_TEN = ("img_id", "img_h", "img_w", *_DETECTIONS, "num_boxes", "boxes", "features")
_SCORES = ("cls_prob", "attrs", "classes")
COLUMNS = {6: ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features"), 10: _TEN, 13: (*_TEN, *_SCORES)}
_NOT_IN_A_CELL = "\t\r\n"


def write_tsv(path: str | Path, regions: Iterable[Regions]) -> None:
    """Write a line of 10 cells for each image, of 13 for one with classes or attributes; whole or not at all.

    Raises ValueError for an image id that is empty or holds a tab or a line break.
    """
    with replacing(Path(path)) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        for image in regions:
            record = encode_tsv(image)
            tsv_name(image.image_id)
            names = COLUMNS[13 if any(name in record for name in _SCORES) else 10]
            file.write("\t".join(record.get(name, "") for name in names) + "\n")


def tsv_name(image_id: str) -> str:
    """Return an image id as a cell; raises ValueError where it cannot be one."""
    if not image_id or any(mark in image_id for mark in _NOT_IN_A_CELL):
        raise ValueError(f"a TSV file cannot hold the image id {image_id!r}: ids have no tab and no line break")
    return image_id


class TsvFeatures(FeatureStore):
    """A TSV file by image id, or by the whole first cell (see `image_key`).

    Opening scans the file once for where each line begins; workers are handed that index. Of lines with one image the
    last counts, as in VOLTA's converters; `repeated` names the images that have several.
    """

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        super().__init__(path, feature_size, detections=detections, in_memory=in_memory)
        self.repeated: list[str] = []
        self._file: FileIO | None = None
        self._lines: dict[str, tuple[int, int]] = {}  # image id -> first byte and length of its line
        offset = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        self._index(line, offset, number)
                    offset += len(line)
        except OSError as error:
            raise UserError(f"{self.path}: image features cannot be read ({error.strerror}); check the path") from error

    def _index(self, line: bytes, offset: int, number: int) -> None:
        try:
            name = line[: line.index(b"\t")].decode()
        except ValueError:
            raise UserError(
                f"{self.path}, line {number}: expected an image id and a tab; copy or write the file again"
            ) from None
        key = image_key(name)
        if key in self._lines:
            self.repeated.append(key)
        self._lines[key] = offset, len(line)

    def keys(self) -> list[str]:
        """Return the image ids, in the order of their first lines."""
        return list(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, image_id: object) -> bool:
        return image_key(str(image_id)) in self._lines

    def _read(self, image_id: str) -> Regions:
        image_id = image_key(image_id)
        offset, length = self._lines[image_id]
        try:
            if self._file is None:
                self._file = FileIO(self.path)
            # reads at a given place, so that threads and forked processes can share the descriptor
            cells = os.pread(self._file.fileno(), length, offset).rstrip(b"\r\n").decode("latin-1").split("\t")
            if len(cells) not in COLUMNS:
                raise ValueError(f"it has {len(cells)} columns, expected 6, 10 or 13")
            record = dict(zip(COLUMNS[len(cells)], cells, strict=True))
            regions = decode_record(image_id, record, self.detections)
            if len(regions) != int(record["num_boxes"]):
                raise ValueError(f"{len(regions)} boxes, num_boxes is {record['num_boxes']}")
        except Exception as error:  # a damaged line can fail in any way
            raise BadRecord(
                f"{self.source(image_id)}: not a line of the detector ({type(error).__name__}: {error}); "
                "extract it again"
            ) from error
        return regions

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}
