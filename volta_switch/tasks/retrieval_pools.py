"""Retrieval in pools: which pairs of a split are scored, and where their scores stand.

Pool k is the images k * N to (k + 1) * N - 1 in the order of the annotations, with all their captions; N is the task's
``pool_images``. A caption is ranked among its own pool's images, an image among its own pool's captions. Only pairs
within a pool are scored: of 1,000 images with five captions each, 500,000 with N = 100, and 5 million without pools.
A split without pools is one pool of all its images.

Scores are a matrix (C, N) of the split's C captions: column j belongs to image j of the caption's own pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from volta_switch.checksums import recording
from volta_switch.errors import UserError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PairBlock:
    """Every one of some captions with every one of some images, by their indices in the split."""

    captions: range
    images: range

    @property
    def shape(self) -> tuple[int, int]:
        """Captions and images."""
        return len(self.captions), len(self.images)

    @property
    def pairs(self) -> int:
        """How many pairs they are."""
        return len(self.captions) * len(self.images)


def pools_of(caption_image: np.ndarray, images: int, pool_images: int | None, source: str) -> list[PairBlock]:
    """Divides a split into pools.

    Args:
        caption_image: (C,) the index of each caption's image, ascending.
        images: of the split.
        pool_images: of a pool; None: one pool.
        source: the file of the captions, for messages.

    Raises:
        UserError: the images do not fill whole pools.
    """
    refuse_uneven(images, pool_images, source)
    size = pool_images or images
    starts = range(0, images + 1, size)
    first = caption_image.searchsorted(starts).tolist()
    return [
        PairBlock(range(first[number], first[number + 1]), range(start, start + size))
        for number, start in enumerate(starts[:-1])
    ]


def refuse_uneven(images: int, pool_images: int | None, source: str) -> None:
    """Raises UserError where a split's images do not fill whole pools."""
    if pool_images is not None and (pool_images < 2 or images % pool_images):
        raise UserError(
            f"{source}: {images} images are no whole number of pools of {pool_images}; give a number of 2 or more that "
            "divides them (pool_images of the task's entry, --pool_images), or none"
        )


def parts_of(pools: Sequence[PairBlock], images: int) -> list[PairBlock]:
    """Cuts pools into all their captions with so many images at once; a pool's last part may have fewer."""
    return [
        PairBlock(pool.captions, pool.images[start : start + images])
        for pool in pools
        for start in range(0, len(pool.images), images)
    ]


def place(matrix: np.ndarray, block: PairBlock, scores: np.ndarray) -> None:
    """Writes a block's scores into the matrix (C, N)."""
    column = block.images.start % matrix.shape[1]
    matrix[block.captions.start : block.captions.stop, column : column + len(block.images)] = scores


def pairs_in(blocks: Sequence[PairBlock]) -> int:
    """Returns the number of pairs of several blocks."""
    return sum(block.pairs for block in blocks)


def write_matrix(path: Path, scores: np.ndarray) -> None:
    """Writes the matrix as .npy, whole or not at all."""
    import numpy as np  # here, not above: a split is checked before NumPy is imported

    with recording(path) as temporary, temporary.open("wb") as file:
        np.save(file, scores, allow_pickle=False)
