"""Cells run once, in several processes; one that fails takes no other with it."""

import json
import pickle
import shutil
import signal
from concurrent.futures.process import BrokenProcessPool

import pytest

from synthetic_world import SIZES, log_of
from volta_switch import UserError, load_config
from volta_switch.checksums import SUMS
from volta_switch.errors import Stopped
from volta_switch.study import planned_runs as notes
from volta_switch.study.forecast import dry_run, time_ahead
from volta_switch.study.planned_runs import Work, note_begun, note_finished
from volta_switch.study.run import run_study
from volta_switch.study.run_plan import RunPlan
from volta_switch.train import evaluation
from volta_switch.train.run_data import deciding_config


def finished_cells(folder):
    return {json.loads(path.read_text())["cell"] for path in (folder / "cells").glob("*.json")}


def one_model(plan, **changes):
    """The plan for UNITER alone, one epoch of everything."""
    tasks = {"TASK10": {"train": {"num_epoch": 1, "batch_size": 40}}}
    only = {"models": ["demo/ctrl_uniter"], "pretraining": {"num_train_epochs": 1}, "tasks": tasks, "routes": None}
    return {**plan, **only, **changes}


def test_a_study_runs_every_cell_through_real_processes(finished):
    _, folder = finished
    expected = {f"{m}/seed0/{c}" for m in ("ctrl_uniter", "switchbert") for c in ("pretraining", "refcoco+")}
    assert finished_cells(folder) == expected | {"switchbert/seed0/refcoco+ routes"}
    routes = json.loads((folder / "switchbert" / "seed0" / "refcoco+_routes" / "routes.json").read_text())
    reached = json.loads((folder / "switchbert" / "seed0" / "refcoco+_switchbert" / "test_metrics.json").read_text())
    assert routes["metrics"]["accuracy"] == pytest.approx(reached["accuracy"], abs=1e-3)
    for model in ("ctrl_uniter", "switchbert"):
        run = folder / model / "seed0" / f"refcoco+_{model}"
        assert {"run.json", "pytorch_model_best.bin", "test_metrics.json"} < {path.name for path in run.iterdir()}
        record = json.loads((run / "run.json").read_text())
        assert record["start"].startswith(f"weights from {folder / model / 'seed0' / model}")
        started, tuned = (load_config(folder / model / "seed0" / name) for name in (model, f"refcoco+_{model}"))
        assert deciding_config(started) == deciding_config(tuned) and tuned.hidden_size == SIZES["hidden_size"]
        log = (folder / "cells" / f"{model}.seed0.refcoco+.log").read_text()
        assert "next: " not in log  # the study says what comes next
        assert log.count("$ volta-switch finetune") == 1 and "$ volta-switch evaluate" in log


def test_finished_cells_are_not_run_again(finished, capsys):
    study, folder = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    run_study(study, folder, jobs=2)
    assert "5 cells, 5 finished before" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_cell_whose_flags_changed_is_run_again(plan, study_of, tmp_path, in_this_process, capsys):
    study = study_of(one_model(plan))
    run_study(study, tmp_path / "out", jobs=1)
    done = tmp_path / "out" / "cells" / "ctrl_uniter.seed0.refcoco+.json"
    before = json.loads(done.read_text())["key"]
    other = one_model(plan, tasks={"TASK10": {"train": {"num_epoch": 1, "batch_size": 40}, "test": {"split": "test"}}})
    capsys.readouterr()
    run_study(study_of(other), tmp_path / "out", jobs=1)
    assert "2 cells, 1 finished before" in capsys.readouterr().err and json.loads(done.read_text())["key"] != before
    folder = tmp_path / "out" / "ctrl_uniter" / "seed0" / "refcoco+_ctrl_uniter"
    assert (folder / "val_metrics.json").is_file() and (folder / "test_metrics.json").is_file()
    trained = [line["step"] for line in log_of(folder, "train")]
    assert len(trained) == len(set(trained)) == 1  # and not anew for another split of the test


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gradient_accumulation_steps": 999}, "error: a batch of"),
        ({"train_features_lmdbpath": "none.lmdb"}, "error: none.lmdb: no such file or folder"),
    ],
)
def test_a_failing_cell_is_named_and_the_others_finish(plan, study_of, tmp_path, in_this_process, wrong, said):
    tasks = {"VQA": {"train": wrong}, "TASK10": {"train": {"num_epoch": 1, "batch_size": 40}}}
    with pytest.raises(UserError, match=r"small: 1 cells failed \(.*VQA.log\); the same command") as caught:
        run_study(study_of(one_model(plan, tasks=tasks)), tmp_path / "out", jobs=2)
    assert "\n" not in str(caught.value)
    assert said in (tmp_path / "out" / "cells" / "ctrl_uniter.seed0.VQA.log").read_text()
    assert finished_cells(tmp_path / "out") == {"ctrl_uniter/seed0/pretraining", "ctrl_uniter/seed0/refcoco+"}


