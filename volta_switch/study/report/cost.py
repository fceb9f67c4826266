"""What a score costs: scores with their intervals against FLOPs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from volta_switch.study.report.chart import (
    WIDTH,
    Sign,
    axis_below,
    axis_left,
    empty,
    heading,
    in_units,
    interval_words,
    legend,
    scale_over,
    tick_room,
    whisker,
)
from volta_switch.study.report.svg import (
    FAINT,
    INK,
    Scale,
    Style,
    element,
    escape,
    line,
    marker,
    picture,
    shortened,
    style,
    text_width,
    words,
)

HEIGHT = 320  # of the plot, at least
LINE = 18  # height of a label
LOGARITHMIC = 5.0  # from this ratio of the largest to the smallest cost on
Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def cost_figure(points: Sequence[Mapping[str, Any]], x_label: str, y_label: str, title: str = "") -> str:
    """Each arm's score with its interval above its cost; the axis is logarithmic where costs differ fivefold.

    Args:
        points: of each arm ``arm``, ``series`` (drawn with one marker), ``x`` (its cost, above 0), and ``score`` as in
            ``table.json``.
        x_label, y_label: of the axes; ``y_label`` with its unit.
        title: without it "``y_label`` against ``x_label``".
    """
    title = title or f"{y_label.partition(',')[0]} against {x_label}"
    points = [point for point in points if point["x"] is not None and point["x"] > 0]
    if not points:
        return empty(title, WIDTH)
    head, top = heading(title, WIDTH)
    series = list({point["series"]: None for point in points})
    looks = {name: style(index) for index, name in enumerate(series)}
    told = series if len(series) < len(points) else []  # else the labels tell them
    meaning, height = legend([(_sign(looks[name]), name) for name in told], 8, top + 4, WIDTH - 16)
    top += 44 + height
    bottom = top + max(HEIGHT, 20 + 40 * len(points))  # so high that every label finds a place, see _placed
    y = _score_scale(points, bottom, top)
    x = cost_scale([point["x"] for point in points], 12 + tick_room(y), WIDTH - 14)
    intervals = interval_words([point["score"]["estimate"] for point in points])
    y_label += f": mean, {intervals}" if intervals else ""
    divisor, unit = in_units(max(point["x"] for point in points))
    drawn = [head, meaning, words(shortened(y_label, WIDTH - 16, 14), 8, top - 14, size=14)]
    drawn += [axis_below(x, top, bottom, x_label + unit, divisor=divisor), axis_left(y, x.start, x.end)]
    drawn += _marks(points, x, y, looks)
    return picture(WIDTH, bottom + 52, title, *drawn)


def cost_scale(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale over costs; logarithmic where the largest is more than five times the smallest."""
    low, high = min(values), max(values)
    if high <= LOGARITHMIC * low:
        room = 0.15 * (high - low)  # for labels
        return scale_over([low - room, high + room], start, end)
    room = (high / low) ** 0.15
    return Scale(low / room, high * room, start, end, log=True)


def _score_scale(points: Sequence[Mapping[str, Any]], start: float, end: float) -> Scale:
    scores = [point["score"] for point in points]
    percent = all(0 <= value <= 100 for score in scores for value in score["values"])
    values = [score["mean"] for score in scores]
    values += [score["estimate"][side] for score in scores for side in ("low", "high")]
    known = [value for value in values if value is not None]
    if percent:
        known = [min(max(value, 0.0), 100.0) for value in known]
    return scale_over(known, start, end, limits=(0.0, 100.0) if percent else None)


def _sign(look: Style) -> Sign:
    return lambda x, y: marker(look.marker, x, y, 11, look.colour)


