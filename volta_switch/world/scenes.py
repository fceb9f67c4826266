"""Scenes: objects with four attributes and a place, and the spatial relations between them.

Legend: N scenes, n objects of a scene. Sets of objects are bit masks: bit i stands for object i.
"""

from dataclasses import dataclass

import numpy as np

from volta_switch.world.spec import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    COLOURS,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
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
