"""``pip install ".[volta]"`` in an environment of its own: all that it promises is imported, and nothing else is there.

A minute or two, and downloads. With VOLTA_HOME, VOLTA's scripts begin, too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from plugin.linked_packages import asked_for
from volta_switch.plugin.checkout import EXTRA, name_in
from volta_switch.plugin.replacements import STAND_INS

pytestmark = pytest.mark.more
ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "volta_switch", "config", "config_tasks", "studies")
SCRIPTS = ("train_concap.py", "train_task.py", "eval_task.py", "eval_retrieval.py")
IMPORTS_ALL = """
    import importlib.util, json, sys
    from importlib import metadata

    brings = {}  # package -> its modules
    for module, packages in metadata.packages_distributions().items():
        for package in packages:
            brings.setdefault(package.lower().replace("_", "-").replace(".", "-"), []).append(module)
    imported = {}
    for package in sys.argv[1:]:
        there = [name for name in brings[package] if importlib.util.find_spec(name)]  # lmdb lists one that is not
        for module in there:
            importlib.import_module(module)
        imported[package] = there
    print("imported", json.dumps(imported))
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The Python of a new environment in which pip has installed the project with the extra, and nothing else."""
    folder = tmp_path_factory.mktemp("clean")
    for name in PROJECT:  # a copy, since pip builds beside the sources
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    python = folder / "environment" / "bin" / "python"
    torch = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    run([sys.executable, "-m", "venv", python.parents[1]], folder)
    run(
        [python, "-m", "pip", "install", "--quiet", torch], folder
    )  # as the Makefile does: the CPU's build where there is one
    run([python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, f"{folder}[{EXTRA}]"], folder)
    return python


def run(command, folder, **environment):
    """A command that must end well, away from this checkout and this environment; what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VOLTA_HOME")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_all_that_the_extra_promises_is_imported(clean, tmp_path):
    packages = [name_in(requirement) for requirement in asked_for(EXTRA)]
    printed = run([clean, "-c", textwrap.dedent(IMPORTS_ALL), *packages], tmp_path).splitlines()
    imported = json.loads(next(line for line in printed if line.startswith("imported")).removeprefix("imported"))
    assert all(imported[package] for package in packages), imported
    assert {"boto3", "json_lines", "pytorch_transformers", "requests", "yaml"} <= {
        one for names in imported.values() for one in names
    }


def test_what_is_stood_in_for_is_not_installed_with_it(clean, tmp_path):
    find = "import importlib.util, sys; print([one for one in sys.argv[1:] if importlib.util.find_spec(one)])"
    assert run([clean, "-c", find, *STAND_INS, "pytest"], tmp_path).strip() == "[]"


def test_the_command_lists_its_repairs(clean, tmp_path):
    printed = run([clean.with_name("volta-switch"), "volta", "--list-repairs"], tmp_path)
    assert "refer-pictures" in printed and "wikipedias" in printed


@pytest.mark.skipif(not os.environ.get("VOLTA_HOME"), reason="VOLTA_HOME names no VOLTA checkout")
@pytest.mark.parametrize("script", SCRIPTS)
def test_voltas_scripts_begin(clean, tmp_path, script):
    home = str(Path(os.environ["VOLTA_HOME"]).resolve())
    printed = run([clean.with_name("volta-switch"), "volta", script, "--help"], tmp_path, VOLTA_HOME=home)
    assert "usage: " in printed and script in printed
