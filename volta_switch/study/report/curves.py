"""Learning curves, and scores against a setting (a sweep)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from volta_switch.study.json_records import Record
from volta_switch.study.records import ArmScore
from volta_switch.study.report.chart import (
    LABEL_GAP,
    WIDTH,
    Point,
    axis_below,
    axis_left,
    empty,
    end_label,
    heading,
    in_units,
    interval_of,
    interval_words,
    label_above,
    scale_over,
    tick_room,
    whisker,
)
from volta_switch.study.report.svg import (
    Scale,
    Style,
    element,
    escape,
    marker,
    picture,
    spread,
    style,
    text_width,
)

HEIGHT = 300  # of the plots, at least
MARKED = 7  # points of a line with a marker, at most


@dataclass(frozen=True)
class SeedCurve(Record):
    """A run's validations: (training samples, value)."""

    seed: int
    points: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class ArmCurves(Record):
    """The curves of an arm's seeds."""

    arm: str
    seeds: tuple[SeedCurve, ...]


@dataclass(frozen=True)
class CurvePanel(Record):
    """The curves of a table's arms in one kind of run."""

    table: str
    title: str
    y_label: str
    arms: tuple[ArmCurves, ...]
    runs: int = 0
    waiting: tuple[str, ...] = ()
    """Names of those of the runs that are not finished."""
    heading: str = ""
    """What a reader sees it called, where that is not its title."""


def curve_figure(panel: CurvePanel, order: Sequence[str] = ()) -> str:
    """Draws each arm's mean over seeds as a line with markers, its single seeds as thin ones.

    The mean is drawn where all of an arm's seeds were validated. Arms are groups with ``data-arm``.

    Args:
        panel: what is drawn.
        order: all arms of the study, so that an arm has the same colour and marker in all panels; without it the
            panel's.
    """
    title = panel.heading or panel.title
    runs = {arm.arm: {seed.seed: _finite(seed.points) for seed in arm.seeds} for arm in panel.arms}
    runs = {arm: {seed: points for seed, points in seeds.items() if points} for arm, seeds in runs.items()}
    runs = {arm: seeds for arm, seeds in runs.items() if seeds}
    if not runs:
        return empty(title, WIDTH)
    every = [point for seeds in runs.values() for points in seeds.values() for point in points]
    divisor, unit = in_units(max(x for x, _ in every))
    several = ": mean over seeds, and each seed (thin)" if any(len(seeds) > 1 for seeds in runs.values()) else ""
    frame = Frame.around(every, title, panel.y_label + several, list(runs))
    drawn = [frame.axes(f"training samples{unit}", divisor=divisor)]
    means = {arm: mean_curve(list(seeds.values())) for arm, seeds in runs.items()}
    ends = {arm: (means[arm] or max(seeds.values(), key=len))[-1] for arm, seeds in runs.items()}
    labels = frame.labels(ends)
    known = list(order) or list(runs)
    for arm, seeds in runs.items():
        look = style(known.index(arm) if arm in known else len(known) + list(runs).index(arm))
        parts = [_seed_line(frame, arm, seed, points, look) for seed, points in seeds.items()] if len(seeds) > 1 else []
        parts += [_mean_line(frame, arm, means[arm], look, len(seeds)), frame.label(arm, ends[arm], labels[arm], look)]
        drawn.append(element("g", *parts, data_arm=arm))
    return frame.picture(*drawn)


def sweep_figure(
    series: Mapping[str, Sequence[tuple[float, ArmScore]]], x_label: str, y_label: str, title: str = ""
) -> str:
    """Draws scores with their intervals against a setting, such as the number of text layers.

    Args:
        series: name -> (setting, score), one line for each.
        x_label, y_label: of the axes; ``y_label`` with its unit.
        title: without it "``y_label`` against ``x_label``".
    """
    title = title or f"{y_label.partition(',')[0]} against {x_label}"
    lines = {name: sorted(points, key=lambda point: point[0]) for name, points in series.items() if points}
    if not lines:
        return empty(title, WIDTH)
    scores = [score for points in lines.values() for _, score in points]
    percent = all(0 <= value <= 100 for score in scores for value in score.values)
    every = [(x, value) for points in lines.values() for x, score in points for value in _covered(score, percent)]
    meaning = interval_words([score.estimate for score in scores])
    y_label += f": mean, {meaning}" if meaning else ""
    frame = Frame.around(every, title, y_label, list(lines), limits=(0.0, 100.0) if percent else None)
    drawn = [frame.axes(x_label, at=sorted({x for x, _ in every}))]
    labels = frame.labels({name: (points[-1][0], points[-1][1].mean) for name, points in lines.items()})
    for index, (name, points) in enumerate(lines.items()):
        look, aside = style(index), 7 * (index - (len(lines) - 1) / 2)  # so that intervals do not hide each other
        drawn.append(_sweep_line(frame, name, points, look, max(min(aside, 14), -14), labels[name]))
    return frame.picture(*drawn)


def mean_curve(curves: Sequence[Sequence[Point]]) -> list[Point]:
    """Returns the mean of curves over the places that all of them have."""
    values = [dict(points) for points in curves]
    shared = sorted(set.intersection(*(set(curve) for curve in values)))
    return [(x, sum(curve[x] for curve in values) / len(values)) for x in shared]


