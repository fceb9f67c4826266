"""What of a study is finished: a file for each cell, under whatever name, that says where its outcome lies."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from volta_switch.errors import UserError
from volta_switch.files import write_json
from volta_switch.study.cells import Cell, Plan, world_folder
from volta_switch.study.plan import Study


@dataclass(frozen=True)
class Done:
    """A finished cell: its run's folder, and how long it took."""

    folder: Path
    seconds: float


def finished_cells(folder: Path) -> dict[str, Done]:
    """The finished cells of a study's folder by their keys, under whatever names."""
    found = {}
    for path in sorted((folder / "cells").glob("*.json")):
        try:
            done = json.loads(path.read_text(encoding="utf-8"))
            found[str(done["key"])] = Done(folder / done["folder"], float(done["seconds"]))
        except (ValueError, TypeError, KeyError):  # of another version, or not ours
            continue
    return {key: done for key, done in found.items() if done.folder.is_dir()}


def note_finished(folder: Path, cell: Cell, seconds: float) -> None:
    """Writes a cell down as finished."""
    done = {"cell": cell.name, "key": cell.key, "folder": os.path.relpath(cell.folder, folder), "seconds": seconds}
    write_json(log_of(folder, cell).with_suffix(".json"), done)


def log_of(folder: Path, cell: Cell) -> Path:
    """What the cell's commands print."""
    return folder / "cells" / f"{cell.name.replace('/', '.').replace(' ', '.')}.log"


def plan_of(study: Study, folder: Path) -> Plan:
    """The plan over a folder, where finished cells stay wherever they lie.

    Raises:
        UserError: the study has not been begun there.
    """
    worlds = [world_folder(study, arm, folder) for arm in study.arms.values() if arm.world is not None]
    for needed in (folder, *worlds):
        if not needed.is_dir():
            raise UserError(f"{needed}: missing; run the study there first (volta-switch study run, --out)")
    return Plan(study, folder, {key: done.folder for key, done in finished_cells(folder).items()})
