"""The commands that a study's runs are made of: what each is called, its flags, and what does its work.

They are the four entry points, by VOLTA's names, and two that report on trained models.
"""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from functools import cache

from volta_switch.ablation import ablation_flags
from volta_switch.flag_parser import FlagParser
from volta_switch.routes import route_flags
from volta_switch.train.command_names import COMMANDS
from volta_switch.train.entry_points import ENTRY_POINTS, read_flags

FLAGS = {name: entry.flags for name, entry in ENTRY_POINTS.items()} | {"routes": route_flags, "ablate": ablation_flags}
_WORK = {name: entry.work for name, entry in ENTRY_POINTS.items()}
_REPORTS = {
    "routes": ("volta_switch.routes.run", "run_routes"),
    "ablate": ("volta_switch.ablation.run", "run_ablation"),
}


@cache
def parser_of(command: str) -> FlagParser:
    """Returns the parser of a command's flags."""
    return FLAGS[command]()


def typed(command: str, arguments: Sequence[str] = ()) -> str:
    """Returns a command as it is typed in a shell, in any folder."""
    return shlex.join(["volta-switch", COMMANDS.get(command, command), *arguments])


def run(command: str, arguments: Sequence[str]) -> None:
    """Runs a command in this process; only now is the module imported that does its work."""
    module, function = {**_WORK, **_REPORTS}[command]
    work = getattr(importlib.import_module(module), function)
    if command in _REPORTS:
        work(parser_of(command).parse_args(arguments))
    else:
        work(read_flags(command, arguments), arguments)
