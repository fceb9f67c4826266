"""Scores with their intervals: one column of a table, and the differences that claims are about."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from volta_switch.study.records import (
    ArmScore,
    ReportedColumn,
    ReportedEstimate,
    ReportedTable,
    ReportedVerdict,
    StudyClaim,
)
from volta_switch.study.report.chart import (
    LABEL_GAP,
    WIDTH,
    Sign,
    axis_below,
    empty,
    heading,
    interval_of,
    interval_words,
    legend,
    scale_over,
    signed,
    whisker,
)
from volta_switch.study.report.svg import (
    COLOURS,
    FAINT,
    GRID,
    INK,
    Scale,
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

ROW = 36  # height of an arm's row
BLUE = COLOURS[0]
GREY = "#85898f"  # of marks whose difference is not told apart from none
BAND = "#e8eef5"  # behind differences below the smallest effect of interest
PERCENT = (0.0, 100.0)
FAR = 1.5  # a blind guess farther off than so many times the scores' range would leave them no room
NAME = "best blind guess"


# --- One column of a table ------------------------------------------------------------------------------------------


def interval_figure(table: ReportedTable, column: int) -> str:
    """Draws a row for each arm: its mean, the mean's interval, every seed's score, and what was published.

    Args:
        table: a made table.
        column: which of its columns.
    """
    title = "" if column >= len(table.columns) else _column_title(table.columns[column])
    rows = [(row.arm, row.scores[column]) for row in table.rows]
    if not rows:
        return empty(title or "scores", WIDTH)
    chance = table.chance[column] if table.chance else None
    names = [arm for arm, _ in rows] + ([NAME] if chance is not None else [])
    left = 22 + min(max(text_width(name, 15) for name in names), 180.0)
    scale = _column_scale([score for _, score in rows], chance, left, WIDTH - 66)
    head, top = heading(title, WIDTH)
    bottom = top + 14 + ROW * len(names)
    label = "score, %" if _is_percent([score for _, score in rows]) else "score"
    drawn = [head, axis_below(scale, top + 14, bottom, label)]
    drawn.append(words("mean", WIDTH - 8, top + 8, size=14, fill=FAINT, text_anchor="end"))
    drawn += [_arm_row(arm, score, scale, top + 14 + ROW * (n + 0.5)) for n, (arm, score) in enumerate(rows)]
    if chance is not None:
        drawn.append(_chance_row(chance, scale, top + 14, bottom - ROW / 2))
    meaning, height = legend(_column_signs([score for _, score in rows], chance), 8, bottom + 54, WIDTH - 16)
    note, end = _missing_intervals(rows, bottom + 54 + height)
    return picture(WIDTH, end + 6, title, *drawn, meaning, note, description=_in_words(rows, chance))


def published_numbers(score: ArmScore) -> dict[str, float]:
    """Returns where from -> the number; ``published`` is one (``68.8``, ``68.8 ± .4``), or several by their source."""
    given = score.published
    found = {}
    for source, value in (given if isinstance(given, Mapping) else {"published": given}).items():
        number = re.match(r"\s*-?\d*\.?\d+", str(value)) if value is not None else None
        if number:
            found[str(source)] = float(number[0])
    return found


def _column_title(column: ReportedColumn) -> str:
    return f"{column.title} ({column.scope})"


def _is_percent(scores: Sequence[ArmScore]) -> bool:
    return all(PERCENT[0] <= value <= PERCENT[1] for score in scores for value in score.values)


def _covered(score: ArmScore) -> list[float]:
    """Returns all numbers of a score that a scale must hold."""
    return [score.mean, *score.values, *published_numbers(score).values(), *(score.estimate.interval or ())]


def _column_scale(scores: Sequence[ArmScore], chance: float | None, start: float, end: float) -> Scale:
    values = [value for score in scores for value in _covered(score)]
    limits = PERCENT if _is_percent(scores) else None
    if chance is not None:
        distance = max(min(values) - chance, chance - max(values))
        if distance <= FAR * max(max(values) - min(values), 1.0):
            values.append(chance)
    return scale_over(values, start, end, limits=limits)


def _arm_row(arm: str, score: ArmScore, scale: Scale, y: float) -> str:
    """Draws an arm's mean and interval, its seeds below them."""
    found, single = score.estimate, len(score.values) == 1
    drawn, told = [line(scale.start, y + ROW / 2, scale.end, y + ROW / 2, GRID)], _estimate_in_words(arm, found)
    drawn.append(_row_name(arm, y, scale.start))
    dots, see = (y, 0.8) if single else (y + 9, 0.45)
    drawn += [
        marker("circle", scale(value), dots, 8, INK, f"{arm}, one seed: {value:.2f}", fill_opacity=see, class_="seed")
        for value in score.values
    ]
    if found.interval:
        drawn.append(whisker(scale, found.interval, y - 5, BLUE, 2.5, hover=told))
    if not single:
        drawn.append(marker("square", scale(score.mean), y - 5, 10, BLUE, told, class_="mean"))
    for source, value in published_numbers(score).items():
        drawn.append(_published_sign(scale(value), y - 5, f"{arm}, {source}: {value:g}"))
    drawn.append(words(f"{score.mean:.1f}", WIDTH - 8, y + 5, size=15, text_anchor="end"))
    return element("g", *drawn, data_arm=arm)


