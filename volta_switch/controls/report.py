"""The controls' tables, their record, and the picture: where switching is needed, and when planted routes are found."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from volta_switch import __version__
from volta_switch.controls.conditions import GRADIENTS, NEEDS, PLANTED, RIGHT, THRESHOLDS
from volta_switch.study.report.chart import WIDTH, axis_below, heading
from volta_switch.study.report.svg import (
    COLOURS,
    FAINT,
    GRID,
    INK,
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

ROW = 30  # height of a row of the picture
Row = tuple[str, Sequence[float], str, str]  # name, values by seed, marker, colour
# What a table of sabotages shows of each control.
SHOWN = {NEEDS: ("Switch-BERT", "MI"), PLANTED: ("SAB MI/H", "SIB MI/H", "error"), GRADIENTS: ("switchers r",)}


def tables(outcomes: Sequence[Outcome]) -> str:
    """Returns what each control measured beside its thresholds, and what each sabotage did to it."""
    measured = [
        {
            "control": outcome.control,
            "measure": each.measure,
            "threshold": each.shown,
            "worst seed": f"{each.worst(found):.6g}",
            "mean": f"{fmean(found):.6g}",
            "seeds": len(found),
            "": "holds" if each.holds(each.worst(found)) else "MISSED",
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
    first = tabulate(measured, headers="keys", disable_numparse=True)
    second = tabulate(rows, headers=["condition", *controls], disable_numparse=True)
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
    """Draws two panels: accuracy where switching is needed, and the planted routes' recovery by condition."""
    title = "Where switching is needed, and when routes are found"
    accuracy: list[Row] = []
    recovery: list[Row] = []
    for outcome in outcomes:
        if outcome.control == NEEDS and outcome.condition == RIGHT:
            names = {"joint": "joint attention", "Switch-BERT": "Switch-BERT", "forced": "right routes, forced"}
            for place, (arm, name) in enumerate(names.items()):
                accuracy.append((name, values_of(outcome, arm), "circle", COLOURS[place]))
        if outcome.control == PLANTED:
            for block, kind, colour in (("SAB", "circle", COLOURS[0]), ("SIB", "square", COLOURS[1])):
                name = f"{outcome.condition.name}: {block}"
                recovery.append((name, values_of(outcome, f"{block} MI/H"), kind, colour))
    head, top = heading(title, WIDTH)
    first, middle = _panel("a task that needs switching", "accuracy", accuracy, top)
    second, bottom = _panel("planted routes", "share of their entropy that is found again", recovery, middle)
    told = "; ".join(f"{name}: {fmean(values):.2f}" for name, values, _, _ in (*accuracy, *recovery) if values)
    note = words("filled: the mean over seeds; faint: each seed", 8, bottom + 16, size=14, fill=FAINT)
    return picture(WIDTH, bottom + 26, title, head, first, second, note, description=told)


def _panel(title: str, label: str, rows: Sequence[Row], top: float) -> tuple[str, float]:
    """Draws one row for each name on a scale from 0 to 1, and where it ends; nothing without rows."""
    if not rows:
        return "", top
    left = 22 + max(text_width(name, 14) for name, _, _, _ in rows)
    scale = Scale(0.0, 1.0, left, WIDTH - 60)
    first = top + 32
    bottom = first + ROW * len(rows)
    drawn = [words(title, 8, top + 18, size=15, font_weight="bold"), axis_below(scale, first, bottom, label)]
    for number, (name, values, kind, colour) in enumerate(rows):
        y = first + ROW * (number + 0.5)
        drawn.append(line(scale.start, y + ROW / 2, scale.end, y + ROW / 2, GRID))
        drawn.append(words(name, left - 10, y + 5, size=14, fill=INK, text_anchor="end"))
        drawn += [
            marker(kind, scale(value), y, 8, colour, f"{name}: {value:.3f}", fill_opacity=0.35) for value in values
        ]
        drawn.append(marker(kind, scale(fmean(values)), y, 11, colour, f"{name}, mean: {fmean(values):.3f}"))
        drawn.append(words(f"{fmean(values):.2f}", WIDTH - 8, y + 5, size=14, text_anchor="end"))
    return element("g", *drawn), bottom + 56
