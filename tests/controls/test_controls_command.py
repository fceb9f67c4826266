"""``volta-switch controls``: what it plans, how it judges, and that the controls show what they must."""

import json
import subprocess
import sys

import pytest

from shells import ROOT
from volta_switch.cli import main as volta_switch
from volta_switch.controls import commands, needs_switching, planted_routes
from volta_switch.controls.commands import Cell, Outcome, collected, planned, run_cells
from volta_switch.controls.conditions import GRADIENTS, NEEDS, PLANTED, RIGHT, SABOTAGES, Budget
from volta_switch.controls.report import controls_figure, in_words, tables

DETACHED = SABOTAGES[0]
GOOD = {"joint": 0.58, "forced": 1.0, "Switch-BERT": 1.0, "MI": 1.0}


def test_the_full_form_runs_every_control_under_every_condition():
    cells = list(planned())
    assert {(cell.control, cell.condition.name) for cell in cells} == {
        (control, condition.name) for control in commands.CONTROLS for condition in (RIGHT, *SABOTAGES)
    }
    assert [cell.seed for cell in cells if (cell.control, cell.condition) == (PLANTED, RIGHT)] == [10, 11, 12, 13, 14]
    assert len([cell for cell in cells if (cell.control, cell.condition) == (NEEDS, RIGHT)]) == 5


def test_the_short_form_has_one_seed_and_a_sabotage_that_each_control_must_see():
    cells = list(planned(short=True))
    assert len(cells) == 6 == len({(cell.control, cell.condition.name) for cell in cells})
    assert all(cell.control in cell.condition.fails for cell in cells if cell.condition != RIGHT)


def test_one_control_and_a_number_of_seeds_can_be_chosen():
    cells = list(planned(GRADIENTS, seeds=4))
    assert {cell.control for cell in cells} == {GRADIENTS}
    assert len([cell for cell in cells if cell.condition == RIGHT]) == 4


@pytest.mark.parametrize(
    "condition, values, problem",
    [
        (RIGHT, GOOD, ""),
        (RIGHT, {**GOOD, "MI": 0.2}, "needs-switching misses a threshold on seeds 0"),
        (RIGHT, {**GOOD, "joint": 0.8}, "needs-switching misses a threshold on seeds 0"),
        (DETACHED, {"Switch-BERT": 0.5, "MI": 0.0}, ""),
        (DETACHED, {"Switch-BERT": 1.0, "MI": 1.0}, "does not see the sabotage 'detached'"),
        (SABOTAGES[3], {"Switch-BERT": 1.0, "MI": 1.0}, ""),
        (SABOTAGES[3], {"Switch-BERT": 0.5, "MI": 0.0}, ""),
    ],
)
def test_a_missed_threshold_and_an_unseen_sabotage_are_problems(condition, values, problem):
    found = Outcome(NEEDS, condition, {0: values}).problem
    assert problem in found and bool(problem) == bool(found)


def test_problems_end_the_command_with_1_and_a_line_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Cell, "run", lambda cell: {**GOOD, "MI": 0.2})
    with pytest.raises(SystemExit) as ended:
        volta_switch(["controls", "--short", "--only", NEEDS, "--out", str(tmp_path)])
    captured = capsys.readouterr()
    assert ended.value.code == 1 and captured.err.endswith("failed: needs-switching misses a threshold on seeds 0\n")
    assert "MISSED" in captured.out and "fails on 1 of 1 (must fail)" in captured.out
    assert json.loads((tmp_path / "controls.json").read_text())["problems"] != []


def test_tables_and_picture_show_every_condition_that_was_run():
    planted = {"SAB MI/H": 0.6, "SIB MI/H": 0.7, "error": 0.1, "start error": 0.1}
    lost = {"SAB MI/H": 0.0, "SIB MI/H": 0.5, "error": 0.5, "start error": 0.1}
    outcomes = collected(
        [
            (Cell(NEEDS, RIGHT, 0), GOOD),
            (Cell(PLANTED, RIGHT, 10), planted),
            (Cell(PLANTED, RIGHT, 11), lost),
            (Cell(PLANTED, SABOTAGES[2], 10), lost),
        ]
    )
    assert in_words(outcomes[1]).startswith("FAILS ON 1 OF 2: SAB MI/H 0.300")
    assert "fails on 1 of 1 (must fail): SAB MI/H 0.000" in tables(outcomes) and "not run" in tables(outcomes)
    drawn = controls_figure(outcomes)
    for name in ("joint attention", "right routes, forced", "as it should be", "floor at 12 %"):
        assert f">{name}</text>" in drawn
    assert controls_figure([Outcome(GRADIENTS, RIGHT, {})]) == ""


def recorded() -> list[Outcome]:
    """The outcomes of the full form, as the page's record has them."""
    record = json.loads((ROOT / "docs/controls/controls.json").read_text(encoding="utf-8"))
    conditions = {condition.name: condition for condition in (RIGHT, *SABOTAGES)}
    assert not record["short"] and record["problems"] == []
    return [
        Outcome(
            each["control"],
            conditions[each["condition"]],
            {int(seed): values for seed, values in each["values"].items()},
        )
        for each in record["outcomes"]
    ]


def test_the_page_and_its_picture_show_the_recorded_numbers():
    outcomes = recorded()
    page = (ROOT / "docs/controls.md").read_text(encoding="utf-8")
    assert all(line in page for line in tables(outcomes, "github").splitlines())
    assert (ROOT / "docs/controls/controls.svg").read_text(encoding="utf-8") == controls_figure(outcomes)


def test_the_record_is_of_the_full_form_with_the_present_conditions_and_thresholds():
    outcomes = recorded()
    measured = {(each.control, each.condition.name, seed) for each in outcomes for seed in each.values}
    assert measured == {(cell.control, cell.condition.name, cell.seed) for cell in planned()}
    assert [each.problem for each in outcomes if each.problem] == []


def test_gradients_agree_and_a_detached_one_is_seen():
    found = collected(run_cells(list(planned(GRADIENTS, short=True)), 1))
    assert [outcome.problem for outcome in found] == ["", ""] and found[0].values[0]["compared"] > 100


def test_cells_give_the_same_numbers_in_other_processes(monkeypatch):
    cells = [Cell(GRADIENTS, DETACHED, 0), Cell(GRADIENTS, RIGHT, 1)]
    assert list(run_cells(cells, 2)) == list(run_cells(cells, 1))


def test_few_steps_measure_what_a_whole_run_does():
    """The trained controls, a few steps each: they run, and nothing is learnt yet."""
    short = Budget(steps=3, batch=8)
    found = needs_switching.measure(0, RIGHT, budget=short)
    assert set(found) == set(GOOD) and found["MI"] < 0.9
    again = planted_routes.measure(10, RIGHT, short)
    assert again == planted_routes.measure(10, RIGHT, short) and again["error"] > 0.5
    assert planted_routes.measure(10, DETACHED, short)["error"] == 1.0  # nothing was trained


def test_sampling_noise_alone_differs_without_noise():
    short, quiet = Budget(steps=3, batch=8), SABOTAGES[3]
    assert not quiet.noise
    assert planted_routes.measure(10, quiet, short) != planted_routes.measure(10, RIGHT, short)


@pytest.mark.more
def test_the_short_form_holds(tmp_path):
    command = [sys.executable, "-m", "volta_switch", "controls", "--short", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "controls.svg").read_text().startswith("<svg")
