"""Pipes, devices, folders and files without permission where a file belongs: one line, and no waiting for a pipe."""

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from shells import ROOT
from synthetic_world import refusal
from volta_switch import cli
from volta_switch.tasks import features_path, load_task
from volta_switch.train import evaluation, finetuning, pretraining

REFER = "datasets/refcoco+_unc/annotations/refcoco+"
MAINS = {"train_concap": pretraining.main, "train_task": finetuning.main, "eval_task": evaluation.main}


def a_pipe(path):
    os.mkfifo(path)


def a_device(path):
    path.symlink_to("/dev/null")


def endless(path):
    path.symlink_to("/dev/zero")


def a_folder(path):
    path.mkdir()


def nowhere(path):
    path.symlink_to(path.with_name("not there"))


def itself(path):
    path.symlink_to(path)


KINDS = (a_pipe, a_device, endless, a_folder, nowhere, itself)
ROLES = {  # an entry point, and a flag that names a file; or a file of the world
    "task file": ("train_task", "--tasks_config_file"),
    "configuration": ("train_task", "--config_file"),
    "weights": ("train_task", "--from_pretrained"),
    "tested weights": ("eval_task", "--from_pretrained"),
    "checkpoint": ("train_concap", "--resume_file"),
    "features": ("train_task", "--train_features_lmdbpath"),
    "annotations": ("train_task", f"{REFER}/refs(unc).p"),
    "boxes": ("train_task", f"{REFER}/instances.json"),
    "features' records": ("train_task", ""),
    "captions": ("train_concap", "datasets/conceptual_captions/annotations/caption_train.json"),
    "vocabulary": ("train_task", "bert-world/vocab.txt"),
}


@contextmanager
def limited(seconds):
    """Fails where something waits, as for a pipe that nobody writes."""

    def fail(*_):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ROLES)
def test_what_is_no_file_is_refused_by_name(world, tmp_path, capsys, role, kind):
    entry, flag = ROLES[role]
    path, of = tmp_path / "special.json", world
    if not flag.startswith("--"):
        of = world.copy(tmp_path / "world")
        path = of.path / flag if flag else features_path(load_task(of.tasks_file, "10"), "train") / "data.mdb"
        path.unlink()
    kind(path)
    argv = of.flags(entry, tmp_path / "out", "ctrl_uniter", "refer")
    argv += [flag, str(path)] if flag.startswith("--") else []
    with limited(20):
        message = refusal(MAINS[entry], argv, capsys)
    assert path.name in message or str(path.parent) in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "command",
    [
        ("study", "run", "PATH"),
        ("data", "convert", "PATH", "OUT", "--to", "tsv"),
        ("data", "repack", "PATH", "OUT"),
        ("flops", "PATH"),
    ],
    ids=" ".join,
)
def test_commands_refuse_what_is_no_file(tmp_path, capsys, command, kind):
    path = tmp_path / "special.json"
    kind(path)
    argv = [{"PATH": str(path), "OUT": str(tmp_path / "out")}.get(part, part) for part in command]
    with limited(20):
        assert path.name in refusal(cli._run, argv, capsys)
    assert not (tmp_path / "out").exists()


READ = {  # a file of a world's copy, and the flag that names it where the task file does not
    "tasks.yml": "",
    "bert-world/vocab.txt": "",
    f"{REFER}/refs(unc).p": "",
    f"{REFER}/instances.json": "",
    "config.json": "--config_file",
    "w.bin": "--from_pretrained",
    "w.safetensors": "--from_pretrained",
}


def without_privileges():
    """Gives up, for this process and what it starts, what lets root read everything (PR_CAPBSET_DROP)."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)


@pytest.mark.parametrize("name", READ)
def test_a_file_without_permission_is_named(world, tmp_path, name):
    copy, out = world.copy(tmp_path / "world"), tmp_path / "out"
    path = copy.path / name
    if not path.exists():
        path.write_bytes(b"PK{}")
    argv = copy.flags("train_task", out, "ctrl_uniter", "refer")
    argv += [READ[name], str(path)] if READ[name] else []
    path.chmod(0)
    command = [sys.executable, str(ROOT / "train_task.py"), *argv]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, preexec_fn=without_privileges)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: ") and "ermission" in line
    assert not out.exists()
