"""Confounds: whether a table's arms differ in what it varies alone, as planned and as their runs recorded it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from volta_switch.errors import UserError
from volta_switch.identities import differences
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


def refuse_recorded_confounds(
    runs: Mapping[str, Mapping[str, Mapping[str, Any]]], planned: Mapping[str, Mapping[str, Any]]
) -> None:
    """Compares the recorded settings of every two arms' runs, but for those that were planned to differ.

    The runs of one arm must agree in all but the seed.

    Args:
        runs: arm -> run (``pretraining/seed0``, ...) -> what its ``run.json`` holds.
        planned: arm -> what its runs were given (``Plan.sections``).

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
            for name, of_one, of_other in differences(*_compared(runs[left][run], runs[right][run], sections)):
                raise UserError(
                    f"the table is refused: in {run}, {name} is {of_one} for {left} and {of_other} for {right}; "
                    "rows may differ in what the table varies only"
                )
    for arm, of_arm in runs.items():
        _refuse_other_seeds(arm, of_arm)


def _refuse_other_seeds(arm: str, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError where two runs of one kind differ in more than their seed."""
    first: dict[str, str] = {}  # kind of run -> the first one
    for run, record in runs.items():
        before = first.setdefault(run.split("/")[0], run)
        for name, was, found in differences(*_compared(runs[before], record, set(SECTIONS))):
            if name.rpartition(".")[2] != "seed":
                raise UserError(
                    f"the table is refused: {name} of {arm} is {was} in {before} and {found} in {run}; runs of one arm "
                    "may differ in the seed only"
                )


def _compared(
    one: Mapping[str, Any], other: Mapping[str, Any], sections: set[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of two records is compared: of data what they are, and where they lie where one does not tell that."""
    left, right = ({key: of[key] for key in sorted(sections) if key in of} for of in (one, other))
    if "data" in sections:
        known = all("fingerprints" in of["data"] for of in (one, other))
        for chosen, of in ((left, one), (right, other)):
            lies = {name: value for name, value in of["data"].items() if name != "fingerprints"}
            chosen["data"] = of["data"]["fingerprints"] if known else lies
    return left, right
