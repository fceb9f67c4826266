"""Confounds: whether a table's arms differ in what it varies alone, as planned and as their runs recorded it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volta_switch.errors import UserError
from volta_switch.study.arms import Arm, Table

SECTIONS = ("entry_point", "hyperparameters", "settings", "data", "precision")  # of run.json; the others are outcomes


def refuse_confounds(source: str, table: Table, arms: Mapping[str, Arm]) -> None:
    """Compares the settings of a table's arms before anything runs.

    Raises:
        UserError: two arms differ in a setting that the table does not vary; the setting and both values are named.
    """
    first, *others = (arms[name] for name in table.arms)
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


def refuse_recorded_confounds(runs: Mapping[str, Mapping[str, Mapping[str, Any]]], table: Table) -> None:
    """Compares the recorded settings of every arm's runs, but for those that the table varies.

    Args:
        runs: arm -> run (``pretraining/seed0``, ...) -> what its ``run.json`` holds.
        table: what it varies.

    Raises:
        UserError: two arms' runs differ in a setting; the setting and both values are named.
    """
    varied = {name.split(".")[0] for name in table.varies}
    first, *others = runs
    for other in others:
        for run, recorded in runs[first].items():
            if run not in runs[other]:  # an arm without pre-training, as planned
                continue
            sections = set(SECTIONS)
            if ("pretraining" if run.startswith("pretraining/") else "tasks") in varied:
                sections -= {"hyperparameters", "settings"}
            if varied & {"world", "data"}:
                sections.remove("data")
            for section in sorted(sections):
                _compare(section, run, (first, recorded[section]), (other, runs[other][run][section]))


def _compare(key: str, run: str, left: tuple[str, Any], right: tuple[str, Any]) -> None:
    if isinstance(left[1], Mapping) and isinstance(right[1], Mapping):
        for name in sorted({*left[1], *right[1]}):
            _compare(f"{key}.{name}", run, (left[0], left[1].get(name)), (right[0], right[1].get(name)))
    elif left[1] != right[1]:
        raise UserError(
            f"the table is refused: in {run}, {key} is {left[1]} for {left[0]} and {right[1]} for {right[0]}; "
            "rows may differ in what the table varies only"
        )
