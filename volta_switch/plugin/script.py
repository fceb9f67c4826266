"""Running a script of the checkout, with repairs and with or without the plug-in."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from volta_switch import __version__
from volta_switch.errors import UserError
from volta_switch.plugin import registration
from volta_switch.plugin.checkout import import_volta
from volta_switch.plugin.command_line import find_files
from volta_switch.plugin.patches import Patches
from volta_switch.plugin.requirements import imports_explained

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
    applied: dict[str, Any] = field(default_factory=dict)  # the repairs that found something to mend, by name

    def volta(self, name: str) -> ModuleType:
        """A module of VOLTA's package."""
        return import_volta(name)

    def wrap(self, owner: Any, name: str) -> Any:
        """``Patches.wrap``."""
        return self.patches.wrap(owner, name)

    def run(self, repairs: Sequence[Any], argv: Sequence[str], plugin: bool = True) -> None:
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

    def prepare(self, repairs: Sequence[Any], argv: Sequence[str], plugin: bool = True) -> None:
        """Everything but running it; the command line is set, the script is loaded and repaired."""
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
                registration.register(self.home)
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
        """Says what was changed, on the console and in the run's own log."""
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
