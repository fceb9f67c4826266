"""How a compact store writes one image: fixed-size numbers first, then one block for each array, then the texts.

Legend: n regions of one image, F feature width, C object classes, A attribute classes, k scores kept of them.
All numbers are little-endian. The widths stand once in the store's manifest, so that a record holds no names.
"""

from __future__ import annotations

import struct
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from volta_switch.data.regions import Regions, Scores, TopScores

_HEADER = struct.Struct("<5I")  # regions, image width, image height, bytes of the image id, bytes of the caption


@dataclass(frozen=True)
class RecordLayout:
    """The widths of a store's records.

    feature_dtype: "float16" or "float32". feature_size: F. detections: object and attribute labels and confidences
    are there. classes, attributes: C and A; 0 where the scores are not there. top_classes, top_attributes: k of each.
    """

    feature_dtype: str
    feature_size: int
    detections: bool
    classes: int
    top_classes: int
    attributes: int
    top_attributes: int

    @classmethod
    def of(cls, regions: Regions, feature_dtype: str, top_classes: int, top_attributes: int) -> RecordLayout:
        """Return the layout that holds everything that such regions have."""
        classes = 0 if regions.cls_prob is None else regions.cls_prob.shape[1]
        attributes = 0 if regions.attr_scores is None else regions.attr_scores.shape[1]
        return cls(
            feature_dtype,
            regions.features.shape[1],
            regions.objects_id is not None,
            classes,
            min(top_classes, classes),
            attributes,
            min(top_attributes, attributes),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for the manifest."""
        return asdict(self)

    def arrays(self) -> list[tuple[str, str, int]]:
        """Name, type and values per region of each block, in the record's order: the wider types first."""
        wide: list[tuple[str, str, int]] = [("boxes", "<f4", 4)]
        narrow: list[tuple[str, str, int]] = []
        (wide if self.feature_dtype == "float32" else narrow).append(
            ("features", "<f4" if self.feature_dtype == "float32" else "<f2", self.feature_size)
        )
        if self.detections:
            wide += [("objects_conf", "<f4", 1), ("attrs_conf", "<f4", 1)]
            narrow += [("objects_id", "<i2", 1), ("attrs_id", "<i2", 1)]
        for name, kept in (("cls_prob", self.top_classes), ("attr_scores", self.top_attributes)):
            if kept:
                wide.append((f"{name}.rest", "<f4", 1))
                narrow += [(f"{name}.ids", "<i2", kept), (f"{name}.scores", "<f2", kept)]
        return wide + narrow


class RecordCodec:
    """Packs and unpacks the records of one layout."""

    def __init__(self, layout: RecordLayout) -> None:
        self.layout = layout
        blocks = [(name, np.dtype(kind), values) for name, kind, values in layout.arrays()]
        self._blocks = blocks
        self._bytes_per_region = sum(kind.itemsize * values for _, kind, values in blocks)
        self._kinds: dict[int, np.dtype] = {}

    def encode(self, regions: Regions, caption: str = "") -> bytes:
        """Return the record of one image. Raises ValueError for regions that the layout cannot hold."""
        found = RecordLayout.of(regions, self.layout.feature_dtype, self.layout.top_classes, self.layout.top_attributes)
        if found != self.layout:
            raise ValueError(f"{_difference(found, self.layout)}, in the records before it")
        values: dict[str, Any] = dict(regions.arrays())
        for name, kept in (("cls_prob", self.layout.top_classes), ("attr_scores", self.layout.top_attributes)):
            if kept:
                top = top_scores(values[name], kept)
                values |= {f"{name}.ids": top.ids, f"{name}.scores": top.scores, f"{name}.rest": top.rest}
        texts = regions.image_id.encode(), caption.encode()
        header = _HEADER.pack(len(regions), regions.image_w, regions.image_h, *map(len, texts))
        return b"".join([header, *(self._packed(name, kind, values[name]) for name, kind, _ in self._blocks), *texts])

    @staticmethod
    def _packed(name: str, kind: np.dtype, array: np.ndarray) -> bytes:
        packed = array.astype(kind)
        if kind == "<f2" and name == "features" and np.isinf(packed).any():
            raise ValueError(f"a feature is {np.abs(array).max()}, float16 ends at 65504; take --dtype float32")
        if kind.kind == "i" and not np.array_equal(packed, array):
            raise ValueError(f"{name} holds labels beyond 32767")
        return packed.tobytes()

    def decode(self, record: memoryview | bytes) -> tuple[Regions, str]:
        """Return one image and its caption; arrays are views into the record. Raises ValueError for another size."""
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
                top = [arrays.pop(f"{name}.{part}") for part in ("ids", "scores", "rest")]
                arrays[name] = TopScores(*top, width_of)
        return Regions(image_id=image_id, image_w=width, image_h=height, **arrays), caption

    def _kind(self, count: int) -> np.dtype:
        """Return the type of a record's blocks together, for a number of regions; images have few different ones."""
        if count not in self._kinds:
            shapes = [
                (name, kind, (count,) if values == 1 and "." not in name or name.endswith(".rest") else (count, values))
                for name, kind, values in self._blocks
            ]
            self._kinds[count] = np.dtype(shapes)
        return self._kinds[count]


def top_scores(scores: Scores, kept: int) -> TopScores:
    """Keep the highest scores of each region, in falling order, as float16; equal ones in the order of their columns.

    What float16 rounds off goes to the rest, so that a region's scores still sum to what they summed to.
    """
    if isinstance(scores, TopScores):
        if scores.ids.shape[1] != kept:
            raise ValueError(f"{scores.ids.shape[1]} scores of each region are kept, not {kept}")
        return scores
    ids = np.argsort(-scores, axis=1, kind="stable")[:, :kept]
    highest = np.take_along_axis(scores, ids, axis=1).astype(np.float16)
    rest = scores.sum(axis=1, dtype=np.float64) - highest.sum(axis=1, dtype=np.float64)
    return TopScores(ids.astype(np.int16), highest, np.maximum(rest, 0).astype(np.float32), scores.shape[1])


def _difference(found: RecordLayout, wanted: RecordLayout) -> str:
    pairs = zip(asdict(found).items(), asdict(wanted).values(), strict=True)
    return next(f"{name} is {value}, but {other}" for (name, value), other in pairs if value != other)
