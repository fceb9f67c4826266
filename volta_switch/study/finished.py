"""What of a study is begun or finished: a file for each cell, under whatever name, that says where its run lies."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volta_switch.checksums import read_recorded, record_json
from volta_switch.errors import UserError
from volta_switch.study.cells import Cell, Known, Plan, world_folder
from volta_switch.study.plan import Study

FINISHED, BEGUN = ".json", ".begun"


@dataclass(frozen=True)
class Done:
    """A finished cell: its run's folder, and how long it took."""

    folder: Path
    seconds: float


def finished_cells(folder: Path) -> dict[str, Done]:
    """The finished cells of a study's folder by their keys, under whatever names."""
    return {key: Done(place, float(said["seconds"])) for _, key, place, said in _notes(folder, FINISHED)}


def begun_cells(folder: Path) -> dict[str, Path]:
    """The folders of cells that were begun and are not finished, by their keys."""
    return {key: place for _, key, place, _ in _notes(folder, BEGUN)}


def _notes(folder: Path, kind: str) -> Iterator[tuple[Path, str, Path, dict[str, Any]]]:
    """The note's file, key, folder and all else that was noted, of cells whose folders are there."""
    for path in sorted((folder / "cells").glob(f"*{kind}")):
        try:
            said = json.loads(read_recorded(path))
            key, place, seconds = str(said["key"]), folder / said["folder"], float(said["seconds"])
        except (ValueError, TypeError, KeyError):  # of another version, or not ours
            continue
        if place.is_dir():
            yield path, key, place, {**said, "seconds": seconds}


def note_begun(folder: Path, cell: Cell) -> None:
    """Writes down whose folder a cell's folder is from now on; what another cell left there no longer counts."""
    for path, key, place, _ in _notes(folder, FINISHED):
        if key != cell.key and place.resolve() == cell.folder.resolve():  # the same training, tested otherwise
            path.unlink(missing_ok=True)
    _note(folder, cell, BEGUN, 0.0)


def note_finished(folder: Path, cell: Cell, seconds: float) -> None:
    """Writes a cell down as finished."""
    _note(folder, cell, FINISHED, seconds)
    _path(folder, cell, BEGUN).unlink(missing_ok=True)


def _note(folder: Path, cell: Cell, kind: str, seconds: float) -> None:
    place = os.path.relpath(cell.folder, folder)
    said = {"cell": cell.name, "key": cell.key, "training": cell.training, "folder": place, "seconds": seconds}
    record_json(_path(folder, cell, kind), said)


def log_of(folder: Path, cell: Cell) -> Path:
    """What the cell's commands print."""
    return _path(folder, cell, ".log")


def _path(folder: Path, cell: Cell, kind: str) -> Path:
    return folder / "cells" / f"{cell.name.replace('/', '.').replace(' ', '.')}{kind}"


def plan_of(study: Study, folder: Path) -> Plan:
    """The plan over a folder, where cells that were begun or finished stay wherever they lie.

    Raises:
        UserError: the study has not been begun there.
    """
    worlds = [world_folder(study, arm, folder) for arm in study.arms.values() if arm.world is not None]
    for needed in (folder, *worlds):
        if not needed.is_dir():
            raise UserError(f"{needed}: missing; run the study there first (volta-switch study run, --out)")
    return Plan(study, folder, known_cells(folder))


def known_cells(folder: Path) -> Known:
    """All cells that were begun or finished in a study's folder."""
    notes = [*_notes(folder, BEGUN), *_notes(folder, FINISHED)]
    trained = {place: said["training"] for _, _, place, said in notes if "training" in said}  # older notes lack it
    return Known({key: place for _, key, place, _ in notes}, trained)
