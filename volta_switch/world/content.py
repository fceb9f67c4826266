"""The whole content of a world, in memory: scenes of every data set and what is said about them."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from volta_switch.data.regions import Regions
from volta_switch.world.captions import Caption, draw_caption
from volta_switch.world.detector import Detector
from volta_switch.world.phrases import LIKENESS, NEAREST, Phrase, by_attributes, by_relation
from volta_switch.world.questions import Question, QuestionMaker, annotate
from volta_switch.world.scenes import DIRECTIONS, Scene, draw_scenes
from volta_switch.world.spec import MAX_OBJECTS, WorldSpec
from volta_switch.world.statements import Contrast, draw_contrast

# Ids are unique in a world; NLVR2 files name images otherwise (files.image_name).
FIRST_IMAGE = {"concap": 1_000_000, "refer": 200_000, "retrieval": 300_000, "vqa": 400_000, "nlvr2": 500_000}
# Fewest and most objects of a scene: pre-training starts easy, as web images do that show one or two things; the
# referring expressions' number bounds what a guess among the objects is worth (1/n).
OBJECTS = {"concap": (1, 4), "refer": (7, MAX_OBJECTS), "retrieval": (4, 6), "vqa": (2, 4), "nlvr2": (3, 5)}
MENTIONED = {"concap": 2, "retrieval": 3}  # objects that a caption mentions, if there are as many
RETRIEVAL_IMAGES = 100  # at most: of validation and of test
CAPTIONS_PER_IMAGE = 5
TRAIN_ITEMS, EVAL_ITEMS = 6, 4  # expressions, and questions, per image; statements per pair of images
# How often an expression is of each kind; a kind that finds no phrase for its referent gives way to another draw.
EXPRESSION_TRIES = 12
EXPRESSIONS = {"attributes": 25, "direction": 40, "nearest": 5, "likeness": 10, "chain": 70}


@dataclass(frozen=True)
class Captioned:
    """A scene with its captions."""

    scene: Scene
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class Referred:
    """A scene with expressions, each with the object that it denotes."""

    scene: Scene
    expressions: tuple[tuple[int, Phrase], ...]


@dataclass(frozen=True)
class Asked:
    """A scene with questions, the right answer and those of ten annotators."""

    scene: Scene
    questions: tuple[tuple[Question, str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class World:
    """Every data set, by split: "train", "val" and "test" (pre-training has no test split)."""

    spec: WorldSpec
    concap: dict[str, list[Captioned]]
    refer: dict[str, list[Referred]]
    retrieval: dict[str, list[Captioned]]
    vqa: dict[str, list[Asked]]
    nlvr2: dict[str, list[Contrast]]

    def regions(self, dataset: str, split: str) -> Iterator[Regions]:
        """Yield what the detector sees in the scenes of a split, in their order."""
        rng = _generator(self.spec.seed, "regions", dataset, split)
        return Detector(self.spec).detect(rng, self.scenes(dataset, split), scores=dataset == "concap")

    def scenes(self, dataset: str, split: str) -> list[Scene]:
        """Return the scenes of a split in their order; of NLVR2, the four of each contrast one after the other."""
        if dataset == "nlvr2":
            return [scene for contrast in self.nlvr2[split] for scene in contrast.scenes]
        return [entry.scene for entry in getattr(self, dataset)[split]]


def draw_world(spec: WorldSpec) -> World:
    """Draw a world; the same parameters give the same world."""
    concap = {
        split: [Captioned(scene, (draw_caption(rng, scene, MENTIONED["concap"]),)) for scene in scenes]
        for split, scenes, rng in _splits(spec, "concap", {"train": spec.images, "val": spec.eval_images})
    }
    task_images = {"train": spec.images, "val": spec.eval_images, "test": spec.eval_images}
    refer = {
        split: [_refer(rng, scene, TRAIN_ITEMS if split == "train" else EVAL_ITEMS) for scene in scenes]
        for split, scenes, rng in _splits(spec, "refer", task_images)
    }
    vqa = {}
    for split, scenes, rng in _splits(spec, "vqa", task_images):
        maker = QuestionMaker(rng)
        vqa[split] = [_ask(rng, maker, scene, TRAIN_ITEMS if split == "train" else EVAL_ITEMS) for scene in scenes]
    few = min(RETRIEVAL_IMAGES, spec.eval_images)
    retrieval = {
        split: [
            Captioned(scene, tuple(draw_caption(rng, scene, MENTIONED["retrieval"]) for _ in range(CAPTIONS_PER_IMAGE)))
            for scene in scenes
        ]
        for split, scenes, rng in _splits(spec, "retrieval", {"train": spec.images * 5 // 8, "val": few, "test": few})
    }
    nlvr2 = {
        split: [
            draw_contrast(rng, scenes[first : first + 4], TRAIN_ITEMS if split == "train" else EVAL_ITEMS)
            for first in range(0, len(scenes), 4)
        ]
        for split, scenes, rng in _splits(
            spec, "nlvr2", {split: count // 4 * 4 for split, count in task_images.items()}
        )
    }
    return World(spec, concap, refer, retrieval, vqa, nlvr2)


def _splits(spec: WorldSpec, dataset: str, images: dict[str, int]) -> list[tuple[str, list[Scene], random.Random]]:
    """Return, for each split, its name, its scenes and a generator for its texts."""
    drawn = []
    first = FIRST_IMAGE[dataset]
    for split, count in images.items():
        scenes = draw_scenes(
            _generator(spec.seed, "scenes", dataset, split),
            list(range(first, first + count)),
            *OBJECTS[dataset],
        )
        drawn.append((split, scenes, random.Random(f"{spec.seed} texts {dataset} {split}")))
        first += count
    return drawn


def _generator(seed: int, *purpose: str) -> np.random.Generator:
    """Return NumPy's generator for one purpose; purposes do not share random numbers."""
    return np.random.default_rng([seed, *" ".join(purpose).encode()])


def _refer(rng: random.Random, scene: Scene, count: int) -> Referred:
    return Referred(scene, tuple(draw_expression(rng, scene) for _ in range(count)))


def draw_expression(rng: random.Random, scene: Scene) -> tuple[int, Phrase]:
    """Draw an object of the scene, each with the same chance, and a phrase that denotes it alone."""
    target = rng.randrange(len(scene.objects))
    for _ in range(EXPRESSION_TRIES):
        phrase = _expression(rng, scene, target)
        if phrase is not None:
            return target, phrase
    phrase = by_attributes(rng, scene, target)
    assert phrase is not None  # no two objects of a scene are alike
    return target, phrase


def _expression(rng: random.Random, scene: Scene, target: int) -> Phrase | None:
    kind = rng.choices(tuple(EXPRESSIONS), tuple(EXPRESSIONS.values()))[0]
    if kind == "attributes":
        return by_attributes(rng, scene, target)
    if kind == "chain":
        return by_relation(rng, scene, target, DIRECTIONS, hops=2)
    relations = {"direction": DIRECTIONS, "nearest": (NEAREST,), "likeness": LIKENESS}[kind]
    return by_relation(rng, scene, target, relations)


def _ask(rng: random.Random, maker: QuestionMaker, scene: Scene, count: int) -> Asked:
    drawn = [maker.draw(scene) for _ in range(count)]
    return Asked(
        scene,
        tuple((question, reply, tuple(annotate(rng, question.kind, reply))) for question, reply in drawn),
    )