def _published_sign(x: float, y: float, hover: str = "") -> str:
    hollow = {"stroke": INK, "stroke_width": 1.5, "fill_opacity": 0.6, "class_": "published"}
    return element("g", marker("diamond", x, y, 11, "#ffffff", hover), **hollow)


def _row_name(name: str, y: float, right: float, fill: str = INK) -> str:
    text = shortened(name, right - 20, 15)
    hover = [element("title", escape(name))] if text != name else []
    return element("text", *hover, escape(text), x=8, y=y + 5, font_size=15, fill=fill)


def _chance_row(chance: float, scale: Scale, top: float, y: float) -> str:
    """Draws the best blind guess as a dashed line through all rows, or an arrow to where it would be."""
    drawn = [_row_name(NAME, y, scale.start, FAINT)]
    drawn.append(words(f"{chance:.1f}", WIDTH - 8, y + 5, size=15, fill=FAINT, text_anchor="end"))
    if scale.low <= chance <= scale.high:
        drawn.append(
            line(scale(chance), top, scale(chance), y + ROW / 2, INK, 1.5, stroke_dasharray="6 4", class_="chance")
        )
    else:
        below = chance < scale.low
        end, way = (scale.start, 1) if below else (scale.end, -1)
        drawn.append(_dashed(end, y, end + 34 * way, y))
        drawn.append(element("polygon", points=f"{end},{y} {end + 9 * way},{y - 5} {end + 9 * way},{y + 5}", fill=INK))
        anchor = "start" if below else "end"
        drawn.append(words("off the scale", end + 40 * way, y + 5, size=14, fill=FAINT, text_anchor=anchor))
    return element("g", *drawn)


def _dashed(x1: float, y1: float, x2: float, y2: float) -> str:
    return line(x1, y1, x2, y2, INK, 1.5, stroke_dasharray="6 4", class_="chance")


def _column_signs(scores: Sequence[ArmScore], chance: float | None) -> list[tuple[Sign, str]]:
    """Returns the legend's entries: only what is drawn."""
    seeds = max(len(score.values) for score in scores)
    with_interval = [score.estimate for score in scores if score.estimate.interval]
    signs: list[tuple[Sign, str]] = []
    if seeds > 1:
        signs.append((lambda x, y: marker("square", x, y, 10, BLUE), "mean"))
    if with_interval:
        scope = interval_words(with_interval)
        signs.append((lambda x, y: whisker(Scale(0, 1, x - 11, x + 11), (0, 1), y, BLUE, 2.5), scope))
    signs.append((lambda x, y: marker("circle", x, y, 8, INK, fill_opacity=0.45), "one seed"))
    sources = {source: None for score in scores for source in published_numbers(score)}
    if sources:
        signs.append((_published_sign, ", ".join(sources)))
    if chance is not None:
        signs.append((lambda x, y: _dashed(x - 11, y, x + 11, y), NAME))
    return signs


