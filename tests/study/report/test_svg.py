import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest

from volta_switch.study.report.chart import axis_below, in_units, legend, scale_over, tick_texts, whisker
from volta_switch.study.report.svg import (
    MARKERS,
    Scale,
    element,
    escape,
    marker,
    picture,
    shortened,
    spread,
    style,
    text_width,
    words,
    wrapped,
)


def test_a_scale_puts_values_in_proportion_on_a_reversed_axis_too() -> None:
    scale = Scale(10, 20, 300, 100)
    assert [scale(value) for value in (10, 15, 20)] == [300, 200, 100]
    assert [Scale(1, 100, 0, 200, log=True)(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])


@pytest.mark.parametrize("scale", [Scale(0, 1, 0, 1), Scale(78.13, 78.19, 0, 1), Scale(-3e9, 7e9, 0, 1)])
def test_ticks_are_few_and_inside(scale: Scale) -> None:
    ticks = scale.ticks(5)
    assert 2 <= len(ticks) <= 6
    room = 1e-9 * (scale.high - scale.low)
    assert all(scale.low - room <= tick <= scale.high + room for tick in ticks)


@pytest.mark.parametrize("ends", [(2.1, 4.9), (1.0, 30.0), (1e-3, 1e13)])
def test_a_logarithmic_axis_has_two_ticks_or_more_whatever_it_spans(ends: tuple[float, float]) -> None:
    ticks = Scale(*ends, 0, 1, log=True).ticks(5)
    assert 2 <= len(ticks) <= 6 and all(ends[0] <= tick <= ends[1] for tick in ticks)


def test_numbers_of_one_axis_have_the_same_decimals_and_a_minus_sign() -> None:
    assert tick_texts([-0.5, 0.0, 0.25]) == ["−0.50", "0.00", "0.25"]
    assert tick_texts([1000.0, 20000.0]) == ["1,000", "20,000"]
    assert (
        in_units(36000) == (1e3, ", thousands") and in_units(9000) == (1, "") and in_units(2e9) == (1e9, ", billions")
    )


def test_words_are_escaped_and_lose_what_xml_forbids() -> None:
    text = "a<b & \"c\" \x00\x0b\ud800'd'"
    read = ElementTree.fromstring(picture(10, 10, text, words(text, 1, 2, data_name=text)))
    assert [each.text for each in read] == ["a<b & \"c\" 'd'"] * 2
    assert read[1].get("data-name") == "a<b & \"c\" 'd'"


def test_an_attribute_of_none_is_left_out() -> None:
    assert element("line", x1=1.005, stroke_dasharray=None, class_="x") == '<line x1="1" class="x"/>'


@pytest.mark.parametrize("kind", MARKERS)
def test_a_marker_shows_its_words_under_the_pointer(kind: str) -> None:
    read = ElementTree.fromstring(marker(kind, 5, 5, 10, "#000", "x < y"))
    assert read[0].tag == "title" and read[0].text == "x < y"


def test_the_first_28_lines_can_be_told_apart_without_colour() -> None:
    looks = [(style(index).marker, style(index).dash) for index in range(28)]
    assert len(set(looks)) == 28
    assert len({(style(index).marker, style(index).colour) for index in range(28)}) == 28  # what a label shows


def test_a_shortened_text_fits_and_keeps_its_beginning_and_end() -> None:
    assert shortened("switchbert", 200, 14) == "switchbert"
    short = shortened("deep-text-vilbert-without-pretraining-4", 120, 14)
    assert text_width(short, 14) <= 120 and short.startswith("deep") and short.endswith("-4") and "…" in short
    assert shortened("anything", 0, 14) == "…"


def test_wrapped_lines_fit_and_hold_all_words_where_there_is_room() -> None:
    text = "Deeper text asks for a deeper text stack before the first co-attention"
    lines = wrapped(text, 200, 14)
    assert " ".join(lines) == text and all(text_width(line, 14) <= 200 for line in lines)
    many = wrapped("word " * 100 + "x" * 300, 200, 14, most=3)
    assert len(many) == 3 and all(text_width(line, 14) <= 200 for line in many)


