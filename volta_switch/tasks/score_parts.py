"""Finished parts of a score matrix on disk, so that an interrupted evaluation goes on and several processes share one.

| file | content |
|---|---|
| ``identity.json`` | what the scores are of: who finds another identity stays out |
| ``part_<identity>_<number>.npy`` | all captions with the images of one part, (C, n) float32; then its SHA-256 |
| ``.lock`` | empty; shared by the processes that write parts, so that nobody discards what they have |

Every file is written whole or not at all. Processes that share a folder divide the parts among themselves and need not
know of each other. A part's name says of what identity it is, so that no matrix has columns of two models even where a
disk knows no locks.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from torch import Tensor

from volta_switch.checksums import recording
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.retrieval_dataset import RetrievalPool
from volta_switch.errors import UserError
from volta_switch.files import find_object, replacing, write_json
from volta_switch.identities import described
from volta_switch.tasks.score_matrix import PairScorer, Progress, parts_of
from volta_switch.tasks.shares import Share

IDENTITY = "identity.json"
LOCK = ".lock"
_PARTS = "part_*.npy"
_SUM = 32  # bytes of a SHA-256
_UNFINISHED = (f".{_PARTS}.*", f".{IDENTITY}.*")  # what killed processes leave; or what others are writing


class ScoreParts:
    """A folder of parts.

    Args:
        folder: is made by ``open``.
        identity: what decides the scores, JSON's types alone; a nested dictionary is compared field by field.
        captions, images: the matrix's sizes C and N.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], captions: int, images: int):
        self.folder, self.captions, self.images = folder, captions, images
        self.parts = parts_of(images)
        self._identity = json.loads(json.dumps({**identity, "part_images": len(self.parts[0])}))
        self._mark = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()[:12]
        self._lock: TextIO | None = None

    def open(self, restart: bool = False) -> None:
        """Makes the folder, or takes what is there.

        Args:
            restart: discard what is there first.

        Raises:
            UserError: the parts that are there are scores of something else, another process is at work on what should
                be discarded, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / LOCK).open(
                "a+"
            )  # network disks want it readable for the one lock, writable for the other
            if restart:
                if not self._is_alone():
                    raise UserError(
                        f"{self.folder}: --restart would discard scores that another process is writing; wait for it, "
                        "or give another --save_name"
                    )
                self._clear()
            with suppress(OSError):  # a disk without locks
                fcntl.flock(self._lock, fcntl.LOCK_SH)
            found = find_object(self.folder / IDENTITY)
            if found is None:
                self._remove_unknown()
                write_json(self.folder / IDENTITY, self._identity)
                return
        except OSError as error:
            raise UserError(f"{self.folder}: {error.strerror}; give another --output_dir") from None
        different = described(found, self._identity)
        if different:
            raise UserError(
                f"{self.folder}: holds scores of another computation, which differs in {different}; discard them with "
                "--restart, or give another --save_name"
            )

    def fill(self, scorer: PairScorer, share: Share, name: str = "all pairs", shown: bool = True) -> None:
        """Scores the parts of a share that are not there yet; ``name`` and ``shown`` as ``Progress`` takes them.

        Raises:
            UserError: a part cannot be written.
        """
        own = range(share.number, len(self.parts), share.count)
        missing = self.missing(own)
        pairs, left = (self.captions * sum(len(self.parts[number]) for number in some) for some in (own, missing))
        if shown and len(missing) < len(own):
            print(f"{self.folder}: {len(own) - len(missing)} of {len(own)} parts are finished", file=sys.stderr)
        with Progress(pairs, pairs - left, name, shown) as progress:
            for number in missing:
                self._write(number, scorer.part(self.parts[number], progress))

    def missing(self, numbers: Sequence[int] | None = None) -> list[int]:
        """The parts that are not there, or not usable: of some, or of all."""
        numbers = range(len(self.parts)) if numbers is None else numbers
        return [number for number in numbers if self._read(number) is None]

    def matrix(self) -> np.ndarray:
        """All scores, (C, N) float32.

        Raises:
            UserError: a part is not there.
        """
        whole = np.empty((self.captions, self.images), dtype=np.float32)
        for number, images in enumerate(self.parts):
            part = self._read(number)
            if part is None:
                raise UserError(
                    f"{self._path(number)}: missing after all processes have finished; they must share one disk for "
                    "--output_dir, and nothing may discard its files while they run"
                )
            whole[:, images.start : images.stop] = part
        return whole

    def remove(self) -> None:
        """Discards all parts and the folder, unless it holds anything else, or another process still writes there."""
        if self._lock is None or not self._is_alone():
            return
        self._clear()
        (self.folder / LOCK).unlink(missing_ok=True)
        self.close()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def close(self) -> None:
        """Leaves the folder to others; it can be opened again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _is_alone(self) -> bool:
        """Whether no other process has the folder open; takes it for this one alone where that is so."""
        assert self._lock is not None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a disk without locks
            return True
        return True

    def _clear(self) -> None:
        for path in [path for pattern in (_PARTS, *_UNFINISHED, IDENTITY) for path in self.folder.glob(pattern)]:
            path.unlink(missing_ok=True)

    def _remove_unknown(self) -> None:
        """Discards parts of which nothing says what they are; not what another process may be about to finish."""
        there = list(self.folder.glob(_PARTS))
        if there:
            why = f"no readable {IDENTITY} says what they are scores of"
            print(f"{self.folder}: parts are computed again, {len(there)} in all; {why}", file=sys.stderr)
        for path in there:
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"part_{self._mark}_{number:05d}.npy"

    def _write(self, number: int, scores: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, scores, allow_pickle=False)
        whole = content.getvalue()
        try:
            with replacing(self._path(number)) as temporary:
                temporary.write_bytes(whole + hashlib.sha256(whole).digest())
        except OSError as error:
            raise UserError(
                f"{self._path(number)}: {error.strerror}; finished parts are kept, and the same command goes on"
            ) from None

    def _read(self, number: int) -> np.ndarray | None:
        """A part's scores, (C, n) float32; None where it is missing, or unusable, which is said."""
        path, shape = self._path(number), (self.captions, len(self.parts[number]))
        try:
            content = path.read_bytes()
            whole, written = content[:-_SUM], content[-_SUM:]
            if hashlib.sha256(whole).digest() != written:
                raise ValueError("its checksum is not its content's")
            scores = np.load(io.BytesIO(whole), allow_pickle=False)
            if scores.shape != shape or scores.dtype != np.float32:
                raise ValueError(f"{scores.dtype} of shape {list(scores.shape)}, expected float32 of {list(shape)}")
            if not np.isfinite(scores).all():
                raise ValueError("holds numbers that are not finite")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"{path}: no finished part ({reason}); it is computed again", file=sys.stderr)
            return None
        return scores


def write_matrix(path: Path, scores: np.ndarray) -> None:
    """Writes a matrix as .npy, whole or not at all."""
    with recording(path) as temporary, temporary.open("wb") as file:
        np.save(file, scores, allow_pickle=False)


def inputs_identity(pool: RetrievalPool, layout: BatchLayout) -> dict[str, Any]:
    """Checksums of what a model reads of a pool: its captions' tokens and its images' regions.

    Reads every image once, so that one that cannot be used is named before anything is scored.
    """
    captions, images = range(len(pool)), range(len(pool.image_ids))
    regions = (tensor for image in images for tensor in pool.image_inputs([image], layout).values())
    return {
        "captions": {"count": len(captions), "checksum": _checksum(pool.text_inputs(captions, layout).values())},
        "images": {"count": len(images), "checksum": _checksum(regions)},
    }


def _checksum(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
