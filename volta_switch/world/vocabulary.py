"""The words of a world, their spelling in word pieces, and the BERT vocabulary directory."""

import json
import random
from itertools import product
from pathlib import Path

from volta_switch.world.phrases import LIKENESS, NEAREST
from volta_switch.world.scenes import DIRECTIONS, VALUES
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
