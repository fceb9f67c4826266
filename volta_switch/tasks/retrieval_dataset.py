"""Retrieval's samples: captions of Flickr30k or COCO, alternatives that are wrong, and all pairs of a split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from volta_switch.data.batches.collate import BatchLayout, Sample, collate_alternatives, image_inputs, text_inputs
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json_lines
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.image_ids import ImageIndex, examples, id_text, plain_id
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import TaskDataset, id_field, read_entries, text_field
from volta_switch.tasks.retrieval_pools import pools_of

_ATTEMPTS = 8  # draws of a negative caption before one that reads like the true caption is taken after all


@dataclass(frozen=True, eq=False)
class RetrievalAnnotations:
    """The images of a split and their captions.

    Attributes:
        image_ids: keys into the feature file.
        captions: all captions, image by image.
        caption_image: (captions,) int64, the index into ``image_ids`` of each caption's image.
        source: the file.
    """

    image_ids: list[str]
    captions: list[str]
    caption_image: np.ndarray
    source: str


def load_retrieval(path: str | Path, image_id_from: Literal["img_path", "id"] = "img_path") -> RetrievalAnnotations:
    """Reads a split's JSON lines, each with "sentences" and the image's name.

    Args:
        path: the file.
        image_id_from: "img_path" for Flickr30k (the number in the file name), "id" for COCO.

    Raises:
        UserError: a missing file, a line without these fields, an image that stands twice, or an empty file.
    """
    image_ids: list[str] = []
    captions: list[str] = []
    caption_image: list[int] = []
    lines = read_json_lines(path)
    if len(lines) == 1 and isinstance(lines[0], dict) and "images" in lines[0]:
        raise UserError(
            f"{path}: Karpathy's file of all splits; expected a line for each image of one split, with sentences "
            "(texts), id and img_path: take VOLTA's, or write one file for each split so"
        )

    def entry(line: Any, _: int) -> tuple[str, list[str]]:
        return retrieval_entry(line, image_id_from)

    for name, sentences in read_entries(path, lines, entry, f"sentences and {image_id_from}"):
        caption_image += [len(image_ids)] * len(sentences)
        image_ids.append(name)
        captions += sentences
    if not image_ids:
        raise UserError(f"{path}: the split is empty; expected a line of JSON with sentences for each image")
    if len(set(image_ids)) < len(image_ids):
        twice = next(name for index, name in enumerate(image_ids) if name in image_ids[:index])
        raise UserError(f"{path}: image {twice!r} stands on two lines; expected one line for each image")
    return RetrievalAnnotations(image_ids, captions, np.array(caption_image, dtype=np.int64), str(path))


def retrieval_entry(line: Any, image_id_from: Literal["img_path", "id"]) -> tuple[str, list[str]]:
    """Reads an image's id and its captions; raises one of ``dataset.WRONG``."""
    name = id_field(line, "id") if image_id_from == "id" else plain_id(text_field(line, "img_path"))
    sentences = line["sentences"]
    if not (isinstance(sentences, list) and all(isinstance(sentence, str) for sentence in sentences)):
        raise TypeError("sentences is no list of texts")
    if not sentences:
        raise ValueError("no sentence")
    return name, sentences


def write_hard_negatives(path: str | Path, image_ids: Sequence[int], pool: np.ndarray) -> None:
    """Writes VOLTA's ``hard_negative.pkl``.

    Args:
        path: the file.
        image_ids: the images' numbers.
        pool: (images, K) indices into ``image_ids``, K > 1: each image itself, then those that resemble it.

    Raises:
        ValueError: a pool of another form.
    """
    own = np.arange(len(image_ids))
    if pool.ndim != 2 or pool.shape[1] < 2 or not np.array_equal(pool[:, 0], own) or not np.isin(pool, own).all():
        raise ValueError(f"expected {len(own)} rows of indices below {len(own)}, each its own number first")
    content = {"train_hard_pool": pool.astype(np.float64), "train_image_list": [int(name) for name in image_ids]}
    safe_pickle.dump(Path(path), content)


