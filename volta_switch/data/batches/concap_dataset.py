"""Pre-training samples of Conceptual Captions: pairs, half of them mismatched, with words and regions masked.

Legend: T text tokens, n regions, F feature width, C object classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from volta_switch.data.batches.pretraining_batch import (
    MaskingConfig,
    PairSample,
    RegionMasking,
    WordMasking,
    collate_pretraining,
)
from volta_switch.data.batches.sampling import MISMATCH, SAMPLE, KeyedRandom, subset
from volta_switch.data.feature_files import open_pairs
from volta_switch.data.files.json_files import read_json
from volta_switch.data.files.pair_files import CAPTIONS, local_folder
from volta_switch.data.files.shard_cache import ShardCache
from volta_switch.data.files.stores import ChosenPairs, Pairs, spread
from volta_switch.data.geometry import LOOKED_AT, refuse_strange_boxes
from volta_switch.data.image_ids import shown
from volta_switch.data.regions import Regions
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import BadRecord, UserError

Masking = Literal["volta", "span"]


@dataclass(frozen=True)
class _Recipe:
    """How one family of models masks words and regions, and among how many random captions it looks for a negative."""

    word_span: bool
    regions: RegionMasking
    candidates: int

    def words(self, tokenizer: Tokenizer) -> WordMasking:
        """How words of the tokenizer's are masked."""
        return WordMasking(tokenizer.mask_id, tokenizer.vocab_size, rate=0.15, span=self.word_span)


_RECIPES: dict[Masking, _Recipe] = {
    "volta": _Recipe(word_span=False, regions=RegionMasking(rate=0.15, unchanged=0.1), candidates=1),
    "span": _Recipe(word_span=True, regions=RegionMasking(rate=0.1, unchanged=0.0, overlap=0.4), candidates=16),
}


