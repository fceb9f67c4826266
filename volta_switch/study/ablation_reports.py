"""Reports of ``volta-switch ablate`` as a study reads them, and the losses of an arm's seeds in one.

Seeds are a random effect and images a second one, as in scores: intervals are about new seeds and new images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from volta_switch.ablation.settings import LANGUAGE, NONE, VISION
from volta_switch.data.files.json_files import read_object
from volta_switch.errors import UserError
from volta_switch.statistics import by_group, estimate_mean
from volta_switch.study.json_records import Record, in_json
from volta_switch.study.planned_runs import ABLATION, ABLATION_REPORT, PlannedRun, finished_runs
from volta_switch.study.records import AblatedLoss, AblationOverSeeds, MeasuredQuantity, ReportedEstimate
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.study_data import is_synthetic

Columns = Mapping[str, Mapping[str, Sequence[float | None]]]  # masking -> loss -> of each phrase, None: not measured


@dataclass(frozen=True)
class PhraseColumns(Record):
    """Every phrase of a split, and its losses."""

    image: tuple[str, ...]
    sentence: tuple[int, ...]
    first_word: tuple[int, ...]
    vis4lang: Columns = field(default_factory=dict)
    lang4vis: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class AblationReport(Record):
    """What ``volta-switch ablate`` writes, as far as studies ask."""

    split: str
    phrases: PhraseColumns = field(metadata=in_json("per phrase"))


def ablations_over_seeds(plan: RunPlan) -> tuple[AblationOverSeeds, ...]:
    """Sums up each arm's reports of the cross-modal ablation, as many as are finished."""
    done = finished_runs(plan.folder)
    found: dict[str, dict[int, AblationReport]] = {}
    for (arm, seed), run in plan.runs_of(ABLATION).items():
        if run.key in done:
            found.setdefault(arm, {})[seed] = read_ablation(run)
    synthetic = is_synthetic(plan.study)
    return tuple(ablation_over_seeds(arm, reports, synthetic) for arm, reports in found.items())


def read_ablation(run: PlannedRun) -> AblationReport:
    """Reads the report that a finished run wrote."""
    return AblationReport.from_dict(read_object(run.folder / ABLATION_REPORT))


def ablation_over_seeds(arm: str, reports: Mapping[int, AblationReport], synthetic: bool = False) -> AblationOverSeeds:
    """Sums up an arm's reports; ``reports``: seed -> its own.

    Raises:
        UserError: they are not of the same phrases.
    """
    each = list(reports.values())
    first = each[0]
    if any(_names(report) != _names(first) for report in each):
        raise UserError(
            f"ablation of {arm}: its seeds were not measured on the same phrases; run it again on the same data"
        )
    losses = []
    for direction in (VISION, LANGUAGE):
        own = [getattr(report.phrases, direction) for report in each]
        for loss in next(iter(own[0].values()), {}):
            for masking in own[0]:
                values = _measured([columns[masking][loss] for columns in own])  # (S, phrases), NaN: not measured
                known = ~np.isnan(values).any(axis=0)
                images = np.array(first.phrases.image)[known]
                more = None
                if masking != NONE and NONE in own[0]:
                    whole = _measured([columns[NONE][loss] for columns in own])
                    more = _over_images((values - whole)[:, known], images)
                mean = _over_images(values[:, known], images)
                losses.append(AblatedLoss(direction, masking, loss, int(known.sum()), mean, more))
    return AblationOverSeeds(arm, first.split, tuple(reports), tuple(losses), synthetic)


def _names(report: AblationReport) -> tuple[object, ...]:
    """Returns what tells a report's phrases from another one's."""
    return report.split, report.phrases.image, report.phrases.sentence, report.phrases.first_word


def _measured(columns: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.array(columns, dtype=float)


def _over_images(values: np.ndarray, images: np.ndarray) -> MeasuredQuantity:
    """Returns the mean over phrases (S, n) of each seed, and its estimate, in nats."""
    several = len(np.unique(images)) > 1
    results = by_group(values, images) if several else values.mean(axis=1)
    return MeasuredQuantity(tuple(values.mean(axis=1).tolist()), ReportedEstimate.of(estimate_mean(results)))