def load_hard_negatives(path: str | Path, annotations: RetrievalAnnotations) -> np.ndarray:
    """Reads the images that resemble each image: (images, K) int64, indices into ``annotations.image_ids``.

    The file's rows follow its own ``train_image_list``. Column 0, the image itself, is left out, and so is any other
    place where a row names its own image (it then names the row's next image).

    Raises:
        UserError: the file does not cover the annotations.
    """
    content = safe_pickle.load(path)
    try:
        pool = np.asarray(content["train_hard_pool"]).astype(np.int64)
        listed = [id_text(name) for name in content["train_image_list"]]
        if pool.ndim != 2 or len(pool) != len(listed) or pool.shape[1] < 2:
            raise ValueError(f"train_hard_pool has shape {pool.shape}, train_image_list {len(listed)} names")
        if pool.min() < 0 or pool.max() >= len(listed):
            raise ValueError("train_hard_pool holds indices beyond train_image_list")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: expected train_hard_pool (images, K) and train_image_list ({type(error).__name__}: {error})"
        ) from error
    known = ImageIndex(listed)
    found = [known.find(name) for name in annotations.image_ids]
    missing = [name for name, names in zip(annotations.image_ids, found, strict=True) if len(names) != 1]
    if missing:
        raise UserError(
            f"{path}: {len(missing)} images of {annotations.source} are not in train_image_list, first {missing[0]!r} "
            f"(it has {examples(listed)}, ...); take both files from one release"
        )
    place = {names[0]: index for index, names in enumerate(found)}
    to_annotations = np.array([place.get(name, -1) for name in listed], dtype=np.int64)
    rows = np.empty(len(place), dtype=np.int64)
    rows[to_annotations[to_annotations >= 0]] = np.flatnonzero(to_annotations >= 0)
    negatives = to_annotations[pool[rows, 1:]]  # (images, K - 1)
    own = np.arange(len(place))[:, None]
    unusable = (negatives == own) | (negatives < 0)
    if unusable.all(axis=1).any():
        image = annotations.image_ids[int(np.flatnonzero(unusable.all(axis=1))[0])]
        raise UserError(f"{path}: image {image!r} has no hard negative among the images of {annotations.source}")
    for row in np.flatnonzero(unusable.any(axis=1)):
        usable = negatives[row][~unusable[row]]
        negatives[row][unusable[row]] = np.resize(usable, int(unusable[row].sum()))
    return negatives


class RetrievalDataset(TaskDataset):
    """A sample is a list of four: the pair, a random caption, a random image, a hard-negative caption.

    Negatives come from all other images of the split (differs from VOLTA, whose counter draws all random captions from
    the first image), and a caption that is word for word the true one is drawn again. A sample depends on (seed, epoch,
    index) alone. Its id is the index of the caption.

    Args:
        hard_negatives: (images, K) int64, the images that resemble each (``load_hard_negatives``); None, as in VOLTA's
            validation: the fourth alternative is another random caption.
        volta_compat: random captions are drawn as in VOLTA.

    Raises:
        UserError: a split of fewer than two images.
    """

    longest_text = 30
    collate = staticmethod(collate_alternatives)

    def __init__(
        self,
        annotations: RetrievalAnnotations,
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        hard_negatives: np.ndarray | None = None,
        volta_compat: bool = False,
        seed: int = 0,
        **sizes: Any,
    ) -> None:
        if len(annotations.image_ids) < 2:
            raise UserError(f"{annotations.source}: one image gives no negatives; give a split of two images or more")
        super().__init__(annotations.captions, store, tokenizer, **sizes)
        self.annotations = annotations
        self._hard_negatives = hard_negatives
        # the captions of image i are those from _first[i] up to _first[i + 1]
        self._first = np.searchsorted(annotations.caption_image, np.arange(len(annotations.image_ids) + 1))
        self._volta_compat = volta_compat
        self._seed = seed
        self._epoch = 0

    def text(self, entry: str) -> str:
        """The caption."""
        return entry

    def set_epoch(self, epoch: int) -> None:
        """Chooses which negatives are drawn."""
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


class RetrievalPairs(TaskDataset):
    """All images and captions of a split, from which evaluation makes its pairs.

    Args:
        pool_images: images of a pool (``retrieval_pools``); None: the split is one pool.

    Attributes:
        image_ids: (images,) keys.
        caption_image: (captions,) int64, the index of each caption's image.
        pools: what is ranked among itself.

    Raises:
        UserError: the images do not fill whole pools.
    """

    longest_text = 30

    def __init__(
        self,
        annotations: RetrievalAnnotations,
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        pool_images: int | None = None,
        **sizes: Any,
    ) -> None:
        self.image_ids = annotations.image_ids
        self.caption_image = annotations.caption_image
        self.pools = pools_of(self.caption_image, len(self.image_ids), pool_images, annotations.source)
        super().__init__(annotations.captions, store, tokenizer, **sizes)

    def text(self, entry: str) -> str:
        """The caption."""
        return entry

    def image_inputs(self, images: Sequence[int], layout: BatchLayout) -> dict[str, Tensor]:
        """Returns image_feat, image_loc and image_attention_mask of some images, by index."""
        return image_inputs([self._images[self.image_ids[image]].inputs for image in images], layout)

    def text_inputs(self, captions: Sequence[int], layout: BatchLayout) -> dict[str, Tensor]:
        """Returns input_ids, token_type_ids and attention_mask of some captions, by index."""
        return text_inputs([self._tokens[caption] for caption in captions], layout)


def inputs_identity(pairs: RetrievalPairs, layout: BatchLayout) -> dict[str, Any]:
    """Returns checksums of what a model reads of a split: its captions' tokens and its images' regions.

    Reads every image once, so that one that cannot be used is named before anything is scored.
    """
    captions, images = range(len(pairs)), range(len(pairs.image_ids))
    regions = (tensor for image in images for tensor in pairs.image_inputs([image], layout).values())
    return {
        "captions": {"count": len(captions), "checksum": _checksum(pairs.text_inputs(captions, layout).values())},
        "images": {"count": len(images), "checksum": _checksum(regions)},
    }


def _checksum(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()[:16]