def _missing_intervals(rows: Sequence[tuple[str, ArmScore]], top: float) -> tuple[str, float]:
    """Tells why there is no interval where there is none, and where the note ends."""
    single = [arm for arm, score in rows if len(score.values) == 1]
    agreeing = [arm for arm, score in rows if len(score.values) > 1 and not score.estimate.interval]
    notes = []
    if single:
        notes.append("one seed: no interval" + ("" if len(single) == len(rows) else f" ({', '.join(single)})"))
    if agreeing:
        notes.append("all seeds agree exactly: no interval" + f" ({', '.join(agreeing)})")
    lines = [text for note in notes for text in wrapped(note, WIDTH - 16, 14)]
    drawn = [words(text, 8, top + 16 + LABEL_GAP * n, size=14, fill=FAINT) for n, text in enumerate(lines)]
    return element("g", *drawn), top + (LABEL_GAP * len(lines) + 4 if lines else 0)


def _estimate_in_words(arm: str, found: ReportedEstimate) -> str:
    text = f"{arm}: mean {found.value:.2f} over {found.seeds} seeds"
    if not found.interval:
        return f"{text}; no interval: {found.problem}"
    return f"{text}, {interval_of(found)} ({found.population})"


def _in_words(rows: Sequence[tuple[str, ArmScore]], chance: float | None) -> str:
    guess = [] if chance is None else [f"{NAME}: {chance:.1f}"]
    return "; ".join([*(_estimate_in_words(arm, score.estimate) for arm, score in rows), *guess])


# --- The differences that claims are about --------------------------------------------------------------------------


def difference_figure(verdicts: Sequence[ReportedVerdict]) -> str:
    """Draws a forest plot: each claim with its difference, the intervals alone and at Holm's level, and its verdict.

    Args:
        verdicts: a table's.
    """
    title = "Claims: the better arm minus the other one"
    if not verdicts:
        return empty(title, WIDTH)
    scale = _difference_scale(verdicts)
    head, top = heading(title, WIDTH)
    rows, y = [], top + 4
    for verdict in verdicts:
        row, y = _claim_row(verdict, scale, y)
        rows.append(row)
    axis = axis_below(scale, y - 6, y, "difference, points")
    meaning, height = legend(_difference_signs(verdicts), 8, y + 54, WIDTH - 16)
    told = " ".join(verdict.text for verdict in verdicts)
    return picture(WIDTH, y + 60 + height, title, head, *rows, axis, meaning, description=told)


def _difference_scale(verdicts: Sequence[ReportedVerdict]) -> Scale:
    """Returns a scale that holds zero, all margins, the smallest effect of interest, and 95 % intervals.

    Holm's intervals may leave it where they are more than twice as wide.
    """
    values: list[float] = [0.0]
    wide: list[float] = []
    for effect in filter(None, (verdict.minimum_effect for verdict in verdicts)):
        values += [-effect, effect]
    for verdict in verdicts:
        found = verdict.estimate
        values += [found.value, verdict.claim.at_least]
        values += found.interval or ()
        wide += verdict.level_interval or ()
    values = [min(max(value, -100.0), 100.0) for value in values]
    room = 0.5 * (max(values) - min(values))
    low, high = max(min(values) - room, -100.0), min(max(values) + room, 100.0)
    return scale_over([*values, *(min(max(value, low), high) for value in wide)], 24, WIDTH - 24)


def _claim_row(verdict: ReportedVerdict, scale: Scale, top: float) -> tuple[str, float]:
    """Draws a claim's words, and below them its interval; and where the row ends."""
    claim, found, outcome = verdict.claim, verdict.estimate, verdict.verdict
    verdict_width = text_width(outcome, 15, bold=True) + 36
    y = top + 20
    drawn = [words(outcome, WIDTH - 8, y, size=15, text_anchor="end", font_weight="bold")]
    lines = wrapped(claim.text, WIDTH - 16 - verdict_width, 15)
    drawn += [words(part, 8, y + 20 * n, size=15) for n, part in enumerate(lines)]
    y += 20 * max(len(lines), 1)
    effect = signed(f"{found.value:+.2f}")
    compared = f"{_compared(claim)}, {claim.column}"
    details = wrapped(compared, WIDTH - 16 - verdict_width, 14, most=3)
    drawn += [words(part, 8, y + LABEL_GAP * n, size=14, fill=FAINT) for n, part in enumerate(details)]
    fill = FAINT if verdict.within_zero else INK
    drawn.append(words(effect, WIDTH - 8, y, size=14, fill=fill, text_anchor="end"))
    y += LABEL_GAP * (len(details) - 1) + 20
    drawn.append(_difference(verdict, scale, y))
    drawn.append(line(8, y + 18, WIDTH - 8, y + 18, GRID))
    return element("g", *drawn, data_verdict=outcome), y + 20


