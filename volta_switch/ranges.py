"""What a setting may be, declared once: beside a configuration's field, a task entry's field, or with a flag.

A range reads values (of JSON, YAML or Python) and texts (of a command line), and is a type for argparse. What does not
fit is refused with what was expected and what was found. Every number has a lowest and a highest value, so that neither
NaN nor infinity fits anywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from volta_switch.errors import UserError

SHOWN = 80  # characters of a value in a message
TRUTHS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


class Range(ABC):
    """The values that one setting may have.

    Calling it with a text gives the value that the text spells, as argparse asks of a type.
    """

    expected: str  # "a whole number from 1 to 12"

    @abstractmethod
    def fits(self, value: Any) -> bool:
        """Returns whether a value is one of them."""

    def read(self, value: Any) -> Any:
        """Returns the value as the setting keeps it.

        Raises:
            ValueError: it does not fit; says what was expected and what was found.
        """
        if not self.fits(value):
            raise self.refusal(value)
        return value

    def spelt(self, text: str) -> Any:
        """Returns the value that a text spells. Raises ValueError where it spells none, or one that does not fit."""
        return self.read(text)

    def refusal(self, value: Any) -> ValueError:
        """Returns what there is to say of a value that does not fit."""
        return ValueError(f"expected {self.expected}, found {shown(value)}")

    def __call__(self, text: str) -> Any:
        """See ``spelt``, with argparse's error."""
        try:
            return self.spelt(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


class Number(Range):
    """Numbers from ``lowest`` to ``highest``; ``above`` and ``below`` leave out the one and the other."""

    def __init__(
        self, lowest: float, highest: float, *, whole: bool = False, above: bool = False, below: bool = False
    ) -> None:
        self.lowest, self.highest, self.whole, self.above, self.below = lowest, highest, whole, above, below
        start = f"above {_plain(lowest)}" if above else f"from {_plain(lowest)}"
        end = f"below {_plain(highest)}" if below else _plain(highest)
        self.expected = f"a {'whole ' if whole else ''}number {start} to {end}"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``; False and True are no numbers."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        from_start = self.lowest < value if self.above else self.lowest <= value
        return bool(from_start and (value < self.highest if self.below else value <= self.highest))

    def spelt(self, text: str) -> Any:
        """See ``Range.spelt``; whole numbers have digits alone."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:  # also: more digits than Python turns into a number
            raise self.refusal(text) from None
        if not self.fits(value):
            raise ValueError(f"expected {self.expected}, found {_cut(text)}")
        return value


class Choice(Range):
    """One of a few values; None is JSON's null."""

    def __init__(self, *values: Any) -> None:
        self.values = values
        names = ["null" if value is None else str(value) or "nothing" for value in values]
        self.expected = names[0] if len(names) == 1 else f"one of {', '.join(names)}"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``; 1 is neither True nor 1.0."""
        return any(type(value) is type(one) and value == one for one in self.values)

    def spelt(self, text: str) -> Any:
        """See ``Range.spelt``."""
        for value in self.values:
            if value is not None and str(value) == text:
                return value
        raise self.refusal(text)


class Text(Range):
    """Text without zero bytes; ``without``: characters that it may not have."""

    def __init__(self, *, empty: bool = False, without: str = "") -> None:
        self.empty, self.without = empty, without
        self.expected = ("text" if empty else "text that is not empty") + (f", without {without}" if without else "")

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        allowed = isinstance(value, str) and not any(character in value for character in f"\0{self.without}")
        return allowed and (self.empty or bool(value.strip()))


class Truth(Range):
    """True or false."""

    expected = "true or false"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``; numbers are none."""
        return isinstance(value, bool)

    def spelt(self, text: str) -> Any:
        """See ``Range.spelt``, with 1 and 0, yes and no."""
        if text.lower() not in TRUTHS:
            raise self.refusal(text)
        return TRUTHS[text.lower()]


class Many(Range):
    """A list of values of one range, kept as a tuple."""

    def __init__(self, of: Range) -> None:
        self.of = of
        self.expected = f"a list, each {of.expected}"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        return isinstance(value, list | tuple) and all(self.of.fits(one) for one in value)

    def read(self, value: Any) -> Any:
        """See ``Range.read``."""
        return tuple(super().read(value))


class Table(Range):
    """A mapping from texts of one range to values of another."""

    def __init__(self, keys: Range, values: Range) -> None:
        self.keys, self.values = keys, values
        self.expected = f"a section: keys {keys.expected}; values {values.expected}"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``; keys may be the values that their texts spell."""
        return (
            isinstance(value, Mapping) and all(map(self._has_key, value)) and all(map(self.values.fits, value.values()))
        )

    def read(self, value: Any) -> Any:
        """See ``Range.read``; keys become texts."""
        return {str(key): one for key, one in super().read(value).items()}

    def _has_key(self, key: Any) -> bool:
        try:
            self.keys.spelt(str(key))
        except ValueError:
            return False
        return not isinstance(key, bool | float)


class OrNone(Range):
    """A value of a range, or None."""

    def __init__(self, of: Range) -> None:
        self.of = of
        self.expected = f"{of.expected}, or null"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        return value is None or self.of.fits(value)

    def read(self, value: Any) -> Any:
        """See ``Range.read``."""
        return super().read(value) if value is None else self.of.read(super().read(value))

    def spelt(self, text: str) -> Any:
        """See ``Range.spelt``; there is no text for None."""
        return self.of.spelt(text)


class Section(Range):
    """Settings that have fields, and ranges, of their own."""

    expected = "a section of settings"

    def __init__(self, of: type) -> None:
        self.of = of

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        return isinstance(value, self.of)


class Spelling(Range):
    """What a flag spells in a way of its own; ``read``: from the text, raising ValueError where it spells nothing."""

    def __init__(self, expected: str, meaning: Callable[[str], Any]) -> None:
        self.expected, self.meaning = expected, meaning

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        try:
            self.meaning(value)
        except ValueError:
            return False
        return True

    def spelt(self, text: str) -> Any:
        """See ``Range.spelt``."""
        return self.meaning(self.read(text))


class Unread(Range):
    """A setting that VOLTA has and nothing reads: its harmless values are accepted, others refused with the reason.

    ``why``: the reason, or what to write instead; ``{value}`` in it stands for the value.
    """

    def __init__(self, *harmless: Any, why: str) -> None:
        self.harmless, self.why = harmless, why
        self.expected = "to be left out"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        return not isinstance(value, bool) and value in self.harmless

    def refusal(self, value: Any) -> ValueError:
        """See ``Range.refusal``."""
        found = shown(value)
        return ValueError(f"is never read ({self.why.format(value=found)}); leave it out, found {found}")


def whole(lowest: int, highest: int) -> Number:
    """Returns the range of whole numbers, both ends among them."""
    return Number(lowest, highest, whole=True)


def bounded(default: Any, range_: Range) -> Any:
    """Returns a dataclass's field with a default and its range."""
    metadata = {"range": range_}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def required(range_: Range) -> Any:
    """Returns a dataclass's field without a default, and its range."""
    return dataclasses.field(metadata={"range": range_})


def range_of(cls: type, name: str) -> Range:
    """Returns the range of a dataclass's field."""
    return cls.__dataclass_fields__[name].metadata["range"]  # type: ignore[no-any-return, attr-defined]


def read_fields(instance: Any, prefix: str = "") -> None:
    """Reads all fields of a frozen dataclass that have a range, from its ``__post_init__``.

    Raises:
        UserError: names the first that does not fit, after ``prefix``.
    """
    for item in dataclasses.fields(instance):
        if "range" in item.metadata:
            try:
                value = item.metadata["range"].read(getattr(instance, item.name))
            except ValueError as error:
                raise UserError(f"{prefix}{item.name}: {error}") from None
            object.__setattr__(instance, item.name, value)


def shown(value: Any) -> str:
    """Returns a value in a message: as Python writes it, and not more of it than a line can hold."""
    try:
        return _cut(repr(value))
    except (ValueError, RecursionError):  # a number of thousands of digits, sections within sections
        return f"a value of type {type(value).__name__} that is too long to show"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def _plain(number: float) -> str:
    """Returns a bound as people write it."""
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


# Ranges that several settings have. Upper ends are far beyond any use: what lies above them is a slip of the hand, of
# which a machine would run out of memory or time without a word.
FRACTION = Number(0.0, 1.0)
SHARE = Number(0.0, 1.0, above=True)
DROPOUT = Number(0.0, 1.0, below=True)
PROBABILITY = Number(0.0, 1.0, above=True, below=True)
WIDTH = whole(1, 65536)  # units of a layer
COUNT = whole(1, 1_000_000_000)


def _part(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    part = COUNT.spelt(number), COUNT.spelt(count)
    if part[0] > part[1]:
        raise ValueError
    return part


PART = Spelling("K/N with K from 1 to N", _part)
COUNT_OR_NONE = whole(0, 1_000_000_000)
BATCH_SIZE = whole(1, 1_000_000)
POOL_IMAGES = whole(2, 1_000_000)
EPOCHS = whole(1, 1_000_000)
LEARNING_RATE = Number(0.0, 100.0)  # of 0: nothing is learnt
WARMUP_PROPORTION = FRACTION  # of all optimiser steps
WARMUP_STEPS = Number(0.0, 1e9)
ADAM_BETA = Number(0.0, 1.0, below=True)
ADAM_EPSILON = Number(0.0, 1.0, above=True)
WEIGHT_DECAY = Number(0.0, 100.0)
GRADIENT_NORM = Number(0.0, 1e9)
SEED = whole(0, 2**32 - 1)
WORDS = whole(3, 65536)  # word pieces of a text, [CLS] and [SEP] included
PROCESSES = whole(0, 1024)
SECONDS = Number(0.0, 1e7)
PATH = Text()
ANY_TEXT = Text(empty=True)
NAME = Text(without="/")
