"""The records of a made table: estimates, claims, verdicts, rows. ``table.json`` is a ``StudyResults``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from volta_switch.statistics import Estimate, estimate_mean, holds_zero
from volta_switch.study.json_records import Record, in_json
from volta_switch.task_names import column_title

FlagValue = Any  # str, int, float, bool, a list of them, or None: whatever a flag's parser takes
Flags = Mapping[str, FlagValue]
"""Flag of an entry point, without dashes -> its value, as a study's file gives it."""
Settings = Mapping[str, object]
"""Setting -> its value, which is compared and shown, and not computed with."""


# --- Estimates, claims and verdicts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportedEstimate(Record):
    """A ``statistics.Estimate`` with its interval, in points; None where a number does not exist."""

    value: float = math.nan
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    standard_error: float | None = None
    spread: float | None = None
    effect_size: float | None = None
    unit: str = "seed"
    seeds: int = 0
    items: int = 0
    population: str = "these items"
    problem: str = ""

    @classmethod
    def of(cls, estimate: Estimate, confidence: float = 0.95) -> ReportedEstimate:
        """Returns an estimate with its interval at a confidence."""
        return cls.from_dict(estimate.to_dict(confidence))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both bounds, in points; None where there is a ``problem``."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class StudyClaim(Record):
    """One arm is better than another on one metric of one task, by at least so much."""

    text: str
    """As a reader should see it."""
    better: str
    """Name of the arm that is said to be better."""
    worse: str
    """Name of the other arm."""
    task: str
    metric: str
    at_least: float = 0.0
    """m, in points of the metric; negative: "no worse by more than that"."""
    source: str = ""
    """Where the paper says so: "table 3"."""
    than: tuple[str, ...] | None = None
    """Two more arms: the advantage of ``better`` over ``worse`` exceeds that of the first of these over the second."""
    synthetic: bool = field(default=False, metadata=in_json(optional=True))
    """Whether the task is a synthetic world's; a study's file does not give it."""

    @property
    def arms(self) -> tuple[str, ...]:
        """All arms that it names."""
        return (self.better, self.worse, *(self.than or ()))

    @property
    def column(self) -> str:
        """The task and its metric, as a reader sees them."""
        return column_title(self.task, self.metric, self.synthetic)

    @property
    def difference(self) -> str:
        """What is estimated, in words."""
        first = f"{self.better} minus {self.worse}"
        return first if self.than is None else f"({first}) minus ({self.than[0]} minus {self.than[1]})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the claim as JSON values, with what is estimated in words."""
        return {**super().to_dict(), "difference": self.difference}


@dataclass(frozen=True)
class ReportedVerdict(Record):
    """A ``claims.Verdict`` as ``table.json`` has it; None where a number does not exist."""

    claim: StudyClaim
    verdict: str = "undecided"
    reason: str = ""
    text: str = ""
    estimate: ReportedEstimate = ReportedEstimate()
    level: float | None = None
    level_low: float | None = None
    level_high: float | None = None
    family: int = 1
    p_value: float | None = None
    p_holm: float | None = None
    power: float | None = None
    minimum_effect: float | None = None
    excludes_minimum_effect: bool = False
    excluded_beyond: float | None = field(default=None, metadata=in_json(optional=True))
    """Differences beyond this, in points, either way, are excluded with all of the family's tests in mind."""
    seeds_needed: Mapping[str, int | None] | None = None

    @property
    def level_interval(self) -> tuple[float, float] | None:
        """Both bounds at Holm's level, in points; None where the estimate has a ``problem``."""
        return None if self.level_low is None or self.level_high is None else (self.level_low, self.level_high)

    @property
    def within_zero(self) -> bool:
        """Whether the difference is not told apart from none: its interval at Holm's level holds zero, or lacks."""
        return self.level_interval is None or holds_zero(self.level_interval)


# --- Tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep(Record):
    """Arms that are one setting at several values: a line for each series. Its key in files is ``dial``."""

    label: str
    """What is varied, as the axis names it."""
    series: Mapping[str, Mapping[str, float]]
    """Name -> arm -> value of the setting."""


@dataclass(frozen=True)
class ReportedColumn(Record):
    """One metric of one task on one split."""

    task: str
    metric: str
    heading: str
    key: str = ""
    """The task file's."""
    split: str = ""
    pool_images: int | None = None
    """Of retrieval: images of the pools within which it ranks; None: the whole split is one pool."""
    synthetic: bool = False
    """Whether the data are a synthetic world."""
    digits: int = 1
    """Behind the point, of its numbers as they are shown."""

    @property
    def scope(self) -> str:
        """The split, and its pools: "test", or "test, in pools of 100 images"."""
        return self.split if self.pool_images is None else f"{self.split}, in pools of {self.pool_images} images"

    @property
    def title(self) -> str:
        """What a reader sees it called; ``heading`` is what files call it."""
        return column_title(self.task, self.metric, True) if self.synthetic else self.heading

    def to_dict(self) -> dict[str, Any]:
        """Returns the column as JSON values, in the order that ``table.json`` has always had."""
        found = {name: getattr(self, name) for name in ("task", "key", "metric", "split", "heading")}
        found |= {} if self.pool_images is None else {"pool_images": self.pool_images}
        found |= {} if self.digits == 1 else {"digits": self.digits}
        return {**found, "synthetic": True} if self.synthetic else found


