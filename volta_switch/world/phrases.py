"""Noun phrases and captions: what they say, and which objects they denote.

A phrase has a head (some attribute values) and at most one relation to another phrase, and so on: "the cube left of
the ball above the red cone". Truth has three values, because two objects may stand on neither side of one another. A
phrase denotes *surely* the smaller and *possibly* the larger of two sets; it is unambiguous where they are equal.
A caption is a list of phrases, of each of which the scene holds an object.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from volta_switch.world.scenes import COLOUR, DIRECTIONS, MATERIAL, SHAPE, SIZE, VALUES, Scene, members
from volta_switch.world.spec import WorldSpec

DIRECTORY = "bert-world"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # [PAD] is 0, as VOLTA requires
# Function words keep their spelling at any text depth; the others carry the meaning and are spelled.
FUNCTION_WORDS = (
    "the", "a", "and", "of", "is", "are", "there", "what", "where", "how", "many", "from", "thing",
    "colour", "shape", "material", "size", "compared", "to", "like", "both", "images",
)  # fmt: skip
PLURAL = "s"
SYLLABLES = tuple(consonant + vowel for vowel in "aeiou" for consonant in "bdfgklpz")


def content_words() -> tuple[str, ...]:
    """Returns the words that carry meaning: attribute values and relations, without duplicates."""
    values = [value for values in VALUES for value in values]
    relations = [word for phrase in (*DIRECTIONS, NEAREST, *LIKENESS) for word in phrase.split()]
    return tuple(dict.fromkeys(word for word in [*values, *relations] if word not in FUNCTION_WORDS))


class Lexicon:
    """How each content word is written.

    At text depth 0 a word is itself, one word piece. At depth k it is a random string of k + 1 syllables from the
    smallest alphabet that has enough such strings, so that nearly every string is a word: no syllable means anything
    by itself and a word is known only when all its pieces are composed.
    """

    def __init__(self, spec: WorldSpec) -> None:
        words = content_words()
        self.syllables: tuple[str, ...] = ()
        self.spelling = {word: word for word in words}
        if spec.text_depth > 0:
            self._spell_words(spec, words)
        self._known = set(self.vocabulary())
        self._pieces: dict[str, list[str]] = {}  # of the words split so far

    def _spell_words(self, spec: WorldSpec, words: tuple[str, ...]) -> None:
        pieces = spec.text_depth + 1
        size = next(size for size in range(2, len(SYLLABLES)) if size**pieces >= len(words))
        rng = random.Random(f"spelling {spec.seed}")
        self.syllables = tuple(sorted(rng.sample(SYLLABLES, size)))
        codes = ["".join(code) for code in product(self.syllables, repeat=pieces)]
        self.spelling = dict(zip(words, rng.sample(codes, len(words)), strict=True))

    def spell(self, text: str) -> str:
        """Returns an English text with its content words spelled; plurals keep their "s"."""
        return " ".join(self._spell_word(word) for word in text.split())

    def _spell_word(self, word: str) -> str:
        if word in self.spelling:
            return self.spelling[word]
        singular = word.removesuffix(PLURAL)
        return self.spelling[singular] + PLURAL if singular in self.spelling else word

    def vocabulary(self) -> list[str]:
        """Returns the lines of ``vocab.txt``."""
        if self.syllables:
            content = [*self.syllables, *(f"##{syllable}" for syllable in self.syllables)]
        else:
            content = list(self.spelling)
        return [*SPECIAL, *FUNCTION_WORDS, f"##{PLURAL}", *content]

    def pieces(self, text: str) -> list[str]:
        """Splits a spelled text into word pieces, longest match first, without special tokens."""
        for word in set(text.split()) - self._pieces.keys():
            self._pieces[word] = _split(word, self._known)
        return [piece for word in text.split() for piece in self._pieces[word]]

    def length(self, text: str) -> int:
        """Returns the number of word pieces of an English text."""
        return len(self.pieces(self.spell(text)))

    def write(self, directory: Path) -> None:
        """Writes ``vocab.txt``, ``config.json`` and ``tokenizer_config.json`` into a new directory."""
        directory.mkdir(parents=True)
        vocabulary = self.vocabulary()
        (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        config = {"model_type": "bert", "vocab_size": len(vocabulary)}
        (directory / "config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
        tokenizer = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
        (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer) + "\n", encoding="utf-8")


def _split(word: str, known: set[str]) -> list[str]:
    pieces: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        ends = range(len(word), start, -1)
        end = next((end for end in ends if prefix + word[start:end] in known), None)
        if end is None:
            return ["[UNK]"]
        pieces.append(prefix + word[start:end])
        start = end
    return pieces


NEAREST = "closest to"
LIKENESS = ("sized like", "coloured like", "made like", "shaped like")  # in the order of ATTRIBUTES
# How often a caption says the size, colour, material and shape of an object that it mentions.
MENTION_CHANCES = (0.7, 0.95, 0.7, 0.95)
RELATION_SHARE = 0.6  # the share of captions whose first two objects are put in relation; else objects are listed
CLEARLY_NEARER = 1.25  # the second-nearest candidate must be at least this many times as far away

# An index per attribute, None where nothing is said.
AttributeValues = tuple[int | None, int | None, int | None, int | None]


@dataclass(frozen=True)
class Phrase:
    """``values`` of the head and, optionally, its ``relation`` to the ``anchor``."""

    values: AttributeValues
    relation: str | None = None
    anchor: "Phrase | None" = None

    def words(self) -> str:
        """Returns the phrase in English, as terse as people's referring expressions are: without articles."""
        said = [VALUES[attribute][value] for attribute, value in enumerate(self.values) if value is not None]
        if self.values[SHAPE] is None:
            said.append("thing")
        text = " ".join(said)
        if self.relation is None or self.anchor is None:
            return text
        return f"{text} {self.relation} {self.anchor.words()}"

    def chain(self) -> "list[Phrase]":
        """Returns the phrase and its anchors, the anchor's anchor and so on, in the order in which they are said."""
        return [self] if self.anchor is None else [self, *self.anchor.chain()]

    def hops(self) -> int:
        """Returns the number of relations."""
        return 0 if self.anchor is None else 1 + self.anchor.hops()


