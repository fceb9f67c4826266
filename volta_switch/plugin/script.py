"""Running a script of the checkout, with or without the plug-in; how repairs are listed, chosen and applied.

The repairs themselves are in ``repairs``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from volta_switch import __version__
from volta_switch.errors import UserError, nearest
from volta_switch.plugin.checkout import find_files, import_volta, imports_explained
from volta_switch.plugin.encoder import register
from volta_switch.plugin.replacements import Patches

STAGES = ("packages", "volta", "script")  # before VOLTA is imported, before the script is, when it is about to run
logger = logging.getLogger("volta_switch")


@dataclass
class Script:
    """A script of the checkout that is about to run: what a repair may look at and change."""

    home: Path  # the checkout
    name: str  # "train_concap.py"
    patches: Patches = field(default_factory=Patches)
    module: ModuleType | None = None  # the script's own; once it is loaded
    args: Namespace = field(default_factory=Namespace)  # its flags; once it has parsed them
    applied: dict[str, Repair] = field(default_factory=dict)  # the repairs that found something to mend, by name

    def volta(self, name: str) -> ModuleType:
        """Imports a module of VOLTA's package."""
        return import_volta(name)

    def wrap(self, owner: Any, name: str) -> Any:
        """Returns ``Patches.wrap`` of the script's patches."""
        return self.patches.wrap(owner, name)

    def run(self, repairs: Sequence[Repair], argv: Sequence[str], plugin: bool = True) -> None:
        """Applies the repairs and runs the script's ``main`` with ``argv`` as its command line.

        Raises:
            UserError: there is no such script, or VOLTA cannot be imported.
        """
        self.prepare(repairs, argv, plugin)
        assert self.module is not None
        try:
            with imports_explained(self.name, ModuleNotFoundError):  # functions import, too
                self.module.main()
        except UserError as error:  # from a loader process it comes with the trace of that
            raise UserError(str(error).rpartition("UserError: ")[2]) from None
        except OSError as error:  # VOLTA's own, which keeps its trace: ``command`` would make a line of it
            raise RuntimeError(f"{self.name} ended with an error of VOLTA's") from error

    def prepare(self, repairs: Sequence[Repair], argv: Sequence[str], plugin: bool = True) -> None:
        """Does everything but run it: sets the command line, loads the script and repairs it."""
        path = self.home / self.name
        if not path.is_file():
            scripts = ", ".join(sorted(file.name for file in self.home.glob("*.py") if file.name != "setup.py"))
            raise UserError(f"{path}: no such script in the checkout; it has {scripts}")
        self.patches.set(sys, "dont_write_bytecode", True)  # the checkout stays as it is
        self.patches.set_item(os.environ, "PYTHONDONTWRITEBYTECODE", "1")  # for processes that it starts
        self.patches.set(sys, "path", [str(self.home), *(place for place in sys.path if place != str(self.home))])
        self.patches.set(sys, "argv", [str(path), *find_files(self.home, argv)])
        for stage in STAGES:
            if stage == "volta" and plugin:
                register(self.home)
            if stage == "script":
                self._load(path)
            for repair in repairs:
                if repair.stage == stage and repair.concerns(self):
                    with imports_explained(repair.where, ImportError):
                        repair.mend(self)
                    self.applied[repair.name] = repair
        self._tell(plugin)

    def _load(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location(f"volta_script_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        with imports_explained(path.name):
            spec.loader.exec_module(self.module)
        if hasattr(self.module, "parse_args"):

            @self.wrap(self.module, "parse_args")
            def parse_args(original: Any) -> Namespace:
                self.args = original()
                return self.args

    def _tell(self, plugin: bool) -> None:
        """Reports what was changed, on the console and in the run's own log."""
        names = {
            kind: [name for name, repair in self.applied.items() if repair.fixes_numbers == kind]
            for kind in (False, True)
        }
        lines = [
            f"volta_switch {__version__}: VOLTA at {self.home}, {'with' if plugin else 'without'} the plug-in",
            f"volta_switch repairs: {', '.join(names[False]) or 'none'}",
            f"volta_switch fixes of numbers: {', '.join(names[True]) or 'none'}",
        ]
        for line in lines:
            logger.info(line)

        @self.wrap(self.volta("train_utils").tbLogger, "__init__")
        def init(original: Any, tb_logger: Any, *args: Any, **options: Any) -> None:
            original(tb_logger, *args, **options)
            print(*lines, sep="\n", file=tb_logger.txt_f, flush=True)


CONCAP, TASK, EVALUATE, RETRIEVAL = "train_concap.py", "train_task.py", "eval_task.py", "eval_retrieval.py"
VIS4LANG, LANG4VIS = "ablate_vis4lang.py", "ablate_lang4vis.py"
Mend = Callable[[Script], None]


@dataclass(frozen=True)
class Repair:
    """One entry of the catalogue."""

    name: str
    where: str  # VOLTA's file and line
    problem: str
    stage: str  # when it is applied, one of script.STAGES
    scripts: tuple[str, ...]  # which it concerns; () for all
    needed: Callable[[], bool]  # on this machine
    fixes_numbers: bool
    mend: Mend

    def concerns(self, script: Script) -> bool:
        """Returns whether there is anything to mend, in this script and on this machine."""
        return (not self.scripts or script.name in self.scripts) and self.needed()


REPAIRS: list[Repair] = []


def stops(
    where: str, stage: str = "volta", scripts: tuple[str, ...] = (), needed: Callable[[], bool] = lambda: True
) -> Callable[[Mend], Mend]:
    """Lists a repair of what stops a run; applied unless ``--without`` names it."""
    return _listed(where, stage, scripts, needed, fixes_numbers=False)


def corrupts(where: str, stage: str = "volta", scripts: tuple[str, ...] = ()) -> Callable[[Mend], Mend]:
    """Lists a repair of what changes numbers; applied only where ``--fix`` names it."""
    return _listed(where, stage, scripts, lambda: True, fixes_numbers=True)


def choose(without: Sequence[str] = (), fix: Sequence[str] = ()) -> list[Repair]:
    """Returns the repairs to apply: those of what stops a run except ``without``, and those of numbers in ``fix``.

    Raises:
        UserError: there is no such name; the nearest is suggested.
    """
    fixes_numbers = {repair.name: repair.fixes_numbers for repair in REPAIRS}
    for flag, given, wanted in (("--without", without, False), ("--fix", fix, True)):
        for name in given:
            if name not in fixes_numbers:
                near = nearest(name, fixes_numbers)
                hint = f"; did you mean {near}?" if near else ";"
                raise UserError(f"{flag} {name}: no such repair{hint} --list-repairs prints them all")
            if fixes_numbers[name] != wanted:
                when = "only with --fix" if fixes_numbers[name] else "unless --without names it"
                raise UserError(f"{flag} {name}: this one is applied {when}; leave the flag out")
    return [one for one in REPAIRS if (one.name in fix if one.fixes_numbers else one.name not in without)]


def _listed(
    where: str, stage: str, scripts: tuple[str, ...], needed: Callable[[], bool], fixes_numbers: bool
) -> Callable[[Mend], Mend]:
    def add(mend: Mend) -> Mend:
        problem = " ".join((mend.__doc__ or "").split()).rstrip(".")
        name = mend.__name__.replace("_", "-")
        REPAIRS.append(Repair(name, where, problem, stage, scripts, needed, fixes_numbers, mend))
        return mend

    return add