class Frame:
    """A plot's place between its title, its axes and the names of its lines at the right."""

    def __init__(self, x: Scale, y: Scale, title: str, y_label: str, names: float) -> None:
        """Takes both scales, the title, the label of the values, and the width left for the lines' names."""
        self.x, self.y, self.title, self.y_label, self.names = x, y, title, y_label, names

    @classmethod
    def around(
        cls, points: Sequence[Point], title: str, y_label: str, names: Sequence[str],
        limits: tuple[float, float] | None = None,
    ) -> Frame:  # fmt: skip
        """Returns a frame that holds the points and has room for a label for each name."""
        _, top = heading(title, WIDTH)
        top += 34 + label_above(y_label, 0)[1]
        height = max(HEIGHT, LABEL_GAP * len(names))
        y = scale_over([value for _, value in points], top + height, top, limits=limits)
        right = 24 + min(max(text_width(name, 14) for name in names), 160.0)
        x = scale_over([place for place, _ in points], 12 + tick_room(y), WIDTH - right - 10)
        return cls(x, y, title, y_label, right - 4)

    def axes(self, x_label: str, at: Sequence[float] | None = None, divisor: float = 1.0) -> str:
        """Draws both axes."""
        label, _ = label_above(self.y_label, self.y.end - 14 - label_above(self.y_label, 0)[1])
        below = axis_below(self.x, self.y.end, self.y.start, x_label, at, divisor)
        return element("g", below, axis_left(self.y, self.x.start, self.x.end), label)

    def place(self, point: Point) -> Point:
        """Returns where a point lies."""
        return self.x(point[0]), self.y(point[1])

    def path(self, points: Sequence[Point], colour: str, width: float, hover: str = "", **attributes: object) -> str:
        """Draws a line through points."""
        places = " ".join(f"{x:.2f},{y:.2f}" for x, y in map(self.place, points))
        look = {"points": places, "fill": "none", "stroke": colour, "stroke_width": width, "stroke_linejoin": "round"}
        return element("polyline", *([element("title", escape(hover))] if hover else []), **look, **attributes)

    def labels(self, ends: Mapping[str, Point]) -> dict[str, float]:
        """Returns each name's height, given its line's last point."""
        wanted = [self.y(value) for _, value in ends.values()]
        places = spread(wanted, LABEL_GAP, self.y.end, self.y.start)
        return dict(zip(ends, places, strict=True))

    def label(self, name: str, end: Point, place: float, look: Style) -> str:
        """Draws a line's name at its end."""
        return end_label(name, place, self.place(end), self.x.end + 10, self.names, look)

    def picture(self, *drawn: str) -> str:
        """Draws it all."""
        head, _ = heading(self.title, WIDTH)
        return picture(WIDTH, self.y.start + 52, self.title, head, *drawn)


def _finite(points: Sequence[Sequence[float | None]]) -> list[Point]:
    return sorted((x, y) for x, y in points if x is not None and y is not None and math.isfinite(x + y))


def _seed_line(frame: Frame, arm: str, seed: int, points: Sequence[Point], look: Style) -> str:
    if len(points) == 1:
        return marker("circle", *frame.place(points[0]), 4, look.colour, f"{arm}, seed {seed}", fill_opacity=0.35)
    return frame.path(points, look.colour, 1.2, f"{arm}, seed {seed}", stroke_opacity=0.35, class_="seed")


def _mean_line(frame: Frame, arm: str, points: Sequence[Point], look: Style, seeds: int) -> str:
    if not points:
        return ""
    of = "one seed" if seeds == 1 else f"mean of {seeds} seeds"
    drawn = [frame.path(points, look.colour, 2.2, stroke_dasharray=look.dash, class_="mean")]
    every = math.ceil(len(points) / MARKED)
    for index, (x, y) in enumerate(reversed(points)):  # from the end, which has a marker always
        hover = f"{arm}, {x:,.0f} samples: {y:.4g} ({of})"
        place, edge = frame.place((x, y)), {"stroke": "#ffffff", "stroke_width": 0.7}
        if index % every == 0:
            drawn.append(element("g", marker(look.marker, *place, 8, look.colour, hover), **edge))
        else:  # nothing to see, but a place for the pointer
            drawn.append(marker("circle", *place, 8, look.colour, hover, fill_opacity=0))
    return element("g", *drawn)


def _sweep_line(
    frame: Frame, name: str, points: Sequence[tuple[float, ArmScore]], look: Style, aside: float, label: float
) -> str:
    drawn = []
    places = [(frame.x(x) + aside, frame.y(score.mean)) for x, score in points]
    route = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    drawn.append(
        element("polyline", points=route, fill="none", stroke=look.colour, stroke_width=2, stroke_dasharray=look.dash)
    )
    for (x, score), place in zip(points, places, strict=True):
        found = score.estimate
        hover = f"{name} at {x:g}: {score.mean:.2f}"
        if found.interval:
            hover += f", {interval_of(found)}"
            drawn.append(whisker(frame.y, found.interval, place[0], look.colour, 1.5, 4, hover, upright=True))
        drawn.append(marker(look.marker, *place, 10, look.colour, hover, class_="mean"))
    drawn.append(end_label(name, label, places[-1], frame.x.end + 10, frame.names, look))
    return element("g", *drawn, data_arm=name)


def _covered(score: ArmScore, percent: bool) -> list[float]:
    ends = score.estimate.interval or ()
    return [score.mean, *(min(max(end, 0.0), 100.0) if percent else end for end in ends)]