def values_of(said: Mapping[int, int]) -> AttributeValues:
    """Returns the head that says the given values by attribute, and nothing of the others."""
    return said.get(SIZE), said.get(COLOUR), said.get(MATERIAL), said.get(SHAPE)


def matching(scene: Scene, values: AttributeValues) -> int:
    """Returns the set of objects with the given attribute values."""
    found = scene.everything
    for attribute, value in enumerate(values):
        if value is not None:
            found &= scene.having[attribute][value]
    return found


def denote(scene: Scene, phrase: Phrase) -> tuple[int, int]:
    """Returns the sets of objects that the phrase surely and possibly denotes; an anchor is any object it denotes."""
    head = matching(scene, phrase.values)
    if phrase.relation is None or phrase.anchor is None:
        return head, head
    sure_anchors, possible_anchors = denote(scene, phrase.anchor)
    sure = possible = 0
    for anchor in members(possible_anchors):
        related_surely, related_possibly = related(scene, phrase.relation, head, anchor)
        possible |= related_possibly
        if sure_anchors >> anchor & 1:
            sure |= related_surely
    return sure, possible


def related(scene: Scene, relation: str, head: int, anchor: int) -> tuple[int, int]:
    """Returns which of the objects in ``head`` surely and possibly stand in ``relation`` to object ``anchor``."""
    head &= ~(1 << anchor)
    if relation == NEAREST:
        return _nearest(scene, head, anchor)
    if relation in LIKENESS:
        attribute = LIKENESS.index(relation)
        alike = head & scene.having[attribute][scene.objects[anchor][attribute]]
        return alike, alike
    direction = DIRECTIONS.index(relation)
    return head & scene.sure[direction][anchor], head & scene.possible[direction][anchor]


def denotes_only(scene: Scene, phrase: Phrase, target: int) -> bool:
    """Returns whether the phrase unambiguously denotes object ``target``, and each of its anchors one object too."""
    sure, possible = denote(scene, phrase)
    if sure != possible or sure != 1 << target:
        return False
    if phrase.anchor is None:
        return True
    anchors = members(denote(scene, phrase.anchor)[0])
    return len(anchors) == 1 and denotes_only(scene, phrase.anchor, anchors[0])


def _nearest(scene: Scene, head: int, anchor: int) -> tuple[int, int]:
    if not head:
        return 0, 0
    x, y = scene.centre(anchor)
    distances = {}
    for index in members(head):
        other_x, other_y = scene.centre(index)
        distances[index] = ((x - other_x) ** 2 + (y - other_y) ** 2) ** 0.5
    limit = min(distances.values()) * CLEARLY_NEARER
    near = sum(1 << index for index, distance in distances.items() if distance < limit)
    return (near if near & (near - 1) == 0 else 0), near


