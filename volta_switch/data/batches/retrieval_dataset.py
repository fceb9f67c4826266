"""Image-text retrieval: four alternatives in training, all pairs of a split in evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from volta_switch.data.annotations.retrieval import RetrievalAnnotations
from volta_switch.data.batches.collate import BatchLayout, Sample, collate_alternatives, image_inputs, text_inputs
from volta_switch.data.batches.task_dataset import TaskDataset
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import UserError

_ATTEMPTS = 8  # draws of a negative caption before one that reads like the true caption is taken after all


class RetrievalDataset(TaskDataset):
    """A sample is a list of four: the pair, a random caption, a random image, a hard-negative caption.

    hard_negatives: (images, K) int64, the images that resemble each (`load_hard_negatives`); None, as in VOLTA's
    validation: the fourth alternative is another random caption.
    Negatives come from all other images of the split (differs from VOLTA, whose counter draws all random captions from
    the first image), and a caption that is word for word the true one is drawn again; volta_compat: neither. A sample
    depends on (seed, epoch, index) alone. Its id is the index of the caption.
    Raises UserError for a split of fewer than two images.
    """

    collate = staticmethod(collate_alternatives)

    def __init__(
        self,
        annotations: RetrievalAnnotations,
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        hard_negatives: np.ndarray | None = None,
        max_seq_length: int = 30,
        max_regions: int | None = None,
        volta_compat: bool = False,
        seed: int = 0,
    ) -> None:
        if len(annotations.image_ids) < 2:
            raise UserError(f"{annotations.source}: one image gives no negatives; give a split of two images or more")
        super().__init__(annotations.captions, store, tokenizer, num_locs, max_seq_length, max_regions)
        self.annotations = annotations
        self._hard_negatives = hard_negatives
        # the captions of image i are those from _first[i] up to _first[i + 1]
        self._first = np.searchsorted(annotations.caption_image, np.arange(len(annotations.image_ids) + 1))
        self._volta_compat = volta_compat
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose which negatives are drawn."""
        self._epoch = epoch

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task."""
        known = self.annotations
        return [(str(caption), str(known.image_ids[image])) for caption, image in enumerate(known.caption_image)]

    def __getitem__(self, index: int) -> list[Sample]:
        rng = np.random.default_rng([self._seed, self._epoch, index])
        image = int(self.annotations.caption_image[index])
        own = self._inputs(image)
        other = self._inputs(self._other_image(image, rng))
        random_caption = self._other_caption(index, image, rng, hard=False)
        hard_caption = self._other_caption(index, image, rng, hard=True)
        pairs = [(own, index), (own, random_caption), (other, index), (own, hard_caption)]
        return [{"id": str(caption), "input_ids": self._tokens[caption], **inputs} for inputs, caption in pairs]

    def _inputs(self, image: int) -> Mapping[str, np.ndarray]:
        return self._images[self.annotations.image_ids[image]].inputs

    def _other_image(self, image: int, rng: np.random.Generator) -> int:
        drawn = int(rng.integers(len(self.annotations.image_ids) - 1))
        return drawn + (drawn >= image)

    def _other_caption(self, index: int, image: int, rng: np.random.Generator, *, hard: bool) -> int:
        for _ in range(_ATTEMPTS):
            if hard and self._hard_negatives is not None:
                alike = self._hard_negatives[image]  # (K,)
                other = int(alike[rng.integers(len(alike))])
            else:
                other = self._other_image(image, rng)
            caption = int(rng.integers(self._first[other], self._first[other + 1]))
            if self._volta_compat:
                return caption - int(self._first[other])  # VOLTA takes a caption's number in its image for its index
            if not np.array_equal(self._tokens[caption], self._tokens[index]):
                break
        return caption


class RetrievalPool(TaskDataset):
    """All images and captions of a split, from which evaluation makes its pairs.

    image_ids: (images,) keys; caption_image: (captions,) int64, the index of each caption's image.
    """

    def __init__(
        self,
        annotations: RetrievalAnnotations,
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        max_seq_length: int = 30,
        max_regions: int | None = None,
    ) -> None:
        super().__init__(annotations.captions, store, tokenizer, num_locs, max_seq_length, max_regions)
        self.image_ids = annotations.image_ids
        self.caption_image = annotations.caption_image

    def image_inputs(self, images: Sequence[int], layout: BatchLayout) -> dict[str, torch.Tensor]:
        """Return image_feat, image_loc and image_attention_mask of some images, by index."""
        return image_inputs([self._images[self.image_ids[image]].inputs for image in images], layout)

    def text_inputs(self, captions: Sequence[int], layout: BatchLayout) -> dict[str, torch.Tensor]:
        """Return input_ids, token_type_ids and attention_mask of some captions, by index."""
        return text_inputs([self._tokens[caption] for caption in captions], layout)
