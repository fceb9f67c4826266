"""Claims about an image, as in SNLI-VE: that one object stands to one side of another.

Claims are drawn in sets of three about one image, in the same direction: one that clearly holds, one of which the
reverse clearly holds, one about two objects too close to call. Neither an image nor the direction named in a claim
says anything about its verdict.
"""

import random
from dataclasses import dataclass

from volta_switch.world.phrases import Phrase, by_attributes, denote
from volta_switch.world.scenes import DIRECTIONS, Scene, members

CONTRADICTION, NEUTRAL, ENTAILMENT = VERDICTS = ("contradiction", "neutral", "entailment")
UNDECIDED = "-"  # SNLI's mark of a claim about which its annotators did not agree


@dataclass(frozen=True)
class Claim:
    """That the object which ``phrase`` denotes stands in ``direction`` of the one that ``other`` denotes."""

    phrase: Phrase
    direction: str
    other: Phrase

    def words(self) -> str:
        """Return the claim in English, in the words that the world's other texts use."""
        return f"{self.phrase.words()} is {self.direction} {self.other.words()}"

    def verdict(self, scene: Scene) -> str | None:
        """Return one of ``VERDICTS``, or None where a phrase does not denote one object."""
        found = [members(denote(scene, phrase)[0]) for phrase in (self.phrase, self.other)]
        if len(found[0]) != 1 or len(found[1]) != 1:
            return None
        return _verdict(scene, DIRECTIONS.index(self.direction), found[0][0], found[1][0])


def _verdict(scene: Scene, direction: int, index: int, other: int) -> str:
    if scene.sure[direction][other] >> index & 1:
        return ENTAILMENT
    return NEUTRAL if scene.possible[direction][other] >> index & 1 else CONTRADICTION


def draw_claims(rng: random.Random, scene: Scene, sets: int) -> list[tuple[Claim, str]]:
    """Draw at most ``sets`` claims of each verdict, in sets of three; none if no two objects are too close to call."""
    numbers = range(len(scene.objects))
    pairs: list[dict[str, list[tuple[int, int]]]] = []  # of each direction: ordered pairs of objects by verdict
    for direction in range(len(DIRECTIONS)):
        by_verdict: dict[str, list[tuple[int, int]]] = {verdict: [] for verdict in VERDICTS}
        for pair in [(index, other) for index in numbers for other in numbers if index != other]:
            by_verdict[_verdict(scene, direction, *pair)].append(pair)
        pairs.append(by_verdict)
    drawn: list[tuple[Claim, str]] = []
    for _ in range(sets):
        usable = [direction for direction, by_verdict in enumerate(pairs) if all(by_verdict.values())]
        if not usable:
            break
        direction = rng.choice(usable)
        for verdict, left in pairs[direction].items():
            chosen = left.pop(rng.randrange(len(left)))  # no pair twice
            phrase, other = (by_attributes(rng, scene, target) for target in chosen)
            assert phrase is not None and other is not None  # no two objects of a scene are alike
            drawn.append((Claim(phrase, DIRECTIONS[direction], other), verdict))
    return drawn
