"""Runs the suite's core with the lowest versions that pyproject.toml states, or with the newest that the index gives.

    python versions/try_versions.py oldest
    python versions/try_versions.py newest --python 3.12 --pin torch==2.11.0

For every Python of pyproject.toml's classifiers that is found here, a fresh environment is set up under `.versions/`,
the tests of `CORE` are run in it, what was installed and what came of it are written to `versions/records/` and the
table in `docs/versions.md`, and the environment is removed. `make test-oldest` and `make test-newest` run this.

It downloads gigabytes: the index's torch brings CUDA's libraries, which go unused, since the tests run on the CPU.
pip sets the environments up, as users do, with its settings here; for the lowest versions each `>=` is made a `==`.
Nothing beyond Python's own library is imported, so that any Python from 3.11 can start it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from support_table import rewrite_table
from version_records import (
    EXTRAS,
    ROOT,
    Record,
    lowest,
    minor,
    package,
    project,
    stated_requirements,
    supported_pythons,
    write_record,
)

ROOM = 12e9  # bytes: a CUDA build of torch is unpacked while its wheels still lie beside it
LIMITS = {"install": 3600, "tests": 3600}  # seconds; a mirror may be slow
# What must work with every version: each file format and tokeniser, models against their references, runs with resume
# and with several processes, evaluation, weights, pages, the command line. Some five minutes on two idle cores.
CORE = (
    "tests/versions/test_installed_packages.py",
    "tests/config",
    "tests/cost",
    *(f"tests/data/{name}.py" for name in ("test_tokenizer", "test_volta_fixtures", "annotations/test_annotations")),
    *(f"tests/data/batches/test_{name}.py" for name in ("concap_dataset", "task_datasets", "loader_processes")),
    *(f"tests/data/files/test_{name}.py" for name in (
        "feature_h5", "feature_tsv", "lmdb_files", "compact_store", "shard", "convert", "check", "read_by_tensorpack"
    )),
    *(f"tests/model/test_{name}.py" for name in (
        "volta_parity", "bert_parity", "attention", "heads", "switch", "dropout", "gumbel", "noise",
        "checkpointing", "compile"
    )),
    *(f"tests/train/test_{name}.py" for name in (
        "pretraining", "finetuning", "loop", "optimisation", "checkpoints", "resume", "several_processes",
        "initial_weights", "evaluation_scripts", "sharded"
    )),
    *(f"tests/tasks/test_{name}.py" for name in ("losses", "metrics", "evaluation", "nlvr2_task")),
    "tests/study/test_statistics.py",
    "tests/study/report/test_page.py",
    "tests/routes/test_routes_command.py",
    "tests/world/test_build.py",
    *(f"tests/weights/test_{name}.py" for name in (
        "bert_weights", "run_weights", "weight_files", "weight_layouts", "fitting", "checksums"
    )),
    "tests/test_cli.py",
)  # fmt: skip


class Failed(Exception):
    """A step that did not succeed, in one line."""


def find_python(version: str) -> str | None:
    """A Python of this minor version that can make environments: on PATH, or among pyenv's (the newest first)."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    installed = sorted(
        pyenv.glob(f"{version}.*/bin/python"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])]
    )
    on_path = shutil.which(f"python{version}")
    for candidate in [*([on_path] if on_path else []), *map(str, reversed(installed))]:
        # pyenv's shims are there for versions that are not active, and Debian's Pythons lack ensurepip
        asked = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    return None


def install(python: str, folder: Path, stated: Sequence[str], constraints: Sequence[str]) -> str:
    """Set up an environment in a folder with the project, editable, and EXTRAS; return its Python.

    Raises:
        Failed: something cannot be installed as a wheel.
    """
    step([python, "-m", "venv", str(folder)], LIMITS["install"])
    inside = str(folder / "bin" / "python")
    (folder / "constraints.txt").write_text("".join(f"{line}\n" for line in constraints))
    # wheels alone: a version that must be compiled is not one that users can install
    pip = [inside, "-m", "pip", "install", "--quiet", "--only-binary=:all:", "-c", str(folder / "constraints.txt")]
    build = [requirement for requirement in stated if requirement in project()["build-system"]["requires"]]
    step([*pip, *build], LIMITS["install"])
    step([*pip, "--no-build-isolation", "-e", f"{ROOT}[{','.join(EXTRAS)}]"], LIMITS["install"])
    return inside


