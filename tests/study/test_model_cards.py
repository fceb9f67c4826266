"""What a study writes onto the cards of its models: score over seeds, what was held equal."""

import shutil

import pytest
from huggingface_hub import ModelCard

from cards.hub_cards import verified
from synthetic_world import json_of
from volta_switch import UserError
from volta_switch.checksums import SUMS
from volta_switch.study.exports import export_runs
from volta_switch.study.run import run_study
from volta_switch.study.run_plan import plan_of
from volta_switch.study.table import make_tables

ARMS = ("ctrl_uniter", "switchbert")


def fine_tuned(folder, arm, seed=0):
    return folder / arm / f"seed{seed}" / f"refcoco+_{arm}"


@pytest.fixture
def study(finished, tmp_path):
    """The finished study in a folder that may be changed."""
    made, folder = finished
    shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("table.*", "checkpoints"))
    return made, tmp_path / "out"


def test_a_study_writes_its_tables_onto_the_cards_of_its_models(study):
    made, folder = study
    (table,) = make_tables(plan_of(made, folder)).tables
    for arm, other, row in zip(ARMS, reversed(ARMS), table.rows, strict=True):
        for run in (fine_tuned(folder, arm), fine_tuned(folder, arm).with_name(arm)):
            (entry,) = json_of(run / "training.json")["comparison"]
            assert (entry["study"], entry["arm"], entry["beside"]) == ("small", arm, [other])
            assert entry["seeds"] == [0] and entry["varies"] == list(table.varies)
            (score,) = entry["scores"]
            assert score["mean"] == row.scores[0].mean and score["low"] is None
            assert score["problem"] == "with one seed the spread over seeds is unknown"
            planned, recorded = entry["settings"]["planned"], entry["settings"]["recorded"]
            assert planned["compared"] == planned["equal"] + len(planned["differing"]) and recorded["runs"] == 4
            assert any(name.startswith("model") for name in planned["differing"])
            card = verified(run)
            assert f"Study small, table {table.name}: {arm} beside {other}. It varies model." in card.text
            assert f"{planned['compared']} compared, {planned['equal']} equal" in card.text
            assert "none: with one seed the spread over seeds is unknown" in card.text
            assert not [name for name in ("training.json", "README.md") if str(folder) in (run / name).read_text()]
    text = fine_tuned(folder, "switchbert") / "README.md"
    before = text.stat().st_mtime_ns
    make_tables(plan_of(made, folder))
    assert text.stat().st_mtime_ns == before  # nothing new to say


def test_a_refused_table_leaves_nothing_on_a_card(study):
    made, folder = study
    make_tables(plan_of(made, folder))
    run = fine_tuned(folder, "switchbert")
    assert json_of(run / "training.json")["comparison"]
    other = fine_tuned(folder, "ctrl_uniter")
    for path in (other / SUMS, other / "test_metrics.json"):
        path.unlink()
    with pytest.raises(UserError, match="run the study first"):
        make_tables(plan_of(made, folder))
    assert json_of(run / "training.json")["comparison"] == []
    assert "not part of a comparison" in ModelCard.load(run / "README.md").text


def test_cards_change_neither_what_is_finished_nor_what_travels(study, tmp_path, in_this_process):
    made, folder = study
    export_runs(plan_of(made, folder), tmp_path / "before.cells")
    make_tables(plan_of(made, folder))
    export_runs(plan_of(made, folder), tmp_path / "after.cells")
    assert (tmp_path / "before.cells").read_bytes() == (tmp_path / "after.cells").read_bytes()
    log = fine_tuned(folder, "switchbert") / "log.jsonl"
    before = log.stat().st_mtime_ns
    run_study(made, folder, jobs=1)  # finds everything finished
    assert log.stat().st_mtime_ns == before
