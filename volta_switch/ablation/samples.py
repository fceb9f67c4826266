"""From phrases of captions to batches of samples: texts of one length, and what their images show of an entity.

Legend: B rows of a batch, T word pieces, n regions of an image, F feature width.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from volta_switch.ablation.masking import Text, Texts, showing, target_region, without_object, without_regions
from volta_switch.ablation.settings import ALL, LANGUAGE, NONE, PART, VISION
from volta_switch.config import Config
from volta_switch.data.batches.collate import BatchLayout, image_inputs, text_inputs
from volta_switch.data.entities import EntityPhrase
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.regions import Regions, as_float32, locations
from volta_switch.errors import UserError

SECONDS = 30  # between two lines of progress


@dataclass(frozen=True, eq=False)
class Sample:
    """A phrase with its image.

    Attributes:
        place: the phrase's, in the split.
        text: its caption.
        regions: of its image.
        shown: (n,) bool, the regions that show its entity.
        target: the one that shows it best; None where none does.
    """

    place: int
    text: Text
    regions: Regions
    shown: np.ndarray
    target: int | None

    def is_measured(self, direction: str) -> bool:
        """Returns whether there is anything to predict: a word that is not cut off, or a region."""
        return bool(self.text.named.any()) if direction == VISION else self.target is not None


class SplitSamples:
    """The phrases of a split, as often as they are asked for.

    Args:
        phrases: of the split.
        store: features of its images, the detector's classes among them where they are to be predicted.
        texts: the captions' word pieces.
        threshold: a region shows an entity if it covers more than this share of one of its boxes.
        max_regions: of an image, the first ones are seen; None: all.
    """

    def __init__(
        self,
        phrases: Sequence[EntityPhrase],
        store: FeatureStore,
        texts: Texts,
        threshold: float,
        max_regions: int | None,
    ) -> None:
        self.phrases, self.store, self.texts = phrases, store, texts
        self.threshold, self.max_regions = threshold, max_regions
        by_image: dict[str, list[int]] = defaultdict(list)
        for place, phrase in enumerate(phrases):
            by_image[phrase.image_id].append(place)
        self._by_image: Mapping[str, list[int]] = by_image

    def mean_feature(self) -> np.ndarray:
        """Returns the mean feature (F,) of the split's images, each counted as often as it has phrases."""
        total = sum(
            len(places) * as_float32(self._regions(image).features).mean(axis=0, dtype=np.float64)
            for image, places in self._by_image.items()
        )
        return np.asarray(total / len(self.phrases), dtype=np.float32)

    def batches(self, size: int) -> Iterator[list[Sample]]:
        """Yields all samples, up to ``size`` at once, in batches of texts of one length and of as many regions.

        A VL-BERT's positions, and the region that it takes for the whole image, depend on what else is in a batch: so
        its losses do not depend on how batches are made. An image is read once; the console is told how far it is.

        Raises:
            UserError: an image has no features, or no regions.
        """
        waiting: dict[tuple[int, int], list[Sample]] = defaultdict(list)  # by word pieces and regions
        started = told = time.monotonic()
        for number, (image, places) in enumerate(self._by_image.items()):
            regions = self._regions(image)
            for sample in (self._sample(place, regions) for place in places):
                sizes = len(sample.text.ids), len(regions)
                waiting[sizes].append(sample)
                if len(waiting[sizes]) == size:
                    yield waiting.pop(sizes)
            if time.monotonic() - told > SECONDS:
                told = time.monotonic()
                left = (told - started) / (number + 1) * (len(self._by_image) - number - 1)
                print(f"{number + 1} of {len(self._by_image)} images, {left / 60:.0f} min left", file=sys.stderr)
        yield from waiting.values()

    def _sample(self, place: int, regions: Regions) -> Sample:
        phrase = self.phrases[place]
        shown = showing(regions, phrase.boxes, self.threshold)
        target = target_region(regions, phrase.boxes, shown) if shown.any() else None
        return Sample(place, self.texts.of(phrase), regions, shown, target)

    def _regions(self, image: str) -> Regions:
        regions = self.store[image].first(self.max_regions)
        if not len(regions):
            raise UserError(f"{self.store.path}: image {image} has no regions; extract its features again")
        return regions


def model_inputs(
    samples: Sequence[Sample], direction: str, masking: str, config: Config, mask_id: int, mean: np.ndarray
) -> dict[str, Tensor]:
    """Returns the inputs of a batch.

    Args:
        samples: with texts of one length, and images of as many regions.
        direction, masking: what is masked beside what is predicted.
        config: the model's.
        mask_id: of [MASK].
        mean: (F,) what a region is given in place of its feature where vision is taken away.
    """
    layout = BatchLayout.of(config)
    of_text = masking if direction == LANGUAGE else PART[LANGUAGE]
    rows = []
    for sample in samples:
        if direction == LANGUAGE:
            features, whole = without_regions(sample.regions, sample.shown)
        else:
            nothing = np.zeros_like(sample.shown)
            masked = {NONE: nothing, PART[VISION]: sample.shown, ALL: ~nothing}[masking]
            features, whole = without_object(sample.regions, masked, mean)
        places = locations(sample.regions, config.num_locs)
        rows.append({"image_feat": features, "image_loc": places, "global_feat": whole})
    ids = [sample.text.masked(of_text, mask_id) for sample in samples]
    return text_inputs(ids, layout) | image_inputs(rows, layout)