def step(command: Sequence[str], limit: float) -> str:
    """Run a command with the time limit in seconds; return what it printed.

    Raises:
        Failed: it took longer, or its exit code is not 0; with the first line that speaks of an error.
    """
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[1:4])} took more than {limit:.0f} s") from None
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        said_first = next((line for line in said if line.startswith("ERROR")), (said or ["no message"])[-1])
        raise Failed(said_first[:300].strip())
    return done.stdout


def environment() -> dict[str, str]:
    """This process's variables, less what would bring in other packages, a GPU or VOLTA."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VOLTA_HOME")}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONNOUSERSITE": "1"}


def installed_versions(python: str, stated: Sequence[str]) -> dict[str, str]:
    """The installed version of every package that is stated."""
    asked = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    versions: dict[str, str] = json.loads(step([python, "-c", asked, *map(package, stated)], 60))
    return versions


def run_tests(python: str, tests: Sequence[str], folder: Path) -> tuple[str, dict[str, int], int]:
    """Run tests with the output shown; return the result in a word or a line, the counts, and the seconds."""
    report = folder / "tests.xml"
    command = [python, "-m", "pytest", "-n", "2", "--dist", "worksteal", "-q", "-p", "no:cacheprovider"]
    command += [f"--junit-xml={report}", *tests]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(), timeout=LIMITS["tests"], check=False)
    except subprocess.TimeoutExpired:
        return f"failed: the tests took more than {LIMITS['tests']} s", {}, LIMITS["tests"]
    counts = count_tests(report) if report.is_file() else {}
    result = (
        "passed" if done.returncode == 0 and counts.get("passed") else f"failed: pytest ended with {done.returncode}"
    )
    return result, counts, round(time.monotonic() - began)


def count_tests(report: Path) -> dict[str, int]:
    """How many tests passed, failed and were skipped, by pytest's JUnit report."""
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return {"passed": total - failures - errors - skipped, "failed": failures + errors, "skipped": skipped}


def try_python(kind: str, python: str, pins: Sequence[str], tests: Sequence[str] = CORE) -> Record:
    """Set up an environment, run the tests in it, remove it; return the record of it."""
    stated = stated_requirements(project())
    constraints = [*([lowest(requirement) for requirement in stated] if kind == "oldest" else []), *pins]
    place = ROOT / ".versions"
    place.mkdir(exist_ok=True)
    if (free := shutil.disk_usage(place).free) < ROOM:
        raise Failed(f"{place}: {free / 1e9:.0f} GB are free, {ROOM / 1e9:.0f} are needed; make room first")
    asked = "import platform as p; print(p.python_version(), p.system(), p.machine(), *p.libc_ver())"
    version, *system = step([python, "-c", asked], 60).split()
    versions: dict[str, str] = {}
    counts: dict[str, int] = {}
    seconds = 0
    with tempfile.TemporaryDirectory(dir=place, prefix=f"{kind}-{minor(version)}-") as folder:
        try:
            inside = install(python, Path(folder) / "venv", stated, constraints)
            versions = installed_versions(inside, stated)
            print(", ".join(f"{name} {found}" for name, found in versions.items()), flush=True)
            result, counts, seconds = run_tests(inside, tests, Path(folder))
        except Failed as error:
            result = f"failed: {error}"
    return Record(
        kind=kind, pins=list(pins), python=version, platform=" ".join(system), date=str(datetime.date.today()),
        stated=stated, versions=versions, result=result, tests=counts, seconds=seconds,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Try every Python that is found; return the exit code: 1 if one failed, 2 if none was found."""
    known = supported_pythons(project())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["oldest", "newest"])
    parser.add_argument("--python", nargs="+", choices=known, default=known, metavar="3.X", help="these alone")
    about = "these versions, the others as above"
    parser.add_argument("--pin", nargs="+", default=[], metavar="NAME==VERSION", help=about)
    args = parser.parse_args(argv)
    records = []
    for version in args.python:
        python = find_python(version)
        if python is None:
            print(f"Python {version}: not found on PATH or among pyenv's; passed over", file=sys.stderr, flush=True)
            continue
        print(f"Python {version} ({python}), {args.kind} versions {' '.join(args.pin)}", flush=True)
        try:
            record = try_python(args.kind, python, args.pin)
        except Failed as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        records.append(record)
        print(f"{write_record(record).relative_to(ROOT)}: {record.result}", flush=True)
        rewrite_table()
    if not records:
        print(f"error: none of Python {', '.join(args.python)} was found; install one of them", file=sys.stderr)
        return 2
    return int(any(record.result != "passed" for record in records))


if __name__ == "__main__":
    sys.exit(main())
