"""Scenes: objects with four attributes and a place, and the spatial relations between them.

Legend: N scenes, n objects of a scene. Sets of objects are bit masks: bit i stands for object i.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from volta_switch.data.regions import Regions, pairwise_iou
from volta_switch.world.spec import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    COLOURS,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    WorldSpec,
)

ATTRIBUTES = ("size", "colour", "material", "shape")  # in the order in which English says them
VALUES = (SIZES, COLOURS, MATERIALS, SHAPES)
SIZE, COLOUR, MATERIAL, SHAPE = range(4)

DIRECTIONS = ("left of", "right of", "above", "below")
MARGIN = 0.04  # of the canvas: centres closer than this along an axis are on neither side of one another
SIDES = ((40, 50), (66, 80))  # pixels: the range of a small and of a large object's sides
GAP = 4  # pixels kept free between two objects
PLACES_TRIED = 60
COPIES = 0.6  # share of the objects, from the second on, that are near-copies of an earlier one


@dataclass(frozen=True)
class Scene:
    """One image: its objects, in no particular order.

    Attributes:
        image_id: unique within its data set.
        objects: per object the indices of its size, colour, material and shape.
        boxes: per object x1, y1, x2, y2 in whole pixels; no two boxes overlap.
        having: ``having[attribute][value]`` is the set of objects with that value.
        sure: ``sure[direction][i]`` is the set of objects that clearly stand in that direction of object i.
        possible: the same with the objects added that stand on neither side (nearer than ``MARGIN``).
    """

    image_id: int
    objects: tuple[tuple[int, int, int, int], ...]
    boxes: tuple[tuple[int, int, int, int], ...]
    having: tuple[tuple[int, ...], ...]
    sure: tuple[tuple[int, ...], ...]
    possible: tuple[tuple[int, ...], ...]

    @property
    def everything(self) -> int:
        """The set of all objects."""
        return (1 << len(self.objects)) - 1

    def centre(self, index: int) -> tuple[float, float]:
        """Returns the centre of object ``index`` in pixels."""
        x1, y1, x2, y2 = self.boxes[index]
        return (x1 + x2) / 2, (y1 + y2) / 2


def members(mask: int) -> list[int]:
    """Returns the indices of the objects in a set, ascending."""
    found = []
    while mask:
        lowest = mask & -mask
        found.append(lowest.bit_length() - 1)
        mask ^= lowest
    return found


def draw_scenes(rng: np.random.Generator, image_ids: list[int], fewest: int, most: int) -> list[Scene]:
    """Draws one scene of ``fewest`` to ``most`` objects for each image id."""
    count = len(image_ids)
    numbers = rng.integers(fewest, most + 1, count)
    attributes = _draw_attributes(rng, count)  # (N, MAX_OBJECTS, 4)
    boxes = _draw_boxes(rng, attributes[:, :, SIZE])  # (N, MAX_OBJECTS, 4)
    return [
        scene_of(image_id, attributes[row, :number], boxes[row, :number])
        for row, (image_id, number) in enumerate(zip(image_ids, numbers.tolist(), strict=True))
    ]


def scene_of(image_id: int, attributes: np.ndarray, boxes: np.ndarray) -> Scene:
    """Builds a scene from attribute indices (n, 4) and boxes (n, 4) in pixels."""
    number = len(attributes)
    bits = 1 << np.arange(number)
    having = tuple(
        tuple(int(bits[attributes[:, attribute] == value].sum()) for value in range(len(VALUES[attribute])))
        for attribute in range(4)
    )
    x = (boxes[:, 0] + boxes[:, 2]) / 2
    y = (boxes[:, 1] + boxes[:, 3]) / 2
    x_ahead = (x[None, :] - x[:, None]) / CANVAS_WIDTH  # (i, j): how far j is to the right of i
    y_ahead = (y[None, :] - y[:, None]) / CANVAS_HEIGHT  # (i, j): how far j is below i
    ahead = (-x_ahead, x_ahead, -y_ahead, y_ahead)
    others = ~np.eye(number, dtype=bool)
    sure = tuple(tuple(((step > MARGIN) @ bits).tolist()) for step in ahead)
    possible = tuple(tuple((((step > -MARGIN) & others) @ bits).tolist()) for step in ahead)
    return Scene(
        image_id=image_id,
        objects=tuple(tuple(row) for row in attributes.tolist()),
        boxes=tuple(tuple(row) for row in boxes.tolist()),
        having=having,
        sure=sure,
        possible=possible,
    )


def _draw_attributes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws attribute indices (N, MAX_OBJECTS, 4).

    About half of the objects are near-copies of an earlier one, one or two attributes redrawn: the distractors that
    make a description of an object need more than its colour. No two objects are alike in all four, so that each
    can be described.
    """
    fresh = np.stack([rng.integers(0, len(values), (count, MAX_OBJECTS)) for values in VALUES], axis=-1)
    attributes = fresh.copy()
    rows = np.arange(count)
    for place in range(1, MAX_OBJECTS):
        source = attributes[rows, rng.integers(0, place, count)]  # (N, 4)
        order = rng.random((count, 4)).argsort(axis=1)
        redrawn = order < rng.integers(1, 3, (count, 1))  # one or two of the four
        copied = np.where(redrawn, fresh[:, place], source)
        is_copy = rng.random((count, 1)) < COPIES
        attributes[:, place] = np.where(is_copy, copied, fresh[:, place])
        _make_distinct(rng, attributes, place)
    return attributes


