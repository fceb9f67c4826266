"""TSV files of the bottom-up-attention detector, read where they stand: one line per image, arrays in base64.

A header line names the columns; without one their number does. 13 and 10: VOLTA's and LXMERT's; 6: the first release's,
without detections; 7 and 8: the same with the classes, and the attributes, of ViLBERT's. An empty cell stands for a
field that is not there. Python's writers leave a byte order mark at the start, or cells as b'...'.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from volta_switch.data.feature_files import Candidate, Format, Target
from volta_switch.data.files.feature_records import SYNONYMS, decode_record, encode_tsv
from volta_switch.data.files.raw_values import OtherForm
from volta_switch.data.files.stores import FeatureStore, Inspection
from volta_switch.data.image_ids import image_key
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError
from volta_switch.files import replacing

_DETECTIONS = ("objects_id", "objects_conf", "attrs_id", "attrs_conf")
_TEN = ("img_id", "img_h", "img_w", *_DETECTIONS, "num_boxes", "boxes", "features")
_SCORES = ("cls_prob", "attrs", "classes")
_SIX = ("img_id", "img_w", "img_h", "num_boxes", "boxes", "features")
COLUMNS = {
    6: _SIX,
    7: (*_SIX, "cls_prob"),
    8: (*_SIX, "cls_prob", "attrs"),
    10: _TEN,
    13: (*_TEN, *_SCORES),
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NAMES = {spelling: name for name, spellings in SYNONYMS.items() for spelling in spellings}
_LONGEST_HEADER = 1000  # bytes
_SIZE = re.compile(r"\d+(\.0*)?", re.ASCII)
_EXAMPLES = 5  # ids that a note names
_NOT_IN_A_CELL = "\t\r\n"


def write_tsv(path: str | Path, regions: Iterable[Regions]) -> None:
    """Writes a line of 10 cells for each image, of 13 for one with classes or attributes; whole or not at all.

    Raises:
        ValueError: an image id is empty or holds a tab or a line break.
    """
    with replacing(Path(path)) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        for image in regions:
            record = encode_tsv(image)
            tsv_name(image.image_id)
            names = COLUMNS[13 if any(name in record for name in _SCORES) else 10]
            file.write("\t".join(record.get(name, "") for name in names) + "\n")


def tsv_name(image_id: str) -> str:
    """Returns an image id as a cell; raises ValueError where it cannot be one."""
    if not image_id or any(mark in image_id for mark in _NOT_IN_A_CELL):
        raise ValueError(f"a TSV file cannot hold the image id {image_id!r}: ids have no tab and no line break")
    return image_id


def header_of(cells: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the columns that a header line gives, as VOLTA's; () for a line that is none."""
    names = tuple(_NAMES.get(cell.strip(), cell.strip()) for cell in cells)
    return names if {"img_id", "features"} <= {*names} else ()


def first_cells(head: bytes) -> list[str]:
    """Returns the cells of the first line, or of as much of it as the head of a file holds."""
    line = head.removeprefix(_BYTE_ORDER_MARK).lstrip(b"\r\n").split(b"\n", 1)[0]
    return [_plain(cell) for cell in line.decode("latin-1").rstrip("\r").split("\t")]


