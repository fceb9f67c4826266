"""Which Pythons are found, what the lowest versions are, and that what fails is said to fail."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from try_versions import CORE, find_python, run_tests
from version_records import ROOT, lowest, package, project, stated_requirements

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("requirement", "pin"),
    [
        ("torch>=2.6", "torch==2.6"),
        ("tensorpack>=0.11,<0.12", "tensorpack==0.11,<0.12"),
        ("numpy >= 2.1; python_version >= '3.13'", "numpy == 2.1; python_version >= '3.13'"),
    ],
)
def test_the_lowest_version_of_a_requirement(requirement, pin):
    assert lowest(requirement) == pin and package(requirement) == package(pin)


@pytest.mark.parametrize(
    "requirement", ["torch", "torch==2.6", "torch>2.6", "torch>=2.6,>=2.7", "torch; python_version>='3'"]
)
def test_a_requirement_without_one_lower_bound_is_refused(requirement):
    with pytest.raises(ValueError, match=r"^pyproject\.toml: .*expected one lower bound"):
        lowest(requirement)


def test_every_requirement_but_those_of_volta_of_the_linters_and_of_the_page_is_tried():
    extras = project()["project"]["optional-dependencies"]
    assert set(extras) == {"h5", "stream", "play", "volta", "test", "lint"}
    stated = stated_requirements(project())
    for each in (*project()["project"]["dependencies"], *extras["h5"], *extras["stream"], *extras["test"]):
        assert each in stated or package(each) == "volta-switch"
    assert all(map(lowest, stated))


def test_the_core_is_there():
    assert [path for path in CORE if not (ROOT / path).exists()] == []


def fake_python(path, says, code=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty folder that is PATH, and one of pyenv's."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path / "bin", tmp_path / "pyenv" / "versions"


def test_a_python_on_the_path_goes_before_pyenvs(places):
    on_path, pyenv = places
    fake_python(pyenv / "3.12.9" / "bin" / "python", "3.12")
    assert find_python("3.12") == str(pyenv / "3.12.9" / "bin" / "python")
    first = fake_python(on_path / "python3.12", "3.12")
    assert find_python("3.12") == first and find_python("3.13") is None


@pytest.mark.parametrize(("says", "code"), [("pyenv: not found", 127), ("", 1), ("3.11", 0)])
def test_what_cannot_make_environments_or_is_another_version_is_passed_over(places, says, code):
    on_path, pyenv = places
    fake_python(on_path / "python3.12", says, code)
    assert find_python("3.12") is None
    older, newer = (fake_python(pyenv / name / "bin" / "python", "3.12") for name in ("3.12.9", "3.12.10"))
    assert find_python("3.12") == newer != older


@pytest.mark.parametrize(
    ("body", "result", "counts"),
    [
        ("def test_it(): pass", "passed", {"passed": 1, "failed": 0, "skipped": 0}),
        ("def test_it(): assert 0", "failed: pytest ended with 1", {"passed": 0, "failed": 1, "skipped": 0}),
        ("import nothing_of_this_name", "failed: pytest ended with", {"passed": 0, "failed": 1, "skipped": 0}),
        ("import pytest; pytest.skip('no', allow_module_level=True)", "failed: pytest ended with 5", None),
    ],
)
def test_a_run_passes_if_tests_ran_and_none_failed(tmp_path, body, result, counts):
    (tmp_path / "test_one.py").write_text(body + "\n")
    found, counted, seconds = run_tests(sys.executable, [str(tmp_path)], tmp_path)
    assert found.startswith(result) and seconds >= 0
    assert counts is None or counted == counts


@pytest.fixture
def copy(tmp_path):
    """A tree with all that trying versions reads and writes, less the records."""
    (tmp_path / "docs").mkdir()
    for name in ("pyproject.toml", "docs/versions.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "versions", tmp_path / "versions", ignore=shutil.ignore_patterns("*.json", "__pycache__"))
    (tmp_path / "versions" / "records").mkdir(exist_ok=True)
    return tmp_path


def tried(copy, *arguments, **environment):
    command = [sys.executable, str(copy / "versions" / "try_versions.py"), *arguments]
    env = {**os.environ, "PYENV_ROOT": str(copy), **environment}
    return subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=300, check=False)


def test_without_any_python_nothing_is_tried(copy):
    done = tried(copy, "oldest", PATH=str(copy))
    assert done.returncode == 2
    *passed_over, error = done.stderr.splitlines()
    assert [line.split(":")[0] for line in passed_over] == ["Python 3.11", "Python 3.12", "Python 3.13"]
    assert error == "error: none of Python 3.11, 3.12, 3.13 was found; install one of them"
    assert list((copy / "versions" / "records").iterdir()) == []


def test_what_cannot_be_installed_fails_and_is_recorded_so(copy):
    base = Path(sys.base_prefix) / "bin"
    done = tried(
        copy, "oldest", "--python", HERE, PATH=f"{base}:{os.environ['PATH']}", PIP_NO_INDEX="1", PIP_FIND_LINKS=""
    )
    assert done.returncode == 1, done.stderr
    record = json.loads((copy / "versions" / "records" / f"oldest-{HERE}.json").read_text())
    assert record["result"].startswith("failed: ERROR: ")
    assert "setuptools" in record["result"]  # the first that is installed
    row = next(line for line in (copy / "docs" / "versions.md").read_text().splitlines() if "failed: ERROR" in line)
    assert row.startswith(f"| {HERE}.") and list((copy / ".versions").iterdir()) == []
