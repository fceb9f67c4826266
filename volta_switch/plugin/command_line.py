"""A VOLTA script's command line: its files found, its mistakes told before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from volta_switch.config import find_config
from volta_switch.errors import UserError
from volta_switch.files import read_yaml


def find_files(home: Path, argv: Sequence[str]) -> list[str]:
    """The command line, with the files that are not where it says but in the checkout, or are shipped here, found.

    Args:
        home: the checkout.
        argv: the script's own flags.

    Raises:
        UserError: the configuration or the task file is nowhere, or the task is not in its file.
    """
    flags: dict[str, Callable[[Path, str], str]] = {
        "--config_file": _config, "--config": _config, "--tasks_config_file": _task_file
    }  # fmt: skip
    found = list(argv)
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in flags and equals:
            found[index] = f"{flag}={flags[flag](home, value)}"
        elif flag in flags and index + 1 < len(argv):
            found[index + 1] = flags[flag](home, argv[index + 1])
    _check_task(found)
    return found


def _config(home: Path, name: str) -> str:
    given = _in_checkout(home, name)
    return given if Path(given).is_file() else str(find_config(name))


def _task_file(home: Path, name: str) -> str:
    found = _in_checkout(home, name)
    if not Path(found).is_file():
        raise UserError(f"--tasks_config_file {name}: no such file, here or in {home}; expected config_tasks/NAME.yml")
    return found


def _in_checkout(home: Path, name: str) -> str:
    inside = home / name
    return str(inside) if not Path(name).is_file() and inside.is_file() else name


def _check_task(argv: Sequence[str]) -> None:
    given = {flag: value for flag, value in pairwise(argv) if flag in ("--task", "--tasks_config_file")}
    if len(given) < 2:
        return
    path, task = Path(given["--tasks_config_file"]), given["--task"].strip()
    known = read_yaml(path, "file")
    if isinstance(known, dict) and f"TASK{task}" not in known:
        numbers = ", ".join(str(key).removeprefix("TASK") for key in known)
        raise UserError(f"--task {task}: not in {path}, which has the tasks {numbers}")
