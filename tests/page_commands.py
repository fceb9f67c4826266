"""What happens to the commands of the pages in a test: which program parses them, and which are run.

Every command is parsed by the program that it names: the program runs until its parser has read the command line. Those
that a machine without the real data can run are then run to their end, in a folder where the synthetic world lies in
the place of the real data (``desk.Desk``).
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

from pages import ROOT, Command

# What each kind of command needs where it is not run to its end; the first pattern that a command begins with counts.
NOT_RUN = {
    r".* hf://": "a hub; tests/train/test_models_on_the_hub.py gives such commands one",
    r"make (quick|demo)$": "an environment of its own; tests/test_quick.py and tests/study run what they run",
    r"make ": "an environment of its own, or hours; this is one of these targets",
    r"source \.venv/bin/activate$": "the environment of make setup",
    r"export VOLTA_HOME=": "a shell",
    r"git ": "a network",
    r"aws ": "a network and a bucket",
    r"pip install ": "a network; tests/clean_environments installs the package",
    r"pytest ": "time: they are tests themselves",
    r"python tests/": "make test: they print what tests assert",
    r"bash benchmarks/gpu\.sh": "a GPU; tests/test_gpu_rehearsal.py rehearses it",
    r"python benchmarks/": "minutes of measuring; tests/test_benchmarks.py runs each at a small size",
    r"volta-switch data extract ": "a detector's weights; tests/data/files/test_extract.py runs it with small ones",
    r"volta-switch (finetune|evaluate) .*runs/small-features": "features that a command before it extracts",
    r"volta-switch world-detector ": "a minute of training; tests/world/test_photographs.py runs it",
    r"volta-switch controls": "minutes of training; tests/controls runs its parts, and make test-more the short form",
    r"volta-switch completion ": "nothing: it prints a script, which tests/test_help.py runs",
    r"volta-switch volta|python -m volta_switch\.plugin": "a checkout of VOLTA; tests/plugin runs it there",
    r"volta-switch (predict|explain) (?!runs/quick)": "a trained model; tests/predict and tests/explain ask small ones",
    r"volta-switch weights ": "another program's checkpoint; tests/weight_tools imports such ones",
    r"volta-switch study (power|table|export|merge)": "finished runs; tests/study runs it on small studies",
    r"volta-switch play ": "somebody who looks at it; tests/play opens the page",
    r"volta-switch ablate ": "a pre-trained model; tests/ablation runs it on random ones",
    r"volta-switch compare ": "finished runs; tests/study/test_compare.py runs it on small ones",
    r"volta-switch study run .*--(jobs|cells)": "hours; tests/study runs small studies so",
}
RUN = (
    r"bash examples/",
    r"torchrun ",
    r"python (train_concap|train_task|eval_task|eval_retrieval)\.py ",
    r"volta-switch (study run|data|flops|routes|quick|world|predict|explain|pretrain|finetune|evaluate|retrieve)\b",
)
# Run by make test-long: they write a world of thousands of images.
SLOW = (r"volta-switch (quick|predict|explain) ",)


class Parsed(BaseException):
    """A program's parser has read its command line: the flags."""

    def __init__(self, flags: argparse.Namespace):
        super().__init__(flags)
        self.flags = flags


def is_mention(command: Command) -> bool:
    """Whether a sentence names a command (``volta-switch study power``) without showing a whole one."""
    names = all(re.fullmatch(r"[a-z][a-z-]*", word) for word in command.words[1:])
    return command.words[0] == "volta-switch" and names and not command.shown


def reason_not_to_run(command: Command) -> str:
    """What a command needs that no test has; empty for those that are run.

    Raises:
        LookupError: the command is of no known kind.
    """
    text = " ".join(command.words)
    if is_mention(command):
        return "only named"
    for pattern, reason in NOT_RUN.items():
        if re.match(pattern, text):
            return reason
    if any(re.match(pattern, text) for pattern in RUN):
        return ""
    raise LookupError(f"{command}: of no kind that tests/page_commands.py knows; add it to NOT_RUN or RUN")