def test_an_error_of_the_program_is_kept_in_the_log(plan, study_of, tmp_path, in_this_process, monkeypatch):
    monkeypatch.setattr("volta_switch.train.finetuning.fine_tune", lambda args, argv: 1 / 0)
    with pytest.raises(UserError, match="1 cells failed"):
        run_study(study_of(one_model(plan)), tmp_path / "out", jobs=1)
    log = (tmp_path / "out" / "cells" / "ctrl_uniter.seed0.refcoco+.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError" in log


def test_cells_that_wait_for_a_failed_one_are_not_begun(plan, study_of, tmp_path, in_this_process):
    broken = one_model(plan, pretraining={"num_train_epochs": 1, "gradient_accumulation_steps": 999})
    with pytest.raises(UserError, match=r"2 cells failed \(.*pretraining.log, .*refcoco\+.log\)"):
        run_study(study_of(broken), tmp_path / "out", jobs=2)
    assert not (tmp_path / "out" / "cells" / "ctrl_uniter.seed0.refcoco+.log").exists()


def test_the_same_command_tries_failed_cells_again(plan, study_of, tmp_path, in_this_process, monkeypatch):
    study = study_of(one_model(plan))
    tried = []
    with monkeypatch.context() as patch:
        patch.setattr("volta_switch.train.evaluation.evaluate_task", lambda args, argv: tried.append(1) or 1 / 0)
        with pytest.raises(UserError):
            run_study(study, tmp_path / "out", jobs=1, retries=2)
    assert len(tried) == 3
    assert len(run_study(study, tmp_path / "out", jobs=1).runs) == 2
    assert len(finished_cells(tmp_path / "out")) == 2


def test_a_killed_process_is_reported(plan, study_of, tmp_path, in_this_process, monkeypatch):
    def killed(folder, cell):
        raise BrokenProcessPool

    monkeypatch.setattr("volta_switch.study.run.execute_run", killed)
    with pytest.raises(UserError, match=r"ctrl_uniter/seed0/pretraining: its process was killed.*fewer --jobs"):
        run_study(study_of(one_model(plan)), tmp_path / "out", jobs=1)


@pytest.mark.parametrize("jobs", [0, -1])
def test_the_number_of_jobs_must_be_one_or_more(plan, study_of, tmp_path, jobs):
    with pytest.raises(UserError, match=f"--jobs: expected 1 or more, found {jobs}"):
        run_study(study_of(plan), tmp_path / "out", jobs=jobs)
    assert not (tmp_path / "out").exists()


def test_a_cell_that_fails_once_is_tried_again(plan, study_of, tmp_path, in_this_process, monkeypatch, capsys):
    test, calls = evaluation.evaluate_task, []

    def failing_once(args, argv):
        calls.append(argv)
        return 1 / 0 if len(calls) == 1 else test(args, argv)

    monkeypatch.setattr("volta_switch.train.evaluation.evaluate_task", failing_once)
    run_study(study_of(one_model(plan)), tmp_path / "out", jobs=1)
    assert len(calls) == 2 and "ZeroDivisionError: division by zero; tried again" in capsys.readouterr().err


def test_finished_work_is_found_under_another_name(finished, plan, study_of, capsys):
    _, folder = finished
    arms = {"one": {"model": "demo/ctrl_uniter"}, "two": {"model": "demo/switchbert"}}
    renamed = study_of({**plan, "models": None, "arms": arms, "routes": {"arms": ["two"], "interventions": True}})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    done = run_study(renamed, folder, jobs=2)
    assert "5 cells, 5 finished before" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert (
        done.run_of("two", 0, Work.fine_tuning("TASK10")).folder
        == folder / "switchbert" / "seed0" / "refcoco+_switchbert"
    )


def test_a_dry_run_lists_every_cell_and_what_is_known_of_its_time_and_writes_nothing(
    finished, plan, study_of, tmp_path
):
    study, folder = finished
    text = dry_run(study, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert text.splitlines()[0] == "table: ctrl_uniter, switchbert on TASK10"
    assert text.count("not measured yet") == 5 and text.splitlines()[-1].startswith("5 cells, 5 to run: ")
    assert text.endswith("how long is unknown, for nothing like them was measured") and " hours" not in text
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert dry_run(study, folder).endswith("5 cells, 0 to run")
    text = dry_run(study_of({**plan, "seeds": [0, 1]}), folder)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert text.count("  finished") == 5 and text.count(" min\n") == 4 and "9 cells, 4 to run: " in text


def test_a_cell_is_reckoned_at_the_speed_of_the_nearest_that_was_measured(finished, plan, study_of):
    _, folder = finished
    halves = {**plan["pretraining"], "num_train_epochs": 6, "data_fraction": 0.5}
    arms = {"half": {"model": "demo/ctrl_uniter", "pretraining": halves}, "other": {"model": "demo/ctrl_vilbert"}}
    text = dry_run(study_of({**plan, "arms": arms, "tables": {"t": {"varies": ["model", "pretraining"]}}}), folder)
    minutes = {line.split("  ")[0]: line.split("  ")[1] for line in text.splitlines() if "/seed" in line}
    seconds = {}
    for path in (folder / "cells").glob("*.json"):
        done = json.loads(path.read_text())
        seconds[done["cell"]] = done["seconds"]
    of_half = seconds["ctrl_uniter/seed0/pretraining"] * 6 * 0.5 / 2
    assert minutes["half/seed0/pretraining"] == f"{of_half / 60:.1f} min"
    assert (
        minutes["other/seed0/pretraining"].endswith(" min") and minutes["ctrl_uniter/seed0/pretraining"] == "finished"
    )


def test_what_has_only_begun_tells_how_long_it_and_its_like_will_take(finished, plan, study_of, tmp_path):
    _, folder = finished
    copy = tmp_path / "out"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.bin", "checkpoints", "cells", SUMS))
    for model in ("ctrl_uniter", "switchbert"):
        shutil.rmtree(copy / model / "seed0" / f"refcoco+_{model}")
    run = copy / "switchbert" / "seed0" / "switchbert"
    assert json.loads((run / "run.json").read_text())["steps"] == 2 * 2  # epochs, batches of an epoch
    (copy / "ctrl_uniter" / "seed0" / "ctrl_uniter" / "log.jsonl").write_text("")  # made, and not one line yet
    start = {"kind": "start", "step": 0, "time": 0.0, "resumed": False}
    resumed = {**start, "step": 1, "time": 1000.0, "resumed": True}
    steps = [{"kind": "train", "step": 1, "time": 9.0}, resumed, {"kind": "train", "step": 3, "time": 1120.0}]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [start, *steps]))
    two = study_of({**plan, "seeds": [0, 1], "routes": None})
    assert "begun" not in dry_run(two, copy)  # another plan's runs, for all that is known
    for model in ("ctrl_uniter", "switchbert"):
        note_begun(copy, RunPlan(two, copy).run_of(model, 0))
    lines = dry_run(two, copy).splitlines()
    assert "switchbert/seed0/pretraining  begun, 1.0 min left" in lines
    assert "switchbert/seed1/pretraining  4.0 min" in lines
    assert next(line for line in lines if line.startswith("ctrl_uniter/seed0/pretraining")).endswith(" min")
    assert lines[-1].endswith(" hours of one process, and unknown time for 4 that are like none that was measured")


