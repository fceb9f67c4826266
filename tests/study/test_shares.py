"""A job array's shares are all of a study, each cell once, and none waits for another."""

import shutil

import pytest

from study.small_plans import ARMS, SHARED
from volta_switch.cli import main
from volta_switch.study.forecast import dry_run
from volta_switch.study.planned_runs import finished_runs, note_finished, runs_of_share
from volta_switch.study.run import run_study
from volta_switch.study.run_plan import RunPlan
from volta_switch.tasks.task import Share


@pytest.fixture
def planned(study_of, world, tmp_path):
    arms = {
        **ARMS,
        "second": {"model": "demo/ctrl_uniter"},
        "bare": {"model": "demo/ctrl_uniter", "pretraining": False},
    }
    tables = {"t": {"varies": ["model", "pretraining"]}}
    plan = {**SHARED, "tasks": {"TASK10": {}, "TASK1": {}}, "arms": arms, "tables": tables}
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    study = study_of({**plan, "routes": {"arms": ["first"]}})
    return study, RunPlan(study, tmp_path).runs


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20])
def test_shares_are_all_cells_once_and_none_needs_another(planned, count):
    _, cells = planned
    shares = [runs_of_share(cells, Share(number, count)) for number in range(count)]
    names = [cell.name for share in shares for cell in share]
    assert sorted(names) == sorted(cell.name for cell in cells) and len(cells) == 2 * (3 + 3 + 2) + 2
    for share in shares:
        assert all(not cell.needs or cell.needs in [other.name for other in share] for cell in share)
    if count == 2:
        assert abs(len(shares[0]) - len(shares[1])) <= 4


def test_a_share_stays_what_it_is_while_cells_are_finished(planned, tmp_path):
    study, cells = planned
    before = [cell.name for cell in runs_of_share(cells, Share(1, 3))]
    for cell in cells[:5]:
        cell.folder.mkdir(parents=True, exist_ok=True)
        note_finished(tmp_path, cell, 1.0)
    assert [cell.name for cell in runs_of_share(RunPlan(study, tmp_path).runs, Share(1, 3))] == before


def test_a_dry_run_lists_a_share(planned, tmp_path):
    study, cells = planned
    said = [dry_run(study, tmp_path / "none", Share(number, 2)) for number in range(2)]
    assert all(sum(f"{cell.name}  " in text for text in said) == 1 for cell in cells)


def test_the_shares_of_a_study_run_apart_and_finish_it(plan, study_of, tmp_path, in_this_process, monkeypatch, capsys):
    ran = []

    def finish(folder, cell):
        ran.append(cell.name)
        cell.folder.mkdir(parents=True, exist_ok=True)
        note_finished(folder, cell, 1.0)
        return ""

    monkeypatch.setattr("volta_switch.study.run.execute_run", finish)
    study = study_of({**plan, "seeds": [0, 1]})
    for number, size in ((0, 4), (1, 5)):
        run_study(study, tmp_path / "out", jobs=2, share=Share(number, 2))
        assert f"{size} cells in share {number + 1} of 2, 0 finished before" in capsys.readouterr().err
    assert {"ctrl_uniter/seed0/pretraining", "switchbert/seed1/pretraining"} < set(ran[:4])  # of each arm a part
    assert len(ran) == len(set(ran)) == 9 == len(finished_runs(tmp_path / "out"))
    run_study(study, tmp_path / "out", jobs=1)
    assert len(ran) == 9
    # the command makes no table of a share, whose other cells may be unfinished
    main(["study", "run", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--cells", "2/2"])
    assert "the share is finished; when all are: volta-switch study table" in capsys.readouterr().out
    assert not (tmp_path / "out" / "table.md").exists()


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "1", "a/b", "1/0"])
def test_a_share_that_is_none_is_refused(plan, study_of, tmp_path, capsys, wrong):
    study_of(plan)
    with pytest.raises(SystemExit) as caught:
        main(["study", "run", str(tmp_path / "study.yaml"), "--cells", wrong])
    assert caught.value.code == 2 and "expected K/N with K from 1 to N" in capsys.readouterr().err
