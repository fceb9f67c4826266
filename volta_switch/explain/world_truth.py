"""What a synthetic world knows of its texts: which words decide, and which objects they are about.

| task | words | regions |
|---|---|---|
| expressions | attributes without which they denote something else | anchors: the objects that relations name |
| questions | the same, of what is asked about | the objects that the question's phrases denote |

An anchor decides where the same words about another anchor denote another object. That of a direction never does: of
two cubes, the one that is "left of" something is the left one, whatever it is left of.

Objects are those of the scene that the world drew; a region stands for the object that its box overlaps by more than
half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from volta_switch.data.regions import Regions, pairwise_iou
from volta_switch.errors import UserError
from volta_switch.world.content import SceneExpressions, SceneQuestions, draw_split
from volta_switch.world.files import gqa_name
from volta_switch.world.phrases import Lexicon, Phrase, denote, matching, related
from volta_switch.world.questions import Question, plural
from volta_switch.world.scenes import Scene, members
from volta_switch.world.spec import WorldSpec
from volta_switch.world.task_file import GQA_FEATURES, REFER, TASKS, VQA_TEST_FEATURES

SPLIT = "test"
KNOWN = ("refer", "refcoco", "refcocog", "vqa", "gqa")  # data sets whose truth is told here


@dataclass(frozen=True)
class TrueWord:
    """A word of a text: whether it says an attribute, and whether the text needs it."""

    is_attribute: bool
    decides: bool


@dataclass(frozen=True)
class TrueText:
    """A text of the test split and what is true of it.

    Attributes:
        image: its id in the feature file.
        text: as it is written.
        answer: the right one; "" of an expression.
        target: the object that an expression denotes; None of a question.
        objects: those that an explanation should name: anchors, or all that a question's phrases denote.
        anchor_decides: of an expression with one relation, whether its anchor does.
        words: one for each word of the text.
        scene: what the image shows.
    """

    image: str
    text: str
    answer: str
    target: int | None
    objects: tuple[int, ...]
    anchor_decides: bool
    words: tuple[TrueWord, ...]
    scene: Scene


def region_of_each_object(scene: Scene, regions: Regions) -> list[int]:
    """Returns the region of each object; -1 of one that no region overlaps by more than half."""
    overlap = pairwise_iou(np.array(scene.boxes, np.float32), regions.boxes)  # (objects, n)
    return np.where(overlap.max(1) > 0.5, overlap.argmax(1), -1).tolist()  # type: ignore[no-any-return]


def data_set_of(task: str) -> str:
    """Returns the world's data set of a task's key; raises UserError where its truth is not told."""
    name = next((name for name, fields in TASKS.items() if f"TASK{fields[0]}" == task), "")
    if name not in KNOWN:
        keys = ", ".join(f"TASK{TASKS[known][0]}" for known in KNOWN)
        raise UserError(f"{task}: the truth of its texts is not known; explanations are evaluated of {keys}")
    return name


def features_of(world: Path, name: str) -> Path:
    """Returns the feature file of a data set's test images."""
    if name in REFER:
        return world / REFER[name].features
    return world / (VQA_TEST_FEATURES if name == "vqa" else GQA_FEATURES)


def true_texts(spec: WorldSpec, name: str) -> Iterator[TrueText]:
    """Yields the texts of a data set's test split, image by image."""
    lexicon = Lexicon(spec)
    for entry in draw_split(spec, name, SPLIT):
        match entry:
            case SceneExpressions(scene, expressions):
                yield from (_expression(scene, target, phrase, lexicon) for target, phrase in expressions)
            case SceneQuestions(scene, questions):
                yield from (_question(scene, question, reply, name, lexicon) for question, reply, _ in questions)


def _expression(scene: Scene, target: int, phrase: Phrase, lexicon: Lexicon) -> TrueText:
    anchors = tuple(dict.fromkeys(_anchors(scene, phrase)))
    words = tuple(_words(scene, phrase, 1 << target))
    text = lexicon.spell(phrase.words())
    decides = phrase.hops() == 1 and _anchor_decides(scene, phrase)
    return TrueText(str(scene.image_id), text, "", target, anchors, decides, words, scene)


def _anchor_decides(scene: Scene, phrase: Phrase) -> bool:
    """Returns whether a head and its relation surely denote one object or another, by which object is the anchor."""
    assert phrase.relation is not None
    head = matching(scene, phrase.values)
    by_anchor = {related(scene, phrase.relation, head, anchor) for anchor in range(len(scene.objects))}
    single = {sure for sure, possible in by_anchor if sure == possible and sure.bit_count() == 1}
    return len(single) > 1


def _question(scene: Scene, question: Question, reply: str, name: str, lexicon: Lexicon) -> TrueText:
    phrases = [question.phrase, *([question.other] if question.other else [])]
    found = [index for phrase in phrases for index in (*members(denote(scene, phrase)[0]), *_anchors(scene, phrase))]
    text = question.words()
    said = plural(question.phrase) if question.kind == "count" else question.phrase.words()
    before, _, after = text.partition(said)
    unknown = TrueWord(is_attribute=False, decides=False)
    inner = _words(scene, question.phrase, denote(scene, question.phrase)[0])
    words = (*(unknown for _ in before.split()), *inner, *(unknown for _ in after.split()))
    image = gqa_name(scene.image_id) if name == "gqa" else str(scene.image_id)
    objects = tuple(dict.fromkeys(found))
    return TrueText(image, lexicon.spell(text), reply, None, objects, False, words, scene)


def _anchors(scene: Scene, phrase: Phrase) -> Iterator[int]:
    """Yields the objects that a phrase's relations name."""
    anchor = phrase.anchor
    while anchor is not None:
        yield from members(denote(scene, anchor)[0])
        anchor = anchor.anchor


def _words(scene: Scene, phrase: Phrase, denoted: int) -> Iterator[TrueWord]:
    """Yields what is true of each word of a phrase that surely and possibly denotes a set of objects."""
    part: Phrase | None = phrase
    depth = 0
    while part is not None:
        for attribute, value in enumerate(part.values):
            if value is not None:
                changed = denote(scene, _without(phrase, depth, attribute))
                yield TrueWord(is_attribute=True, decides=changed != (denoted, denoted))
        others = 1 if part.values[-1] is None else 0  # "thing" stands for a shape
        others += len(part.relation.split()) if part.relation else 0
        yield from (TrueWord(is_attribute=False, decides=False) for _ in range(others))
        part, depth = part.anchor, depth + 1


def _without(phrase: Phrase, depth: int, attribute: int) -> Phrase:
    """Returns a phrase without one attribute of its head (depth 0), its anchor (1), or that one's anchor (2)."""
    if depth:
        assert phrase.anchor is not None
        return replace(phrase, anchor=_without(phrase.anchor, depth - 1, attribute))
    size, colour, material, shape = (None if at == attribute else value for at, value in enumerate(phrase.values))
    return replace(phrase, values=(size, colour, material, shape))
