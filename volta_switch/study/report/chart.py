"""Parts that the report's charts share: axes, intervals, legends, and places for labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from volta_switch.study.records import ReportedEstimate
from volta_switch.study.report.svg import (
    FAINT,
    GRID,
    INK,
    Scale,
    Style,
    element,
    escape,
    line,
    marker,
    picture,
    shortened,
    text_width,
    words,
    wrapped,
)

WIDTH = 420  # of the pictures: they fit a phone's width nearly as they are
LABEL_GAP = 18  # between the middles of lines of text

Sign = Callable[[float, float], str]  # draws around (x, y)
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
LABEL_HEIGHT = 18
LOGARITHMIC = 5.0  # from this ratio of the largest to the smallest cost on


def scale_over(
    values: Sequence[float], start: float, end: float, *, limits: tuple[float, float] | None = None
) -> Scale:
    """Returns a scale with some room around the values, within ``limits``; a single value is in its middle."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = 0.06 * (high - low) or abs(low) * 0.05 or 1.0
    low, high = low - room, high + room
    if limits is not None:
        low, high = max(low, limits[0]), min(high, limits[1])
    return Scale(low, high, start, end)


def cost_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """Returns a scale over costs; logarithmic where the largest is more than five times the smallest."""
    low, high = min(values), max(values)
    if high <= LOGARITHMIC * low:
        room = 0.15 * (high - low)  # for labels
        return scale_over([low - room, high + room], start, end)
    room = (high / low) ** 0.15
    return Scale(low / room, high * room, start, end, log=True)


def tick_texts(values: Sequence[float]) -> list[str]:
    """Returns numbers with as many decimals as the one that needs most."""
    short = [f"{value:.6g}" for value in values]
    if any("e" in text for text in short):
        return short
    decimals = max((len(text.partition(".")[2]) for text in short), default=0)
    return [signed(f"{value + 0.0:,.{decimals}f}") for value in values]


def signed(number: str) -> str:
    """Returns a written number with a minus sign in place of the hyphen."""
    return number.replace("-", "−")


def in_units(largest: float) -> tuple[float, str]:
    """Returns the unit of numbers up to ``largest``: a divisor, and words for the axis, ``(1e3, ", thousands")``."""
    for divisor, name in ((1e12, "trillions"), (1e9, "billions"), (1e6, "millions"), (1e4, "thousands")):
        if largest >= divisor:
            return (1e3 if divisor == 1e4 else divisor), f", {name}"
    return 1.0, ""


def axis_below(
    scale: Scale, top: float, bottom: float, label: str, at: Sequence[float] | None = None, divisor: float = 1.0
) -> str:
    """Draws ticks with their numbers and lines up to ``top``, and what is measured below them: 46 units high.

    Args:
        scale: from values to x.
        top, bottom: where the lines end; the numbers stand below.
        label: centred, and shortened where a picture ``WIDTH`` wide would cut it off.
        at: the ticks; else round values, as many as have room.
        divisor: of the numbers shown.
    """
    for most in (6, 5, 4, 3, 2, 1):
        places = list(scale.ticks(most) if at is None else at)
        texts = tick_texts([value / divisor for value in places])
        if at is not None or _apart([scale(value) for value in places], texts, 14):
            break
    drawn, free = [], -math.inf
    for value, text in zip(places, texts, strict=True):
        x, half = scale(value), text_width(text, 14) / 2
        drawn.append(element("line", x1=x, x2=x, y1=top, y2=bottom + 4, stroke=GRID))
        if x - half >= free:  # of given ticks those without room have a line only
            drawn.append(words(text, x, bottom + 19, size=14, fill=FAINT, text_anchor="middle"))
            free = x + half + 4
    drawn.append(element("line", x1=scale.start, x2=scale.end, y1=bottom, y2=bottom, stroke=FAINT))
    middle = (scale.start + scale.end) / 2
    label = shortened(label, 2 * min(middle, WIDTH - middle) - 16, 14)
    return element("g", *drawn, words(label, middle, bottom + 40, size=14, text_anchor="middle"))


def axis_left(scale: Scale, left: float, right: float) -> str:
    """Draws ticks with their numbers left of ``left`` and lines to ``right``; the scale is from values to y."""
    places = scale.ticks(6)
    drawn = []
    for value, text in zip(places, tick_texts(places), strict=True):
        drawn.append(element("line", x1=left, x2=right, y1=scale(value), y2=scale(value), stroke=GRID))
        drawn.append(words(text, left - 7, scale(value) + 5, size=14, fill=FAINT, text_anchor="end"))
    return element("g", *drawn)