@dataclass(frozen=True)
class ArmScore(Record):
    """What an arm scored in one column, in percent."""

    mean: float = math.nan
    std: float = 0.0
    """Over seeds."""
    values: tuple[float, ...] = ()
    """Of each seed."""
    published: object = None
    """What the study's file says was published: a number, a text, or source -> number."""
    estimate: ReportedEstimate = ReportedEstimate()


@dataclass(frozen=True)
class TrackedFlops(Record):
    """FLOPs of training on a pair of image and text as each seed's run tracked them; None where it did not."""

    executed: tuple[float | None, ...] = ()
    paths: tuple[float | None, ...] = ()
    """Of all active paths, each paid for."""


@dataclass(frozen=True)
class TableRow(Record):
    """An arm in a table."""

    arm: str
    model: str = ""
    parameters: int = 0
    scores: tuple[ArmScore, ...] = ()
    """One for each column."""
    flops: Mapping[str, TrackedFlops] = field(default_factory=dict)
    """Kind of run ("pretraining", "refcoco+") -> FLOPs."""
    soft_minus_hard: Mapping[str, float] = field(default_factory=dict)
    """Run ("refcoco+/seed0") -> validation score with soft routes minus that with hard ones, in points."""
    pretraining: Mapping[str, MeasuredQuantity] = field(default_factory=dict, metadata=in_json(optional=True))
    """Loss ("loss", "itm") of pre-training's last validation, with hard routes; empty unless the table shows it."""
    pretraining_difference: Mapping[str, MeasuredQuantity] = field(
        default_factory=dict, metadata=in_json(optional=True)
    )
    """The same less that of the table's first arm, seed by seed; empty for that arm."""
    seeds: tuple[int | None, ...] = field(default=(), metadata=in_json(optional=True))
    """Its own, None where one is not recorded; empty: the table's."""
    folders: tuple[str, ...] = field(default=(), metadata=in_json(optional=True))
    """Of its runs, where the table is not a study's."""


@dataclass(frozen=True)
class ReportedDifference(Record):
    """One row less another one, in one column."""

    row: str
    less: str
    column: str
    """Its title."""
    estimate: ReportedEstimate


@dataclass(frozen=True)
class ReportedTable(Record):
    """A made table: what ``table.json`` has under ``tables``."""

    name: str
    title: str = ""
    varies: tuple[str, ...] = ()
    sweep: Sweep | None = field(default=None, metadata=in_json("dial"))
    shows_flops: bool = False
    seeds: tuple[int, ...] = ()
    planned_seeds: tuple[int, ...] = ()
    columns: tuple[ReportedColumn, ...] = ()
    rows: tuple[TableRow, ...] = ()
    intervals: str = ""
    """What its intervals and its ± are, in words."""
    verdicts: tuple[ReportedVerdict, ...] = ()
    chance: tuple[float, ...] = ()
    """The best blind guess in each column, in percent; empty where it is not known."""
    comparisons: tuple[ReportedDifference, ...] = field(default=(), metadata=in_json(optional=True))
    """Of rows with the first one, where no claims are made."""
    notes: tuple[str, ...] = field(default=(), metadata=in_json(optional=True))
    """What must be known to read it, in every format."""

    @property
    def synthetic(self) -> bool:
        """Whether its data are a synthetic world."""
        return any(column.synthetic for column in self.columns)


@dataclass(frozen=True)
class OmittedTable(Record):
    """A table that no seed is finished for, and why."""

    name: str
    title: str
    text: str


@dataclass(frozen=True)
class RoutesOverSeeds(Record):
    """An arm's reports of routes on one task, summed up over seeds."""

    arm: str
    task: str
    seeds: tuple[int, ...]
    modes: Mapping[str, float]
    """Mean share of each attention mode over layers and samples; empty where modes are not switched."""
    quantities: Mapping[str, MeasuredQuantity]
    """By the keys of ``route_reports.QUANTITIES``."""
    synthetic: bool = field(default=False, metadata=in_json(optional=True))
    """Whether the task is a synthetic world's."""


@dataclass(frozen=True)
class MeasuredQuantity(Record):
    """A number of each seed's report, and its estimate."""

    values: tuple[float, ...]
    estimate: ReportedEstimate
    """Seeds are a random effect, samples are taken as they are."""

    @classmethod
    def of(cls, values: np.ndarray) -> MeasuredQuantity:
        """Returns that of each seed's number, (S,)."""
        return cls(tuple(values.tolist()), ReportedEstimate.of(estimate_mean(values)))


@dataclass(frozen=True)
class AblatedLoss(Record):
    """A loss of pre-training with something of the other modality masked, over seeds, in nats."""

    direction: str
    masking: str
    loss: str
    """A key of ``ablation.settings.TITLES``."""
    phrases: int
    mean: MeasuredQuantity
    more: MeasuredQuantity | None = None
    """The same less that with nothing masked."""


@dataclass(frozen=True)
class AblationOverSeeds(Record):
    """An arm's cross-modal ablation, summed up over seeds."""

    arm: str
    split: str
    seeds: tuple[int, ...]
    losses: tuple[AblatedLoss, ...]
    synthetic: bool = field(default=False, metadata=in_json(optional=True))
    """Whether the data are a synthetic world's."""


@dataclass(frozen=True)
class StudyResults(Record):
    """All that ``table.json`` holds."""

    study: str = ""
    tables: tuple[ReportedTable, ...] = ()
    left_out: tuple[OmittedTable, ...] = ()
    routes: tuple[RoutesOverSeeds, ...] = ()
    ablation: tuple[AblationOverSeeds, ...] = field(default=(), metadata=in_json(optional=True))
