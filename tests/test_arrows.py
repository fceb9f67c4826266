"""The folders of the package import one another along allowed arrows only; ``pytest -s`` prints those that are there.

All imports count: at the top of a module, inside functions, and names of modules in strings (which are imported when
they are asked for). Imports under ``TYPE_CHECKING`` are listed apart; they cost nothing and bind nothing.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1] / "volta_switch"
# The command line: these modules, and each folder's ``commands`` and ``__main__``. Others beside folders are "base".
COMMAND_LINE = ("cli", "quick", "__main__")
MODELS = ("base", "config", "weights", "data", "cards", "model")
TRAINING = (*MODELS, "package", "tasks", "world", "cost", "cards", "train")
ANALYSES = (*TRAINING, "routes", "ablation", "study")
# Folder -> what it may import, itself apart. "package" is what ``from volta_switch import ...`` offers.
ALLOWED = {
    "base": (),
    "config": ("base",),
    "package": ("base", "config", "model"),
    "weights": ("base", "config"),
    "data": ("base", "config"),
    "cards": ("base", "config"),
    "model": ("base", "config", "weights", "data", "cards"),
    "tasks": ("base", "config", "model", "data"),
    "detector": ("base", "config", "data", "weights"),
    "world": ("base", "config", "data", "tasks", "detector"),
    "cost": ("base", "config", "model", "data"),
    "train": (*MODELS, "package", "tasks", "world", "cost", "cards"),
    "data_tools": ("base", "config", "data", "tasks", "detector"),
    "weight_tools": (*MODELS, "tasks", "cards"),
    "ablation": TRAINING,
    "routes": TRAINING,
    "predict": (*TRAINING, "detector"),
    "explain": (*TRAINING, "routes", "predict", "detector"),
    "play": (*TRAINING, "routes", "predict", "explain", "detector"),
    "study": ANALYSES,
    "study/report": ANALYSES,
    "controls": (*TRAINING, "study/report"),
    "plugin": (*MODELS, "package"),
    "command line": (
        *ANALYSES,
        "data_tools",
        "weight_tools",
        "study/report",
        "controls",
        "plugin",
        "predict",
        "explain",
        "play",
        "detector",
    ),
}


class Import(NamedTuple):
    """One import of one module."""

    module: str
    line: int
    for_types: bool
    deferred: bool  # inside a function, or by a string


def modules() -> dict[str, Path]:
    """Returns the package's modules: dotted name -> file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def folder_of(module: str) -> str:
    """Returns the folder that a module of the package counts to."""
    parts = module.split(".")[1:]
    if not parts:
        return "package"
    if parts[-1] in ("commands", "__main__"):
        return "command line"
    if parts[:2] == ["study", "report"]:
        return "study/report"
    if (PACKAGE / parts[0]).is_dir():
        return parts[0]
    return "command line" if parts[0] in COMMAND_LINE else "base"


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Yields what a module imports of this package."""
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}

    def visit(node: ast.AST, for_types: bool, deferred: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _known(alias.name, node.lineno, for_types, deferred)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                yield from _known(module if module in MODULES else str(node.module), node.lineno, for_types, deferred)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if node.value in MODULES and "." in node.value:
                yield Import(node.value, node.lineno, for_types, True)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, True, deferred)
            for child in node.orelse:
                yield from visit(child, for_types, deferred)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from visit(child, for_types, deferred or inside)

    return visit(tree, False, False)


def _known(module: str, line: int, for_types: bool, deferred: bool) -> Iterator[Import]:
    if re.match(r"volta_switch\b", module):
        yield Import(module, line, for_types, deferred)


ALL = {name: list(imports_of(ast.parse(path.read_text(encoding="utf-8")))) for name, path in MODULES.items()}


def arrows(for_types: bool) -> dict[tuple[str, str], list[str]]:
    """Returns the arrows between folders: (from, to) -> files and lines."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, imports in ALL.items():
        for one in imports:
            ends = folder_of(name), folder_of(one.module)
            if one.for_types == for_types and ends[0] != ends[1]:
                found[ends].append(f"{MODULES[name].relative_to(PACKAGE)}:{one.line}")
    return found


def print_table(found: dict[tuple[str, str], list[str]], title: str) -> None:
    """Prints each folder with the folders that it imports, and how often."""
    print(f"\n{title}")
    for folder in ALLOWED:
        targets = [f"{end} {len(places)}" for (start, end), places in sorted(found.items()) if start == folder]
        print(f"  {folder:<14}{', '.join(targets) or '-'}")


def test_every_folder_is_in_the_table():
    folders = {folder_of(name) for name in MODULES}
    assert folders <= set(ALLOWED), f"say in ALLOWED what {folders - set(ALLOWED)} may import"
    assert all(set(allowed) <= set(ALLOWED) for allowed in ALLOWED.values())


def test_the_table_allows_no_circle():
    done: list[str] = []
    while len(done) < len(ALLOWED):
        free = [name for name in ALLOWED if name not in done and set(ALLOWED[name]) - {name} <= set(done)]
        assert free, f"{sorted(set(ALLOWED) - set(done))} may import one another in a circle"
        done += free


def test_folders_import_one_another_along_allowed_arrows_only():
    found = arrows(for_types=False)
    print_table(found, "imports between folders")
    print_table(arrows(for_types=True), "for types alone")
    wrong = {ends: places for ends, places in found.items() if ends[1] not in ALLOWED[ends[0]]}
    new = [f"{start} -> {end}: {', '.join(wrong[start, end])}" for start, end in sorted(wrong)]
    assert not new, "\n".join(["arrows that are not allowed:", *new])


def test_modules_import_one_another_in_no_circle():
    """At the top of modules; a package's ``__init__`` is imported before its modules and does not count for them."""
    edges = {
        name: {one.module for one in imports if not (one.for_types or one.deferred)} - {name}
        for name, imports in ALL.items()
    }
    done: set[str] = set()
    while len(done) < len(edges):
        free = {name for name in edges.keys() - done if edges[name] <= done}
        assert free, f"a circle among {sorted(edges.keys() - done)}"
        done |= free
