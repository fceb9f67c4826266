"""Scores against their cost: FLOPs of training, executed and of all active paths, on one scale for a whole page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from volta_switch.study.records import ArmScore
from volta_switch.study.report.chart import (
    WIDTH,
    Box,
    Point,
    Sign,
    axis_below,
    axis_left,
    cost_scale,
    empty,
    heading,
    in_units,
    interval_of,
    interval_words,
    label_above,
    legend,
    nearest,
    placed,
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
)

ALIKE = 0.02  # costs that differ by less have one mark
COST_HEIGHT = 320  # of the plot, at least


@dataclass(frozen=True)
class CostPoint:
    """An arm's score and what it costs."""

    arm: str
    series: str  # drawn with one marker
    x: float  # executed FLOPs; 0 or less: not known
    score: ArmScore
    paths: float = 0.0  # FLOPs of all active paths; 0: not known, or the same

    @property
    def ends(self) -> tuple[float, ...]:
        """Both costs, as far as they differ."""
        differ = self.paths > 0 and not math.isclose(self.paths, self.x, rel_tol=ALIKE)
        return (self.x, self.paths) if differ else (self.x,)


def cost_figure(
    points: Sequence[CostPoint],
    x_label: str,
    y_label: str,
    title: str = "",
    span: Sequence[float] = (),
    unit: tuple[float, str] | None = None,
) -> str:
    """Draws each arm's score with its interval above its cost; costs that differ fivefold have a logarithmic axis.

    The mark is at what was executed. A hollow one, tied to it, is at the cost of all active paths.

    Args:
        points: one for each arm; those without a cost are left out.
        x_label, y_label: of the axes; ``y_label`` with its unit.
        title: without it "``y_label`` against ``x_label``".
        span: costs that the axis holds beside those of the points, so that several pictures have one scale.
        unit: of the axis, as ``in_units`` gives it; else that of the largest cost.
    """
    title = title or f"{y_label.partition(',')[0]} against {x_label}"
    points = [point for point in points if point.x > 0]
    if not points:
        return empty(title, WIDTH)
    head, top = heading(title, WIDTH)
    series = list({point.series: None for point in points})
    looks = {name: style(index) for index, name in enumerate(series)}
    told = series if len(series) < len(points) else []  # else the labels tell them
    signs = [(_sign(looks[name]), name) for name in told]
    if any(len(point.ends) > 1 for point in points):
        signs.append((_hollow_sign, "hollow: all active paths"))
    meaning, height = legend(signs, 8, top + 4, WIDTH - 16)
    intervals = interval_words([point.score.estimate for point in points])
    label, label_height = label_above(f"{y_label}: mean, {intervals}" if intervals else y_label, top + height + 30)
    top += 44 + height + label_height
    bottom = top + max(COST_HEIGHT, 20 + 40 * len(points))  # so high that every label finds a place, see placed
    y = _score_scale(points, bottom, top)
    costs = [*span, *(cost for point in points for cost in point.ends)]
    x = cost_scale(costs, 12 + tick_room(y), WIDTH - 14)
    divisor, name = unit or in_units(max(costs))
    drawn = [head, meaning, label]
    drawn += [axis_below(x, top, bottom, x_label + name, divisor=divisor), axis_left(y, x.start, x.end)]
    drawn += _marks(points, x, y, looks, (divisor, name))
    return picture(WIDTH, bottom + 52, title, *drawn)


def _score_scale(points: Sequence[CostPoint], start: float, end: float) -> Scale:
    scores = [point.score for point in points]
    percent = all(0 <= value <= 100 for score in scores for value in score.values)
    values = [score.mean for score in scores]
    known = values + [end for score in scores for end in score.estimate.interval or ()]
    if percent:
        known = [min(max(value, 0.0), 100.0) for value in known]
    return scale_over(known, start, end, limits=(0.0, 100.0) if percent else None)


def _sign(look: Style) -> Sign:
    return lambda x, y: marker(look.marker, x, y, 11, look.colour)


def _hollow_sign(x: float, y: float) -> str:
    return marker("circle", x, y, 9, "#ffffff", stroke=INK, stroke_width=1.5)


def _marks(
    points: Sequence[CostPoint], x: Scale, y: Scale, looks: Mapping[str, Style], unit: tuple[float, str]
) -> list[str]:
    """Draws intervals, markers and labels, a group for each arm."""
    places = [(x(point.x), y(point.score.mean)) for point in points]
    names = [shortened(point.arm, 0.6 * (x.end - x.start), 14) for point in points]
    whiskers = [_whisker_box(point.score, place[0], y) for point, place in zip(points, places, strict=True)]
    ends = [(x(end), y(point.score.mean)) for point in points for end in point.ends]
    markers = [(px - 8, py - 8, px + 8, py + 8) for px, py in ends]
    bounds = (x.start + 2, y.end, x.end, y.start - 2)
    boxes = placed([(*place, text_width(name, 14)) for place, name in zip(places, names, strict=True)],
                   [*markers, *whiskers], bounds)  # fmt: skip
    drawn = []
    for point, place, name, box in zip(points, places, names, boxes, strict=True):
        found, look = point.score.estimate, looks[point.series]
        costs = ", of all active paths ".join(f"{cost / unit[0]:.4g}" for cost in point.ends)
        hover = f"{point.arm}: {point.score.mean:.2f} at {costs}{unit[1].replace(',', '')}"
        parts = [_tie(place, box), *(_paths_mark(end, place, x, look, hover) for end in point.ends[1:])]
        if found.interval:
            hover += f", {interval_of(found)}"
            parts.append(whisker(y, found.interval, place[0], look.colour, 1.5, 5, hover, upright=True))
        parts.append(
            marker(look.marker, *place, 12, look.colour, hover, stroke="#ffffff", stroke_width=1, class_="mean")
        )
        full = [element("title", escape(point.arm))] if name != point.arm else []
        halo = {"stroke": "#ffffff", "stroke_width": 3, "paint_order": "stroke", "stroke_linejoin": "round"}
        at = {"x": box[0], "y": box[3] - 4, "font_size": 14, "fill": INK}
        parts.append(element("text", *full, escape(name), **at, **halo))
        drawn.append(element("g", *parts, data_arm=point.arm))
    return drawn


def _paths_mark(paths: float, place: Point, x: Scale, look: Style, hover: str) -> str:
    """Draws the hollow mark of all active paths, tied to the one of what was executed."""
    tie = line(*place, x(paths), place[1], look.colour, 1.2, stroke_dasharray="3 3")
    edge = {"stroke": look.colour, "stroke_width": 1.5, "class_": "paths"}
    return tie + marker(look.marker, x(paths), place[1], 10, "#ffffff", hover, **edge)


def _whisker_box(score: ArmScore, x: float, y: Scale) -> Box:
    ends = score.estimate.interval or (score.mean, score.mean)
    top, bottom = sorted(y(min(max(end, y.low), y.high)) for end in ends)
    return x - 6, top - 2, x + 6, bottom + 2


def _tie(place: Point, box: Box) -> str:
    """Draws a thin line from a point to its label where they are apart."""
    near = nearest(box, place)
    return line(*place, *near, FAINT, 0.8) if math.dist(place, near) > 16 else ""