class ConcapDataset:
    """Image-caption pairs with VOLTA's three pre-training objectives, or InterBERT's.

    A sample depends on nothing but (seed, epoch, index): not on workers, ranks, batches or what was drawn before.
    Without ``set_epoch``, as in validation, every epoch masks the same.

    Differs from VOLTA: a mismatched caption is never the image's own; the global feature is the mean of the regions
    that nothing is predicted for; objective 1 holds in validation too. The paper of InterBERT does not say how hard
    negatives are found; ours is the caption, of 16 random ones, that shares the largest part of its tokens with the
    true one.

    Args:
        features_path: a folder with VOLTA's training_feat_all.lmdb and validation_feat_all.lmdb, or shards' folder or
            address.
        annotations_path: a folder with VOLTA's caption_train.json and caption_valid.json.
        split: "train" or "valid".
        tokenizer: of the captions.
        num_locs: location values of a box.
        objective: 0 masked prediction and matching; 1 nothing is predicted of mismatched pairs; 2 no mismatched pairs.
        masking: "volta" (words and regions one by one), "span" (InterBERT: a span of words, regions with all that
            overlap them, hard negatives), None (nothing masked, no mismatched pairs).
        max_seq_length: tokens with [CLS] and [SEP].
        max_regions: only the first ones of each image; None: all.
        seed: of all that is random in the samples.
        in_memory: whether to keep decoded pairs (585 kB each at VOLTA's size).
        feature_targets: whether to give image_feat_target, which only the visual targets that regress features (1, 2,
            5) read.
        fraction, fraction_seed: a random share of the pairs, and mismatched captions from that share alone.
        volta_compat: whether the global feature is VOLTA's.
        shard_cache: where shards are kept that have to be fetched; None: ``default_cache_folder``.

    Raises:
        UserError: files are missing or damaged, the split is empty, all captions are alike, or boxes cannot be their
            images'.
    """

    def __init__(
        self,
        features_path: str | Path,
        annotations_path: str | Path,
        split: Literal["train", "valid"],
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        objective: int = 0,
        masking: Masking | None = "volta",
        max_seq_length: int = 38,
        max_regions: int | None = None,
        seed: int = 0,
        in_memory: bool = False,
        feature_targets: bool = True,
        fraction: float = 1.0,
        fraction_seed: int = 0,
        volta_compat: bool = False,
        shard_cache: ShardCache | None = None,
    ) -> None:
        # numbers are checked where a batch is made of them, when they are in the processor's cache
        self.pairs = open_pairs(features_path, split, in_memory=in_memory, check=False, cache=shard_cache)
        if not len(self.pairs):
            raise UserError(f"{self.pairs.path}: the split is empty; write image-caption pairs into it")
        if local_folder(features_path) is not None:  # else shards would be fetched for it
            refuse_strange_boxes(_sample(self.pairs), str(self.pairs.path))
        captions_path = Path(annotations_path) / CAPTIONS[split]
        self._captions = _load_captions(captions_path)
        if fraction < 1:
            self._take_share(fraction, fraction_seed)
        self._tokens = tokenizer.encode_all(self._captions, max_seq_length)
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self._max_regions = max_regions
        self._streams = KeyedRandom(seed, SAMPLE)
        self._mismatch_streams = KeyedRandom(seed, MISMATCH)
        self._recipe = recipe = None if masking is None else _RECIPES[masking]
        config = MaskingConfig(
            words=None if recipe is None else recipe.words(tokenizer),
            regions=None if recipe is None else recipe.regions,
            objective=objective,
            num_locs=num_locs,
            feature_targets=feature_targets,
            volta_compat=volta_compat,
            path=str(self.pairs.path),
        )
        self.collate = partial(collate_pretraining, masking=config)
        self._mismatches = self._recipe is not None and objective != 2
        if self._mismatches:
            self._refuse_one_caption(captions_path)
        self.set_epoch(0)

    def _refuse_one_caption(self, path: Path) -> None:
        """A pair is mismatched by another caption: raises UserError where all of them are alike."""
        if all(_same(self._tokens[0], self._tokens[i]) for i in range(len(self._tokens))):
            raise UserError(
                f"{path}: all captions are alike, so that none can stand for a "
                "mismatch; give different captions, or take objective 2"
            )

    def _take_share(self, fraction: float, seed: int) -> None:
        """Keeps a share of the pairs, and their captions; where these are not as many, as large a share of them."""
        places = subset(len(self.pairs), fraction, seed)
        aligned = len(self._captions) == len(self.pairs)
        own = places if aligned else subset(len(self._captions), fraction, seed)
        self._captions = [self._captions[place] for place in own]
        self.pairs = ChosenPairs(self.pairs, places)

    def __len__(self) -> int:
        return len(self.pairs)

    def stored_regions(self, place: int) -> Regions:
        """Returns a pair's regions, as its file holds them."""
        return self.pairs[place][0].first(self._max_regions)

    def set_epoch(self, epoch: int) -> None:
        """Draws which pairs are mismatched in an epoch, and the first candidate for the caption of each."""
        self._epoch = epoch
        rng = self._mismatch_streams.generator(epoch)
        self._mismatched = (rng.random(len(self)) < 0.5) & self._mismatches
        self._negative = rng.integers(len(self._captions), size=len(self))

    @property
    def text_lengths(self) -> np.ndarray:
        """Tokens of each sample in this epoch: (len,) int64; of the first candidate where a negative is chosen later.

        Captions are taken to stand in the order of the pairs, as far as there are as many of both; where that does not
        hold, batches are grouped less well, and nothing else changes.
        """
        lengths = self._tokens.lengths
        own = lengths if len(lengths) == len(self) else np.full(len(self), int(lengths.mean()))
        return np.where(self._mismatched, lengths[self._negative], own)

    def __getitem__(self, index: int) -> PairSample:
        """Returns one pair with the draws that decide what ``collate`` masks of it."""
        regions, caption = self.pairs[index]
        regions = regions.first(self._max_regions)
        input_ids = self._tokens_of(index, caption)  # (T,)
        if self._recipe is None:
            return PairSample(index, input_ids, mismatched=False, regions=regions)
        rng = self._streams.generator(self._epoch, index)
        mismatched = bool(self._mismatched[index])
        if mismatched:
            input_ids = self._other_caption(index, input_ids, rng)
        words = max(len(input_ids) - 2, 0)
        draws = rng.random(3 * words + 2 + 2 * len(regions))
        return PairSample(
            index,
            input_ids,
            mismatched,
            regions,
            word_draws=draws[: 3 * words].reshape(words, 3),
            span_draws=draws[3 * words : 3 * words + 2][None],
            region_draws=draws[3 * words + 2 :].reshape(len(regions), 2),
        )

    def _tokens_of(self, index: int, caption: str) -> np.ndarray:
        """Looks up the caption's tokens where the caption file has it at the pair's place, else makes them."""
        if index < len(self._captions) and self._captions[index] == caption:
            return self._tokens[index]
        return np.array(self._tokenizer.encode(caption, self._max_seq_length), dtype=np.int64)

    def _other_caption(self, index: int, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Returns the tokens of another caption: the one, of the recipe's candidates, that shares most with ``own``."""
        assert self._recipe is not None
        first = int(self._negative[index])
        more = rng.integers(len(self._captions), size=self._recipe.candidates - 1)
        different = [tokens for c in (first, *more) if not _same(tokens := self._tokens[c], own)]
        if not different:  # only the same text was drawn: walk on from there, another one exists
            while _same(self._tokens[first], own):
                first = (first + 1) % len(self._captions)
            return self._tokens[first]
        return different[0] if len(different) == 1 else max(different, key=lambda tokens: _overlap(tokens, own))


def _sample(pairs: Pairs) -> Iterator[Regions]:
    for place in spread(len(pairs), LOOKED_AT):
        try:
            yield pairs[place][0]
        except BadRecord:  # passed over, or told, where a batch needs it
            continue


def _load_captions(path: Path) -> list[str]:
    captions = read_json(path)
    if not isinstance(captions, dict):
        raise UserError(f"{path}: expected one object of image id and caption; write it as VOLTA does")
    for name in captions:
        if not isinstance(captions[name], str):
            raise UserError(
                f"{path}: the caption of image {name} is {shown(captions[name])}, expected a text; write it, or leave "
                "the image out"
            )
    if not captions:
        raise UserError(f"{path}: there are no captions; write one for each image")
    return list(captions.values())


def _same(tokens: np.ndarray, other: np.ndarray) -> bool:
    return len(tokens) == len(other) and bool((tokens == other).all())


def _overlap(tokens: np.ndarray, other: np.ndarray) -> float:
    """Returns the share of the distinct tokens of both texts that stand in both."""
    left, right = set(tokens.tolist()), set(other.tolist())
    return len(left & right) / len(left | right)
