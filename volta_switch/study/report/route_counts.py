"""Reports of ``volta-switch routes`` (docs/routes.md) as counts of samples, which the pictures are drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from volta_switch.config import ATTENTION_MODES
from volta_switch.errors import UserError
from volta_switch.model.switch import INPUT_CANDIDATES
from volta_switch.study.json_records import Record
from volta_switch.study.route_reports import ReportIntervals, RouteReport
from volta_switch.task_names import metric_title, task_title

MEANINGS = {name: mode.meaning for name, mode in ATTENTION_MODES.items()}
PAINTS = {name: (mode.fill, mode.ink) for name, mode in ATTENTION_MODES.items()}
OTHER_PAINT = ("#e4e4e4", "#222222")

Step = tuple[str, int]  # a layer's mode, and the number of its input (0 in the first layer)


@dataclass(frozen=True)
class CollectedRoutes(Record):
    """The routes of an arm's first seed on a task."""

    arm: str
    task: str
    seed: int = 0
    world: str | None = None
    """The synthetic world's folder that the samples are from."""
    report: RouteReport | None = None
    """None where it is not finished."""
    whole: float | None = None
    """What the same weights scored on the whole split, by the report's metric; None where that is not known."""

    @property
    def synthetic(self) -> bool:
        """Whether its samples are of a synthetic world."""
        return self.world is not None


@dataclass(frozen=True)
class Flow:
    """The routes of one model on one task, sample by sample."""

    name: str
    """As the page calls it."""
    report: RouteReport
    modes: tuple[str, ...]
    """Options in the model's order; one where modes are not switched."""
    inputs: tuple[str, ...]
    """Names of the input candidates; none where inputs are not switched."""
    routes: tuple[tuple[Step, ...], ...]
    """Of each sample, layer by layer."""
    world: Path | None = None
    """The synthetic world's folder that the samples are from."""
    file: str = ""
    """As files call it."""
    whole: float | None = None
    """As of ``CollectedRoutes``."""

    @property
    def metric(self) -> str:
        """The report's metric, as a reader sees it."""
        return metric_title(self.report.metric, self.world is not None)

    @property
    def base(self) -> float | None:
        """The base score of all changes: of the report's samples, on the routes that they chose."""
        return self.report.metrics.get(self.report.metric)

    @property
    def intervals(self) -> ReportIntervals | None:
        """The intervals of a report on drawn images (docs/routes.md); None of one on all."""
        return self.report.intervals

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
        """Returns how often a layer (from 0) is in a mode."""
        return self.nodes[layer].get(mode, 0) / self.samples


def flows_of(collected: Iterable[CollectedRoutes]) -> list[Flow]:
    """Returns those of the reports that are made and have routes.

    Each is called by its task and what else tells them apart.
    """
    made = [(entry, entry.report) for entry in collected if entry.report and entry.report.samples is not None]
    arms = {entry.arm for entry, _ in made}
    found = []
    for entry, report in made:
        task, arm = task_title(entry.task, entry.synthetic), f"{entry.arm}: " if len(arms) > 1 else ""
        flow = counted(report, f"{arm}{task}", Path(entry.world) if entry.world else None)
        found.append(replace(flow, file=f"{arm}{entry.task}", whole=entry.whole))
    return found


def counted(report: RouteReport, name: str = "", world: Path | None = None) -> Flow:
    """Counts a report's routes, read from the words of its samples.

    Raises:
        UserError: a route is not written as docs/routes.md says.
    """
    name = name or report.name
    routes = parsed_routes([str(route) for route in (report.samples or {})["routes"]], report.switch.inputs, name)
    found = dict.fromkeys(mode for route in routes for mode, _ in route)
    modes = tuple(dict.fromkeys([*(report.switch.modes or ()), *found]))
    return Flow(name, report, modes, report.switch.inputs, routes, world)


def parsed_routes(written: Sequence[str], inputs: tuple[str, ...], name: str) -> tuple[tuple[Step, ...], ...]:
    """Reads routes from their words.

    Args:
        written: a route each.
        inputs: names of the input candidates.
        name: what messages call the report.

    Raises:
        UserError: as of ``counted``.
    """
    words = [route.split() for route in written]
    if not words:
        raise UserError(f"{name}: the report of routes has no sample; make it again with volta-switch routes")
    routes = tuple(tuple(_step(word, layer, inputs, name) for layer, word in enumerate(route)) for route in words)
    if not routes[0] or any(len(route) != len(routes[0]) for route in routes):
        raise UserError(f"{name}: routes of different length; make the report again with volta-switch routes")
    return routes


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
    """Returns ``62 %``; with a decimal where rounding would make it none or all."""
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    digits = 1 if 0 < share < 0.01 or 0.99 < share < 1 else 0
    return f"{100 * share:.{digits}f} %"


def paint(mode: str) -> tuple[str, str]:
    """Returns a mode's fill, and the ink for words on it."""
    return PAINTS.get(mode, OTHER_PAINT)
