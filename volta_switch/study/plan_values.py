"""What the values of a study's file may be, before any is used: kinds, unknown keys, and what stands there twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from volta_switch.errors import UserError
from volta_switch.ranges import SEED
from volta_switch.study.command_lines import DATA_KEYS, DATA_ROOT
from volta_switch.world.spec import WorldSpec

LISTS: dict[str, type] = {"models": str, "seeds": int, "set": str}  # of what
SECTIONS = ("world", "data", "pretraining", "tasks", "routes", "ablation")


def refuse_twice(where: str, names: Sequence[Any]) -> None:
    """Raises UserError where a name stands there twice."""
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{where}: {twice[0]} stands there twice; keep one of them")


def refuse_unknown(where: str, values: Mapping[Any, Any], known: tuple[str, ...], has: str) -> None:
    """Raises UserError for a key that is not known; ``has`` begins what is: "a table has"."""
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]}; {has} {', '.join(known)}")


def check_kinds(where: str, values: Mapping[str, Any]) -> None:
    """Raises UserError unless lists are lists and sections sections."""
    for key, kind in LISTS.items():
        found = values.get(key, [])
        if not isinstance(found, list) or not all(type(item) is kind for item in found):
            raise UserError(f"{where}: {key}: expected a list of {kind.__name__}, found {found!r}")
        wrong = [seed for seed in found if not SEED.fits(seed)] if key == "seeds" else []
        if wrong:
            raise UserError(f"{where}: seeds: expected {SEED.expected}, found {wrong[0]}")
        if key == "seeds" and len(set(found)) < len(found):
            raise UserError(f"{where}: seeds: one stands there twice in {found}; a seed is one run")
        if key == "set":
            refuse_twice(f"{where}: set", [override.partition("=")[0].strip() for override in found])
    sections = {key: values[key] for key in SECTIONS if key in values}
    tasks = values.get("tasks")
    for task, flags in dict(tasks).items() if isinstance(tasks, Mapping) else ():
        sections[f"tasks.{task}"] = flags or {}
        if isinstance(flags, Mapping):
            sections |= {f"tasks.{task}.{part}": inner or {} for part, inner in flags.items()}
            wrong = [str(part) for part in flags if part not in ("train", "test")]
            if wrong:
                raise UserError(f"{where}: tasks.{task} has {wrong[0]}; expected train and test, each with flags")
    for key, found in sections.items():
        if not isinstance(found, Mapping):
            raise UserError(f"{where}: {key}: expected a section of settings, found {found!r}")
    refuse_unknown(f"{where}: data", values.get("data", {}), (*DATA_KEYS, DATA_ROOT), "it has")
    fields = WorldSpec.__dataclass_fields__
    unknown = [str(key) for key in values.get("world", ()) if key not in fields]
    if unknown:
        raise UserError(f"{where}: world has no {unknown[0]}; its parameters are {', '.join(fields)}")