def test_what_another_process_has_finished_meanwhile_is_not_run(plan, study_of, tmp_path, in_this_process, monkeypatch):
    ran = []

    def finish_all(folder, cell):
        ran.append(cell.name)
        for each in RunPlan(study, folder).runs:
            each.folder.mkdir(parents=True, exist_ok=True)
            note_finished(folder, each, 100.0)
        return ""

    study = study_of(one_model(plan))
    monkeypatch.setattr("volta_switch.study.run.execute_run", finish_all)
    run_study(study, tmp_path / "out", jobs=1)
    assert ran == ["ctrl_uniter/seed0/pretraining"]


def test_a_cell_that_was_interrupted_took_as_long_as_all_its_parts(plan, study_of, tmp_path, in_this_process):
    study = study_of(one_model(plan))
    run = tmp_path / "out" / "ctrl_uniter" / "seed0" / "ctrl_uniter"
    run.mkdir(parents=True)
    lines = [{"kind": "start", "step": 0, "time": 0.0, "resumed": False}, {"kind": "train", "step": 1, "time": 5000.0}]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_study(study, tmp_path / "out", jobs=1)
    seconds = {done.folder.name: done.seconds for done in notes.finished_runs(tmp_path / "out").values()}
    assert 5000 < seconds["ctrl_uniter"] < 5600 and seconds["refcoco+_ctrl_uniter"] < 600


def test_a_worker_that_is_asked_to_stop_says_so_and_goes_on_when_tried_again(
    plan, study_of, tmp_path, in_this_process, monkeypatch, capsys
):
    test, calls = evaluation.evaluate_task, []

    def stopped_once(args, argv):
        calls.append(argv)
        if len(calls) == 1:
            raise Stopped("asked to stop; the same command goes on", signal.SIGTERM)
        test(args, argv)

    monkeypatch.setattr("volta_switch.train.evaluation.evaluate_task", stopped_once)
    run_study(study_of(one_model(plan)), tmp_path / "out", jobs=1)
    assert len(calls) == 2 and "asked to stop; the same command goes on; tried again" in capsys.readouterr().err
    told = pickle.loads(pickle.dumps(Stopped("asked", signal.SIGTERM)))
    assert (str(told), told.signal) == ("asked", signal.SIGTERM)


def test_one_slow_run_does_not_mislead_the_forecast(finished, plan, study_of):
    _, folder = finished
    whole = RunPlan(study_of({**plan, "seeds": [0, 1, 2, 3], "routes": None}), folder)
    measured = {cell.name: 6000.0 if cell.seed == 1 else 60.0 for cell in whole.runs if cell.seed < 3}
    left = [cell for cell in whole.runs if cell.seed == 3]
    assert len(left) == 4
    assert time_ahead(whole, left, measured, begun=16, minutes=1.0, jobs=2) == ", about 2 min left"
