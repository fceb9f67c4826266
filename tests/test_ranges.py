"""A range takes what fits and refuses all else with what was expected and what was found."""

import argparse
from dataclasses import dataclass

import pytest

from volta_switch import UserError
from volta_switch.ranges import (
    Choice,
    Many,
    Number,
    OrNone,
    Section,
    Spelling,
    Table,
    Text,
    Truth,
    Unread,
    bounded,
    range_of,
    read_fields,
    shown,
    whole,
)

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("range_", "good", "bad"),
    [
        (whole(1, 9), [1, 9], [0, 10, -1, 10**30, 10**5000, 1.0, "1", True, None, [1], NAN, INF]),
        (Number(0.0, 1.0), [0, 1, 0.5, 1e-300], [-1e-9, 1.001, NAN, INF, -INF, True, "0.5", 10**400]),
        (Number(0.0, 1.0, above=True, below=True), [1e-300, 0.999], [0, 0.0, 1, 1.0, NAN]),
        (Choice(3, "x", None), [3, "x", None], [3.0, True, "3", "y", "", [3], NAN]),
        (Text(), ["a", " b "], ["", "  ", "a\0b", 3, None, True, ["a"]]),
        (Text(empty=True, without="/"), ["", "a"], ["a/b", "\0", 0, None]),
        (Truth(), [True, False], [1, 0, "true", None, ""]),
        (Many(whole(0, 5)), [(), (1, 2)], [(6,), [True], "12", 1, None, {1: 2}, [NAN]]),
        (OrNone(whole(1, 9)), [None, 3], [0, "", False, []]),
        (Section(int), [3], ["3", None, {}]),
        (Unread(1, "a", why="nobody asks"), [1, "a"], [2, "b", True, None]),
    ],
)  # fmt: skip
def test_what_fits_is_kept_and_all_else_refused(range_, good, bad):
    for value in good:
        assert range_.read(value) == value
    for value in bad:
        with pytest.raises(ValueError, match="found ") as caught:
            range_.read(value)
        assert range_.expected in str(caught.value) or isinstance(range_, Unread)
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_lists_become_tuples_and_keys_texts():
    assert Many(whole(0, 5)).read([1, 2]) == (1, 2) and OrNone(Many(whole(0, 5))).read([1]) == (1,)
    weights = Table(Choice("0", "6"), Number(0.0, 9.0))
    assert weights.read({0: 1, "6": 0.5}) == {"0": 1, "6": 0.5}
    for bad in ({"7": 1}, {"0": -1}, {"0": NAN}, {0.0: 1}, {False: 1}, {"": 1}, {(0,): 1}, [0], "0", None):
        with pytest.raises(ValueError, match="expected a section"):
            weights.read(bad)


@pytest.mark.parametrize(
    ("range_", "text", "value"),
    [
        (whole(1, 99), "12", 12), (Number(0.0, 1.0), "5e-1", 0.5), (Choice(0, 1), "1", 1), (Choice("a"), "a", "a"),
        (Truth(), "No", False), (OrNone(whole(1, 9)), "3", 3), (Text(), "x y", "x y"),
        (Spelling("a power", lambda text: 2 ** int(text)), "5", 32),
    ],
)  # fmt: skip
def test_texts_spell_values(range_, text, value):
    assert range_.spelt(text) == value == range_(text) and type(range_(text)) is type(value)


@pytest.mark.parametrize("text", ["", "x", "1.0", "1e1", "nan", "inf", "0", "100", "-1", "0x1", 5000 * "9"])
def test_texts_that_spell_no_whole_number_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to 99, found ") as caught:
        whole(1, 99)(text)
    assert len(str(caught.value)) < 200


def test_a_dataclass_names_the_field_that_does_not_fit():
    @dataclass(frozen=True)
    class Sizes:
        width: int = bounded(3, whole(1, 9))
        kinds: tuple = bounded((), Many(Choice("a", "b")))
        names: dict = bounded({"a": 1}, Table(Text(), whole(0, 9)))
        free: object = None

        def __post_init__(self):
            read_fields(self, "sizes.")

    assert Sizes(kinds=["a"], names={"b": 2}) == Sizes(3, ("a",), {"b": 2})
    first, second = Sizes(), Sizes()
    assert first.names == {"a": 1} and first.names is not second.names and range_of(Sizes, "width").expected
    with pytest.raises(UserError, match=r"^sizes\.width: expected a whole number from 1 to 9, found 10$"):
        Sizes(width=10)
    with pytest.raises(UserError, match=r"^sizes\.kinds: expected a list, each one of a, b, found \['c'\]$"):
        Sizes(kinds=["c"])


def test_values_are_shown_in_a_line_whatever_they_are():
    endless: list = []
    endless.append(endless)
    for value in (10**5000, "x" * 10**6, endless, {"a": [1] * 10**5}, "a\nb", object()):
        assert len(shown(value)) < 150 and "\n" not in shown(value)
