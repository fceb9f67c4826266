"""What is stated about images: NLVR2's statements about pairs of images, and SNLI-VE's hypotheses about one image.

NLVR2's sets of two pairs are drawn together. Each statement is true of one pair of its set and false of the other, and
each pair has as many true as false ones: neither a statement nor a pair alone says anything about the label.

A hypothesis says that one object stands to one side of another. Hypotheses are drawn in sets of three about one image,
in the same direction: one that clearly holds, one of which the reverse clearly holds, one about two objects too close
to call. Neither an image nor the direction named in a hypothesis says anything about its verdict.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations, product

from volta_switch.world.phrases import LIKENESS, AttributeValues, Phrase, by_attributes, denote, matching, values_of
from volta_switch.world.questions import plural
from volta_switch.world.scenes import DIRECTIONS, VALUES, Scene, members

LEFT, RIGHT = range(2)
SIDES = ("left", "right")
FORMS = {"each": 1, "both": 1, "more": 1, "alike": 2}  # weights: likeness often finds nothing to compare
TRIES = 4  # of a form before another one is drawn
CONTRADICTION, NEUTRAL, ENTAILMENT = VERDICTS = ("contradiction", "neutral", "entailment")
UNDECIDED = "-"  # SNLI's mark of a hypothesis about which its annotators did not agree

ImagePair = tuple[Scene, Scene]  # the left and the right image
HeadCounts = tuple[list[int], list[int]]  # of left and right image: how many objects each of HEADS denotes


def _heads() -> tuple[AttributeValues, ...]:
    """Returns the phrases that statements use: all with one or two attributes."""
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
        """Returns the statement in English, in the words that the world's other texts use."""
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
        """Returns what the image on one side contributes; None where a phrase that must denote one object does not.

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

    def is_true(self, pair: ImagePair) -> bool | None:
        """Returns whether the statement is true of a pair, None where it presupposes what is not there."""
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

    pairs: tuple[ImagePair, ImagePair]
    statements: tuple[tuple[Statement, int], ...]

    @property
    def scenes(self) -> tuple[Scene, ...]:
        """The four images: left and right of the first pair, left and right of the second."""
        return self.pairs[0] + self.pairs[1]


def draw_contrast(rng: random.Random, scenes: list[Scene], count: int) -> Contrast:
    """Makes two pairs of four scenes and draws ``count`` different statements, an even number."""
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


def _draw(
    rng: random.Random, pairs: tuple[ImagePair, ImagePair], counts: tuple[HeadCounts, ...], true: int
) -> Statement | None:
    """Draws a form and a statement of it, true of pair ``true`` and false of the other; None if none is found."""
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


def _each(rng: random.Random, true: HeadCounts, false: HeadCounts) -> Statement | None:
    """Draws a statement that the image on one side alone makes false, each side as often."""
    decisive = rng.randrange(2)
    chosen = []
    for side in (LEFT, RIGHT):
        seen = zip(HEADS, true[side], false[side], strict=True)
        fitting = [head for head, own, other in seen if own and bool(other) == (side != decisive)]
        if not fitting:
            return None
        chosen.append(Phrase(rng.choice(fitting)))
    return Statement("each", (chosen[LEFT], chosen[RIGHT]))


def _both(rng: random.Random, true: HeadCounts, false: HeadCounts) -> Statement | None:
    """Draws a statement that the image on one side alone makes false, each side as often."""
    decisive = rng.randrange(2)
    seen = zip(HEADS, *true, false[1 - decisive], false[decisive], strict=True)
    fitting = [head for head, left, right, kept, missing in seen if left and right and kept and not missing]
    return _about_one(rng, "both", fitting)


def _more(rng: random.Random, true: HeadCounts, false: HeadCounts) -> Statement | None:
    """Draws a comparison of numbers; on one side, each as often, both pairs have the same number."""
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


def _about_one(rng: random.Random, form: str, fitting: list[AttributeValues], most: int = LEFT) -> Statement | None:
    if not fitting:
        return None
    phrase = Phrase(rng.choice(fitting))
    return Statement(form, (phrase, phrase), most=most)


def _alike(
    rng: random.Random, true: ImagePair, false: ImagePair, true_counts: HeadCounts, false_counts: HeadCounts
) -> Statement | None:
    """Draws a comparison of one attribute of two objects, one in either image."""
    attribute = rng.randrange(4)
    usable: list[list[tuple[AttributeValues, int, int]]] = [
        [],
        [],
    ]  # of each side: head, its object's value in either pair
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


def _only(scene: Scene, head: AttributeValues) -> tuple[int, int, int, int]:
    """Returns the attributes of the only object that the head denotes."""
    (index,) = members(matching(scene, head))
    return scene.objects[index]


_DRAW: dict[str, Callable[[random.Random, HeadCounts, HeadCounts], Statement | None]] = {
    "each": _each,
    "both": _both,
    "more": _more,
}


@dataclass(frozen=True)
class Hypothesis:
    """Says that the object of ``phrase`` stands in ``direction`` ("left of", ...) of the object of ``other``."""

    phrase: Phrase
    direction: str
    other: Phrase

    def words(self) -> str:
        """Returns the hypothesis in English, in the words that the world's other texts use."""
        return f"{self.phrase.words()} is {self.direction} {self.other.words()}"

    def verdict(self, scene: Scene) -> str | None:
        """Returns one of ``VERDICTS``, or None where a phrase does not denote one object."""
        found = [members(denote(scene, phrase)[0]) for phrase in (self.phrase, self.other)]
        if len(found[0]) != 1 or len(found[1]) != 1:
            return None
        return _verdict(scene, DIRECTIONS.index(self.direction), found[0][0], found[1][0])


def _verdict(scene: Scene, direction: int, index: int, other: int) -> str:
    if scene.sure[direction][other] >> index & 1:
        return ENTAILMENT
    return NEUTRAL if scene.possible[direction][other] >> index & 1 else CONTRADICTION


def draw_hypotheses(rng: random.Random, scene: Scene, sets: int) -> list[tuple[Hypothesis, str]]:
    """Draws at most ``sets`` hypotheses of each verdict; none if no two objects are too close to call."""
    numbers = range(len(scene.objects))
    pairs: list[dict[str, list[tuple[int, int]]]] = []  # of each direction: ordered pairs of objects by verdict
    for direction in range(len(DIRECTIONS)):
        by_verdict: dict[str, list[tuple[int, int]]] = {verdict: [] for verdict in VERDICTS}
        for pair in [(index, other) for index in numbers for other in numbers if index != other]:
            by_verdict[_verdict(scene, direction, *pair)].append(pair)
        pairs.append(by_verdict)
    drawn: list[tuple[Hypothesis, str]] = []
    for _ in range(sets):
        usable = [direction for direction, by_verdict in enumerate(pairs) if all(by_verdict.values())]
        if not usable:
            break
        direction = rng.choice(usable)
        for verdict, left in pairs[direction].items():
            chosen = left.pop(rng.randrange(len(left)))  # no pair twice
            phrase, other = (by_attributes(rng, scene, target) for target in chosen)
            assert phrase is not None and other is not None  # no two objects of a scene are alike
            drawn.append((Hypothesis(phrase, DIRECTIONS[direction], other), verdict))
    return drawn
