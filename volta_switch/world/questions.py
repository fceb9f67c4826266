"""Questions, their answers by looking at the scene, and ten simulated annotators."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from volta_switch.world.phrases import (
    LIKENESS,
    NEAREST,
    AttributeValues,
    Phrase,
    by_attributes,
    by_relation,
    denote,
    denotes_only,
)
from volta_switch.world.scenes import ATTRIBUTES, DIRECTIONS, SHAPE, SIZE, VALUES, Scene, members
from volta_switch.world.spec import SHAPES

COUNTS = ("0", "1", "2", "3", "4")
PLACES = ("left", "right", "above", "below")
COMPARISONS = ("smaller", "equal", "larger")
YES_NO = ("yes", "no")
# The answers that a question of each kind can have.
ANSWERS = {
    **dict(zip(ATTRIBUTES, VALUES, strict=True)),
    "count": COUNTS,
    "exists": YES_NO,
    "where": PLACES,
    "compare": COMPARISONS,
}
LABELS = tuple(answer for answers in ANSWERS.values() for answer in answers)
# How often each kind is asked: many-valued attributes often, two- and three-valued answers seldom.
SHARES = {"colour": 40, "shape": 30, "material": 13, "count": 7, "where": 4, "exists": 3, "compare": 3}
DOMINANCE = 1.5  # "where": the longer of the two distances is this many times the shorter
DISAGREEMENT = 0.03  # the chance that an annotator gives another answer of the same kind


@dataclass(frozen=True)
class Question:
    """A question about ``phrase`` (and ``other``); ``kind`` is a key of ``ANSWERS``, ``form`` its wording's pattern."""

    kind: str
    phrase: Phrase
    other: Phrase | None = None
    form: str = ""

    def words(self) -> str:
        """Returns the question in English."""
        if self.kind in ATTRIBUTES:
            return f"what {self.kind} is {self.phrase.words()}"
        if self.kind == "count":
            return f"how many {plural(self.phrase)} are there"
        if self.kind == "exists":
            return f"is there {self.phrase.words()}"
        assert self.other is not None
        if self.kind == "where":
            return f"where is {self.phrase.words()} from {self.other.words()}"
        return f"how large is {self.phrase.words()} compared to {self.other.words()}"


def answer(scene: Scene, question: Question) -> str | None:
    """Returns the answer by looking at the scene, or None where it would be ambiguous."""
    sure, possible = denote(scene, question.phrase)
    if sure != possible or not _anchor_is_definite(scene, question.phrase):
        return None
    if question.kind == "count":
        number = str(sure.bit_count())
        return number if number in COUNTS else None
    if question.kind == "exists":
        return "yes" if sure else "no"
    if sure.bit_count() != 1:
        return None
    target = members(sure)[0]
    if question.kind in ATTRIBUTES:
        attribute = ATTRIBUTES.index(question.kind)
        return VALUES[attribute][scene.objects[target][attribute]]
    return _comparison(scene, question, target)


def _anchor_is_definite(scene: Scene, phrase: Phrase) -> bool:
    if phrase.anchor is None:
        return True
    anchors = members(denote(scene, phrase.anchor)[1])
    return len(anchors) == 1 and denotes_only(scene, phrase.anchor, anchors[0])


def _comparison(scene: Scene, question: Question, target: int) -> str | None:
    """Returns the answer to a question of kind "where" or "compare" whose first phrase denotes ``target``."""
    assert question.other is not None
    others = members(denote(scene, question.other)[1])
    if len(others) != 1 or others[0] == target or not denotes_only(scene, question.other, others[0]):
        return None
    other = others[0]
    if question.kind == "compare":
        difference = scene.objects[target][SIZE] - scene.objects[other][SIZE]
        return COMPARISONS[(difference > 0) - (difference < 0) + 1]
    (x, y), (other_x, other_y) = scene.centre(target), scene.centre(other)
    right, below = x - other_x, y - other_y
    if abs(right) > DOMINANCE * abs(below):
        return "right" if right > 0 else "left"
    if abs(below) > DOMINANCE * abs(right):
        return "below" if below > 0 else "above"
    return None