class TsvFeatures(FeatureStore):
    """A TSV file by image id; of COCO's file names that is the number (see ``image_key``).

    Opening scans the file once for where each line begins; workers are handed that index. Of lines with one image the
    last counts, as in VOLTA's converters; ``repeated`` names the images that have several.
    """

    def __init__(
        self, path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
    ) -> None:
        super().__init__(path, feature_size, detections=detections, in_memory=in_memory)
        self.repeated: list[str] = []
        self._file: FileIO | None = None
        self._columns: tuple[str, ...] = ()  # as a header line names them
        self._lines: dict[str, tuple[int, int]] = {}  # image id -> first byte and length of its line
        offset = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    start = len(_BYTE_ORDER_MARK) if number == 1 and line.startswith(_BYTE_ORDER_MARK) else 0
                    if line.strip() and not self._is_header(line[start:], number):
                        self._index_line(line[start:], offset + start, number)
                    offset += len(line)
        except OSError as error:
            raise UserError(f"{self.path}: image features cannot be read ({error.strerror}); check the path") from error

    def _is_header(self, line: bytes, number: int) -> bool:
        """Whether a line names the columns: the first one, or another like it where files were put together."""
        if len(line) > _LONGEST_HEADER:
            return False
        columns = header_of([_plain(cell) for cell in line.decode("latin-1").strip("\r\n").split("\t")])
        if not columns:
            return False
        missing = [name for name in _SIX if name not in columns]
        if missing or (self._lines and columns != self._columns):
            found = f"it lacks {', '.join(missing)}" if missing else "another one than the first line's"
            raise UserError(
                f"{self.path}, line {number}: a header line, {found}; give the file one that fits all lines"
            )
        self._columns = columns
        return True

    def _index_line(self, line: bytes, offset: int, number: int) -> None:
        place = self._columns.index("img_id") if self._columns else 0
        try:
            cell = line[: line.index(b"\t")] if place == 0 else line.split(b"\t", place + 1)[place]
            name = _plain(cell.rstrip(b"\r\n").decode())
        except (ValueError, IndexError):
            raise UserError(
                f"{self.path}, line {number}: expected an image id and a tab; copy or write the file again"
            ) from None
        key = image_key(name)
        if key in self._lines:
            self.repeated.append(key)
        self._lines[key] = offset, len(line)

    def keys(self) -> list[str]:
        """Returns the image ids, in the order of their first lines."""
        return list(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def inspect(self, whole: bool) -> Inspection:
        """Names the images that several lines hold."""
        if not self.repeated:
            return Inspection()
        names = ", ".join(self.repeated[:_EXAMPLES])
        return Inspection(notes=[f"{len(self.repeated)} lines repeat an image ({names}); the last of each counts"])

    def _holds(self, image_id: str) -> bool:
        return image_id in self._lines

    def _read(self, image_id: str) -> Regions:
        offset, length = self._lines[image_id]
        if self._file is None:
            self._file = FileIO(self.path)
        # reads at a given place, so that threads and forked processes can share the descriptor
        cells = os.pread(self._file.fileno(), length, offset).rstrip(b"\r\n").decode("latin-1").split("\t")
        columns = self._columns or COLUMNS.get(len(cells), ())
        if len(cells) != len(columns):
            expected = f"{len(columns)}, as its header line" if columns else f"{', '.join(map(str, COLUMNS))}"
            raise OtherForm(
                f"its line has {len(cells)} columns, expected {expected}; where the line is damaged, write it anew, "
                "else give the file a header line that names its columns"
            )
        record = {name: _plain(cell) for name, cell in zip(columns, cells, strict=True)}
        return decode_record(image_id, record, self.detections, self.feature_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _plain(cell: str) -> str:
    """Returns what a cell holds: Python's str() of bytes puts b'...' around it."""
    quoted = len(cell) > 2 and cell[0] == "b" and cell[1] in "'\"" and cell[-1] == cell[1]
    return cell[2:-1] if quoted else cell


def _fits(candidate: Candidate) -> bool:
    """Whether a file begins as the detector's do: a header line, or an id, the image's sides, base64.

    Raises:
        UserError: VinVL's, which begin with an id, the number of boxes, and base64 or JSON.
    """
    cells = first_cells(candidate.head)
    if header_of(cells):
        return True
    if len(cells) >= 4:
        return all(_SIZE.fullmatch(cell) for cell in cells[1:3])
    named = len(cells) == 2 and cells[1].startswith(('{"', "[{"))
    counted = len(cells) == 3 and cells[1].isdecimal() and re.fullmatch(r"[A-Za-z0-9+/]+=*", cells[2])
    if named or counted:
        raise UserError(
            f"{candidate.data}: VinVL's TSV (id, number of boxes, features that end with the box as shares of the "
            "image), which does not say how large the images are and is not read: write id, image_w, image_h, "
            "num_boxes, boxes in pixels and features as six columns"
        )
    return False


FORMAT = Format(
    "tsv",
    "features of a task (TSV)",
    "TSV file",
    _fits,
    images=TsvFeatures,
    targets=(Target("tsv", write_tsv, tsv_name),),
    suffixes=(".tsv",),
    order=90,
)
