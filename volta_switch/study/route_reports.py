"""Reports of ``volta-switch routes`` as a study reads them, and what those of several seeds have in common.

One checkpoint's routes are those of one run; another seed's switchers may settle on others. Shares, entropies and what
routes are worth are therefore summed up with seeds as a random effect. docs/routes.md explains a report's numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from volta_switch.data.files.json_files import read_object
from volta_switch.statistics import estimate_mean
from volta_switch.study.json_records import Record, in_json
from volta_switch.study.planned_runs import ROUTES_FILE, PlannedRun, finished_runs
from volta_switch.study.records import MeasuredQuantity, ReportedEstimate, RoutesOverSeeds
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.study_data import is_synthetic

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
Bounds = Sequence[float] | None  # of an interval; None: there is none


@dataclass(frozen=True)
class WholeRoute(Record):
    """A route through all layers, and how often samples take it."""

    share: float
    route: str = ""
    samples: int = 0


@dataclass(frozen=True)
class RouteCounts(Record):
    """Whole routes over all samples."""

    different: int
    entropy: float
    """Bits."""
    most_frequent: tuple[WholeRoute, ...] = field(default=(), metadata=in_json("most frequent"))


@dataclass(frozen=True)
class LayerChoices(Record):
    """How often a layer chose each option; None where it is not switched."""

    modes: Mapping[str, float] | None = None
    modes_entropy: float | None = field(default=None, metadata=in_json("modes entropy"))
    inputs_entropy: float | None = field(default=None, metadata=in_json("inputs entropy"))


@dataclass(frozen=True)
class CrossLayerInputs(Record):
    """How often layers take text, and how often vision, from two layers below; None where inputs are not switched."""

    text: float | None = field(default=None, metadata=in_json("text from l-2"))
    vision: float | None = field(default=None, metadata=in_json("vision from l-2"))


@dataclass(frozen=True)
class RouteChange(Record):
    """What an intervention on routes changes of the metric, in points."""

    kind: str
    """``force`` or ``forbid`` an option; of whole routes ``most frequent`` or ``shuffled``."""
    change: float | None
    samples: int = 0
    rerouted: int = 0
    """Samples that go another way."""
    block: str = ""
    layer: int = 0
    """From 1."""
    option: str = ""
    intervals: Mapping[str, Bounds] = field(default_factory=dict)

    @property
    def bounds(self) -> Bounds:
        """Of the change, where the samples are of drawn images."""
        return self.intervals.get("change")


@dataclass(frozen=True)
class Information(Record):
    """Mutual information of a fact with a choice, in bits, and the share of permutations that reach it."""

    bits: float
    p: float = 1.0
    layer: int = 0


@dataclass(frozen=True)
class FactDependence(Record):
    """What routes tell of a fact of the samples."""

    entropy: float
    architecture: Information
    """Of whole routes."""
    modes: tuple[Information, ...] = ()
    inputs: tuple[Information, ...] = ()


@dataclass(frozen=True)
class TrainingPoint(Record):
    """Routes of a checkpoint."""

    samples: int = field(metadata=in_json("training samples"))
    architectures: RouteCounts
    layers: tuple[LayerChoices, ...]


@dataclass(frozen=True)
class CrossAttention(Record):
    """Of each head of a layer, the share of its attention that goes to the other modality; None where it has none."""

    layer: int
    text: tuple[float, ...] | None = field(default=None, metadata=in_json("text to vision"))
    vision: tuple[float, ...] | None = field(default=None, metadata=in_json("vision to text"))


@dataclass(frozen=True)
class SwitchOptions(Record):
    """What is switched: names of the options; none where a block is not switched."""

    modes: tuple[str, ...] | None = ()
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class RouteReport(Record):
    """A report of the routes that a model takes on a task (``routes.json``); without a switch it has no routes."""

    task: str = ""
    name: str = ""
    split: str = ""
    metric: str = ""
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    switch: SwitchOptions = SwitchOptions()
    architectures: RouteCounts | None = None
    layers: tuple[LayerChoices, ...] = ()
    cross_layer: CrossLayerInputs = field(default=CrossLayerInputs(), metadata=in_json("cross-layer"))
    flops: Mapping[str, float] | None = field(default=None, metadata=in_json("flops per pair"))
    interventions: tuple[RouteChange, ...] = ()
    whole_routes: tuple[RouteChange, ...] = field(default=(), metadata=in_json("whole routes"))
    dependence: Mapping[str, FactDependence] = field(default_factory=dict, metadata=in_json("mutual information"))
    over_training: tuple[TrainingPoint, ...] = field(default=(), metadata=in_json("over training"))
    attention: tuple[CrossAttention, ...] = ()
    samples: Mapping[str, Sequence[object]] | None = field(default=None, metadata=in_json("per sample"))
    """Name of a fact -> its value for each sample; ``routes`` and ``texts`` among them."""
    intervals: ReportIntervals | None = None
    """Where the samples are of drawn images."""


@dataclass(frozen=True)
class RouteShares(Record):
    """Intervals of how often whole routes are taken."""

    entropy: Bounds = None
    most_frequent: tuple[RouteShare, ...] = field(default=(), metadata=in_json("most frequent"))


@dataclass(frozen=True)
class RouteShare(Record):
    """The interval of one route's share."""

    share: Bounds = None
    route: str = ""


