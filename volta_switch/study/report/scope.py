"""What a page says before anything else: what the data are, what follows from them and what not, dates, commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from volta_switch.checksums import is_there
from volta_switch.identities import commit_of_code
from volta_switch.study.json_records import Record
from volta_switch.study.report.runs import ArmCost, RunSummary
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.study_data import is_synthetic
from volta_switch.world.spec import WorldSpec

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Scope(Record):
    """The page's first words."""

    data: str
    """What the data are, how large the models, how many seeds."""
    can: str
    """What can be concluded."""
    cannot: str
    """What cannot."""
    dates: Mapping[str, str]
    """``runs, commit`` and the like -> a day, a commit, or that it was not recorded."""


def scope_of(plan: RunPlan, runs: Sequence[RunSummary], costs: Mapping[str, ArmCost], seeds: Sequence[int]) -> Scope:
    """Returns a page's first words.

    Args:
        plan: the study's.
        runs: all of them.
        costs: of each arm.
        seeds: how many its tables plan, in order.
    """
    synthetic = is_synthetic(plan.study)
    return Scope(
        data=f"{_world(plan) if synthetic else _real(plan)} {_models(costs, seeds)}",
        can=_can(seeds),
        cannot=_cannot(synthetic),
        dates={
            "runs, ended": _days([run.ended for run in runs if run.finished and run.ended is not None]),
            "runs, commit of the code": _commits(runs),
            "table, made": _table_day(plan),
            "table, commit of the code": commit_of_code() or NOT_RECORDED,
        },
    )


def _world(plan: RunPlan) -> str:
    specs = [WorldSpec(**(arm.world or {})) for arm in plan.study.arms.values()]
    first = specs[0]
    other = " Some arms have worlds with other settings, as their tables say." if len(set(specs)) > 1 else ""
    tested = first.test_images or first.eval_images
    return (
        "The data are synthetic: scenes of coloured shapes and texts about them, made by a program "
        f"(volta-switch world, seed {first.seed}). Each task has up to {first.images:,} training images and up to "
        f"{tested:,} test images. None is a photograph, and no person wrote the texts.{other}"
    )


def _real(plan: RunPlan) -> str:
    files = dict.fromkeys(arm.data.get("tasks_config_file", "") for arm in plan.study.arms.values())
    return f"The data are the data sets that the study's task file names ({', '.join(filter(None, files))})."


def _models(costs: Mapping[str, ArmCost], seeds: Sequence[int]) -> str:
    sizes = sorted(cost.parameters / 1e6 for cost in costs.values())
    span = f"{sizes[0]:.2f}" + (f" to {sizes[-1]:.2f}" if f"{sizes[0]:.2f}" != f"{sizes[-1]:.2f}" else "")
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    several = f"{number} seed{'' if number == '1' else 's'}"
    return f"The models have {span} million parameters; each arm has {several}."


def _can(seeds: Sequence[int]) -> str:
    if seeds[-1] < 2:
        return (
            "that everything runs, from pre-training to this page. One seed has no spread, so that no arm is shown to "
            "be better than another."
        )
    return (
        "how these arms differ on these data, at this size, with these hyperparameters and this length of training. "
        "A difference counts where its interval over seeds leaves zero out; what does not is grey."
    )


def _cannot(synthetic: bool) -> str:
    if synthetic:
        return (
            "how any of these models does on photographs and on what people write, or at the paper's size and length "
            "of pre-training. No score here is one of the real data sets that the tasks stand in for, so that none "
            "can be set beside a published one."
        )
    return "how these models do on other data, at another size, or with hyperparameters that were tuned for each."


def _days(times: Sequence[float]) -> str:
    """Returns ``2026-11-30``, or the first day and the last."""
    days = [f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d}" for time in sorted(times)]
    if not days:
        return NOT_RECORDED
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _commits(runs: Iterable[RunSummary]) -> str:
    """Returns the commit of all runs that wrote one down, or each with the number of its runs."""
    found = Counter(str(run.environment.get("commit", NOT_RECORDED)) for run in runs if run.environment)
    if len(found) < 2:
        return next(iter(found), NOT_RECORDED)
    return ", ".join(f"{commit} ({count} runs)" for commit, count in found.items())


def _table_day(plan: RunPlan) -> str:
    path = plan.folder / "table.json"
    return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC" if is_there(path) else "not made"