class QuestionMaker:
    """Draws questions whose answers are spread evenly: of several candidates it asks the one answered least so far."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.asked: Counter[tuple[str, str, str]] = Counter()  # kind, form, answer
        self._draw: dict[str, Callable[[Scene, str], Question | None]] = {
            **dict.fromkeys(ATTRIBUTES, self._attribute),
            "count": self._count,
            "exists": self._exists,
            "where": self._pair,
            "compare": self._pair,
        }

    def draw(self, scene: Scene) -> tuple[Question, str]:
        """Draws one question about the scene, with its answer."""
        while True:
            kind = self.rng.choices(tuple(SHARES), tuple(SHARES.values()))[0]
            drawn = self._candidates(scene, kind, self._form(kind))
            if drawn:
                question, reply = min(drawn, key=lambda pair: self.asked[kind, pair[0].form, pair[1]])
                self.asked[kind, question.form, reply] += 1
                return question, reply

    def _candidates(self, scene: Scene, kind: str, form: str) -> list[tuple[Question, str]]:
        """Returns questions of one kind and form, with their answers."""
        enough = 2 if kind in ATTRIBUTES else 6
        drawn = []
        for _ in range(8):
            question = self._draw[kind](scene, form)
            reply = None if question is None else answer(scene, question)
            if question is not None and reply is not None:
                drawn.append((question, reply))
                if len(drawn) == enough:
                    break
        return drawn

    def _form(self, kind: str) -> str:
        """Draws the pattern of a question, within which its answers are balanced."""
        rng = self.rng
        if kind in ATTRIBUTES:
            relations = rng.choices((0, 1, 2), (65, 28, 7))[0]
            return f"{kind} {relations}"
        if kind == "count":
            named = rng.choice(("size", "material", "shape"))
            return named if rng.random() < 0.7 else f"{named} {rng.choice(DIRECTIONS)}"
        if kind == "exists":
            named = rng.choice(("colour shape", "colour material", "material shape"))
            return named if rng.random() < 0.6 else f"{rng.choice(('colour', 'shape'))} {rng.choice(DIRECTIONS)}"
        return kind

    def _attribute(self, scene: Scene, form: str) -> Question | None:
        kind, relations = form.split()
        target = self.rng.randrange(len(scene.objects))
        unsaid = (ATTRIBUTES.index(kind),)
        if relations == "0":
            phrase = by_attributes(self.rng, scene, target, unsaid)
        else:
            usable = DIRECTIONS if relations == "2" else (*DIRECTIONS, *DIRECTIONS, NEAREST, *_other_likeness(kind))
            phrase = by_relation(self.rng, scene, target, usable, int(relations), unsaid)
        return None if phrase is None else Question(kind, phrase, form=form)

    def _count(self, scene: Scene, form: str) -> Question | None:
        return self._set_question("count", scene, form, self._random_values(form))

    def _exists(self, scene: Scene, form: str) -> Question | None:
        return self._set_question("exists", scene, form, self._random_values(form))

    def _random_values(self, form: str) -> AttributeValues:
        size, colour, material, shape = (
            self.rng.randrange(len(VALUES[attribute])) if name in form.split() else None
            for attribute, name in enumerate(ATTRIBUTES)
        )
        return size, colour, material, shape

    def _set_question(self, kind: str, scene: Scene, form: str, values: AttributeValues) -> Question | None:
        direction = next((direction for direction in DIRECTIONS if form.endswith(direction)), None)
        if direction is None:
            return Question(kind, Phrase(values), form=form)
        anchor = by_attributes(self.rng, scene, self.rng.randrange(len(scene.objects)))
        return None if anchor is None else Question(kind, Phrase(values, direction, anchor), form=form)

    def _pair(self, scene: Scene, form: str) -> Question | None:
        unsaid = (SIZE,) if form == "compare" else ()
        target, other = self.rng.sample(range(len(scene.objects)), 2)
        phrase = by_attributes(self.rng, scene, target, unsaid, extra=0.0)
        other_phrase = by_attributes(self.rng, scene, other, unsaid, extra=0.0)
        if phrase is None or other_phrase is None:
            return None
        return Question(form, phrase, other_phrase, form=form)


def annotate(rng: random.Random, kind: str, right: str) -> list[str]:
    """Returns the answers of ten annotators; a wrong one is another answer of the kind (for counts, one off)."""
    answers = ANSWERS[kind]
    near = [other for other in answers if other != right]
    if kind == "count":
        near = [other for other in answers if abs(int(other) - int(right)) == 1]
    return [rng.choice(near) if rng.random() < DISAGREEMENT else right for _ in range(10)]


def _other_likeness(kind: str) -> tuple[str, ...]:
    """Returns the likeness relations that do not give the asked attribute away."""
    return tuple(relation for name, relation in zip(ATTRIBUTES, LIKENESS, strict=True) if name != kind)


def plural(phrase: Phrase) -> str:
    """Returns the phrase without article, its first noun in the plural."""
    text = phrase.words()
    shape = phrase.values[SHAPE]
    noun = "thing" if shape is None else SHAPES[shape]
    return text.replace(noun, f"{noun}s", 1)