def tick_room(scale: Scale) -> float:
    """Returns the width of ``axis_left``'s numbers, with the space next to them."""
    return max((text_width(text, 14) for text in tick_texts(scale.ticks(6))), default=0.0) + 10


def _apart(places: Sequence[float], texts: Sequence[str], size: float) -> bool:
    halves = [text_width(text, size) / 2 + 4 for text in texts]
    spans = [(place - half, place + half) for place, half in zip(places, halves, strict=True)]
    return all(left[1] <= right[0] for left, right in pairwise(spans))


def end_label(name: str, place: float, end: tuple[float, float], left: float, width: float, look: Style) -> str:
    """Draws a line's name with its marker at ``left``, ``width`` wide, tied to the line's ``end`` where it had to move.

    Args:
        place: the label's y, from ``spread`` over all ends' with a gap of ``LABEL_GAP`` or more.
    """
    tie = line(end[0] + 6, end[1], left + 2, place, FAINT, 0.8) if abs(place - end[1]) > 3 or left - end[0] > 60 else ""
    text = shortened(name, width - 20, 14)
    hover = element("title", escape(name)) if text != name else ""
    label = element("text", hover, escape(text), x=left + 20, y=place + 5, font_size=14, fill=INK)
    return tie + marker(look.marker, left + 9, place, 9, look.colour) + label


def whisker(
    scale: Scale, ends: tuple[float, float], across: float, stroke: str, stroke_width: float = 2, cap: float = 5,
    hover: str = "", upright: bool = False,
) -> str:  # fmt: skip
    """Draws an interval as a line with caps; where it leaves the scale it ends in an arrow head at the scale's end.

    Args:
        ends: the interval.
        across: y, or x where ``upright``.
        cap: half the length of a cap; 0 for none.
    """
    shapes, places = [], []
    for value, side in zip(sorted(ends), (-1, 1), strict=True):
        inside = min(max(value, scale.low), scale.high)
        at, way = scale(inside), math.copysign(side, (scale.end - scale.start) * side)
        places.append(at)
        if inside != value:
            corners = [(at + 1 * way, across), (at - 8 * way, across - 5), (at - 8 * way, across + 5)]
            points = " ".join(f"{y:.2f},{x:.2f}" if upright else f"{x:.2f},{y:.2f}" for x, y in corners)
            shapes.append(element("polygon", points=points, fill=stroke))
        elif cap:
            here = (at, across - cap, at, across + cap)
            x1, y1, x2, y2 = (here[1], here[0], here[3], here[2]) if upright else here
            shapes.append(line(x1, y1, x2, y2, stroke, stroke_width))
    body = (across, places[0], across, places[1]) if upright else (places[0], across, places[1], across)
    return element(
        "g", *([element("title", escape(hover))] if hover else []), line(*body, stroke, stroke_width), *shapes
    )


def legend(items: Sequence[tuple[Sign, str]], left: float, top: float, width: float) -> tuple[str, float]:
    """Draws signs (around a given point, 24 wide) with what they mean, and the height of it all."""
    drawn, x, y = [], left, top + 12
    for sign, text in items:
        text = shortened(text, width - 32, 14)
        needed = 32 + text_width(text, 14)
        if x > left and x + needed > left + width:
            x, y = left, y + 21
        drawn.append(sign(x + 12, y) + words(text, x + 30, y + 5, size=14))
        x += needed + 16
    return element("g", *drawn), y + 12 - top if items else 0.0


def interval_of(found: ReportedEstimate) -> str:
    """Returns ``95 % interval 70.10 to 72.30``."""
    low, high = found.interval or (math.nan, math.nan)
    return f"{100 * found.confidence:g} % interval {low:.2f} to {high:.2f}"


def interval_words(estimates: Sequence[ReportedEstimate]) -> str:
    """Tells what the intervals of a picture are: "95 % interval (5 seeds, these items)"; empty where there is none."""
    shown = [found for found in estimates if found.interval]
    if not shown:
        return ""
    seeds = sorted({found.seeds for found in shown})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{100 * shown[0].confidence:g} % interval ({count} seeds, {shown[0].population})"


def heading(text: str, width: float) -> tuple[str, float]:
    """Draws a picture's title in bold, wrapped, and its height."""
    lines = wrapped(text, width - 16, 16, bold=True)
    drawn = [words(part, 8, 22 + 21 * n, size=16, font_weight="bold") for n, part in enumerate(lines)]
    return element("g", *drawn), 30.0 + 21 * (len(lines) - 1) if lines else 0.0


