"""A run's folder is touched when the run starts and not before; its log is read line by line."""

import json

import pytest

from volta_switch import UserError, load_config
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
    assert {"python", "platform", "versions", "threads", "device"} == set(record["environment"])
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


@pytest.mark.parametrize("spoilt", ["run", "logs"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, spoilt):
    (tmp_path / spoilt).write_text("a file")
    with pytest.raises(UserError, match=rf"{spoilt}.*give another --output_dir or --logdir"):
        started(tmp_path / "run")
