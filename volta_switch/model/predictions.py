"""What a model answers to texts about images, with labels and probabilities.

Legend: S texts, A labels, n regions of an image, B rows of a batch, R regions with the global one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.config import Config
from volta_switch.data.batches.collate import BatchLayout, on_device
from volta_switch.data.batches.image_pairs import pair_inputs
from volta_switch.data.geometry import geometry_of
from volta_switch.data.regions import Regions, image_sample
from volta_switch.errors import UserError

if TYPE_CHECKING:
    from volta_switch.model.pretrained import Pretrained

Images = Regions | Sequence[Regions]  # what one text is about: one image, or NLVR2's two
Pair = tuple[str, tuple[Regions, ...]]  # a text and its images
Scorer = Callable[[dict[str, Any]], Tensor]  # from a batch's inputs to the head's scores
MATCHING, PAIRS, BOXES, TWO_IMAGES = "matching", "VL-logit", "V-logit", "VL-binary-classifier"  # kinds of heads


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model answers to one text about one image, or about two.

    Attributes:
        label: the answer; "" where answers are boxes or pairs.
        probability: the answer's, the box's or the pair's; None where a head only compares pairs and was given no
            other pair of this image or this text.
        score: what the head gave for it.
        labels: (A,) all answers.
        probabilities: of each of them, or (n,) of each region that may be answered, or () of a pair. Heads for answers
            and boxes are trained with binary cross-entropy: each probability stands by itself, and they need not add up
            to 1.
        region: of a referring expression the number of the box, from 0; else None.
        box: the box, x1, y1, x2, y2 in pixels.
    """

    label: str
    probability: float | None
    score: float
    labels: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None
    region: int | None = None
    box: tuple[float, float, float, float] | None = None

    def best(self, count: int = 5) -> list[tuple[str, float]]:
        """Returns the most probable answers with their probabilities, the best first."""
        if self.probabilities is None or not self.labels:
            return []
        places = np.argsort(-self.probabilities)[:count].tolist()
        return [(self.labels[place], float(self.probabilities[place])) for place in places]


@dataclass(frozen=True)
class Question:
    """A head and what must be known to ask it.

    Attributes:
        kind: the head's type in VOLTA's words, or "matching" for that of pre-training.
        labels: (A,) what each row of the head stands for; () where it has no labels.
        longest: tokens of a text, [CLS] and [SEP] included; longer ones are cut.
        most_regions: of an image, the others are left out; None: all.
    """

    kind: str
    labels: tuple[str, ...]
    longest: int
    most_regions: int | None = None

    @property
    def images(self) -> int:
        """Images that one text is about."""
        return 2 if self.kind == TWO_IMAGES else 1

    @property
    def compares(self) -> bool:
        """Whether texts of one image, and images of one text, are ranked."""
        return self.kind in (PAIRS, MATCHING)


def predict(
    model: Pretrained,
    scores: Scorer,
    question: Question,
    texts: str | Sequence[str],
    images: Regions | Sequence[Images],
    batch_size: int,
) -> list[Prediction]:
    """Returns the answer to each text about its image.

    Args:
        model: in evaluation mode while this runs.
        scores: a batch's inputs -> the head's scores, as ``BertForVLTasks.forward`` gives them; of matching (B, 2).
        question: the head's.
        texts: (S,), or one that is asked about every image.
        images: (S,) regions, or pairs of them for NLVR2; or one image that every text is about.
        batch_size: texts at a time.

    Raises:
        UserError: there are as many texts as images neither, an image does not fit the model, its boxes cannot be
            pixels, or a score is not finite.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise UserError(f"predict: batch_size {batch_size!r}, expected a whole number from 1 on")
    config, layout = model.config, BatchLayout.of(model.config)
    pairs = checked_pairs(_paired(texts, images, question.images), config)
    was_training = model.training
    model.eval()
    words = [np.asarray(model.tokenizer.encode(text, question.longest)) for text, _ in pairs]
    by_number: dict[int, Prediction] = {}
    try:
        with torch.inference_mode():
            for part in _batches(words, pairs, config, batch_size):
                shown = [pairs[number][1] for number in part]
                rows = [[image_sample(each, config.num_locs, question.most_regions) for each in pair] for pair in shown]
                given = model_inputs(model, [words[number] for number in part], rows)
                by_number |= zip(part, _read(scores(given).float().cpu(), question, shown, layout), strict=True)
    finally:
        model.train(was_training)
    found = [by_number[number] for number in range(len(pairs))]
    _refuse_nonfinite(found)
    one_of_each = isinstance(texts, str) != isinstance(images, Regions)
    return compared(found, question) if one_of_each else found


def _batches(
    words: Sequence[np.ndarray], pairs: Sequence[Pair], config: Config, batch_size: int
) -> Iterator[Sequence[int]]:
    """Yields the numbers of the pairs of each batch, in their order.

    VL-BERT alone reads padding, as in VOLTA: the last slot of an image, and which text of a batch is the shortest. Its
    batches have pairs of one shape, so that an answer depends on no other pair.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, (_, images) in enumerate(pairs):
        shape = (len(words[number]), *map(len, images)) if config.image_embeddings == "vl-bert" else ()
        by_shape.setdefault(shape, []).append(number)
    for numbers in by_shape.values():
        yield from (numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size))


def model_inputs(
    model: Pretrained, words: Sequence[np.ndarray], images: Sequence[Sequence[Mapping[str, Any]]]
) -> dict[str, Tensor]:
    """Returns a batch's inputs on the model's device and in its precision.

    Args:
        model: whose inputs they are.
        words: (B,) token ids (T,) of each text.
        images: (B,) what ``regions.image_sample`` gives of each text's images.
    """
    weight = next(model.parameters())
    given = on_device(pair_inputs(words, images, BatchLayout.of(model.config)), weight.device)
    return {name: one.to(weight.dtype) if one.is_floating_point() else one for name, one in given.items()}