def parse(command: Command, tmp_path: Path) -> None:
    """Has a command parsed by its program, or checks what it names."""
    program, *words = command.words
    if is_mention(command):
        assert exit_code(lambda: start([program, *words, "--help"])) == 0
    elif program == "python" and words[0].startswith("tests/"):
        assert (ROOT / words[0]).is_file()
    elif program in ("make", "pytest", "pip", "git", "aws", "source", "export"):
        _OTHERS[program](words, dict(command.environment))
    else:
        parsed(words_of(command, tmp_path))


def words_of(command: Command, tmp_path: Path) -> list[str]:
    """A command's words; of a script of examples or benchmarks, the words that it gives to Python."""
    program, *words = command.words
    if program != "bash":
        return [program, *words]
    stub = tmp_path / "python-stub"
    stub.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@"\n')
    stub.chmod(0o755)
    given = {**os.environ, **dict(command.environment), "PYTHON": str(stub)}
    done = subprocess.run(["bash", *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=True)
    script, *flags = done.stdout.rstrip("\0").split("\0")
    return ["python", os.path.relpath(ROOT / script, ROOT), *flags]


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Runs a program until its parser has read the command line; returns the flags."""
    read = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Sequence[str] | None = None, namespace: object = None) -> None:
        raise Parsed(read(parser, args, namespace))

    program, *rest = words
    if program == "torchrun":
        from torch.distributed.run import get_args_parser

        flags = get_args_parser().parse_args(rest)
        return parsed(["python", flags.training_script, *flags.training_script_args])
    try:
        with patch.object(argparse.ArgumentParser, "parse_args", stop):
            start(words)
    except Parsed as done:
        return done.flags
    raise AssertionError(f"{words}: no parser read it")


def start(words: Sequence[str]) -> None:
    """Runs a program in this process, as a shell would in another one."""
    program, *rest = words
    environment = dict(os.environ)
    folders = list(sys.path)
    try:
        if program == "volta-switch":
            from volta_switch.cli import main

            main(rest)
        elif rest[0] == "-m":
            with patch.object(sys, "argv", rest[1:]):
                runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
        else:
            script = ROOT / rest[0]
            sys.path.insert(0, str(script.parent))
            with patch.object(sys, "argv", [str(script), *rest[1:]]):
                runpy.run_path(str(script), run_name="__main__")
    finally:
        sys.path[:] = folders
        os.environ.clear()
        os.environ.update(environment)


def exit_code(run: object) -> int:
    """The exit code of a program that exits; 0 where it only returns."""
    try:
        run()  # type: ignore[operator]
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _make(words: Sequence[str], environment: dict[str, str]) -> None:
    given = {**os.environ, "VOLTA_HOME": "volta"}
    done = subprocess.run(["make", "-nB", *words], cwd=ROOT, env=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Nothing to be done" not in done.stdout, done.stdout + done.stderr
    for line in re.findall(r"volta-switch (.+)", done.stdout):
        parsed(["volta-switch", *line.split()])


def _pytest(words: Sequence[str], environment: dict[str, str]) -> None:
    paths = [ROOT / word for word in words if word.startswith("tests/")]
    assert paths and all(path.exists() for path in paths), words
    files = [file for path in paths for file in (path.rglob("*.py") if path.is_dir() else [path])]
    text = "".join(file.read_text() for file in files)
    assert all(f'"{name}"' in text for name in environment), environment
    flags = [word for word in words if not word.startswith("tests/")]
    from suites import TARGETS

    assert flags in ([], *(["--include", suite] for suite in TARGETS)), flags


def _pip(words: Sequence[str], environment: dict[str, str]) -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (named,) = re.findall(r"\[([a-z0-9]+)\]", " ".join(words))
    assert named in extras


def _expected(*lines: str) -> object:
    def check(words: Sequence[str], environment: dict[str, str]) -> None:
        assert " ".join(words) in lines, words

    return check


_OTHERS = {
    "make": _make,
    "pytest": _pytest,
    "pip": _pip,
    "git": _expected("clone https://github.com/e-bug/volta", "-C volta checkout 62f78cd"),
    "aws": _expected("s3 sync shards s3://bucket/concap"),
    "source": _expected(".venv/bin/activate"),
    "export": _expected("VOLTA_HOME=$PWD/volta"),
}
