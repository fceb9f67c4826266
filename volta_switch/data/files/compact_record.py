"""How a compact store writes one image: fixed-size numbers first, then one block for each array, then the texts, and
at the end a CRC-32 of all of it and of the record's place, so that neither a changed record nor another one is read.

Legend: n regions of one image, F feature width, C object classes, A attribute classes, k scores kept of them.
All numbers are little-endian. The widths stand once in the store's manifest, so that a record holds no names.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from volta_switch.data.regions import Regions, Scores, TopScores

_HEADER = struct.Struct("<5I")  # regions, image width, image height, bytes of the image id, bytes of the caption
_CHECKSUM = struct.Struct("<I")
_FLOATS = {"float16": "<f2", "float32": "<f4"}
_DETECTIONS = {"objects_id": "<i2", "objects_conf": "<f4", "attrs_id": "<i2", "attrs_conf": "<f4"}
_WIDEST = 1 << 20
_MOST_CLASSES = 1 << 15  # columns that an int16 can name


@dataclass(frozen=True)
class RecordLayout:
    """The widths of a store's records.

    Attributes:
        feature_dtype: "float16" or "float32", of features and kept scores.
        feature_size: F.
        detections: which of the labels and confidences of objects and attributes are there, by name, with commas
            between.
        classes, attributes: C and A; 0 where the scores are not there.
        top_classes, top_attributes: k of each.
        checksum_seed: what the checksums of this store's records begin with, another number for other sources and
            options; 0: they have none, as before there were.
    """

    feature_dtype: str
    feature_size: int
    detections: str
    classes: int
    top_classes: int
    attributes: int
    top_attributes: int
    checksum_seed: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for what no store has: a manifest may say anything."""
        if self.feature_dtype not in _FLOATS:
            raise ValueError(f"feature_dtype {self.feature_dtype!r:.30}")
        if not isinstance(self.detections, str) or not set(filter(None, self.detections.split(","))) <= {*_DETECTIONS}:
            raise ValueError(f"detections {self.detections!r:.100}")
        for name in ("feature_size", "classes", "top_classes", "attributes", "top_attributes"):
            width = getattr(self, name)
            if type(width) is not int or not 0 <= width <= _WIDEST:
                raise ValueError(f"{name} {width!r:.30}")
        if type(self.checksum_seed) is not int or not 0 <= self.checksum_seed < 2**64:
            raise ValueError(f"checksum_seed {self.checksum_seed!r:.30}")

    @classmethod
    def of(cls, regions: Regions, feature_dtype: str, top_classes: int, top_attributes: int) -> RecordLayout:
        """Returns the layout that holds everything that such regions have, of their scores the highest."""
        there = ",".join(name for name in _DETECTIONS if getattr(regions, name) is not None)
        classes, kept_classes = _widths(regions.cls_prob, top_classes)
        attributes, kept_attributes = _widths(regions.attr_scores, top_attributes)
        width = regions.features.shape[1]
        return cls(feature_dtype, width, there, classes, kept_classes, attributes, kept_attributes)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for the manifest."""
        return asdict(self)

    def arrays(self) -> list[tuple[str, str, int]]:
        """Returns name, type and values per region of each block, in the record's order: the wider types first."""
        kind = _FLOATS[self.feature_dtype]
        blocks = [("boxes", "<f4", 4), ("features", kind, self.feature_size)]
        blocks += [(name, _DETECTIONS[name], 1) for name in self.detections.split(",") if name]
        for name, kept in (("cls_prob", self.top_classes), ("attr_scores", self.top_attributes)):
            if kept:
                blocks += [(f"{name}.rest", "<f4", 1), (f"{name}.ids", "<i2", kept), (f"{name}.scores", kind, kept)]
        return sorted(blocks, key=lambda block: -np.dtype(block[1]).itemsize)


