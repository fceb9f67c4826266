"""Confounds: whether a table's arms differ in what it varies alone, as planned and as their runs recorded it.

A setting is written by its dotted name, ``hyperparameters.learning_rate``, as everywhere in a study.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from volta_switch.errors import UserError
from volta_switch.identities import differences
from volta_switch.study.arms import Arm, PlannedTable, flat
from volta_switch.study.json_records import Record
from volta_switch.study.planned_runs import RunRecord
from volta_switch.study.records import Settings

RecordsOfArms = Mapping[str, Mapping[str, RunRecord]]  # arm -> run ("pretraining/seed0") -> what it wrote down
SECTIONS = ("entry_point", "hyperparameters", "settings", "data", "precision")  # of run.json; the others are outcomes


def refuse_confounds(source: str, table: PlannedTable, arms: Mapping[str, Arm]) -> None:
    """Compares the settings of a table's arms before anything runs.

    Raises:
        UserError: two arms differ in a setting that the table does not vary; the setting and both values are named.
    """
    first, *others = (replace(arms[name], seeds=table.seeds_of(arms[name])) for name in table.arms)
    left = first.settings(table.tasks)
    for other in others:
        right = other.settings(table.tasks)
        for key in sorted({*left, *right}):
            if left.get(key) != right.get(key) and not _is_varied(key, table.varies):
                raise UserError(
                    f"{source}: table {table.name} is confounded: {key} is {left.get(key)} for {first.name} and "
                    f"{right.get(key)} for {other.name}, and the table varies {', '.join(table.varies)}; make them "
                    "equal, or name it under varies"
                )


def _is_varied(key: str, varies: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in varies)


def refuse_recorded_confounds(runs: RecordsOfArms, planned: Mapping[str, Settings]) -> None:
    """Compares the recorded settings of every two arms' runs, but for those that were planned to differ.

    The runs of one arm must agree in all but the seed.

    Args:
        runs: what the runs wrote down.
        planned: arm -> what its runs were given (``RunPlan.sections``).

    Raises:
        UserError: two arms' runs, or two seeds' of one, differ in a setting; the setting and both values are named.
    """
    for left, right in combinations(runs, 2):
        for run in [run for run in runs[left] if run in runs[right]]:  # some arms have no pre-training, as planned
            of_left, of_right = planned[left], planned[right]
            kind, sections = run.split("/")[0], set(SECTIONS)
            if of_left[kind] != of_right[kind]:
                sections -= {"hyperparameters", "settings"}
            if of_left["data"] != of_right["data"]:
                sections.remove("data")
            for name, of_one, of_other in differences(*compared_sections(runs[left][run], runs[right][run], sections)):
                raise UserError(
                    f"the table is refused: in {run}, {name} is {of_one} for {left} and {of_other} for {right}; "
                    "rows may differ in what the table varies only"
                )
    for arm, of_arm in runs.items():
        _refuse_other_seeds(arm, of_arm)


def _refuse_other_seeds(arm: str, runs: Mapping[str, RunRecord]) -> None:
    """Raises UserError where two runs of one kind differ in more than their seed."""
    first: dict[str, str] = {}  # kind of run -> the first one
    for run, record in runs.items():
        before = first.setdefault(run.split("/")[0], run)
        for name, was, found in differences(*compared_sections(runs[before], record, set(SECTIONS))):
            if name.rpartition(".")[2] != "seed":
                raise UserError(
                    f"the table is refused: {name} of {arm} is {was} in {before} and {found} in {run}; runs of one arm "
                    "may differ in the seed only"
                )


def compared_sections(
    one: RunRecord, other: RunRecord, sections: set[str]
) -> tuple[dict[str, object], dict[str, object]]:
    """Returns what of two records is compared: of data what they are, and where they lie where one tells no more."""
    left, right = (record.sections(sorted(sections)) for record in (one, other))
    if "data" in sections:
        lies = [dict(record.data or {}) for record in (one, other)]
        prints = [data.pop("fingerprints", None) for data in lies]
        left["data"], right["data"] = lies if None in prints else prints
    return left, right


# --- How arms compare, for the report -------------------------------------------------------------------------------


@dataclass(frozen=True)
class SettingDifference(Record):
    """A setting that is not the same in all arms."""

    setting: str
    values: Mapping[str, object]
    """Of each arm that has it."""


@dataclass(frozen=True)
class Comparison(Record):
    """How many settings of some arms were compared, and which ones differ."""

    compared: int
    equal: int
    differing: tuple[SettingDifference, ...]


@dataclass(frozen=True)
class RecordedComparison(Comparison):
    """The same of what runs recorded."""

    runs: int
    """Of all arms."""


@dataclass(frozen=True)
class ConfoundCheck(Record):
    """What a table varies, and how its arms' settings compare: as planned, and as runs recorded them."""

    table: str
    varies: tuple[str, ...]
    planned: Comparison
    recorded: RecordedComparison
    refused: str
    """Why the recorded settings make no table; empty where they do."""


def check_confounds(
    table: PlannedTable, planned: Mapping[str, Settings], recorded: RecordsOfArms, given: Mapping[str, Settings]
) -> ConfoundCheck:
    """Compares the settings of a table's arms.

    Args:
        table: the table.
        planned: arm -> its settings (``Arm.settings``).
        recorded: what the arms' runs wrote down.
        given: arm -> what its runs were given (``RunPlan.sections``).
    """
    try:
        refuse_recorded_confounds(recorded, given)
        refused = ""
    except UserError as error:
        refused = str(error)
    runs = sum(map(len, recorded.values()))
    both = _compare_planned(planned), _compare_recorded(recorded, runs)
    return ConfoundCheck(table.name, table.varies, *both, refused)


def _compare_planned(settings: Mapping[str, Settings]) -> Comparison:
    """Compares planned settings; one that an arm lacks is none for it."""
    keys = {key: None for values in settings.values() for key in values}
    found = {key: {arm: values.get(key) for arm, values in settings.items()} for key in keys}
    differing = tuple(SettingDifference(key, values) for key, values in found.items() if not _equal(values))
    return Comparison(len(found), len(found) - len(differing), differing)


def _compare_recorded(recorded: RecordsOfArms, runs: int) -> RecordedComparison:
    """Compares each kind of run over the seeds that two arms have run; equal is what is equal in every seed."""
    found: dict[str, dict[str, dict[str, object]]] = {}  # setting -> run -> arm -> value
    for arm, records in recorded.items():
        for run, record in records.items():
            for key, value in flat(record.sections(SECTIONS)).items():
                found.setdefault(f"{key} in {run.split('/')[0]}", {}).setdefault(run, {})[arm] = value
    shared = {key: {run: of for run, of in by_run.items() if len(of) > 1} for key, by_run in found.items()}
    shared = {key: by_run for key, by_run in shared.items() if by_run}
    differing = tuple(
        SettingDifference(key, _over_runs(by_run))
        for key, by_run in shared.items()
        if not all(map(_equal, by_run.values()))
    )
    return RecordedComparison(len(shared), len(shared) - len(differing), differing, runs)


def _over_runs(runs: Mapping[str, Settings]) -> dict[str, object]:
    """Returns arm -> its value, or its values where seeds differ."""
    values: dict[str, list[object]] = {}
    for of_arms in runs.values():
        for arm, value in of_arms.items():
            if value not in values.setdefault(arm, []):
                values[arm].append(value)
    return {arm: of[0] if len(of) == 1 else ", ".join(map(str, of)) for arm, of in values.items()}


def _equal(values: Settings) -> bool:
    first, *others = values.values()
    return all(value == first for value in others)
