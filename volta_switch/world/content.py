"""The whole content of a world, in memory: scenes of every data set and what is said about them."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from volta_switch.data.regions import Regions
from volta_switch.world.phrases import LIKENESS, NEAREST, Caption, Phrase, by_attributes, by_relation, draw_caption
from volta_switch.world.questions import Question, QuestionMaker, annotate
from volta_switch.world.scenes import DIRECTIONS, Detector, Scene, draw_scenes
from volta_switch.world.spec import DATA_SETS, IMAGES_OF, MAX_OBJECTS, WorldSpec
from volta_switch.world.statements import UNDECIDED, Contrast, Hypothesis, draw_contrast, draw_hypotheses

# Ids are unique in a world; NLVR2's and GQA's files name images otherwise (files.image_name, files.gqa_name).
FIRST_IMAGE = {
    "concap": 1_000_000, "refer": 200_000, "retrieval": 300_000, "vqa": 400_000, "nlvr2": 500_000, "gqa": 2_300_000,
}  # fmt: skip
# Fewest and most objects of a scene: pre-training starts easy, as web images do that show one or two things; the
# referring expressions' number bounds what a guess among the objects is worth (1/n).
OBJECTS = {
    "concap": (1, 4), "refer": (7, MAX_OBJECTS), "retrieval": (4, 6), "vqa": (2, 4), "nlvr2": (3, 5), "gqa": (2, 4),
}  # fmt: skip
SAME_AS = {"entities": "retrieval"}  # whose images and captions are both another data set's
MENTIONED = {"concap": 2, "retrieval": 3, "coco": 3}  # objects that a caption mentions, if there are as many
WITH_SCORES = ("concap", "entities")  # data sets whose regions have the detector's distributions, to be predicted
RETRIEVAL_IMAGES = 100  # at most: of validation, and of test where the spec does not say how many
CAPTIONS_PER_IMAGE = {"concap": 1, "retrieval": 5, "coco": 5}
TRAIN_ITEMS, EVAL_ITEMS = 6, 4  # expressions, and questions, per image; statements per pair of images
TRAIN_SETS, EVAL_SETS = 2, 1  # of each verdict per image
UNDECIDED_EVERY = 20  # images; each such one has one more hypothesis, without a verdict
# How often an expression is of each kind; a kind that finds no phrase for its referent gives way to another draw.
EXPRESSION_TRIES = 12
# RefCOCO's are short and say where things are; RefCOCOg's are long.
EXPRESSIONS = {
    "refer": {"attributes": 25, "direction": 40, "nearest": 5, "likeness": 10, "chain": 70},
    "refcoco": {"attributes": 30, "direction": 60, "nearest": 10},
    "refcocog": {"direction": 20, "likeness": 10, "chain": 70},
}


@dataclass(frozen=True)
class SceneCaptions:
    """A scene with its captions."""

    scene: Scene
    captions: tuple[Caption, ...]


@dataclass(frozen=True)
class SceneExpressions:
    """A scene with expressions, each with the object that it denotes."""

    scene: Scene
    expressions: tuple[tuple[int, Phrase], ...]


@dataclass(frozen=True)
class SceneQuestions:
    """A scene with questions, the right answer and those of ten annotators, who for GQA all agree."""

    scene: Scene
    questions: tuple[tuple[Question, str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class SceneHypotheses:
    """A scene with hypotheses and the verdict on each, which may be ``UNDECIDED``; some scenes have none."""

    scene: Scene
    hypotheses: tuple[tuple[Hypothesis, str], ...]


@dataclass(frozen=True)
class World:
    """Every data set, by split: "train", "val" and "test" (pre-training has no test split); empty if not wanted."""

    spec: WorldSpec
    concap: dict[str, list[SceneCaptions]]
    refer: dict[str, list[SceneExpressions]]
    retrieval: dict[str, list[SceneCaptions]]
    vqa: dict[str, list[SceneQuestions]]
    nlvr2: dict[str, list[Contrast]]
    refcoco: dict[str, list[SceneExpressions]]
    refcocog: dict[str, list[SceneExpressions]]
    coco: dict[str, list[SceneCaptions]]
    gqa: dict[str, list[SceneQuestions]]
    snli_ve: dict[str, list[SceneHypotheses]]
    entities: dict[str, list[SceneCaptions]]

    def regions(self, dataset: str, split: str, exact: bool = False) -> Iterator[Regions]:
        """Yields what the detector sees in the scenes of a split, in their order.

        Args:
            dataset: a name of ``DATA_SETS``.
            split: "train", "val" or "test".
            exact: the regions of the annotated boxes, not of detected ones.
        """
        seen = SAME_AS.get(dataset, dataset)
        rng = _generator(self.spec.seed, "regions", seen, split, *(["exact"] if exact else []))
        scores = dataset in WITH_SCORES
        return Detector(self.spec).detect(rng, self.scenes(dataset, split), scores=scores, exact=exact)

    def scenes(self, dataset: str, split: str) -> list[Scene]:
        """Returns the scenes of a split in their order; of NLVR2, the four of each contrast one after the other."""
        return scenes_of(getattr(self, dataset)[split])


def draw_world(spec: WorldSpec) -> World:
    """Draws a world: the same parameters give the same world."""
    drawn: dict[str, dict[str, list[Any]]] = {name: {} for name in DATA_SETS}
    for name in spec.data_sets:  # in an order in which images come before what else is said about them
        if name in IMAGES_OF:
            said = drawn[IMAGES_OF[name]].items()
            images = _described_images(name, {split: scenes_of(entries) for split, entries in said})
        else:
            images = _own_images(spec, name)
        drawn[name] = {split: _draw_texts(spec, name, split, scenes) for split, scenes in images.items()}
    return World(spec, **drawn)


def draw_split(spec: WorldSpec, name: str, split: str) -> list[Any]:
    """Draws one split of one data set, the same as ``draw_world`` does, in a fraction of the time."""
    images = _own_images(spec, IMAGES_OF.get(name, name))
    if name in IMAGES_OF:
        images = _described_images(name, images)
    return _draw_texts(spec, name, split, images[split])


def _draw_texts(spec: WorldSpec, name: str, split: str, scenes: list[Scene]) -> list[Any]:
    name = SAME_AS.get(name, name)
    return _DRAW[name](random.Random(f"{spec.seed} texts {name} {split}"), name, split, scenes)


def scenes_of(entries: list[Any]) -> list[Scene]:
    """Returns the scenes of a split's entries in their order; of a contrast all four."""
    return [scene for entry in entries for scene in (entry.scenes if isinstance(entry, Contrast) else [entry.scene])]


