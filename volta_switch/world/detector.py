"""A stand-in for the object detector: region features, boxes, class and attribute distributions of a scene.

Legend: R regions of an image, F feature width, C object classes, A attribute classes, n objects of a scene.
"""

from collections.abc import Iterator

import numpy as np

from volta_switch.data.regions import Regions, pairwise_iou
from volta_switch.world.scenes import COLOUR, MATERIAL, SHAPE, SIZE, VALUES, Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, COLOURS, MATERIALS, SHAPES, SIZES, WorldSpec

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