class RecordCodec:
    """Packs and unpacks the records of one layout."""

    def __init__(self, layout: RecordLayout) -> None:
        self.layout = layout
        blocks = [(name, np.dtype(kind), values) for name, kind, values in layout.arrays()]
        self._blocks = blocks
        self._bytes_per_region = sum(kind.itemsize * values for _, kind, values in blocks)
        self._kinds: dict[int, np.dtype] = {}

    def encode(self, regions: Regions, caption: str = "", place: int = 0) -> bytes:
        """Returns the record of one image, which stands at a place of the store.

        Raises:
            ValueError: the layout cannot hold the regions.
        """
        texts = regions.image_id.encode(), caption.encode()
        try:
            header = _HEADER.pack(len(regions), regions.image_w, regions.image_h, *map(len, texts))
        except struct.error:
            raise ValueError(f"the image is {regions.image_w} x {regions.image_h} pixels") from None
        blocks = self._blocks_of(regions) if len(regions) else []  # without regions nothing says how wide they would be
        content = b"".join([header, *blocks, *texts])
        return content + _CHECKSUM.pack(self._checksum(content, place)) if self.layout.checksum_seed else content

    def _checksum(self, content: bytes | memoryview, place: int) -> int:
        return zlib.crc32(content, zlib.crc32(b"%d %d" % (self.layout.checksum_seed, place)))

    def _blocks_of(self, regions: Regions) -> list[bytes]:
        layout = self.layout
        found = RecordLayout.of(regions, layout.feature_dtype, layout.top_classes, layout.top_attributes)
        if replace(found, checksum_seed=layout.checksum_seed) != layout:
            raise ValueError(f"{_difference(found, layout)} in the records before it; a store holds one detector's")
        values: dict[str, Any] = dict(regions.arrays())
        for name, kept in (("cls_prob", layout.top_classes), ("attr_scores", layout.top_attributes)):
            if kept:
                top = top_scores(values[name], kept, layout.feature_dtype)
                values |= {f"{name}.ids": top.ids, f"{name}.scores": top.scores, f"{name}.rest": top.rest}
        return [self._packed(name, kind, values[name]) for name, kind, _ in self._blocks]

    @staticmethod
    def _packed(name: str, kind: np.dtype, array: np.ndarray) -> bytes:
        with np.errstate(over="ignore"):  # told below
            packed = array.astype(kind)
        if kind == "<f2" and np.isinf(packed).any():
            raise ValueError(f"{name} reach {np.abs(array).max():.6g}, float16 ends at 65504; take --dtype float32")
        if kind.kind == "i" and not np.array_equal(packed, array):
            raise ValueError(f"{name} holds labels beyond 32767")
        return packed.tobytes()

    def decode(self, record: memoryview | bytes, place: int = 0) -> tuple[Regions, str]:
        """Returns one image and its caption; arrays are views into the record.

        Raises:
            ValueError: it has another size, or is not the record that was written at the place.
        """
        if self.layout.checksum_seed:
            record, written = memoryview(record)[: -_CHECKSUM.size], record[-_CHECKSUM.size :]
            if written != _CHECKSUM.pack(self._checksum(record, place)):
                raise ValueError("its checksum is not its content's, or it is another record's")
        if len(record) < _HEADER.size:
            raise ValueError(f"{len(record)} bytes, a record begins with {_HEADER.size}")
        count, width, height, id_bytes, caption_bytes = _HEADER.unpack_from(record)
        expected = _HEADER.size + count * self._bytes_per_region + id_bytes + caption_bytes
        if len(record) != expected:
            raise ValueError(f"{len(record)} bytes, its header says {expected}")
        found = np.frombuffer(record, self._kind(count), 1, _HEADER.size)
        arrays: dict[str, Any] = {name: found[name][0] for name, _, _ in self._blocks}
        at = expected - id_bytes - caption_bytes
        image_id = str(record[at : at + id_bytes], "utf-8")
        caption = str(record[at + id_bytes : expected], "utf-8")
        for name, width_of in (("cls_prob", self.layout.classes), ("attr_scores", self.layout.attributes)):
            if f"{name}.ids" in arrays:
                ids, kept, rest = (arrays.pop(f"{name}.{part}") for part in ("ids", "scores", "rest"))
                arrays[name] = TopScores(ids, kept, rest, width_of)
        return Regions(image_id=image_id, image_w=width, image_h=height, **arrays), caption

    def _kind(self, count: int) -> np.dtype:
        """Returns the type of a record's blocks together, for a number of regions; images have few different ones."""
        if count not in self._kinds:
            shapes = [
                (name, kind, (count,) if name in _DETECTIONS or name.endswith(".rest") else (count, values))
                for name, kind, values in self._blocks
            ]
            self._kinds[count] = np.dtype(shapes)
        return self._kinds[count]


def top_scores(scores: Scores, kept: int, dtype: str) -> TopScores:
    """Keeps the highest scores of each region, in falling order; equal ones in the order of their columns.

    What rounding to ``dtype`` takes away goes to the rest, so that a region's scores still sum to what they summed to.
    """
    if isinstance(scores, TopScores):
        ids, everything, left = scores.ids[:, :kept], scores.scores, scores.rest
        highest = everything[:, :kept]
    else:
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
        everything, left = scores, np.zeros(len(scores), dtype=np.float32)
        highest = np.take_along_axis(scores, ids, axis=1)
    with np.errstate(over="ignore"):  # the codec refuses infinite scores
        highest = highest.astype(dtype)
    rest = left + (everything.sum(axis=1, dtype=np.float64) - highest.sum(axis=1, dtype=np.float64))
    return TopScores(ids.astype(np.int16), highest, np.maximum(rest, 0).astype(np.float32), scores.shape[1])


def _widths(scores: Scores | None, top: int) -> tuple[int, int]:
    """Returns how many columns scores have, and how many of them are kept."""
    if scores is None:
        return 0, 0
    width = scores.shape[1]
    if width > _MOST_CLASSES:
        raise ValueError(f"scores have {width} columns, a compact store names {_MOST_CLASSES} at most")
    return width, min(top, scores.ids.shape[1] if isinstance(scores, TopScores) else width)


def _difference(found: RecordLayout, wanted: RecordLayout) -> str:
    pairs = zip(asdict(found).items(), asdict(wanted).values(), strict=True)
    return next(f"{name} is {value!r}, but {other!r}" for (name, value), other in pairs if value != other)