def _own_images(spec: WorldSpec, name: str) -> dict[str, list[Scene]]:
    """Draws the scenes of a data set that has images of its own, by split."""
    counts = {"train": spec.images, "val": spec.eval_images, "test": spec.test_images or spec.eval_images}
    if name == "concap":
        del counts["test"]
    elif name == "retrieval":
        few = min(RETRIEVAL_IMAGES, spec.eval_images)
        counts = {"train": spec.images * 5 // 8, "val": few, "test": spec.test_images or few}
    elif name == "nlvr2":
        counts = {split: count // 4 * 4 for split, count in counts.items()}
    drawn = {}
    first = FIRST_IMAGE[name]
    for split, count in counts.items():
        image_ids = list(range(first, first + count))
        drawn[split] = draw_scenes(_generator(spec.seed, "scenes", name, split), image_ids, *OBJECTS[name])
        first += count
    return drawn


def _described_images(name: str, images: dict[str, list[Scene]]) -> dict[str, list[Scene]]:
    """Returns the scenes of another data set, by split.

    VQA's test images belong to no other data set, so COCO shares its validation images.
    """
    images = dict(images)
    if name == "coco":
        half = len(images["val"]) // 2
        images["val"], images["test"] = images["val"][:half], images["val"][half:]
    return images


def _generator(seed: int, *purpose: str) -> np.random.Generator:
    """Returns NumPy's generator for one purpose; purposes do not share random numbers."""
    return np.random.default_rng([seed, *" ".join(purpose).encode()])


def _texts_per_image(split: str) -> int:
    return TRAIN_ITEMS if split == "train" else EVAL_ITEMS


def _draw_captions(rng: random.Random, name: str, split: str, scenes: list[Scene]) -> list[SceneCaptions]:
    return [
        SceneCaptions(scene, tuple(draw_caption(rng, scene, MENTIONED[name]) for _ in range(CAPTIONS_PER_IMAGE[name])))
        for scene in scenes
    ]


def _draw_expressions(rng: random.Random, name: str, split: str, scenes: list[Scene]) -> list[SceneExpressions]:
    kinds = EXPRESSIONS[name]
    return [
        SceneExpressions(scene, tuple(draw_expression(rng, scene, kinds) for _ in range(_texts_per_image(split))))
        for scene in scenes
    ]


def draw_expression(rng: random.Random, scene: Scene, kinds: Mapping[str, int]) -> tuple[int, Phrase]:
    """Draws an object of the scene, each with the same chance, and a phrase that denotes it alone.

    Args:
        rng: the source of randomness.
        scene: what is described.
        kinds: how often the phrase is of each kind, where the scene allows it.

    Returns:
        The object's index, and the phrase.
    """
    target = rng.randrange(len(scene.objects))
    for _ in range(EXPRESSION_TRIES):
        phrase = _draw_expression(rng, scene, target, kinds)
        if phrase is not None:
            return target, phrase
    phrase = by_attributes(rng, scene, target)
    assert phrase is not None  # no two objects of a scene are alike
    return target, phrase


def _draw_expression(rng: random.Random, scene: Scene, target: int, kinds: Mapping[str, int]) -> Phrase | None:
    kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
    if kind == "attributes":
        return by_attributes(rng, scene, target)
    if kind == "chain":
        return by_relation(rng, scene, target, DIRECTIONS, hops=2)
    relations = {"direction": DIRECTIONS, "nearest": (NEAREST,), "likeness": LIKENESS}[kind]
    return by_relation(rng, scene, target, relations)


def _draw_questions(rng: random.Random, name: str, split: str, scenes: list[Scene]) -> list[SceneQuestions]:
    maker = QuestionMaker(rng)
    entries = []
    for scene in scenes:
        drawn = [maker.draw(scene) for _ in range(_texts_per_image(split))]
        given = [annotate(rng, question.kind, reply) if name == "vqa" else [reply] * 10 for question, reply in drawn]
        asked = ((question, reply, tuple(people)) for (question, reply), people in zip(drawn, given, strict=True))
        entries.append(SceneQuestions(scene, tuple(asked)))
    return entries


def _draw_contrasts(rng: random.Random, name: str, split: str, scenes: list[Scene]) -> list[Contrast]:
    return [
        draw_contrast(rng, scenes[first : first + 4], _texts_per_image(split)) for first in range(0, len(scenes), 4)
    ]


def _draw_hypotheses(rng: random.Random, name: str, split: str, scenes: list[Scene]) -> list[SceneHypotheses]:
    sets = TRAIN_SETS if split == "train" else EVAL_SETS
    entries = []
    for row, scene in enumerate(scenes):
        hypotheses = draw_hypotheses(rng, scene, sets)
        if row % UNDECIDED_EVERY == 0:
            hypotheses += [(hypothesis, UNDECIDED) for hypothesis, _ in draw_hypotheses(rng, scene, 1)[:1]]
        entries.append(SceneHypotheses(scene, tuple(hypotheses)))
    return entries


_DRAW: dict[str, Callable[[random.Random, str, str, list[Scene]], list[Any]]] = {
    "concap": _draw_captions,
    "refer": _draw_expressions,
    "retrieval": _draw_captions,
    "vqa": _draw_questions,
    "nlvr2": _draw_contrasts,
    "refcoco": _draw_expressions,
    "refcocog": _draw_expressions,
    "coco": _draw_captions,
    "gqa": _draw_questions,
    "snli_ve": _draw_hypotheses,
}
