"""Captions: a few existential clauses about a scene, and whether a caption is true of a scene."""

import random
from dataclasses import dataclass

from volta_switch.world.phrases import Phrase, Values, denote
from volta_switch.world.scenes import DIRECTIONS, Scene

# How often a caption says the size, colour, material and shape of an object that it mentions.
SAID = (0.7, 0.95, 0.7, 0.95)
RELATED = 0.6  # the share of captions whose first two objects are put in relation; else objects are listed


@dataclass(frozen=True)
class Caption:
    """Clauses joined by "and"; each says that some object stands in some relation to another."""

    clauses: tuple[Phrase, ...]

    def words(self) -> str:
        """Return the caption in English."""
        return " and ".join(clause.words() for clause in self.clauses)

    def is_true(self, scene: Scene) -> bool:
        """Return whether every clause is surely true of the scene."""
        return all(denote(scene, clause)[0] for clause in self.clauses)

    def may_be_true(self, scene: Scene) -> bool:
        """Return whether the caption is true of the scene when no object's place is held against it."""
        return all(denote(scene, clause)[1] for clause in self.clauses)


def draw_caption(rng: random.Random, scene: Scene, most: int) -> Caption:
    """Describe at most ``most`` objects of the scene: two of them in relation, or all listed side by side."""
    mentioned = rng.sample(range(len(scene.objects)), min(most, len(scene.objects)))
    groups = [[target] for target in mentioned]
    if len(mentioned) > 1 and rng.random() < RELATED:
        groups[:2] = [mentioned[:2]]
        rng.shuffle(groups)
    return Caption(tuple(_clause(rng, scene, group) for group in groups))


def _clause(rng: random.Random, scene: Scene, group: list[int]) -> Phrase:
    """Return a true clause about objects standing in relation one to the next."""
    first, *rest = group
    values = _said(rng, scene, first)
    if not rest:
        return Phrase(values)
    true = [direction for row, direction in enumerate(DIRECTIONS) if scene.sure[row][rest[0]] >> first & 1]
    if not true:  # cannot be: objects do not overlap
        return Phrase(values)
    return Phrase(values, rng.choice(true), _clause(rng, scene, rest))


def _said(rng: random.Random, scene: Scene, target: int) -> Values:
    """Return two or more attributes of the object."""
    while True:
        said = [rng.random() < chance for chance in SAID]
        if sum(said) >= 2:
            size, colour, material, shape = (
                value if kept else None for kept, value in zip(said, scene.objects[target], strict=True)
            )
            return size, colour, material, shape
