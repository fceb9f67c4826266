"""What a detector found in pictures, kept by the pictures' SHA-256.

A file's name is the picture's digest and that of what decides the detector's regions: its weights, selection and sizes.
A picture that is renamed is found again, one that is changed is another picture. Files are NumPy's archives, read
without unpickling; one that is damaged is made anew. Nothing is ever removed: the folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.regions import Regions
from volta_switch.files import CannotWrite, replacing, user_cache

KEPT = ("features", "boxes", "objects_id", "objects_conf", "attrs_id", "attrs_conf")  # what models and pages read
# What NumPy and zipfile raise over damaged files; a changed flag makes one "encrypted" (RuntimeError), or of an unknown
# compression (NotImplementedError, which is one).
_DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, MemoryError, AttributeError),
    *(zlib.error, zipfile.BadZipFile),
)
_SIZE = "size"  # width and height of the picture


def default_folder() -> Path:
    """Returns the folder that regions are kept in where no other is named."""
    return user_cache() / "regions"


@dataclass(frozen=True)
class RegionCache:
    """A folder of detected regions.

    Attributes:
        folder: is made when something is kept.
        identity: what decides a detector's regions beside the picture.
    """

    folder: Path
    identity: str

    def find(self, digest: str) -> Regions | None:
        """Returns the regions of the picture with this SHA-256; None where they are not there, or damaged."""
        try:
            with np.load(self._path(digest), allow_pickle=False) as found:
                width, height = found[_SIZE].tolist()
                regions = Regions(
                    "", image_w=width, image_h=height, **{name: found[name] for name in KEPT if name in found}
                )
            regions.check()
        except FileNotFoundError:
            return None
        except _DAMAGED as error:
            print(f"{self._path(digest)}: damaged ({type(error).__name__}); made anew", file=sys.stderr)
            return None
        return regions

    def keep(self, digest: str, regions: Regions) -> None:
        """Writes the regions of a picture; where the disk takes nothing, a remark says so."""
        content = io.BytesIO()
        arrays: dict[str, Any] = {name: value for name, value in regions.arrays().items() if name in KEPT}
        arrays[_SIZE] = np.array([regions.image_w, regions.image_h])
        np.savez(content, **arrays)
        try:
            with replacing(self._path(digest)) as temporary:
                temporary.write_bytes(content.getvalue())
        except CannotWrite as error:
            print(
                f"{self.folder}: regions are not kept ({error.strerror}); they are found anew next time",
                file=sys.stderr,
            )

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}-{hashlib.sha256(self.identity.encode()).hexdigest()[:16]}.npz"


def without_scores(regions: Regions, image: str) -> Regions:
    """Returns regions under an image's name as they come out of the cache: without the scores of all classes."""
    return replace(regions, image_id=image, cls_prob=None, attr_scores=None)
