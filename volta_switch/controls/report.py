"""The controls' tables, their record, and the picture: where switching is needed, and when planted routes are found."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from volta_switch import __version__
from volta_switch.controls.conditions import GRADIENTS, NEEDS, PLANTED, RIGHT, THRESHOLDS
from volta_switch.study.report.chart import WIDTH, axis_below, heading, legend
from volta_switch.study.report.svg import (
    COLOURS,
    FAINT,
    GRID,
    Scale,
    element,
    line,
    marker,
    picture,
    text_width,
    words,
)

if TYPE_CHECKING:
    from volta_switch.controls.commands import Outcome

ROW = 28  # height of a row of the picture
Series = tuple[str, Sequence[float]]  # what was measured, and its values by seed
Row = tuple[str, Sequence[Series]]  # a name, and what is shown in one row
ARMS = {"joint": "joint attention", "Switch-BERT": "Switch-BERT", "forced": "right routes, forced"}
BLOCKS = ("SAB", "SIB")
LOOKS = (("circle", COLOURS[0]), ("square", COLOURS[1]))  # of a row's series
# What a table of sabotages shows of each control.
SHOWN = {NEEDS: ("Switch-BERT", "MI"), PLANTED: ("SAB MI/H", "SIB MI/H", "error"), GRADIENTS: ("switchers r",)}


def tables(outcomes: Sequence[Outcome], form: str = "simple") -> str:
    """Returns what each control measured beside its thresholds, and what each sabotage did to it.

    ``form``: one of tabulate's formats.
    """
    measured = [
        {
            "control": outcome.control,
            "measure": each.measure,
            "threshold": each.shown,
            "worst seed": f"{each.worst(found):.6g}",
            "mean": f"{fmean(found):.6g}",
            "seeds": len(found),
            "verdict": "holds" if each.holds(each.worst(found)) else "MISSED",
        }
        for outcome in outcomes
        if outcome.condition == RIGHT
        for each in THRESHOLDS[outcome.control]
        for found in [values_of(outcome, each.measure)]
    ]
    by_condition: dict[str, dict[str, str]] = {}
    for outcome in outcomes:
        by_condition.setdefault(outcome.condition.name, {})[outcome.control] = in_words(outcome)
    controls = list(dict.fromkeys(outcome.control for outcome in outcomes))
    rows = [[name, *(found.get(control, "not run") for control in controls)] for name, found in by_condition.items()]
    first = tabulate(measured, headers="keys", tablefmt=form, disable_numparse=True)
    second = tabulate(rows, headers=["condition", *controls], tablefmt=form, disable_numparse=True)
    return f"{first}\n\n{second}\n"


def in_words(outcome: Outcome) -> str:
    """Returns a cell of the second table: the verdict, whether it had to be, and means over the seeds."""
    failing, count = len(outcome.failing), len(outcome.values)
    verdict = f"fails on {failing} of {count}" if failing else f"passes on {count}"
    if outcome.problem:
        verdict = verdict.upper()
    elif outcome.control in outcome.condition.fails:
        verdict += " (must fail)"
    numbers = [f"{name} {fmean(values_of(outcome, name)):.3f}" for name in SHOWN[outcome.control]]
    return f"{verdict}: {', '.join(numbers)}"


def values_of(outcome: Outcome, measure: str) -> list[float]:
    """Returns one measure's values by seed; none where the condition does not measure it."""
    return [found[measure] for found in outcome.values.values() if measure in found]


def record(outcomes: Sequence[Outcome], short: bool) -> dict[str, Any]:
    """Returns everything as JSON types: seeds, budgets, conditions, thresholds, versions and numbers."""
    import numpy as np
    import torch

    from volta_switch.controls import gradients, needs_switching, planted_routes

    modules = {NEEDS: needs_switching, PLANTED: planted_routes, GRADIENTS: gradients}
    conditions = {outcome.condition.name: outcome.condition for outcome in outcomes}
    return {
        "short": short,
        "versions": {
            "volta_switch": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
        "budgets": {name: asdict(module.BUDGET) for name, module in modules.items()},
        "thresholds": {name: [asdict(each) for each in thresholds] for name, thresholds in THRESHOLDS.items()},
        "conditions": {name: asdict(condition) for name, condition in conditions.items()},
        "problems": [outcome.problem for outcome in outcomes if outcome.problem],
        "outcomes": [outcome.to_dict() for outcome in outcomes],
    }


def controls_figure(outcomes: Sequence[Outcome]) -> str:
    """Draws two panels: accuracy where switching is needed, and the planted routes' recovery by condition.

    "" where neither control was run.
    """
    title = "Where switching is needed, and when routes are found"
    accuracy: list[Row] = []
    recovery: list[Row] = []
    for outcome in outcomes:
        if outcome.control == NEEDS and outcome.condition == RIGHT:
            accuracy = [(name, [("accuracy", values_of(outcome, arm))]) for arm, name in ARMS.items()]
        if outcome.control == PLANTED:
            recovery.append((outcome.condition.name, [(name, values_of(outcome, f"{name} MI/H")) for name in BLOCKS]))
    if not accuracy and not recovery:
        return ""
    head, top = heading(title, WIDTH)
    first, middle = _panel("a task that needs switching", "accuracy", accuracy, top)
    second, bottom = _panel("planted routes", "share of the routes' entropy that is found again", recovery, middle)
    signs = [*zip(LOOKS, BLOCKS, strict=True), ((LOOKS[0][0], FAINT), "faint: each seed; full: their mean")]
    items = [(partial(_sign, look=look), name) for look, name in signs]
    meaning, height = legend(items, 8, bottom, WIDTH - 16)
    shown = [(name, *series) for name, row in (*accuracy, *recovery) for series in row]
    told = "; ".join(f"{name}, {what}: {fmean(found):.2f}" for name, what, found in shown)
    return picture(WIDTH, bottom + height + 8, title, head, first, second, meaning, description=told)


def _sign(x: float, y: float, look: tuple[str, str]) -> str:
    return marker(look[0], x, y, 10, look[1])


def _panel(title: str, label: str, rows: Sequence[Row], top: float) -> tuple[str, float]:
    """Draws one row for each name on a scale from 0 to 1, and tells where it ends; nothing without rows."""
    if not rows:
        return "", top
    left = 22 + max(text_width(name, 14) for name, _ in rows)
    scale = Scale(0.0, 1.0, left, WIDTH - 100)
    first = top + 32
    bottom = first + ROW * len(rows)
    drawn = [words(title, 8, top + 18, size=15, font_weight="bold"), axis_below(scale, first, bottom, label)]
    for number, (name, row) in enumerate(rows):
        y = first + ROW * (number + 0.5)
        drawn.append(line(scale.start, y + ROW / 2, scale.end, y + ROW / 2, GRID))
        drawn.append(words(name, left - 10, y + 5, size=14, text_anchor="end"))
        for place, ((what, found), (kind, colour)) in enumerate(zip(row, LOOKS, strict=False)):
            across = y + 6 * (2 * place + 1 - len(row))
            hover = f"{name}, {what}"
            drawn += [
                marker(kind, scale(each), across, 7, colour, f"{hover}: {each:.3f}", fill_opacity=0.35)
                for each in found
            ]
            drawn.append(marker(kind, scale(fmean(found)), across, 10, colour, f"{hover}, mean: {fmean(found):.3f}"))
        means = " / ".join(f"{fmean(found):.2f}" for _, found in row)
        drawn.append(words(means, WIDTH - 8, y + 5, size=14, text_anchor="end"))
    return element("g", *drawn), bottom + 56