def _make_distinct(rng: np.random.Generator, attributes: np.ndarray, place: int) -> None:
    """Redraws object ``place`` of the scenes (N, MAX_OBJECTS, 4) where it equals an earlier one."""
    while True:
        same: np.ndarray = np.equal(attributes[:, :place], attributes[:, None, place])  # (N, place, 4)
        alike = np.logical_and.reduce(same, axis=2)  # (N, place)
        twins = np.logical_or.reduce(alike, axis=1)  # (N,)
        if not twins.any():
            return
        count = int(twins.sum())
        attributes[twins, place] = np.stack([rng.integers(0, len(values), count) for values in VALUES], axis=-1)


def _draw_boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    """Draws boxes (N, MAX_OBJECTS, 4) that do not overlap for objects of the given sizes (N, MAX_OBJECTS)."""
    boxes = np.zeros((*sizes.shape, 4), dtype=np.int64)
    todo = np.arange(len(sizes))
    while len(todo):
        boxes[todo], placed = _try_boxes(rng, sizes[todo])
        todo = todo[~placed]
    return boxes


def _try_boxes(rng: np.random.Generator, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places objects one after another.

    Returns:
        Boxes (N, MAX_OBJECTS, 4) in pixels, and which scenes found room for all (N,).
    """
    count = len(sizes)
    low, high = np.array(SIDES).T
    sides = rng.integers(low[sizes][..., None], high[sizes][..., None] + 1, (*sizes.shape, 2))  # (N, n, 2): w, h
    room = np.array([CANVAS_WIDTH, CANVAS_HEIGHT]) - sides
    boxes = np.zeros((count, MAX_OBJECTS, 4), dtype=np.int64)
    placed = np.ones(count, dtype=bool)
    rows = np.arange(count)
    for place in range(MAX_OBJECTS):
        corner = (rng.random((count, PLACES_TRIED, 2)) * (room[:, None, place] + 1)).astype(np.int64)
        tried = np.concatenate([corner, corner + sides[:, None, place]], axis=-1)  # (N, tries, 4)
        earlier = boxes[:, None, :place]  # (N, 1, place, 4)
        beside = (tried[:, :, None, :2] >= earlier[..., 2:] + GAP) | (earlier[..., :2] >= tried[:, :, None, 2:] + GAP)
        apart = np.logical_and.reduce(np.logical_or.reduce(beside, axis=3), axis=2)  # (N, tries): along x or along y
        boxes[:, place] = tried[rows, apart.argmax(axis=1)]
        placed &= apart.any(axis=1)
    return boxes, placed


FEATURE_NOISE = 0.35  # standard deviation, where the clean features have 1
LAYER_GAIN = 1.5  # of the random network's weights: its units work where tanh bends
BOX_JITTER = 0.06  # of the side: the most that a detected edge is off
SCENES_AT_ONCE = 128  # bounds the memory at VOLTA's sizes
CLUTTER_KINDS = 8
CLUTTER_IOU = 0.4  # clutter overlaps no object by more
LOGIT_EXACT, LOGIT_HALF, LOGIT_UNUSED = 6.0, 2.0, -5.0


class Detector:
    """The fixed part of a world's vision: attribute embeddings and the random network behind them."""

    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec
        rng = np.random.default_rng([spec.seed, 101])
        width = spec.feature_size
        self.embeddings = [rng.normal(0, 0.5, (len(values), width)) for values in VALUES]  # four of them: variance 1
        self.clutter = rng.normal(0, 1, (CLUTTER_KINDS, width))
        self.layers = [rng.normal(0, LAYER_GAIN / width**0.5, (width, width)) for _ in range(spec.vision_depth)]

    def embed(self, attributes: np.ndarray) -> np.ndarray:
        """Returns the noiseless features (n, F) of objects with attribute indices (n, 4)."""
        return self._through_network(self._sum_of_embeddings(attributes))

    def _sum_of_embeddings(self, attributes: np.ndarray) -> np.ndarray:
        total = np.zeros((len(attributes), self.spec.feature_size))
        for column, table in enumerate(self.embeddings):
            total += table[attributes[:, column]]
        return total

    def _through_network(self, x: np.ndarray) -> np.ndarray:
        for weight in self.layers:
            x = np.tanh(x @ weight)
            x /= np.sqrt((x**2).mean(axis=-1, keepdims=True))
        return x

    def detect(
        self, rng: np.random.Generator, scenes: list[Scene], scores: bool = False, exact: bool = False
    ) -> Iterator[Regions]:
        """Yields the regions of every scene, in random order.

        Args:
            rng: the source of randomness.
            scenes: what is looked at.
            scores: also fill ``cls_prob`` (R, C) and ``attr_scores`` (R, A).
            exact: the annotated boxes of the objects, not detected ones, and no clutter.
        """
        for first in range(0, len(scenes), SCENES_AT_ONCE):
            yield from self._detect(rng, scenes[first : first + SCENES_AT_ONCE], scores, exact)

    def _detect(self, rng: np.random.Generator, scenes: list[Scene], scores: bool, exact: bool) -> Iterator[Regions]:
        parts = [self._regions_of(rng, scene, exact) for scene in scenes]  # objects (R,) and boxes (R, 4) of each scene
        objects = np.concatenate([objects for objects, _ in parts])
        boxes = np.concatenate([boxes for _, boxes in parts])
        attributes = np.concatenate(
            [np.array(scene.objects)[objects] for scene, (objects, _) in zip(scenes, parts, strict=True)]
        )
        is_object = objects >= 0
        features = self._features(rng, attributes, is_object)
        cls_prob = self._class_distribution(rng, attributes, is_object)
        attr_scores = self._attribute_distribution(rng, attributes, is_object)
        end = 0
        for scene, (own, _) in zip(scenes, parts, strict=True):
            start, end = end, end + len(own)
            rows = slice(start, end)
            yield _regions(scene, features[rows], boxes[rows], cls_prob[rows], attr_scores[rows], scores)

    def _regions_of(self, rng: np.random.Generator, scene: Scene, exact: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns the object behind each region (R,) and the boxes (R, 4), in random order."""
        boxes = true = np.array(scene.boxes, dtype=np.float64)
        objects = np.arange(len(true))
        if not exact:
            boxes = true + rng.uniform(-BOX_JITTER, BOX_JITTER, true.shape) * np.tile(true[:, 2:] - true[:, :2], 2)
        if not exact and self.spec.boxes is not None:
            extra = _clutter_boxes(rng, true, self.spec.boxes - len(true))
            boxes = np.concatenate([boxes, extra])
            objects = np.concatenate([objects, np.full(len(extra), -1)])
        boxes = boxes.clip(0, [CANVAS_WIDTH, CANVAS_HEIGHT] * 2).round(2).astype(np.float32)
        order = rng.permutation(len(objects))
        return objects[order], boxes[order]

    def _features(self, rng: np.random.Generator, attributes: np.ndarray, is_object: np.ndarray) -> np.ndarray:
        clean = self._sum_of_embeddings(attributes)
        kinds = rng.integers(0, CLUTTER_KINDS, len(attributes))
        blurred = 0.4 * clean + 0.9 * self.clutter[kinds]  # clutter: a texture and a trace of some object
        clean = self._through_network(np.where(is_object[:, None], clean, blurred))
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        return clean.astype(np.float32) + np.float32(FEATURE_NOISE) * noise

    def _class_distribution(
        self, rng: np.random.Generator, attributes: np.ndarray, is_object: np.ndarray
    ) -> np.ndarray:
        """Returns cls_prob (R, C): shape x colour, with mass on classes that share one of the two."""
        logits = np.full((len(attributes), self.spec.num_classes), LOGIT_UNUSED)
        shape = attributes[:, SHAPE, None] == np.repeat(np.arange(len(SHAPES)), len(COLOURS))
        colour = attributes[:, COLOUR, None] == np.tile(np.arange(len(COLOURS)), len(SHAPES))
        logits[:, 1 : 1 + shape.shape[1]] = _agreement_logits(shape, colour)
        return _noisy_softmax(rng, logits, is_object)

    def _attribute_distribution(
        self, rng: np.random.Generator, attributes: np.ndarray, is_object: np.ndarray
    ) -> np.ndarray:
        """Returns attr_scores (R, A): size x material, with mass on classes that share one of the two."""
        logits = np.full((len(attributes), self.spec.num_attributes), LOGIT_UNUSED)
        size = attributes[:, SIZE, None] == np.repeat(np.arange(len(SIZES)), len(MATERIALS))
        material = attributes[:, MATERIAL, None] == np.tile(np.arange(len(MATERIALS)), len(SIZES))
        logits[:, 1 : 1 + size.shape[1]] = _agreement_logits(size, material)
        return _noisy_softmax(rng, logits, is_object)


def _regions(
    scene: Scene, features: np.ndarray, boxes: np.ndarray, cls_prob: np.ndarray, attr_scores: np.ndarray, scores: bool
) -> Regions:
    return Regions(
        image_id=str(scene.image_id),
        features=features,
        boxes=boxes,
        image_w=CANVAS_WIDTH,
        image_h=CANVAS_HEIGHT,
        objects_id=cls_prob[:, 1:].argmax(axis=1),
        objects_conf=cls_prob[:, 1:].max(axis=1),
        attrs_id=attr_scores[:, 1:].argmax(axis=1),
        attrs_conf=attr_scores[:, 1:].max(axis=1),
        cls_prob=cls_prob if scores else None,
        attr_scores=attr_scores if scores else None,
    )


def _agreement_logits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.where(first & second, LOGIT_EXACT, np.where(first | second, LOGIT_HALF, 0.0))


def _noisy_softmax(rng: np.random.Generator, logits: np.ndarray, is_object: np.ndarray) -> np.ndarray:
    """Returns probabilities, float32; clutter has flattened logits and most of its mass on background."""
    logits = np.where(is_object[:, None], logits, 0.3 * logits - 1.0).astype(np.float32)
    logits[:, 0] = np.where(is_object, 0.5, LOGIT_EXACT)
    logits += rng.standard_normal(logits.shape, dtype=np.float32)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _clutter_boxes(rng: np.random.Generator, true: np.ndarray, wanted: int) -> np.ndarray:
    """Returns ``wanted`` boxes of all sizes whose IoU with every true box (n, 4) is below ``CLUTTER_IOU``."""
    kept = np.zeros((0, 4))
    while len(kept) < wanted:
        sides = rng.uniform(24, 160, (2 * wanted, 2))
        corner = rng.random((2 * wanted, 2)) * (np.array([CANVAS_WIDTH, CANVAS_HEIGHT]) - sides)
        tried = np.concatenate([corner, corner + sides], axis=1)
        kept = np.concatenate([kept, tried[pairwise_iou(tried, true).max(axis=1) < CLUTTER_IOU]])
    return kept[:wanted]
