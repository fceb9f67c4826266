"""What a checkout's live modules import, read from their text: the scripts, and what they import of VOLTA's own.

Imports inside functions count too. Nothing is run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

OWN = ("volta", "tools")  # VOLTA's packages; its scripts stand beside them
BY_NAME = ("import_module", "__import__", "exec", "run_path", "run_module")  # what would import unseen


@dataclass(frozen=True)
class Import:
    """One module that a line imports, and what is taken of it."""

    module: str
    place: str  # file:line in the checkout
    taken: frozenset[str] = frozenset()  # names after `from module import`, or attributes of it that the file asks for
    guarded: bool = False  # inside a try that goes on without it

    @property
    def top(self) -> str:
        """The package's own module: of ``matplotlib.pyplot``, ``matplotlib``."""
        return self.module.partition(".")[0]

    @property
    def own(self) -> bool:
        """Whether it is VOLTA's."""
        return self.top in OWN


@dataclass
class LiveModules:
    """All files of a checkout that its scripts run, and what they import."""

    home: Path
    files: set[Path] = field(default_factory=set)
    imports: list[Import] = field(default_factory=list)  # of other projects and of Python
    absent: list[Import] = field(default_factory=list)  # of VOLTA's own, but in no file
    by_name: list[str] = field(default_factory=list)  # places where a module may be imported unseen

    def add(self, file: Path) -> None:
        """Reads a file, and all that it imports of VOLTA's own."""
        if file in self.files:
            return
        self.files.add(file)
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        place = str(file.relative_to(self.home))
        self.by_name += [f"{place}:{line}" for line in _calls(tree, BY_NAME)]
        for found in _imports(tree, place, file.relative_to(self.home).with_suffix("").parts[:-1]):
            if not found.own:
                self.imports.append(found)
                continue
            files = self._files_of(found)
            if files is None:
                self.absent.append(found)
            for each in files or ():
                self.add(each)

    def _files_of(self, found: Import) -> list[Path] | None:
        """The files that an import of VOLTA's own runs; none of a mere folder, None where there is nothing at all."""
        at, files = self.home, []
        parts = found.module.split(".")
        for number, part in enumerate(parts):
            at = at / part
            if at.is_dir():
                files += [at / "__init__.py"] if (at / "__init__.py").is_file() else []
            elif number == len(parts) - 1 and at.with_suffix(".py").is_file():
                return [*files, at.with_suffix(".py")]
            else:
                return None
        return [*files, *(file for name in found.taken if (file := at / f"{name}.py").is_file())]


def live_modules(home: Path) -> LiveModules:
    """What every script of a checkout runs."""
    live = LiveModules(home)
    for script in sorted(home.glob("*.py")):
        if script.name != "setup.py":  # which installs; it is none of those that volta-switch volta runs
            live.add(script)
    return live


def _imports(tree: ast.Module, place: str, package: tuple[str, ...]) -> Iterator[Import]:
    guarded = {
        inner for node in ast.walk(tree) if _goes_on_without(node) for part in node.body for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (start, node.module) if part)
            names = frozenset(alias.name for alias in node.names)
            yield Import(module, f"{place}:{node.lineno}", names, node in guarded)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                taken = _attributes(tree, alias.asname or alias.name)
                yield Import(alias.name, f"{place}:{node.lineno}", taken, node in guarded)


def _goes_on_without(node: ast.AST) -> bool:
    """Whether it is a try statement that an import may fail in."""
    caught = {"ImportError", "ModuleNotFoundError", "Exception"}
    return isinstance(node, ast.Try) and any(
        handler.type is None or caught & {name.id for name in ast.walk(handler.type) if isinstance(name, ast.Name)}
        for handler in node.handlers
        if not any(isinstance(inner, ast.Raise) for inner in ast.walk(handler))
    )


def _attributes(tree: ast.Module, name: str) -> frozenset[str]:
    """The attributes of a name, such as ``plt``, that a file asks for."""
    asked = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return frozenset(node.attr for node in asked if ast.unparse(node.value) == name)


def _calls(tree: ast.Module, names: tuple[str, ...]) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in names:
            yield node.lineno
