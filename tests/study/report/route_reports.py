"""Reports of routes as ``volta-switch routes`` writes them, from routes that a test gives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from volta_switch.study.report.flows import flow_figure
from volta_switch.study.report.route_counts import CollectedRoutes, Flow, counted
from volta_switch.study.route_reports import RouteReport

MODES, INPUTS = ("SS", "SC", "CS", "J"), ("l-1", "text l-2", "vision l-2")


def report(routes: list[str], modes: Any = MODES, inputs: Any = INPUTS, name: str = "refcoco+", **more: Any) -> Any:
    """A report of these routes; ``more`` replaces or adds keys."""
    n = len(routes)
    frequent = [
        {"route": route, "share": count / n, "samples": count} for route, count in Counter(routes).most_common()
    ]
    return {
        **{"format": 1, "task": "TASK10", "name": name, "split": "val", "samples": n},
        **{"switch": {"modes": list(modes), "inputs": list(inputs)}, "metric": "accuracy", "metrics": {"accuracy": 50}},
        "architectures": {"different": len(frequent), "entropy": 0.5, "most frequent": frequent},
        "per sample": {
            "ids": list(map(str, range(n))),
            "images": ["7"] * n,
            "texts": [f"text {number}" for number in range(n)],
            "routes": routes,
            "text length": [2] * n,
        },
        **more,
    }


def entry(found: Any, arm: str = "switchbert", task: str = "") -> CollectedRoutes:
    """A report as the page's ``collect`` gives it."""
    return CollectedRoutes(arm, task or found["name"], report=RouteReport.from_dict(found))


def flow_of(found: Any, name: str = "", world: Path | None = None) -> Flow:
    """A report as the pictures take it."""
    return counted(RouteReport.from_dict(found), name, world)


def picture_of(found: Any) -> str:
    """A report's picture."""
    return flow_figure(RouteReport.from_dict(found))


def change(kind: str, block: str, layer: int, option: str, value: float | None, rerouted: int = 5) -> dict[str, Any]:
    """One intervention."""
    at = {"kind": kind, "block": block, "layer": layer, "option": option}
    return {**at, "samples": 10, "rerouted": rerouted, "accuracy": 50, "change": value}


def contrast(one: str, other: str) -> float:
    """Of two colours as WCAG has it, 1 to 21."""

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