def _marks(points: Sequence[Mapping[str, Any]], x: Scale, y: Scale, looks: Mapping[str, Style]) -> list[str]:
    """Intervals, markers and labels, a group for each arm."""
    places = [(x(point["x"]), y(point["score"]["mean"])) for point in points]
    names = [shortened(point["arm"], 0.6 * (x.end - x.start), 14) for point in points]
    whiskers = [_whisker_box(point["score"], place[0], y) for point, place in zip(points, places, strict=True)]
    markers = [(px - 8, py - 8, px + 8, py + 8) for px, py in places]
    bounds = (x.start + 2, y.end, x.end, y.start - 2)
    boxes = placed([(*place, text_width(name, 14)) for place, name in zip(places, names, strict=True)],
                   [*markers, *whiskers], bounds)  # fmt: skip
    drawn = []
    for point, place, name, box in zip(points, places, names, boxes, strict=True):
        found, look = point["score"]["estimate"], looks[point["series"]]
        divisor, unit = in_units(point["x"])
        hover = f"{point['arm']}: {point['score']['mean']:.2f} at {point['x'] / divisor:.4g}{unit.replace(',', '')}"
        parts = [_tie(place, box)]
        if found["low"] is not None:
            hover += f", {100 * found['confidence']:g} % interval {found['low']:.2f} to {found['high']:.2f}"
            ends = (found["low"], found["high"])
            parts.append(whisker(y, ends, place[0], look.colour, 1.5, 5, hover, upright=True))
        parts.append(
            marker(look.marker, *place, 12, look.colour, hover, stroke="#ffffff", stroke_width=1, class_="mean")
        )
        full = [element("title", escape(point["arm"]))] if name != point["arm"] else []
        halo = {"stroke": "#ffffff", "stroke_width": 3, "paint_order": "stroke", "stroke_linejoin": "round"}
        at = {"x": box[0], "y": box[3] - 4, "font_size": 14, "fill": INK}
        parts.append(element("text", *full, escape(name), **at, **halo))
        drawn.append(element("g", *parts, data_arm=point["arm"]))
    return drawn


def _whisker_box(score: Mapping[str, Any], x: float, y: Scale) -> Box:
    found = score["estimate"]
    ends = [score["mean"] if found[side] is None else found[side] for side in ("low", "high")]
    top, bottom = sorted(y(min(max(end, y.low), y.high)) for end in ends)
    return x - 6, top - 2, x + 6, bottom + 2


def _tie(place: Point, box: Box) -> str:
    """A thin line from a point to its label where they are apart."""
    near = _nearest(box, place)
    return line(*place, *near, FAINT, 0.8) if math.dist(place, near) > 16 else ""


# --- Places for labels ----------------------------------------------------------------------------------------------


def placed(points: Sequence[tuple[float, float, float]], marks: Sequence[Box], bounds: Box) -> list[Box]:
    """A box for each point's label, near it, within the bounds, and off all others.

    It keeps off the marks, too, where that is possible. Each label forbids the next one's middle at most two heights,
    so that bounds of 40 units a label are enough.

    Args:
        points: (x, y, the label's width).
        marks: what labels should not hide.
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
    """The distance from a label to its point, and more for what it hides and for seeming to be another point's."""
    end = _nearest(box, own)
    distance = math.dist(own, end)
    along = [(own[0] + (end[0] - own[0]) * step / 6, own[1] + (end[1] - own[1]) * step / 6) for step in range(1, 7)]
    crossed = sum(any(math.dist(at, rival) < 9 for at in along) for rival in rivals)
    crossed += sum(any(_nearest(other, at) == at for at in along) for other in others)
    nearer = sum(math.dist(rival, _nearest(box, rival)) < distance + 4 for rival in rivals)
    return distance + 400 * sum(overlap(box, mark) for mark in marks) + 100 * crossed + 15 * nearer


def overlap(one: Box, other: Box) -> bool:
    """Whether two boxes have a point in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _near(x: float, y: float, width: float) -> Iterator[Box]:
    """Beside, above and below a point, and then farther off."""
    for distance in (10, 16, 24, 34, 46, 60):
        for right, down in ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -0.7), (1, 0.7), (-1, -0.7), (-1, 0.7)):
            left = x + right * (distance + width / 2) - width / 2
            top = y + down * (distance + LINE / 2) - LINE / 2
            yield left, top, left + width, top + LINE


def _somewhere(point: tuple[float, float, float], marks: Sequence[Box], others: Sequence[Box], bounds: Box) -> Box:
    """The box nearest to a point that keeps off other labels, and off the marks where that is possible."""
    (x, y, width), (left, top, right, bottom) = point, bounds
    columns = [left + 20 * number for number in range(int((right - left - width) / 20) + 1)]
    rows = [top + 6 * number for number in range(int((bottom - top - LINE) / 6) + 1)]
    boxes = [(column, row, column + width, row + LINE) for column in columns for row in rows]
    free = [box for box in boxes if not any(overlap(box, other) for other in others)]
    free.sort(key=lambda box: math.dist(_nearest(box, (x, y)), (x, y)))
    return next((box for box in free if not any(overlap(box, mark) for mark in marks)), free[0])


def _within(box: Box, bounds: Box) -> bool:
    return box[0] >= bounds[0] and box[1] >= bounds[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _nearest(box: Box, point: Point) -> Point:
    """Of a box, drawn in a little as its letters are, to a point."""
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1] + 3), box[3] - 3)