def _difference(verdict: ReportedVerdict, scale: Scale, y: float) -> str:
    """Draws the strip with zero, the margin, both intervals and the difference itself."""
    claim, found = verdict.claim, verdict.estimate
    drawn = [line(scale(0.0), y - 12, scale(0.0), y + 12, FAINT, 1)]
    if verdict.minimum_effect:
        ends = (scale(max(-verdict.minimum_effect, -100.0)), scale(min(verdict.minimum_effect, 100.0)))
        drawn.insert(0, _too_small_sign(*ends, y))
    if claim.at_least:
        drawn.append(_margin_sign(scale(claim.at_least), y))
    told = f"{_compared(claim)}: {found.value:+.2f} points"
    holm, alone = verdict.level_interval, found.interval
    if alone is None or holm is None:
        told += f"; no interval: {found.problem}"
    else:
        ink, blue = (GREY, GREY) if verdict.within_zero else (INK, BLUE)
        drawn.append(whisker(scale, holm, y, ink, 1.5, 6, f"{told}; at Holm's level {_range(holm)}"))
        told += f", {100 * found.confidence:g} % interval {_range(alone)}"
        drawn.append(whisker(scale, alone, y, blue, 6, 0, told))
    stroke = GREY if verdict.within_zero else INK
    drawn.append(_verdict_sign(verdict.verdict, scale(found.value), y, told, stroke))
    return element("g", *drawn)


def _verdict_sign(verdict: str, x: float, y: float, hover: str = "", ink: str = INK) -> str:
    kind, fill = {"supported": ("circle", ink), "contradicted": ("cross", ink)}.get(verdict, ("circle", "#ffffff"))
    return marker(kind, x, y, 12, fill, hover, stroke=ink, stroke_width=1.5, class_="mean")


def _too_small_sign(left: float, right: float, y: float) -> str:
    return element("rect", x=left, y=y - 12, width=right - left, height=24, fill=BAND, class_="too-small")


def _margin_sign(x: float, y: float) -> str:
    return line(x, y - 10, x, y + 10, INK, 1.5, stroke_dasharray="4 3", class_="margin")


def _difference_signs(verdicts: Sequence[ReportedVerdict]) -> list[tuple[Sign, str]]:
    outcomes = {verdict.verdict: None for verdict in verdicts}
    signs: list[tuple[Sign, str]] = [(partial(_verdict_sign, outcome), outcome) for outcome in outcomes]
    with_interval = [verdict.estimate for verdict in verdicts if verdict.estimate.interval]
    if with_interval:
        name = f"{100 * with_interval[0].confidence:g} % interval"
        signs.append((lambda x, y: line(x - 11, y, x + 11, y, BLUE, 6), name))
        holm = "interval at Holm's level, which decides"
        signs.append((lambda x, y: whisker(Scale(0, 1, x - 11, x + 11), (0, 1), y, INK, 1.5, 6), holm))
    signs.append((lambda x, y: line(x, y - 9, x, y + 9, FAINT, 1), "no difference"))
    if any(verdict.within_zero for verdict in verdicts if verdict.level_interval):
        signs.append((lambda x, y: line(x - 11, y, x + 11, y, GREY, 5), "grey: not told apart from none"))
    for effect in dict.fromkeys(filter(None, (verdict.minimum_effect for verdict in verdicts))):
        signs.append((lambda x, y: _too_small_sign(x - 11, x + 11, y), f"less than is worth finding (± {effect:g})"))
    if any(verdict.claim.at_least for verdict in verdicts):
        signs.append((_margin_sign, "the margin claimed"))
    if len(with_interval) < len(verdicts):
        signs.append((lambda x, y: "", "no line: no interval (one seed, or all agree)"))
    return signs


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def _compared(claim: StudyClaim) -> str:
    first = f"{claim.better} − {claim.worse}"
    return f"({first}) − ({' − '.join(claim.than)})" if claim.than else first
