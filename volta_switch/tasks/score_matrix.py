"""The score of every caption with every image of a split, computed part by part.

Legend: C captions and N images of the split, n images of a part, c captions and i images of a block.

A part is all captions with a few images, a block what the model gets at once. Blocks are near-square, because
`score_pairs` computes what depends on the caption alone once per caption of a block, and what depends on the image
alone once per image; their captions are neighbours in length, so that little or nothing is padded. How the pairs are
cut into parts depends on the split alone, not on the batch size and not on how many processes share the work.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from volta_switch.data.batches.collate import BatchLayout, on_device
from volta_switch.data.batches.retrieval_dataset import RetrievalPool
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.model.pairs import score_pairs

# Square blocks of up to 256 pairs; larger ones are no longer square but save nearly as much. Of
# Flickr30k's 5 million pairs a part is 80,000: what an interruption costs at most.
PART_IMAGES = 16


def parts_of(images: int) -> list[range]:
    """The images of each part."""
    return [range(start, min(start + PART_IMAGES, images)) for start in range(0, images, PART_IMAGES)]


def block_sides(batch_size: int) -> tuple[int, int]:
    """The captions c and the images i of a block: at most ``batch_size`` pairs, near-square, i at most a part's."""
    groups = math.ceil(PART_IMAGES / math.isqrt(batch_size))
    images = math.ceil(PART_IMAGES / groups)
    return batch_size // images, images


class PairScorer:
    """Scores a pool's captions with its images.

    Args:
        model: is put into evaluation mode.
        layout: how the model wants its inputs.
        task: the name of the model's retrieval head; a pre-training model's matching head needs none.
        batch_size: pairs that the model gets at once, at most.
    """

    def __init__(
        self,
        model: BertForVLTasks | BertForVLPreTraining,
        pool: RetrievalPool,
        layout: BatchLayout,
        task: str,
        batch_size: int,
        device: torch.device,
    ):
        self.model, self.pool = model.eval(), pool
        self._layout, self._task, self._device = layout, task, device
        self._order = np.argsort(pool.text_lengths, kind="stable")  # (C,), the shortest caption first
        self._captions, self._images = block_sides(batch_size)
        starts = range(0, len(self._order), self._captions)
        blocks = [self._order[start : start + self._captions].tolist() for start in starts]
        self._texts = [self._on_device(pool.text_inputs(block, layout)) for block in blocks]

    def part(self, images: range, progress: Progress) -> np.ndarray:
        """Scores of all captions with some images, (C, n) float32.

        Raises:
            UserError: a score is no finite number.
        """
        regions = self._on_device(self.pool.image_inputs(images, self._layout))
        scores = torch.empty(len(self._order), len(images), device=self._device)  # (C, n), captions by length
        rows = scores.split(self._captions)
        for text, row in zip(self._texts, rows, strict=True):
            for start in range(0, len(images), self._images):
                some = slice(start, start + self._images)
                block = {name: tensor[some] for name, tensor in regions.items()}
                row[:, some] = score_pairs(self.model, text, block, self._task)
            progress.add(row.numel())
        found = np.empty(scores.shape, dtype=np.float32)
        found[self._order] = scores.cpu().numpy()
        if not np.isfinite(found).all():
            first = self.pool.image_ids[images[int((~np.isfinite(found)).any(0).argmax())]]
            raise UserError(f"image {first!r}: a score is no finite number; are the weights or the features damaged?")
        progress.end_of_part()
        return found

    def whole(self) -> np.ndarray:
        """Scores of all pairs, (C, N) float32, in memory."""
        parts = parts_of(len(self.pool.image_ids))
        with Progress(len(self._order) * len(self.pool.image_ids)) as progress:
            return np.concatenate([self.part(part, progress) for part in parts], axis=1)

    def _on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        if self._device.type == "cuda":  # from page-locked memory it copies while the host goes on
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
        return on_device(inputs, self._device)


class Progress:
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

    def __enter__(self) -> Progress:
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
