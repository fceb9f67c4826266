"""A run's folder is touched when the run starts and not before; its log is read line by line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from volta_switch import UserError, load_config
from volta_switch.identities import commit_of_code
from volta_switch.train.log_file import lines_of
from volta_switch.train.run_folder import RunFolder

CONFIG = load_config("demo/switchbert")


def started(path, **changes):
    run = RunFolder(path, path.parent / "logs")
    run.start(CONFIG, ["train_task.py", "--save_name", "two words"], {"precision": "float32"}, resumed=False, step=0)
    return run


def test_nothing_is_touched_before_the_start(tmp_path):
    run = RunFolder(tmp_path / "run", tmp_path / "logs")
    assert run.metrics() == {} and not list(tmp_path.iterdir())


def test_the_start_is_recorded(tmp_path):
    run = started(tmp_path / "run")
    assert load_config(run.path / "config.json") == CONFIG
    record = json.loads((run.path / "run.json").read_text())
    assert record["command"] == ["train_task.py", "--save_name", "two words"] and record["precision"] == "float32"
    known = {"commit": commit} if (commit := commit_of_code()) else {}  # none outside a checkout
    assert {"python", "platform", "versions", "threads", "device", *known} == set(record["environment"])
    assert record["environment"].get("commit") == commit
    assert (run.path / "command.txt").read_text() == "train_task.py --save_name 'two words'\n"  # can be pasted


def test_every_line_can_be_read_while_the_run_goes_on(tmp_path):
    run = started(tmp_path / "run")
    run.log("train", 20, {"loss": 1.5, "note": "text"})
    lines = [json.loads(line) for line in (run.path / "log.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("start", 0), ("train", 20)]
    assert lines[1]["loss"] == 1.5 and lines[1]["time"] >= lines[0]["time"] and lines[0]["resumed"] is False
    run.close()


def test_metrics_keep_what_was_recorded_before(tmp_path):
    run = started(tmp_path / "run")
    run.record("best_validation", {"score": 1.0})
    run.record("last_validation", {"score": 2.0})
    run.record("best_validation", {"score": 3.0})
    assert run.metrics() == {"best_validation": {"score": 3.0}, "last_validation": {"score": 2.0}}


@pytest.mark.parametrize("corrupted", ["run", "logs"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, corrupted):
    (tmp_path / corrupted).write_text("a file")
    with pytest.raises(UserError, match=rf"{corrupted}.*give another --output_dir or --logdir"):
        started(tmp_path / "run")


def test_two_runs_do_not_share_a_folder(tmp_path):
    run = started(tmp_path / "run")
    script = (
        "import sys\nfrom train.test_run_folder import started\nfrom pathlib import Path\n"
        "from volta_switch import UserError\n"
        "try:\n    started(Path(sys.argv[1]))\nexcept UserError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", script, str(run.path)]
    held = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
    assert held.stdout.startswith(f"{run.path}: another process is training in this folder")
    assert json.loads((run.path / "run.json").read_text())["command"] and len(lines_of(run.path / "log.jsonl")) == 1
    run.close()
    assert not subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True).stdout


def test_a_line_cut_short_is_passed_over_and_what_follows_is_read(tmp_path):
    run = started(tmp_path / "run")
    run.log("train", 20, {"loss": 1.5})  # the machine stops
    with (run.path / "log.jsonl").open("a") as log:
        log.write('{"kind": "train", "st')
    again = started(run.path)
    again.log("train", 20, {"loss": 2.5})
    assert [line.get("loss") for line in lines_of(run.path / "log.jsonl")] == [None, 2.5]


def test_what_was_logged_behind_the_checkpoint_gives_way_to_what_is_logged_anew(tmp_path):
    log = tmp_path / "log.jsonl"
    start, resumed = {"kind": "start", "step": 0, "resumed": False}, {"kind": "start", "step": 20, "resumed": True}
    train, later, valid = ({"kind": kind, "step": step} for kind, step in (("train", 20), ("train", 40), ("valid", 40)))

    def standing(*lines):
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return lines_of(log)

    assert standing(start, train, later, resumed, later, valid) == [start, train, resumed, later, valid]
    keeps = {**resumed, "keeps": 1}  # the line of step 20 had not been written
    assert standing(start, train, later, keeps, train) == [start, keeps, train]
    assert standing(start, train, {**resumed, "keeps": 9}) == [start, train, {**resumed, "keeps": 9}]
    assert standing(start, train, start, later) == [start, later]
