"""The score of every caption with every image of its pool, computed part by part; finished parts are kept on disk.

Legend: C captions of the split, N images of a pool (of the split where it is one pool, ``retrieval_pools``); p captions
and n images of a part, c captions and i images of a block.

A part is a pool's captions with a few of its images, a block what the model gets at once. Blocks are near-square, for
``score_pairs`` computes what depends on one caption or one image alone once per block. Their captions are neighbours in
length, so that little is padded. How pairs are cut into parts depends on the split and its pools alone. An interrupted
evaluation goes on from its finished parts, and several processes share one folder:

| file | content |
|---|---|
| ``identity.json`` | what the scores are of: who finds another identity stays out |
| ``part_<identity>_<number>.npy`` | the scores of one part, (p, n) float32; then its SHA-256 |
| ``.lock`` | empty; shared by the processes that write parts, so that nobody discards what they have |

Every file is written whole or not at all. Processes divide the parts among themselves and need not know of each other.
A part's name says of what identity it is, so that no matrix has columns of two models even on a disk without locks.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from volta_switch.data.batches.collate import BatchLayout, on_device
from volta_switch.errors import UserError
from volta_switch.files import find_object, replacing, write_json
from volta_switch.identities import described
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.model.pairs import score_pairs
from volta_switch.tasks.retrieval_dataset import RetrievalPairs
from volta_switch.tasks.retrieval_pools import PairBlock, pairs_in, parts_of, place
from volta_switch.tasks.task import Share

PART_IMAGES = 16  # blocks of up to 256 pairs are square; of Flickr30k's 5 million pairs a part is 80,000
IDENTITY = "identity.json"
LOCK = ".lock"
_PARTS = "part_*.npy"
_SUM = 32  # bytes of a SHA-256
_UNFINISHED = (f".{_PARTS}.*", f".{IDENTITY}.*")  # what killed processes leave; or what others are writing


def block_sides(batch_size: int) -> tuple[int, int]:
    """The captions c and the images i of a block: at most ``batch_size`` pairs, near-square, i at most a part's."""
    groups = math.ceil(PART_IMAGES / math.isqrt(batch_size))
    images = math.ceil(PART_IMAGES / groups)
    return batch_size // images, images


