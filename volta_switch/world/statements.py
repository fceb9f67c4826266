"""Statements about a pair of images, as in NLVR2: true of one pair of scenes and false of another.

Sets of two pairs are drawn together. Each statement is true of one pair of its set and false of the other, and each
pair has as many true as false ones: neither a statement nor a pair alone says anything about the label.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

from volta_switch.world.phrases import LIKENESS, Phrase, Values, matching, values_of
from volta_switch.world.questions import plural
from volta_switch.world.scenes import VALUES, Scene, members

LEFT, RIGHT = range(2)
SIDES = ("left", "right")
FORMS = {"each": 1, "both": 1, "more": 1, "alike": 2}  # weights: likeness often finds nothing to compare
TRIES = 4  # of a form before another one is drawn

Pair = tuple[Scene, Scene]  # the left and the right image
Counts = tuple[list[int], list[int]]  # of the left and the right image: how many objects each of HEADS denotes


def _heads() -> tuple[Values, ...]:
    """Return the phrases that statements use: all with one or two attributes."""
    said = []
    for number in (1, 2):
        for attributes in combinations(range(4), number):
            for values in product(*(range(len(VALUES[attribute])) for attribute in attributes)):
                said.append(values_of(dict(zip(attributes, values, strict=True))))
    return tuple(said)


HEADS = _heads()


@dataclass(frozen=True)
class Statement:
    """What is said of a left and a right image.

    Attributes:
        form: "each": each image holds its phrase; "both": both hold the same one; "more": one image holds more of it;
            "alike": the only object that each phrase denotes in its image has the same ``attribute``.
        phrases: of the left and of the right image.
        attribute: the one that "alike" compares.
        most: the side that has more, of form "more".
    """

    form: str
    phrases: tuple[Phrase, Phrase]
    attribute: int | None = None
    most: int = LEFT

    def words(self) -> str:
        """Return the statement in English, in the words that the world's other texts use."""
        left, right = self.phrases
        if self.form == "each":
            return f"there is {left.words()} left and {right.words()} right"
        if self.form == "both":
            return f"both images are of {left.words()}"
        if self.form == "more":
            return f"there are many {plural(left)} {SIDES[self.most]} compared to {SIDES[1 - self.most]}"
        assert self.attribute is not None
        return f"left {left.words()} is {LIKENESS[self.attribute]} right {right.words()}"

    def evidence(self, scene: Scene, side: int) -> int | None:
        """Return what the image on one side contributes; None where a phrase that must denote one object does not.

        Whether the phrase denotes an object (0 or 1), how many it denotes ("more"), or a value's index ("alike").
        """
        found = matching(scene, self.phrases[side].values)
        if self.form == "more":
            return found.bit_count()
        if self.form != "alike":
            return int(found != 0)
        if self.attribute is None or found.bit_count() != 1:
            return None
        return scene.objects[members(found)[0]][self.attribute]

    def is_true(self, pair: Pair) -> bool | None:
        """Return whether the statement is true of a pair, None where it presupposes what is not there."""
        left, right = (self.evidence(scene, side) for side, scene in enumerate(pair))
        if left is None or right is None:
            return None
        if self.form == "alike":
            return left == right
        if self.form == "more":
            return left > right if self.most == LEFT else right > left
        return bool(left and right)