@dataclass(frozen=True)
class LayerIntervals(Record):
    """Intervals of how often a layer chose each option."""

    modes: Mapping[str, Bounds] = field(default_factory=dict)
    inputs: Mapping[str, Bounds] = field(default_factory=dict)


@dataclass(frozen=True)
class ReportIntervals(Record):
    """The intervals of a report's numbers, in their places."""

    layers: tuple[LayerIntervals, ...] = ()
    architectures: RouteShares = RouteShares()


def read_routes(run: PlannedRun) -> RouteReport:
    """Reads the report that a finished run wrote."""
    return RouteReport.from_dict(read_object(run.folder / ROUTES_FILE))


def routes_over_seeds(plan: RunPlan) -> tuple[RoutesOverSeeds, ...]:
    """Sums up each arm's and task's reports of routes, as many as are finished."""
    found: dict[tuple[str, str], dict[int, RouteReport]] = {}
    done = finished_runs(plan.folder)
    for (arm, seed, task), run in plan.route_runs().items():
        if run.key in done:
            found.setdefault((arm, plan.spec(arm, task).name), {})[seed] = read_routes(run)
    synthetic = is_synthetic(plan.study)
    return tuple(replace(summed_up(arm, task, reports), synthetic=synthetic) for (arm, task), reports in found.items())


def summed_up(arm: str, task: str, reports: Mapping[int, RouteReport]) -> RoutesOverSeeds:
    """Sums up the reports of an arm on a task; ``reports``: seed -> a report with routes."""
    each = [quantities(report) for report in reports.values()]
    found = {}
    for key in QUANTITIES:
        values = [known for of in each if (known := of.get(key)) is not None]
        if len(values) == len(each):
            estimate = ReportedEstimate.of(estimate_mean(np.array(values)))
            found[key] = MeasuredQuantity(tuple(values), estimate)
    return RoutesOverSeeds(arm, task, tuple(reports), _mean_modes(list(reports.values())), found)


def quantities(report: RouteReport) -> dict[str, float | None]:
    """Returns one report in numbers: those of ``QUANTITIES`` that it knows."""
    routes, crossing = report.architectures, report.cross_layer
    assert routes is not None
    found: dict[str, float | None] = {
        "most frequent": 100 * routes.most_frequent[0].share,
        "different": float(routes.different),
        "entropy": routes.entropy,
    }
    if crossing.text is not None and crossing.vision is not None:
        text, vision = 100 * crossing.text, 100 * crossing.vision
        found |= {"text from l-2": text, "vision from l-2": vision, "vision less text": vision - text}
    changes = {each.kind: each.change for each in report.whole_routes}
    return found | {key: changes.get(kind) for key, kind in (("one for all", "most frequent"), ("shuffled",) * 2)}


def _mean_modes(reports: Sequence[RouteReport]) -> dict[str, float]:
    layers = [layer.modes for report in reports for layer in report.layers if layer.modes is not None]
    return {mode: sum(layer[mode] for layer in layers) / len(layers) for mode in layers[0]} if layers else {}
