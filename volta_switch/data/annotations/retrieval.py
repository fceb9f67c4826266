"""Captions of Flickr30k or COCO for retrieval, and the pool of images whose captions make hard negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from volta_switch.data.annotations.fields import id_field, read_entries, text_field
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json_lines
from volta_switch.data.image_ids import ImageIndex, examples, id_text, plain_id
from volta_switch.errors import UserError


@dataclass(frozen=True, eq=False)
class RetrievalAnnotations:
    """The images of a split and their captions.

    image_ids: keys into the feature file; captions: all captions, image by image;
    caption_image: (captions,) int64, the index into image_ids of each caption's image.
    """

    image_ids: list[str]
    captions: list[str]
    caption_image: np.ndarray
    source: str


def load_retrieval(path: str | Path, image_id_from: Literal["img_path", "id"] = "img_path") -> RetrievalAnnotations:
    """Read a split's JSON lines, each with "sentences" and the image's name.

    image_id_from: "img_path" for Flickr30k (the number in the file name), "id" for COCO.
    Raises UserError for a missing file, a line without these fields, an image that stands twice, or an empty file.
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
    """Read an image's id and its captions. Raises one of `fields.WRONG`."""
    name = id_field(line, "id") if image_id_from == "id" else plain_id(text_field(line, "img_path"))
    sentences = line["sentences"]
    if not (isinstance(sentences, list) and all(isinstance(sentence, str) for sentence in sentences)):
        raise TypeError("sentences is no list of texts")
    if not sentences:
        raise ValueError("no sentence")
    return name, sentences


def write_hard_negatives(path: str | Path, image_ids: Sequence[int], pool: np.ndarray) -> None:
    """Write VOLTA's `hard_negative.pkl`.

    pool: (images, K) indices into image_ids, K > 1: each image itself, then those that resemble it. Raises ValueError
    for a pool of another form.
    """
    own = np.arange(len(image_ids))
    if pool.ndim != 2 or pool.shape[1] < 2 or not np.array_equal(pool[:, 0], own) or not np.isin(pool, own).all():
        raise ValueError(f"expected {len(own)} rows of indices below {len(own)}, each its own number first")
    content = {"train_hard_pool": pool.astype(np.float64), "train_image_list": [int(name) for name in image_ids]}
    safe_pickle.dump(Path(path), content)


def load_hard_negatives(path: str | Path, annotations: RetrievalAnnotations) -> np.ndarray:
    """Read the images that resemble each image: (images, K) int64, indices into annotations.image_ids.

    The file's rows follow its own `train_image_list`; column 0, the image itself, is left out, and so is any other
    place where a row names its own image (it then names the row's next image). Raises UserError where the file does
    not cover the annotations.
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