def test_spread_leaves_what_is_apart_and_parts_what_is_not() -> None:
    assert spread([100.0, 10.0, 50.0], 18, 0, 200) == [100, 10, 50]
    assert spread([50.0, 50.0, 50.0], 10, 0, 200) == pytest.approx([40, 50, 60])
    assert spread([0.0, 1.0], 10, 0, 200) == pytest.approx([0, 10])
    assert spread([199.0, 200.0], 10, 0, 200) == pytest.approx([190, 200])


@pytest.mark.parametrize("wanted", [[5.0] * 12, [200.0] * 12, [0.0] * 6 + [200.0] * 6, [3.0, 1.0, 2.0, 2.5, 190.0]])
def test_spread_places_are_apart_inside_and_in_order(wanted: list[float]) -> None:
    places = spread(wanted, 15, 0, 200)
    ordered = sorted(places)
    assert all(after - before >= 15 - 1e-9 for before, after in pairwise(ordered))
    assert ordered[0] >= 0 and ordered[-1] <= 200 + 1e-9
    pairs = zip(wanted, places, strict=True)
    assert [place for _, place in sorted(pairs)] == ordered


def test_a_scale_over_one_value_has_it_in_the_middle() -> None:
    assert scale_over([50.0, 50.0], 0, 100)(50.0) == 50
    assert scale_over([0.0], 0, 100)(0.0) == 50
    assert scale_over([0.0, 100.0], 0, 100, limits=(0, 100)) == Scale(0, 100, 0, 100)


@pytest.mark.parametrize(("start", "end", "upright"), [(0, 100, False), (100, 0, True)])
def test_a_whisker_ends_in_caps_or_off_the_scale_in_an_arrow(start: float, end: float, upright: bool) -> None:
    scale = Scale(0, 10, start, end)
    inside = ElementTree.fromstring(whisker(scale, (2, 4), 7, "#000", upright=upright))
    body = inside.find("line")
    assert body is not None
    along, across = ("y1", "y2"), ("x1", "x2")
    if not upright:
        along, across = across, along
    assert [float(body.get(side, "")) for side in along] == [scale(2), scale(4)]
    assert [float(body.get(side, "")) for side in across] == [7, 7]
    assert len(inside.findall("line")) == 3 and not inside.findall("polygon")
    leaving = ElementTree.fromstring(whisker(scale, (2, 40), 7, "#000", upright=upright))
    assert len(leaving.findall("line")) == 2
    (arrow,) = leaving.findall("polygon")
    corners = [tuple(map(float, pair.split(","))) for pair in arrow.get("points", "").split()]
    tip, *back = [corner[1 if upright else 0] for corner in corners]
    assert abs(tip - scale(10)) <= 1 and all(min(start, end) < place < max(start, end) for place in back)


def test_numbers_below_an_axis_do_not_touch() -> None:
    narrow = ElementTree.fromstring(axis_below(Scale(1234567, 1234569, 0, 150), 0, 100, "samples"))
    numbers = [each for each in narrow.findall("text") if each.get("y") == "119"]
    spans = []
    for each in numbers:
        half = text_width(each.text or "", 14) / 2
        spans.append((float(each.get("x", "")) - half, float(each.get("x", "")) + half))
    assert numbers and all(before[1] < after[0] for before, after in pairwise(spans))


def test_a_legend_wraps_and_says_how_high_it_is() -> None:
    sign = lambda x, y: marker("circle", x, y, 8, "#000")  # noqa: E731
    markup, height = legend([(sign, "one"), (sign, "another"), (sign, "w" * 200)], 8, 100, 150)
    read = ElementTree.fromstring(markup)
    bottoms = [float(each.get("y", "")) for each in read.findall("text")]
    assert bottoms[0] < bottoms[1] < bottoms[2] <= 100 + height
    assert legend([], 8, 100, 150)[1] == 0
    assert escape("&") == "&amp;"