def _paired(texts: str | Sequence[str], images: Regions | Sequence[Images], count: int) -> list[Pair]:
    """Returns each text with its images, where one of both may stand for all."""
    shown: list[Images] = [images] if isinstance(images, Regions) else _listed(images, "images (data.regions.Regions)")
    asked = [texts] if isinstance(texts, str) else _listed(texts, "texts")
    if isinstance(texts, str) and len(shown) > 1:
        asked *= len(shown)
    if isinstance(images, Regions) and len(asked) > 1:
        shown *= len(asked)
    if len(asked) != len(shown):
        raise UserError(f"predict: {len(asked)} texts and {len(shown)} images; expected one image for each text")
    sets = [(each,) if isinstance(each, Regions) else tuple(_listed(each, "images of a text")) for each in shown]
    for number, each in enumerate(sets):
        if len(each) != count or not all(isinstance(image, Regions) for image in each):
            raise UserError(
                f"predict: text {number} is about {len(each)} images, expected {count} (data.regions.Regions)"
            )
    return list(zip(asked, sets, strict=True))


def _listed(values: Any, what: str) -> list[Any]:
    """Returns what a caller gave as a list; UserError where it is something else."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise UserError(f"predict: expected {what}, one or a list, found {values!r:.60}")
    return list(values)


def checked_pairs(pairs: Sequence[Pair], config: Config) -> list[Pair]:
    """Returns texts and images as they are asked, each image looked at once; UserError for what cannot be asked."""
    known: dict[int, Regions] = {}
    for number, (text, images) in enumerate(pairs):
        if not isinstance(text, str) or not _is_unicode(text):
            raise UserError(f"predict: text {number} is {text!r:.60}, expected a text")
        for image in images:
            if id(image) not in known:
                known[id(image)] = _as_arrays(number, image, config)
    if problem := geometry_of(known.values()).problem():  # they would give no error, only other answers
        raise UserError(f"predict: {problem}")
    return [(text, tuple(known[id(image)] for image in images)) for text, images in pairs]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _as_arrays(number: int, regions: Regions, config: Config) -> Regions:
    """Returns an image that fits the model, with features and boxes as arrays, whatever they were given as."""
    try:
        features, boxes = _floats(regions.features, "features"), _floats(regions.boxes, "boxes")
        regions = replace(regions, features=features, boxes=boxes)
        regions.check()
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"predict: the image of text {number}: {error}") from None
    if len(regions) == 0:
        raise UserError(f"predict: the image of text {number} has no regions; expected one or more")
    if regions.features.shape[1] != config.v_feature_size:
        raise UserError(
            f"predict: the image of text {number} has features {regions.features.shape[1]} wide, the model was "
            f"made for {config.v_feature_size}; take the detector that its preprocessor.json names"
        )
    return regions


def _floats(values: Any, name: str) -> np.ndarray:
    """Returns numbers as float32, or float16 where they were; an array of whole numbers would cut off their mean."""
    array = values.detach().cpu().float().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} are {array.dtype}, expected numbers")
    if array.dtype == np.float16:
        return array.astype(np.float16, copy=False)
    with np.errstate(over="ignore"):  # infinities are refused
        return array.astype(np.float32, copy=False)


def _refuse_nonfinite(found: Sequence[Prediction]) -> None:
    """Raises UserError where a score is not finite, which the numbers given were."""
    number = next((number for number, each in enumerate(found) if not math.isfinite(each.score)), None)
    if number is not None:
        raise UserError(
            f"predict: the score of text {number} is not finite; give features like those that the model was trained "
            "with, and weights of 32 bits"
        )


def _read(
    scores: Tensor, question: Question, images: Sequence[tuple[Regions, ...]], layout: BatchLayout
) -> Iterator[Prediction]:
    """Yields what a batch's scores say."""
    if question.kind == MATCHING:  # (B, 2), 0 aligned
        for score, probability in zip(scores, scores.softmax(1)[:, 0].tolist(), strict=True):
            yield Prediction("", probability, float(score[0] - score[1]))
    elif question.kind == PAIRS:  # (B, 1)
        yield from (Prediction("", None, score) for score in scores[:, 0].tolist())
    elif question.kind == BOXES:  # (B, R, 1)
        for row, (regions,) in zip(scores[..., 0], images, strict=True):
            shown = regions.first(question.most_regions)
            of_boxes = row[layout.boxes_from : layout.boxes_from + len(shown)]
            best, chances = int(of_boxes.argmax()), of_boxes.sigmoid().numpy()
            box = tuple(shown.boxes[best].tolist())
            yield Prediction("", float(chances[best]), float(of_boxes[best]), (), chances, best, box)
    else:  # (B, A)
        if question.labels and len(question.labels) != scores.shape[1]:
            raise UserError(
                f"predict: the head has {scores.shape[1]} rows, labels.json names {len(question.labels)} answers; take "
                "the file that the model was saved with"
            )
        for row in scores:
            best, chances = int(row.argmax()), row.sigmoid().numpy()
            labels = question.labels or tuple(map(str, range(len(row))))
            yield Prediction(labels[best], float(chances[best]), float(row[best]), labels, chances)


def compared(found: Sequence[Prediction], question: Question) -> list[Prediction]:
    """Returns pairs of one text or of one image with their probabilities among each other, as in training.

    A pair alone, and predictions of heads that tell probabilities themselves, are returned as they are.
    """
    if question.kind != PAIRS or len(found) < 2:
        return list(found)
    chances = torch.tensor([each.score for each in found]).softmax(0).tolist()
    return [Prediction("", chance, each.score) for chance, each in zip(chances, found, strict=True)]