class PairScorer:
    """Scores captions with the images of their pools.

    Args:
        model: is put into evaluation mode.
        layout: how the model wants its inputs.
        task: the name of the model's retrieval head; a pre-training model's matching head needs none.
        batch_size: pairs that the model gets at once, at most.
    """

    def __init__(
        self,
        model: BertForVLTasks | BertForVLPreTraining,
        pairs: RetrievalPairs,
        layout: BatchLayout,
        task: str,
        batch_size: int,
        device: torch.device,
    ):
        self.model, self.pairs = model.eval(), pairs
        self._layout, self._task, self._device = layout, task, device
        self._captions, self._images = block_sides(batch_size)
        self._ordered = [self._by_length(pool.captions) for pool in pairs.pools]

    def _by_length(self, captions: range) -> tuple[np.ndarray, list[dict[str, Tensor]]]:
        """The order of a pool's captions by length, (p,), and the texts of their blocks."""
        order = np.argsort(self.pairs.text_lengths[captions.start : captions.stop], kind="stable")
        starts = range(0, len(order), self._captions)
        blocks = [(captions.start + order[start : start + self._captions]).tolist() for start in starts]
        return order, [self._on_device(self.pairs.text_inputs(block, self._layout)) for block in blocks]

    def part(self, images: range, progress: PairProgress) -> np.ndarray:
        """Scores of all captions of a pool with some of its images, (p, n) float32.

        Raises:
            UserError: a score is no finite number.
        """
        order, texts = self._ordered[images.start // len(self.pairs.pools[0].images)]
        regions = self._on_device(self.pairs.image_inputs(images, self._layout))
        scores = torch.empty(len(order), len(images), device=self._device)  # (p, n), captions by length
        rows = scores.split(self._captions)
        for text, row in zip(texts, rows, strict=True):
            for start in range(0, len(images), self._images):
                some = slice(start, start + self._images)
                block = {name: tensor[some] for name, tensor in regions.items()}
                row[:, some] = score_pairs(self.model, text, block, self._task)
            progress.add(row.numel())
        found = np.empty(scores.shape, dtype=np.float32)
        found[order] = scores.cpu().numpy()
        if not np.isfinite(found).all():
            first = self.pairs.image_ids[images[int((~np.isfinite(found)).any(0).argmax())]]
            raise UserError(f"image {first!r}: a score is no finite number; are the weights or the features damaged?")
        progress.end_of_part()
        return found

    def whole(self) -> np.ndarray:
        """Scores of all pairs, (C, N) float32, in memory."""
        pools = self.pairs.pools
        scores = np.empty((len(self.pairs), len(pools[0].images)), dtype=np.float32)
        with PairProgress(pairs_in(pools)) as progress:
            for part in parts_of(pools, PART_IMAGES):
                place(scores, part, self.part(part.images, progress))
        return scores

    def _on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._device.type == "cuda":  # from page-locked memory it copies while the host goes on
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
        return on_device(inputs, self._device)


class PairProgress:
    """Says how many pairs are scored and how long the others take: a bar on a terminal, a few lines elsewhere.

    Args:
        pairs: of this process.
        stored: how many of them were scored before it started; the estimate leaves them out.
        name: of this process's share of the work.
        shown: False: nothing is said.
    """

    def __init__(self, pairs: int, stored: int = 0, name: str = "all pairs", shown: bool = True):
        self._bar: tqdm[Any] = tqdm(  # disable=None: no bar where there is no terminal; smoothing=0: the mean rate
            total=pairs,
            initial=stored,
            desc=name,
            unit="pair",
            unit_scale=True,
            smoothing=0,
            disable=None if shown else True,
        )
        self._lines = shown and self._bar.disable
        self._pairs, self._stored, self._done, self._name = pairs, stored, stored, name
        self._started = time.monotonic()
        self._next_line = 0.0  # seconds after the start

    def __enter__(self) -> PairProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def add(self, pairs: int) -> None:
        """Counts pairs that were just scored."""
        self._done += pairs
        self._bar.update(pairs)

    def end_of_part(self) -> None:
        """Says where no bar does how far it is: after the first part, then whenever twice the time has passed."""
        taken = time.monotonic() - self._started
        if self._lines and taken >= self._next_line and self._done < self._pairs:
            self._next_line = 2 * taken
            print(self._estimate(taken), file=sys.stderr, flush=True)

    def _estimate(self, taken: float) -> str:
        rate = (self._done - self._stored) / max(taken, 1e-9)
        left = tqdm.format_interval((self._pairs - self._done) / rate)
        return f"{self._name}: {self._done:,} of {self._pairs:,} scored, {rate:,.1f} pairs per second, {left} left"


class ScoreParts:
    """A folder of parts.

    Args:
        folder: is made by ``open``.
        identity: what decides the scores, JSON's types alone; a nested dictionary is compared field by field.
        pools: whose pairs are scored.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], pools: Sequence[PairBlock]):
        self.folder, self.shape = folder, (pools[-1].captions.stop, len(pools[0].images))  # the matrix's (C, N)
        self.parts = parts_of(pools, PART_IMAGES)
        self._identity = json.loads(json.dumps({**identity, "part_images": len(self.parts[0].images)}))
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
            # network disks want it readable for the one lock, writable for the other
            self._lock = (self.folder / LOCK).open("a+")
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
        """Scores the parts of a share that are not there yet; ``name`` and ``shown`` as ``PairProgress`` takes them.

        Raises:
            UserError: a part cannot be written.
        """
        own = range(share.number, len(self.parts), share.count)
        missing = self.missing(own)
        pairs, left = (pairs_in([self.parts[number] for number in some]) for some in (own, missing))
        if shown and len(missing) < len(own):
            print(f"{self.folder}: {len(own) - len(missing)} of {len(own)} parts are finished", file=sys.stderr)
        with PairProgress(pairs, pairs - left, name, shown) as progress:
            for number in missing:
                self._write(number, scorer.part(self.parts[number].images, progress))

    def missing(self, numbers: Sequence[int] | None = None) -> list[int]:
        """The parts that are not there, or not usable: of some, or of all."""
        numbers = range(len(self.parts)) if numbers is None else numbers
        return [number for number in numbers if self._read(number) is None]

    def matrix(self) -> np.ndarray:
        """All scores, (C, N) float32.

        Raises:
            UserError: a part is not there.
        """
        whole = np.empty(self.shape, dtype=np.float32)
        for number, part in enumerate(self.parts):
            scores = self._read(number)
            if scores is None:
                raise UserError(
                    f"{self._path(number)}: missing after all processes have finished; they must share one disk for "
                    "--output_dir, and nothing may discard its files while they run"
                )
            place(whole, part, scores)
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
        """A part's scores, (p, n) float32; None where it is missing, or unusable, which is said."""
        path, shape = self._path(number), self.parts[number].shape
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
