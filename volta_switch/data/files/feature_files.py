"""Opening a file of region features by what is in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from volta_switch.data.files.compact_store import CompactFeatures, CompactFile, is_compact
from volta_switch.data.files.concap_lmdb import is_concap
from volta_switch.data.files.feature_h5 import H5Features
from volta_switch.data.files.feature_lmdb import LmdbFeatures
from volta_switch.data.files.feature_store import FeatureStore
from volta_switch.data.files.feature_tsv import TsvFeatures, first_cells, header_of
from volta_switch.data.files.pair_files import is_sharded
from volta_switch.errors import UserError
from volta_switch.files import require_file

FeatureFormat = Literal["lmdb", "compact", "h5", "tsv"]
FORMAT_NAMES = {
    "lmdb": "features of a task (LMDB)",
    "concap": "Conceptual Captions (LMDB)",
    "compact": "compact store",
    "shards": "WebDataset shards",
    "h5": "features of a task (H5)",
    "tsv": "features of a task (TSV)",
}
_OPENERS: dict[FeatureFormat, type[FeatureStore]] = {
    "lmdb": LmdbFeatures,
    "compact": CompactFeatures,
    "h5": H5Features,
    "tsv": TsvFeatures,
}
_SIZE = re.compile(r"\d+(\.0*)?", re.ASCII)
_HEAD = 4096  # bytes that tell the formats apart
_H5 = b"\x89HDF\r\n\x1a\n"
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
_EXPECTED = "expected an LMDB, H5 or TSV file of region features, or a compact store"


def feature_format(path: str | Path) -> FeatureFormat:
    """Tell which format a file or directory of region features has, by its content, without reading its records.

    Raises UserError where it is missing, of none of the formats, or the pre-training file.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: image features not found; check the path, or write the file first")
    if is_compact(path):
        return "compact"
    data = path / "data.mdb" if path.is_dir() else path
    if not path.is_dir():
        require_file(path, "file of image features", "check the path")
    if not data.is_file():
        inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:3]) or "nothing"
        raise UserError(f"{path}: a directory without data.mdb (it holds {inside}); {_EXPECTED}")
    try:
        with data.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UserError(f"{data}: cannot be read ({error.strerror}); check its permissions") from error
    if head[16:20] == b"\xde\xc0\xef\xbe":  # LMDB's number on its first page
        if is_concap(path):
            raise UserError(
                f"{path}: Conceptual Captions pairs, the pre-training file (--features_path); "
                "expected the image features of a task"
            )
        return "lmdb"
    if any(head[place:].startswith(_H5) for place in (0, 512, 1024, 2048)):  # a user's block may come first
        return "h5"
    if _is_tsv(head):
        return "tsv"
    if _vinvl(head):
        raise UserError(
            f"{data}: VinVL's TSV (id, number of boxes, features that end with the box as shares of the image), which "
            "does not say how large the images are and is not read: write id, image_w, image_h, num_boxes, boxes in "
            "pixels and features as six columns"
        )
    found = next((name for start, name in _OTHERS if head.startswith(start)), f"bytes {head[:12]!r}...")
    raise UserError(f"{data}: {found if head else 'an empty file'}; {_EXPECTED}")


def holds_pairs(path: str | Path) -> bool:
    """Whether a file or directory holds image-caption pairs: Conceptual Captions, a compact store or shards."""
    path = Path(path)
    if is_sharded(path):
        return True
    return CompactFile(path).kind == "pairs" if is_compact(path) else is_concap(path)


def open_features(
    path: str | Path, feature_size: int | None = None, *, detections: bool = False, in_memory: bool = False
) -> FeatureStore:
    """Open region features in any format that `feature_format` knows; arguments and errors are FeatureStore's."""
    opener = _OPENERS[feature_format(path)]
    return opener(path, feature_size, detections=detections, in_memory=in_memory)


def _is_tsv(head: bytes) -> bool:
    """Whether a file begins as the detector's do: a header line, or an id, the image's sides, base64."""
    cells = first_cells(head)
    if header_of(cells):
        return True
    return len(cells) >= 4 and all(_SIZE.fullmatch(cell) for cell in cells[1:3])


def _vinvl(head: bytes) -> bool:
    """Whether a file begins as VinVL's do: an id, and the number of boxes and base64, or JSON."""
    cells = first_cells(head)
    if len(cells) == 2:
        return cells[1].startswith(('{"', "[{"))
    return len(cells) == 3 and cells[1].isdecimal() and re.fullmatch(r"[A-Za-z0-9+/]+=*", cells[2]) is not None
