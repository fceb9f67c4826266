"""What the routes of several seeds have in common: shares, entropies and what routes are worth, seeds a random effect.

One checkpoint's routes are those of one run; another seed's switchers may settle on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from volta_switch.data.files.json_files import read_object
from volta_switch.study.cells import ROUTES_FILE, Cell, Plan
from volta_switch.study.finished import finished_cells
from volta_switch.study.statistics import estimate_mean

ROUTES_NOTE = (
    "± is the standard deviation over seeds; in brackets 95 % intervals, seeds as a random effect (Student's t). The "
    "changes are the metric's when all samples take the most frequent route, and when each takes that of a sample "
    "drawn at random: what routes of their own are worth to samples. Samples are taken as they are; where a report is "
    "about drawn images (samples: ...), all seeds looked at the same ones."
)
QUANTITIES = {  # as reports are summed up: what it is called, decimals
    "most frequent": ("most frequent route, % of samples", 1),
    "different": ("different routes", 1),
    "entropy": ("entropy of routes, bits", 2),
    "text from l-2": ("text from l−2, %", 1),
    "vision from l-2": ("vision from l−2, %", 1),
    "vision less text": ("vision less text, points", 1),
    "one for all": ("most frequent route for all, change in points", 2),
    "shuffled": ("another sample's route, change in points", 2),
}

DIFFERENCES = ("vision less text", "one for all", "shuffled")


def routes_over_seeds(plan: Plan) -> list[dict[str, Any]]:
    """Each arm's and task's reports of routes, as many as are finished, summed up.

    Returns:
        For each: ``arm``, ``task``, ``seeds``, ``modes`` (mean share of each attention mode over layers and samples,
        where modes are switched), and ``quantities``: key of ``QUANTITIES`` -> ``values`` (of each seed) and
        ``estimate`` (``Estimate.to_dict``; an interval takes seeds as a random effect and samples as they are).
    """
    found: dict[tuple[str, str], dict[int, Any]] = {}
    done = finished_cells(plan.folder)
    for (arm, seed, task), cell in plan.route_cells().items():
        if cell.key in done:
            found.setdefault((arm, plan.spec(arm, task).name), {})[seed] = read_routes(cell)
    return [{"arm": arm, "task": task, **summed_up(reports)} for (arm, task), reports in found.items()]


def summed_up(reports: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Seed -> a report with routes, see ``routes_over_seeds``."""
    each = [quantities(report) for report in reports.values()]
    values = {key: [of[key] for of in each] for key in QUANTITIES if all(of.get(key) is not None for of in each)}
    return {
        "seeds": list(reports),
        "modes": _modes(list(reports.values())),
        "quantities": {
            key: {"values": found, "estimate": estimate_mean(np.array(found)).to_dict()}
            for key, found in values.items()
        },
    }


def quantities(report: Mapping[str, Any]) -> dict[str, float | None]:
    """One report in numbers; keys of ``QUANTITIES``, those that it knows."""
    routes, crossing = report["architectures"], report.get("cross-layer") or {}
    found = {
        "most frequent": 100 * routes["most frequent"][0]["share"],
        "different": float(routes["different"]),
        "entropy": routes["entropy"],
    }
    if crossing:
        text, vision = (100 * crossing[f"{side} from l-2"] for side in ("text", "vision"))
        found |= {"text from l-2": text, "vision from l-2": vision, "vision less text": vision - text}
    changes = {each["kind"]: each["change"] for each in report.get("whole routes") or ()}
    return found | {key: changes.get(kind) for key, kind in (("one for all", "most frequent"), ("shuffled",) * 2)}


def _modes(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    layers = [layer["modes"] for report in reports for layer in report["layers"] if "modes" in layer]
    return {mode: sum(layer[mode] for layer in layers) / len(layers) for mode in layers[0]} if layers else {}


def in_words(found: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, one for each arm and task, and a line for each quantity; its name comes first.

    Numbers are means over seeds ± standard deviation, those of differences with their interval.
    """
    heads = ["", *(f"{each['arm']}, {each['task']}" for each in found)]
    lines = [["seeds", *(str(len(each["seeds"])) for each in found)]]
    if any(each["modes"] for each in found):
        modes = [", ".join(f"{mode} {100 * share:.0f} %" for mode, share in each["modes"].items()) for each in found]
        lines.append(["modes, mean over layers", *(shares or "–" for shares in modes)])
    for key, (name, digits) in QUANTITIES.items():
        known = [each["quantities"].get(key) for each in found]
        if any(known):
            lines.append([name, *(_cell(of["estimate"], digits, key in DIFFERENCES) if of else "–" for of in known)])
    return heads, lines


def _cell(estimate: Mapping[str, Any], digits: int, signed: bool) -> str:
    """A difference with its interval, all else with its spread."""
    sign = "+" if signed else ""
    value = f"{estimate['value']:{sign}.{digits}f}"
    if estimate["seeds"] < 2:
        return value
    if not signed:
        return f"{value} ± {estimate['spread']:.{digits}f}"
    low, high = estimate["low"], estimate["high"]
    return value if low is None else f"{value} ({low:+.{digits}f} to {high:+.{digits}f})"


def read_routes(cell: Cell) -> dict[str, Any]:
    """The report that a finished cell wrote."""
    return read_object(cell.folder / ROUTES_FILE)
