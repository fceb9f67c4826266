"""What the environment says of several processes; whatever else it may hold is one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic_world import run_script
from volta_switch import UserError
from volta_switch.command import environment_number
from volta_switch.train.entry_points import ENTRY_POINTS


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "²"])
def test_what_is_no_number_is_refused_by_its_name(monkeypatch, text):
    monkeypatch.setenv("WORLD_SIZE", text)
    with pytest.raises(UserError, match=r"WORLD_SIZE is .*, expected a whole number; unset it, or use torchrun"):
        environment_number("WORLD_SIZE", 1)


def test_what_is_empty_or_not_set_is_the_default(monkeypatch):
    for text in ("", " "):
        monkeypatch.setenv("WORLD_SIZE", text)
        assert environment_number("WORLD_SIZE", 1) == 1
    monkeypatch.delenv("WORLD_SIZE")
    assert environment_number("WORLD_SIZE", 1) == 1
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert environment_number("WORLD_SIZE", 1) == 3


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_RANK"])
@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point_says_so_in_one_line(monkeypatch, entry, name):
    monkeypatch.setenv(name, "x")
    done = run_script(entry, ["--task", "10"] if entry != "train_concap" else [])
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert name in done.stderr or "no such file" in done.stderr


@pytest.mark.parametrize("package", ["huggingface_hub", "yaml"])
def test_a_python_that_lacks_a_package_is_told_in_one_line(package):
    root = Path(__file__).parents[2]
    program = "import runpy, sys, missing_packages; sys.argv = ['train_task.py', '--task', '10'];"
    program += "runpy.run_path('train_task.py', run_name='__main__')"
    environment = {**os.environ, "MISSING_PACKAGES": package, "PYTHONPATH": f"{root}:{root / 'tests'}"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, timeout=120)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"lacks the package {package}; `make setup`" in done.stderr
