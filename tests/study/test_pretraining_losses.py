"""A table shows pre-training's last validation, and its differences to the first arm's, where its plan asks for it."""

from dataclasses import replace

import numpy as np
import pytest

from synthetic_world import log_of
from volta_switch import UserError
from volta_switch.study.plan import load_study
from volta_switch.study.records import ReportedTable, TableRow
from volta_switch.study.run_plan import plan_of
from volta_switch.study.table import tables_of
from volta_switch.study.table_formats import PRETRAINING_NOTE, as_markdown
from volta_switch.study.trained_runs import MeasuredQuantity, differences


def test_the_losses_are_those_of_the_last_validation(finished):
    study, folder = finished
    plain = tables_of(plan_of(study, folder)).tables[0]
    assert all(row.pretraining == row.pretraining_difference == {} for row in plain.rows)
    shown = replace(study, tables=tuple(replace(table, pretraining=True) for table in study.tables))
    table = tables_of(plan_of(shown, folder)).tables[0]
    last = [log_of(folder / row.arm / "seed0" / row.arm, "valid")[-1] for row in table.rows]
    for name in ("loss", "itm"):
        assert [row.pretraining[name].values for row in table.rows] == [(line[name],) for line in last]
        assert table.rows[1].pretraining_difference[name].values == pytest.approx([last[1][name] - last[0][name]])
    assert table.rows[0].pretraining_difference == {}
    assert table == ReportedTable.from_dict(table.to_dict())
    assert replace(table, rows=plain.rows) == plain


def row(arm, losses, first=None):
    own = {"loss": np.array(losses)}
    measured = {name: MeasuredQuantity.of(values) for name, values in own.items()}
    return TableRow(arm, parameters=1, pretraining=measured, pretraining_difference=first or {})


def test_differences_are_paired_by_seed_with_an_interval():
    """0.1 in each of three seeds, whose losses differ by whole nats."""
    first, second = np.array([2.0, 3.0, 4.0]), np.array([2.1, 3.11, 4.09])
    paired = differences({"loss": second}, {"loss": first})
    table = ReportedTable(
        "t", rows=(row("a", first), row("b", second, paired)), seeds=(0, 1, 2), planned_seeds=(0, 1, 2)
    )
    lines = as_markdown(table).splitlines()
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(("| pre", "| a", "| b"))
    ]
    assert ["pre-training", "loss", "loss, less a's"] in cells
    assert ["a", "3.000 ± 1.000", "–"] in cells
    assert ["b", "3.100 ± 0.995", "+0.100 (+0.075 to +0.125)"] in cells and PRETRAINING_NOTE in lines


def test_a_table_of_arms_without_pretraining_shows_none():
    table = ReportedTable("t", rows=(TableRow("a", parameters=1),), seeds=(0,), planned_seeds=(0,))
    assert PRETRAINING_NOTE not in as_markdown(table)
    assert differences({"loss": np.array([1.0])}, {}) == {}


@pytest.mark.parametrize("value", ["yes", 1])
def test_another_value_than_true_or_false_is_refused(plan, study_of, value):
    plan = {**plan, "tables": {"t": {"pretraining": value}}}
    with pytest.raises(UserError, match=r"tables\.t\.pretraining: expected true or false, found"):
        study_of(plan)


def test_the_plan_of_the_deciding_questions_shows_it():
    study = load_study("studies/switching.yaml")
    assert all(table.pretraining and not table.claims for table in study.tables)
    assert {arm.seeds for arm in study.arms.values()} == {(0, 1, 2, 3, 4)}
