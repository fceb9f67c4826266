"""One text about its images, and the scores of its answers when words or regions are missing, or routes are forced.

Legend: S variants, A answers, n regions of an image, T tokens, R region slots with the global one, B rows of a batch
(one for each text, or one for each of its images), L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.regions import Regions, image_sample
from volta_switch.data.tokenizer import Unread
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.model.predictions import (
    BOXES,
    MATCHING,
    Images,
    Prediction,
    Question,
    checked_pairs,
    model_inputs,
    predict,
)

ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Word:
    """A word as it is written, and the places of its pieces among the tokens."""

    text: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """A region: the number of its image, from 0, and its own within that image."""

    image: int
    number: int


@dataclass(frozen=True)
class Variant:
    """A way to ask: words that are masked (their numbers), and regions that are left out."""

    words: tuple[int, ...] = ()
    regions: tuple[Place, ...] = ()


WHOLE = Variant()


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that is asked one text about one image or a pair.

    Attributes:
        model: in evaluation mode.
        task: its head; "" of a model with one.
        text: the question, expression, caption, statement or hypothesis.
        images: what the detector saw in each image, as the model takes it.
    """

    model: BertForVLTasks | BertForVLPreTraining
    task: str
    text: str
    images: tuple[Regions, ...]

    @classmethod
    def of(cls, model: BertForVLTasks | BertForVLPreTraining, text: str, images: Images, task: str = "") -> Subject:
        """Returns a subject, its images looked at; raises UserError as ``predict`` does."""
        shown = (images,) if isinstance(images, Regions) else tuple(images)
        ((text, shown),) = checked_pairs([(text, shown)], model.config)
        return cls(model, task, text, shown)

    @cached_property
    def question(self) -> Question:
        """What must be known to ask the head."""
        return self.model.question(self.task)

    @cached_property
    def layout(self) -> BatchLayout:
        """How the model's batches are laid out."""
        return BatchLayout.of(self.model.config)

    @cached_property
    def ids(self) -> np.ndarray:
        """(T,) token ids."""
        return np.asarray(self.model.tokenizer.encode(self.text, self.question.longest))

    @cached_property
    def words(self) -> list[Word]:
        """The words of the text, those that were cut off left out."""
        found = self.model.tokenizer.words(self.text, self.question.longest)
        return [Word(text, tuple(places)) for text, places in found]

    @cached_property
    def unread(self) -> Unread:
        """What of the text the model does not read."""
        return self.model.tokenizer.unread(self.text, self.question.longest)

    @cached_property
    def counts(self) -> list[int]:
        """The number of regions of each image that the model sees."""
        return [len(image.first(self.question.most_regions)) for image in self.images]

    @cached_property
    def places(self) -> list[Place]:
        """All regions that the model sees, image by image."""
        return [Place(image, number) for image, count in enumerate(self.counts) for number in range(count)]

    def row_and_slot(self, place: Place) -> tuple[int, int]:
        """Returns in which row of a batch a region stands, and in which slot of it."""
        start = self.layout.boxes_from
        if self.layout.joins_images:
            return 0, start + sum(self.counts[: place.image]) + place.number
        return place.image, start + place.number

    @property
    def rows(self) -> int:
        """Rows of a batch that ask the text once."""
        return 1 if self.layout.joins_images else len(self.images)

    @cached_property
    def prediction(self) -> Prediction:
        """What the model answers."""
        (found,) = predict(self.model, self.model.scorer(self.task), self.question, [self.text], [self.images], 1)
        return found

    @cached_property
    def answer(self) -> int:
        """Which answer is explained: the best label, the best region, or the only score that there is."""
        if self.question.kind == BOXES:
            assert self.prediction.region is not None
            return self.prediction.region
        return int(np.argmax(self.scores([WHOLE])[0]))

    def label(self, answer: int) -> str:
        """Returns an answer in words."""
        if self.question.kind == BOXES:
            return f"region {answer}"
        return self.question.labels[answer] if self.question.labels else ""

    def inputs(self, variants: Sequence[Variant]) -> dict[str, Tensor]:
        """Returns the model's inputs of some variants, ``rows`` rows for each."""
        words, images = [], []
        for variant in variants:
            ids = self.ids.copy()
            for number in variant.words:
                ids[list(self.words[number].places)] = self.model.tokenizer.mask_id
            words.append(ids)
            images.append([self._sample(number, variant) for number in range(len(self.images))])
        return model_inputs(self.model, words, images)

    def scores(self, variants: Sequence[Variant], routes: dict[str, Tensor] | None = None) -> np.ndarray:
        """Returns the scores of all answers, (S, A): log-odds; NaN of a region that is left out.

        Args:
            variants: (S,) what is asked.
            routes: modes (S * rows, L, M) and inputs (S * rows, L, C), forced; by default the model chooses.
        """
        found: dict[int, np.ndarray] = {}
        scorer = self.model.scorer(self.task)
        with torch.inference_mode():
            for numbers in self._batches(variants):
                some = [variants[number] for number in numbers]
                rows = [number * self.rows + row for number in numbers for row in range(self.rows)]
                forced: dict[str, Any] = {name: weights[rows] for name, weights in (routes or {}).items()}
                scores = scorer({**self.inputs(some), **forced}).float().cpu()
                found |= dict(zip(numbers, self._of_answers(scores, some), strict=True))
        return np.stack([found[number] for number in range(len(variants))])

    def _batches(self, variants: Sequence[Variant]) -> Iterator[list[int]]:
        """Yields the numbers of variants that are asked together: those of as many regions, so that none is padded.

        VL-BERT reads an image's last slot also where it is padding, as in VOLTA.
        """
        by_count: dict[tuple[int, ...], list[int]] = {}
        for number, variant in enumerate(variants):
            counts = tuple(sum(place.image == image for place in variant.regions) for image in range(len(self.images)))
            by_count.setdefault(counts, []).append(number)
        for numbers in by_count.values():
            yield from (numbers[start : start + ROWS_AT_ONCE] for start in range(0, len(numbers), ROWS_AT_ONCE))

    def answer_score(self, scores: Tensor) -> Tensor:
        """Returns the score of the explained answer, a scalar, of a head's scores of the whole variant."""
        if self.question.kind == MATCHING:
            return scores[0, 0] - scores[0, 1]
        if self.question.kind == BOXES:
            return scores[0, self.layout.boxes_from + self.answer, 0]
        return scores[0, self.answer]

    def _of_answers(self, scores: Tensor, variants: Sequence[Variant]) -> np.ndarray:
        if self.question.kind == MATCHING:
            return (scores[:, :1] - scores[:, 1:]).numpy()
        if self.question.kind != BOXES:
            return scores.numpy()
        found = np.full((len(variants), self.counts[0]), np.nan, np.float32)
        for row, variant in enumerate(variants):
            kept = self._kept(0, variant)[: self.counts[0]].nonzero()[0]
            start = self.layout.boxes_from
            found[row, kept] = scores[row, start : start + len(kept), 0].numpy()
        return found

    def _kept(self, image: int, variant: Variant) -> np.ndarray:
        """Returns which regions of an image a variant has, (n,) bool, those that the model does not see among them."""
        kept = np.ones(len(self.images[image]), bool)
        kept[[place.number for place in variant.regions if place.image == image]] = False
        return kept

    def _sample(self, image: int, variant: Variant) -> dict[str, np.ndarray]:
        regions, kept = self.images[image], self._kept(image, variant)
        if not kept.all():  # the global region's feature is the mean of those that are left
            regions = replace(regions, **{name: values[kept] for name, values in regions.arrays().items()})
        return image_sample(regions, self.model.config.num_locs, self.counts[image] - int((~kept).sum()))
