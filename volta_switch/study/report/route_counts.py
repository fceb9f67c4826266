"""Reports of ``volta-switch routes`` (docs/routes.md) as counts of samples, which the pictures are drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from volta_switch.config import ATTENTION_MODES
from volta_switch.errors import UserError
from volta_switch.model.switch import INPUT_CANDIDATES

MEANINGS = {name: mode.meaning for name, mode in ATTENTION_MODES.items()}
PAINTS = {name: (mode.fill, mode.ink) for name, mode in ATTENTION_MODES.items()}
OTHER_PAINT = ("#e4e4e4", "#222222")

Step = tuple[str, int]  # a layer's mode, and the number of its input (0 in the first layer)


@dataclass(frozen=True)
class Flow:
    """The routes of one model on one task, sample by sample."""

    name: str  # as the page calls it
    report: Mapping[str, Any]
    modes: tuple[str, ...]  # options in the model's order; one where modes are not switched
    inputs: tuple[str, ...]  # names of the input candidates; none where inputs are not switched
    routes: tuple[tuple[Step, ...], ...]  # of each sample, layer by layer
    world: Path | None = None  # the small world's folder that the samples are from

    @property
    def intervals(self) -> Mapping[str, Any]:
        """The intervals of a report on drawn images (docs/routes.md); empty of one on all."""
        return self.report.get("intervals") or {}

    @property
    def samples(self) -> int:
        """How many routes there are."""
        return len(self.routes)

    @property
    def depth(self) -> int:
        """Layers."""
        return len(self.routes[0])

    @cached_property
    def nodes(self) -> list[dict[str, int]]:
        """Of each layer: mode -> samples, in the order of ``modes``, those that were chosen."""
        found = (Counter(route[layer][0] for route in self.routes) for layer in range(self.depth))
        return [{mode: counts[mode] for mode in self.modes if counts[mode]} for counts in found]

    @cached_property
    def bands(self) -> list[dict[tuple[str, str], int]]:
        """From each layer to the next one: (its mode, the next one's) -> samples."""
        found = []
        for layer in range(self.depth - 1):
            counts = Counter((route[layer][0], route[layer + 1][0]) for route in self.routes)
            pairs = ((before, after) for before in self.modes for after in self.modes)
            found.append({pair: counts[pair] for pair in pairs if counts[pair]})
        return found

    @cached_property
    def taken(self) -> list[dict[str, int]]:
        """Of each layer: input candidate -> samples, all candidates; nothing in the first layer."""
        found = [Counter(route[layer][1] for route in self.routes) for layer in range(self.depth)]
        rest = [{name: counts[number] for number, name in enumerate(self.inputs)} for counts in found[1:]]
        return [{}, *rest]

    @cached_property
    def skips(self) -> list[tuple[int, int]]:
        """Of each layer: the samples whose text, and those whose vision, comes from two layers below."""
        chosen = ([INPUT_CANDIDATES[route[layer][1]] for route in self.routes] for layer in range(self.depth))
        return [(sum(text for text, _ in of_layer), sum(vision for _, vision in of_layer)) for of_layer in chosen]

    def share(self, layer: int, mode: str) -> float:
        """How often a layer (from 0) is in a mode."""
        return self.nodes[layer].get(mode, 0) / self.samples


def flows_of(collected: Iterable[Mapping[str, Any]]) -> list[Flow]:
    """Those of the reports that are made and have routes; each is called by its task and what else tells them apart.

    Args:
        collected: for each, ``arm``, ``task``, ``seed``, ``world`` and ``report``, see ``collect``.
    """
    entries = [entry for entry in collected if entry.get("report") and "per sample" in entry["report"]]
    arms = {entry["arm"] for entry in entries}
    return [
        counted(
            entry["report"],
            f"{entry['arm']}: {entry['task']}" if len(arms) > 1 else str(entry["task"]),
            Path(entry["world"]) if entry["world"] else None,
        )
        for entry in entries
    ]


def counted(report: Mapping[str, Any], name: str = "", world: Path | None = None) -> Flow:
    """A report's routes, read from the words in its ``per sample``.

    Raises:
        UserError: a route is not written as docs/routes.md says.
    """
    name = name or str(report["name"])
    switch = report["switch"]
    inputs = tuple(switch["inputs"])
    words = [str(route).split() for route in report["per sample"]["routes"]]
    if not words:
        raise UserError(f"{name}: the report of routes has no sample; make it again with volta-switch routes")
    routes = tuple(tuple(_step(word, layer, inputs, name) for layer, word in enumerate(route)) for route in words)
    if not routes[0] or any(len(route) != len(routes[0]) for route in routes):
        raise UserError(f"{name}: routes of different length; make the report again with volta-switch routes")
    found = dict.fromkeys(mode for route in routes for mode, _ in route)
    return Flow(name, report, tuple(dict.fromkeys([*(switch["modes"] or ()), *found])), inputs, routes, world)


def _step(word: str, layer: int, inputs: tuple[str, ...], name: str) -> Step:
    if layer == 0 or not inputs:
        return word, 0
    mode, number = word[:-1], word[-1:]
    if not mode or not number.isdecimal() or not number.isascii() or int(number) >= len(inputs):
        raise UserError(
            f"{name}: layer {layer + 1} of a route is {word!r}; expected a mode and its input's number, less than "
            f"{len(inputs)}; make the report again with volta-switch routes"
        )
    return mode, int(number)


def percent(share: float) -> str:
    """``62 %``; with a decimal where rounding would make it none or all."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    digits = 1 if 0 < share < 0.01 or 0.99 < share < 1 else 0
    return f"{100 * share:.{digits}f} %"


def paint(mode: str) -> tuple[str, str]:
    """A mode's fill, and the ink for words on it."""
    return PAINTS.get(mode, OTHER_PAINT)
