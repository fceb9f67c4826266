"""Folders and names that are not UTF-8, not ASCII, or too long: they work, or one line says why not."""

import os
import shlex
import subprocess
import sys

import pytest

from shells import ROOT
from synthetic_world import json_of, refusal
from volta_switch.command import prepared_streams
from volta_switch.train import evaluation, finetuning, pretraining

SHORT = ("--train_batch_size", 20, "--num_train_epochs", 1)
NAMES = {"Latin-1": os.fsdecode(b"caf\xe9"), "UTF-8": "café", "space": "two words", "quote": "it's"}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_data_and_results_may_lie_in_folders_of_any_name(world, tmp_path, name):
    copy, out = world.copy(tmp_path / name / "world"), tmp_path / name / "out"
    with prepared_streams():  # as every command has them
        first = copy.run("train_concap", out, "ctrl_uniter", *SHORT)
        flags = ("--num_epoch", 1, "--batch_size", 40, "--from_pretrained", first / "pytorch_model_best.bin")
        run = copy.run("train_task", out, "ctrl_uniter", *flags, task="refer")
        best = ("--from_pretrained", run / "pytorch_model_best.bin", "--split", "test")
        copy.run("eval_task", out, "ctrl_uniter", *best, task="refer")
    assert json_of(run / "test_metrics.json")["weights"] == str(run / "pytorch_model_best.bin")
    assert json_of(run / "run.json")["start"].startswith(f"weights from {first}")
    assert shlex.split(os.fsdecode((run / "command.txt").read_bytes()))[-1].endswith("pytorch_model_best.bin")


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
def test_names_with_accents_work_under_any_locale(world, tmp_path, locale):
    argv = [*world.flags("train_concap", tmp_path, "ctrl_uniter"), *map(str, SHORT), "--save_name", "é"]
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, str(ROOT / "train_concap.py"), *argv]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    assert (tmp_path / "ctrl_uniter-é" / "pytorch_model_best.bin").is_file()


@pytest.mark.parametrize(
    ("entry", "main", "flag"),
    [
        ("train_concap", pretraining.main, "--save_name"),
        ("train_concap", pretraining.main, "--config_file"),
        ("train_concap", pretraining.main, "--annotations_path"),
        ("train_concap", pretraining.main, "--from_pretrained"),
        ("train_task", finetuning.main, "--tasks_config_file"),
        ("train_task", finetuning.main, "--train_features_lmdbpath"),
        ("eval_task", evaluation.main, "--from_pretrained"),
    ],
)
@pytest.mark.parametrize("name", ["n" * 300, "é" * 150], ids=["characters", "bytes"])
def test_names_that_are_too_long_are_refused_in_one_line(world, tmp_path, capsys, entry, main, flag, name):
    argv = [*world.flags(entry, tmp_path / "out", "ctrl_uniter", "refer"), flag, name]
    refusal(main, argv, capsys, details=2 if flag == "--annotations_path" else 0)
    assert not (tmp_path / "out").exists()