def by_attributes(
    rng: random.Random, scene: Scene, target: int, unsaid: Sequence[int] = (), extra: float = 0.25
) -> Phrase | None:
    """Describes object ``target`` by as few attributes as a random order allows.

    Args:
        rng: the source of randomness.
        scene: the scene of the object.
        target: its index.
        unsaid: attributes that are not used.
        extra: the probability of saying one attribute more than needed.

    Returns:
        The phrase; None if no attributes suffice.
    """
    order = [attribute for attribute in range(4) if attribute not in unsaid]
    rng.shuffle(order)
    said: dict[int, int] = {}
    found = scene.everything
    while order and found != 1 << target:
        attribute = order.pop()
        value = scene.objects[target][attribute]
        narrower = found & scene.having[attribute][value]
        if narrower != found:  # an attribute that excludes nothing is not worth a word
            said[attribute], found = value, narrower
    if found != 1 << target:
        return None
    if order and rng.random() < extra:
        said[order[-1]] = scene.objects[target][order[-1]]
    return Phrase(values_of(said))


def by_relation(
    rng: random.Random,
    scene: Scene,
    target: int,
    relations: Sequence[str],
    hops: int = 1,
    unsaid: Sequence[int] = (),
    tries: int = 24,
) -> Phrase | None:
    """Describes object ``target`` by ``hops`` relations, each needed: no head is unique by itself.

    The first relation is one of ``relations``, further ones are directions. Returns None after ``tries`` failures.
    """
    others = [index for index in range(len(scene.objects)) if index != target]
    for _ in range(tries):
        relation = rng.choice(relations)
        anchor = rng.choice(others)
        head = _head(rng, scene, target, (*unsaid, LIKENESS.index(relation)) if relation in LIKENESS else unsaid)
        candidates = matching(scene, head)
        if candidates & ~(1 << anchor) == 1 << target:
            continue
        sure, possible = related(scene, relation, candidates, anchor)
        if sure != 1 << target or possible != sure:
            continue
        silent = (LIKENESS.index(relation),) if relation in LIKENESS else ()
        if hops > 1:
            description = by_relation(rng, scene, anchor, DIRECTIONS, hops - 1, silent, tries=6)
        else:
            description = by_attributes(rng, scene, anchor, silent, extra=0.1)
        if description is not None:
            return Phrase(head, relation, description)
    return None


def _head(rng: random.Random, scene: Scene, target: int, unsaid: Sequence[int]) -> AttributeValues:
    """Draws zero to two attributes of object ``target``, its shape more often than the others."""
    wanted = [0.25, 0.4, 0.25, 0.7]
    said = [rng.random() < chance for chance in wanted]
    return values_of(
        {
            attribute: value
            for attribute, value in enumerate(scene.objects[target])
            if said[attribute] and attribute not in unsaid
        }
    )


@dataclass(frozen=True)
class Caption:
    """Clauses joined by "and"; each says that some object stands in some relation to another."""

    clauses: tuple[Phrase, ...]
    mentioned: tuple[tuple[int, ...], ...] = ()  # of each clause, the objects that it was drawn for, anchors last

    def words(self) -> str:
        """Returns the caption in English."""
        return " and ".join(clause.words() for clause in self.clauses)

    def is_true(self, scene: Scene) -> bool:
        """Returns whether every clause is surely true of the scene."""
        return all(denote(scene, clause)[0] for clause in self.clauses)

    def may_be_true(self, scene: Scene) -> bool:
        """Returns whether the caption is true of the scene when no object's place is held against it."""
        return all(denote(scene, clause)[1] for clause in self.clauses)


def draw_caption(rng: random.Random, scene: Scene, most: int) -> Caption:
    """Describes at most ``most`` objects of the scene: two of them in relation, or all listed side by side."""
    mentioned = rng.sample(range(len(scene.objects)), min(most, len(scene.objects)))
    groups = [[target] for target in mentioned]
    if len(mentioned) > 1 and rng.random() < RELATION_SHARE:
        groups[:2] = [mentioned[:2]]
        rng.shuffle(groups)
    return Caption(tuple(_clause(rng, scene, group) for group in groups), tuple(map(tuple, groups)))


def _clause(rng: random.Random, scene: Scene, group: list[int]) -> Phrase:
    """Returns a true clause about objects standing in relation one to the next."""
    first, *rest = group
    values = _said(rng, scene, first)
    if not rest:
        return Phrase(values)
    true = [direction for row, direction in enumerate(DIRECTIONS) if scene.sure[row][rest[0]] >> first & 1]
    if not true:  # cannot be: objects do not overlap
        return Phrase(values)
    return Phrase(values, rng.choice(true), _clause(rng, scene, rest))


def _said(rng: random.Random, scene: Scene, target: int) -> AttributeValues:
    """Returns two or more attributes of the object."""
    while True:
        said = [rng.random() < chance for chance in MENTION_CHANCES]
        if sum(said) >= 2:
            size, colour, material, shape = (
                value if kept else None for kept, value in zip(said, scene.objects[target], strict=True)
            )
            return size, colour, material, shape
