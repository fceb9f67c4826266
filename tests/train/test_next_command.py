"""Runs end by printing the next command, which does as it stands: from words to images, to a task, to routes."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic_world import json_of, write_config
from volta_switch.cli import _run
from volta_switch.train import finetuning
from volta_switch.train.entry_points import ENTRY_POINTS, read_flags
from volta_switch.train.next_command import given_flags, next_command

ROOT = Path(__file__).parents[2]
SMALL = ("--batch_size", "20", "--num_epoch", "1", "--max_steps", "1", "--save_every", "0", "--save_best_only")


def printed(err):
    """The command that a run has printed last; empty where it has printed none."""
    line = err.splitlines()[-1]
    assert err.count("next: ") == line.startswith("next: ")
    return line.removeprefix("next: ") if line.startswith("next: ") else ""


def test_from_pretraining_to_routes_on_the_world(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command, done = "volta-switch pretrain --world --config demo/switchbert", []
    while command:
        program, *words = shlex.split(command)
        assert program == "volta-switch"
        capsys.readouterr()
        _run(words)
        done.append(words[0])
        command = printed(capsys.readouterr().err)
    assert done == ["pretrain", "finetune", "evaluate", "routes"]
    results = Path("runs/world/results/refcoco+_switchbert")
    routes, metrics = (json_of(results / f"val_{name}.json") for name in ("routes", "metrics"))
    assert routes["metrics"]["accuracy"] == pytest.approx(metrics["accuracy"])
    assert (
        routes["weights"] == metrics["weights"] == "runs/world/checkpoints/refcoco+_switchbert/pytorch_model_best.bin"
    )


def test_a_run_ends_well_though_its_task_file_has_gone_meanwhile(world, tmp_path, monkeypatch, capsys):
    data, tuned = world.copy(tmp_path / "data"), finetuning.fine_tune
    monkeypatch.setattr(finetuning, "fine_tune", lambda *given: (tuned(*given), data.tasks_file.unlink())[0])
    flags = [*data.flags("train_task", tmp_path / "out", "ctrl_uniter", "refer"), *SMALL]
    _run(["finetune", *flags])
    said = capsys.readouterr().err
    assert "best validation score" in said and "next: " not in said and not data.tasks_file.exists()


@pytest.fixture
def shell(tmp_path):
    """Runs a command line in a folder as a shell does, where python and volta-switch are this tree's."""
    (tmp_path / "bin").mkdir()
    for name, what in (("python", ""), ("volta-switch", "-m volta_switch ")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what}"$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def run(command):
        done = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return printed(done.stderr)

    return run


def test_from_any_folder_with_ones_own_data_and_names_that_a_shell_would_read_otherwise(world, tmp_path, shell):
    data = world.copy(tmp_path / "my $data's")
    config = write_config(tmp_path / "my model.json", data.config("switchbert"))
    flags = ["--tasks_config_file", f"{data.path.name}/tasks.yml", "--task", "8", "--config", config.name, *SMALL]
    first = ["python", ROOT / "train_task.py", *flags, "--from_pretrained", "", "--save_name", "a;b"]
    second = shell(shlex.join(map(str, first)))
    assert shlex.split(second)[:2] == ["python", str(ROOT / "eval_retrieval.py")]
    third = shell(second)
    program, command, *_ = shlex.split(third)  # by its path where the shell does not find it
    assert (Path(program).name, command) == ("volta-switch", "routes") and shell(third) == ""
    folder = tmp_path / "results" / "RetrievalFlickr30k_my model-a;b"
    metrics, routes = (json_of(folder / f"val_{name}.json") for name in ("metrics", "routes"))
    assert routes["name"] == metrics["name"] == "RetrievalFlickr30k" and routes["weights"] == metrics["weights"]


def next_of(entry, argv, result, typed="volta-switch it"):
    words = [str(word) for word in argv]
    return next_command(
        entry, read_flags(entry, words), given_flags(ENTRY_POINTS[entry].parser(), words), result, typed
    )


def test_a_pretrained_model_is_tuned_on_what_lies_beside_its_captions(world, tmp_path, monkeypatch):
    flags = [*world.data_flags("train_concap"), "--from_pretrained", ""]
    model = world.model_flags("ctrl_uniter")
    expected = f"volta-switch finetune --from_pretrained out --task refcoco+ --tasks_config_file {world.tasks_file}"
    assert next_of("train_concap", [*model, *flags], Path("out")) == expected
    (tmp_path / "datasets").symlink_to(world.path / "datasets")  # somebody's own data: no world's
    moved = [flag.replace(str(world.path), str(tmp_path)) for flag in flags]
    expected = f"volta-switch finetune --from_pretrained out --task refcoco+ --data_root {tmp_path}"
    assert next_of("train_concap", [*model, *moved], Path("out")) == expected
    monkeypatch.chdir(tmp_path)
    assert next_of("train_concap", [*model, "--from_pretrained", ""], Path("out")).endswith("--task refcoco+")
    assert next_of("train_concap", [*model, "--from_pretrained", ""], Path("out"), "").startswith("python ")


def test_flags_of_the_data_and_of_the_model_go_on(world, finetuned):
    model = finetuned("switchbert", "refer")
    flags = ["--from_pretrained", model, "--data_root", world.path, "--max-bad-records", 3, "--volta-compat"]
    flags += ["--set", "switch.top_k=2", "--split", "testA", "--device", "cpu"]
    words = shlex.split(next_of("eval_task", flags, object()))
    assert words[:6] == ["volta-switch", "routes", "--from_pretrained", str(model), "--set", "switch.top_k=2"]
    assert words[6:12] == ["--split", "testA", "--data_root", str(world.path), "--volta_compat", "--max_bad_records"]
    assert words[12:] == ["3", "--out", f"results/{model.name}/testA_routes.json"]


def test_nothing_is_printed_where_nothing_comes_next(world, pretrained, finetuned):
    data = ["--data_root", world.path]
    uniter = ["--from_pretrained", finetuned("ctrl_uniter", "refer"), *data]
    assert next_of("eval_task", uniter, object()) == ""
    retrieval = ["--from_pretrained", finetuned("switchbert", "retrieval"), *data]
    assert next_of("eval_retrieval", [*retrieval, "--shard", "1/2"], None) == ""
    assert next_of("eval_retrieval", retrieval, object()) != ""
    zero_shot = ["--from_pretrained", pretrained("switchbert"), "--task", "8", "--zero_shot", *data]
    assert next_of("eval_retrieval", zero_shot, object()) == ""


def test_defaults_are_not_given():
    flags = argparse.ArgumentParser()
    flags.add_argument("--a", action="append", default=[])
    flags.add_argument("--b", type=int, default=3)
    flags.add_argument("--c", action="store_true")
    flags.add_argument("--d", default="d")
    flags.set_defaults(e="e", d="other")
    assert given_flags(flags, []) == {}
    assert given_flags(flags, ["--a", "1", "--a", "2", "--b", "0", "--c"]) == {"a": ["1", "2"], "b": 0, "c": True}