def label_above(text: str, y: float) -> tuple[str, float]:
    """Draws what an axis measures above it, in lines from ``y`` on, and the height of those after the first."""
    lines = wrapped(text, WIDTH - 16, 14)
    drawn = [words(part, 8, y + LABEL_GAP * n, size=14) for n, part in enumerate(lines)]
    return element("g", *drawn), LABEL_GAP * max(len(lines) - 1, 0.0)


def empty(title: str, width: float) -> str:
    """Draws a picture that says that there is nothing to show."""
    head, top = heading(title, width)
    return picture(width, top + 40, title, head, words("no data", 8, top + 20, size=15, fill=FAINT))


# --- Places for labels ----------------------------------------------------------------------------------------------


def placed(points: Sequence[tuple[float, float, float]], marks: Sequence[Box], bounds: Box) -> list[Box]:
    """Returns a box for each point's label, near it, within the bounds, and off all others.

    It keeps off the marks, too, where that is possible. Each label forbids the next one's middle at most two heights,
    so that bounds of 40 units a label are enough.

    Args:
        points: (x, y, the label's width).
        marks: what labels should not cover.
    """
    found: dict[int, Box] = {}
    for index in [*range(len(points)), *range(len(points))]:  # a second time, when the others have their places
        x, y, width = points[index]
        others = [box for other, box in found.items() if other != index]
        near = [box for box in _near(x, y, width) if _within(box, bounds) and not any(overlap(box, o) for o in others)]
        rivals = [point[:2] for other, point in enumerate(points) if other != index and point[:2] != (x, y)]
        if near:
            found[index] = min(near, key=lambda box: _badness(box, (x, y), rivals, marks, others))
        else:
            found[index] = _somewhere(points[index], marks, others, bounds)
    return [found[index] for index in range(len(points))]


def _badness(box: Box, own: Point, rivals: Sequence[Point], marks: Sequence[Box], others: Sequence[Box]) -> float:
    """Returns the distance from a label to its point, more where it covers marks or seems to be another point's."""
    end = nearest(box, own)
    distance = math.dist(own, end)
    along = [(own[0] + (end[0] - own[0]) * step / 6, own[1] + (end[1] - own[1]) * step / 6) for step in range(1, 7)]
    crossed = sum(any(math.dist(at, rival) < 9 for at in along) for rival in rivals)
    crossed += sum(any(nearest(other, at) == at for at in along) for other in others)
    nearer = sum(math.dist(rival, nearest(box, rival)) < distance + 4 for rival in rivals)
    return distance + 400 * sum(overlap(box, mark) for mark in marks) + 100 * crossed + 15 * nearer


def overlap(one: Box, other: Box) -> bool:
    """Tells whether two boxes have a point in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _near(x: float, y: float, width: float) -> Iterator[Box]:
    """Yields boxes next to, above and below a point, and then farther off."""
    for distance in (10, 16, 24, 34, 46, 60):
        for right, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -0.7), (1, 0.7), (-1, -0.7), (-1, 0.7)):
            left = x + right * (distance + width / 2) - width / 2
            top = y + down * (distance + LABEL_HEIGHT / 2) - LABEL_HEIGHT / 2
            yield left, top, left + width, top + LABEL_HEIGHT


def _somewhere(point: tuple[float, float, float], marks: Sequence[Box], others: Sequence[Box], bounds: Box) -> Box:
    """Returns the box nearest to a point that keeps off other labels, and off the marks where that is possible."""
    (x, y, width), (left, top, right, bottom) = point, bounds
    columns = [left + 20 * number for number in range(int((right - left - width) / 20) + 1)]
    rows = [top + 6 * number for number in range(int((bottom - top - LABEL_HEIGHT) / 6) + 1)]
    boxes = [(column, row, column + width, row + LABEL_HEIGHT) for column in columns for row in rows]
    free = [box for box in boxes if not any(overlap(box, other) for other in others)]
    free.sort(key=lambda box: math.dist(nearest(box, (x, y)), (x, y)))
    return next((box for box in free if not any(overlap(box, mark) for mark in marks)), free[0])


def _within(box: Box, bounds: Box) -> bool:
    return box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def nearest(box: Box, point: Point) -> Point:
    """Returns the place of a box, drawn in a little as its letters are, that is nearest to a point."""
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1] + 3), box[3] - 3)