@dataclass(frozen=True)
class Contrast:
    """Two pairs of images, and statements with the index of the pair of which each is true; it is false of the other.

    Half of the statements are true of either pair.
    """

    pairs: tuple[Pair, Pair]
    statements: tuple[tuple[Statement, int], ...]

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The four images: left and right of the first pair, left and right of the second."""
        return self.pairs[0] + self.pairs[1]


def draw_contrast(rng: random.Random, scenes: list[Scene], count: int) -> Contrast:
    """Make two pairs of four scenes and draw ``count`` different statements, an even number."""
    first, second, third, fourth = scenes
    pairs = ((first, second), (third, fourth))
    counts = tuple((_counts(left), _counts(right)) for left, right in pairs)
    said: dict[str, tuple[Statement, int]] = {}
    for number in range(count):
        true = number % 2
        while True:  # four scenes that differ always leave something to say
            statement = _draw(rng, pairs, counts, true)
            if statement is not None and statement.words() not in said:
                break
        said[statement.words()] = statement, true
    return Contrast(pairs, tuple(said.values()))


def _draw(rng: random.Random, pairs: tuple[Pair, Pair], counts: tuple[Counts, ...], true: int) -> Statement | None:
    """Draw a form and a statement of it that is true of pair ``true`` and false of the other; None if none is found."""
    form = rng.choices(tuple(FORMS), tuple(FORMS.values()))[0]
    for _ in range(TRIES):
        if form == "alike":
            statement = _alike(rng, pairs[true], pairs[1 - true], counts[true], counts[1 - true])
        else:
            statement = _DRAW[form](rng, counts[true], counts[1 - true])
        if statement is not None:
            return statement
    return None


def _counts(scene: Scene) -> list[int]:
    return [matching(scene, head).bit_count() for head in HEADS]


def _each(rng: random.Random, true: Counts, false: Counts) -> Statement | None:
    """Draw a statement that the image on one side alone makes false, each side as often."""
    decisive = rng.randrange(2)
    chosen = []
    for side in (LEFT, RIGHT):
        seen = zip(HEADS, true[side], false[side], strict=True)
        fitting = [head for head, own, other in seen if own and bool(other) == (side != decisive)]
        if not fitting:
            return None
        chosen.append(Phrase(rng.choice(fitting)))
    return Statement("each", (chosen[LEFT], chosen[RIGHT]))


def _both(rng: random.Random, true: Counts, false: Counts) -> Statement | None:
    """Draw a statement that the image on one side alone makes false, each side as often."""
    decisive = rng.randrange(2)
    seen = zip(HEADS, *true, false[1 - decisive], false[decisive], strict=True)
    fitting = [head for head, left, right, kept, missing in seen if left and right and kept and not missing]
    return _about_one(rng, "both", fitting)


def _more(rng: random.Random, true: Counts, false: Counts) -> Statement | None:
    """Draw a comparison of numbers; on one side, each as often, both pairs have the same number."""
    most, decisive = rng.randrange(2), rng.randrange(2)
    seen = zip(HEADS, true[most], true[1 - most], false[most], false[1 - most], strict=True)
    fitting = [
        head
        for head, more, fewer, other_more, other_fewer in seen
        if more > fewer
        and other_more <= other_fewer
        and (fewer == other_fewer if decisive == most else more == other_more)
    ]
    return _about_one(rng, "more", fitting, most)


def _about_one(rng: random.Random, form: str, fitting: list[Values], most: int = LEFT) -> Statement | None:
    if not fitting:
        return None
    phrase = Phrase(rng.choice(fitting))
    return Statement(form, (phrase, phrase), most=most)


def _alike(rng: random.Random, true: Pair, false: Pair, true_counts: Counts, false_counts: Counts) -> Statement | None:
    """Draw a comparison of one attribute of two objects, one in either image."""
    attribute = rng.randrange(4)
    usable: list[list[tuple[Values, int, int]]] = [[], []]  # of each side: head, its object's value in either pair
    for side in (LEFT, RIGHT):
        for head, own, other in zip(HEADS, true_counts[side], false_counts[side], strict=True):
            if own == other == 1 and head[attribute] is None:
                usable[side].append((head, _only(true[side], head)[attribute], _only(false[side], head)[attribute]))
    fitting = [
        (left, right)
        for (left, left_true, left_false), (right, right_true, right_false) in product(*usable)
        if left_true == right_true and left_false != right_false
    ]
    if not fitting:
        return None
    left, right = rng.choice(fitting)
    return Statement("alike", (Phrase(left), Phrase(right)), attribute)


def _only(scene: Scene, head: Values) -> tuple[int, int, int, int]:
    """Return the attributes of the only object that the head denotes."""
    (index,) = members(matching(scene, head))
    return scene.objects[index]


_DRAW: dict[str, Callable[[random.Random, Counts, Counts], Statement | None]] = {
    "each": _each,
    "both": _both,
    "more": _more,
}
