"""Finished cells that travel: ``volta-switch study export`` and ``merge``.

A file of cells is one line, ``volta-switch study cells 1 <SHA-256 of all that follows>``, and JSON in an xz container.
Of each finished cell of a study's tables it has the identity (``Cell.key``), what ``run.json`` and ``metrics.json``
say, a part of the log (every validation, some training steps), of a test its metrics and its results by item, of routes
their report. It has no weights: tables and reports are made of it, and what needs weights runs again (``study.run``).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import record_json
from volta_switch.errors import UserError
from volta_switch.files import remove, replacing, require_file
from volta_switch.results_version import RESULTS_VERSION
from volta_switch.study.cells import PRETRAINING, ROUTES, ROUTES_FILE, Cell, Plan, test_split
from volta_switch.study.finished import MERGED, finished_cells, note_finished, plan_of, scores_in, scores_of
from volta_switch.study.forecast import planned
from volta_switch.study.items import Evaluated, ItemReader, NoItems, items_to_json
from volta_switch.study.plan import Study
from volta_switch.study.run import write_worlds
from volta_switch.tasks import task_class
from volta_switch.train.log_file import lines_of

FORMAT = 1
HEADER = re.compile(rb"volta-switch study cells (\d{1,9}) ([0-9a-f]{64})\n")
RUN_FILES = ("run.json", "metrics.json", "config.json")
LOG = "log.jsonl"
TRAIN_LINES = 50  # of a log's training steps, evenly spaced
SAFE_NAME = re.compile(
    rf"(run|metrics|config)\.json|log\.jsonl|{re.escape(ROUTES_FILE)}|[\w+.-]+_(metrics|items)\.json"
)


@dataclass(frozen=True)
class Travelled:
    """One cell of a file."""

    key: str
    name: str
    training: str
    seconds: float
    files: Mapping[str, Any]  # name -> JSON; of the log its lines
    source: Path
    data: Mapping[str, Any]  # of its file: what the study's own data are (``DataIdentities``)


def export_cells(plan: Plan, to: Path) -> int:
    """Writes the finished cells of a study's plan to one file; returns how many.

    Raises:
        UserError: none is finished, or the file cannot be written.
    """
    done, reader = finished_cells(plan.folder), ItemReader()
    tests: list[dict[str, Any]] = []  # the items of each test, once for all runs
    cells = [
        {
            **{"name": cell.name, "key": cell.key, "training": cell.training, "seconds": done[cell.key].seconds},
            "files": {
                name: _without_items(content, tests) if name.endswith("_items.json") else content
                for name, content in _files(plan, cell, reader).items()
            },
        }
        for cell in plan.cells
        if cell.key in done
    ]
    _refuse_other_files(to)
    if not cells:
        raise UserError(f"{plan.folder}: no cell of study {plan.study.name} is finished there; run it first")
    said = {"study": plan.study.name, "folder": str(plan.folder), "results_version": RESULTS_VERSION}
    said |= {"data": plan.data.known, "tests": tests, "cells": cells}
    packed = lzma.compress(json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode(), preset=9)
    with replacing(to) as temporary:
        temporary.write_bytes(b"volta-switch study cells %d %s\n" % (FORMAT, _digest(packed)) + packed)
    return len(cells)


def _refuse_other_files(to: Path) -> None:
    """Raises UserError where a file stands that no export wrote."""
    if to.exists():
        require_file(to, "file of cells", "give another --to")
        with to.open("rb") as file:
            start = file.read(200)
        if not HEADER.match(start):
            raise UserError(f"{to}: is there already, and no file of cells; give another --to")


def merge_cells(study: Study, folder: Path, sources: Sequence[Path]) -> dict[str, int]:
    """Puts the cells of some files into a study's folder, where they count as finished.

    Nothing is written before everything is checked.

    Returns:
        How many cells were ``merged``, how many were ``there`` already, and how many the study has no ``use`` for.

    Raises:
        UserError: a file is damaged or no file of cells, no cell is of this study, or two runs of one cell have other
            scores.
    """
    travelled = [cell for source in sources for cell in read_cells(source)]
    data = {name: found for cell in travelled for name, found in cell.data.items()}
    with planned(study, folder, data) as plan:
        keys, done = {cell.key for cell in plan.cells}, finished_cells(folder)
    new: dict[str, Travelled] = {}
    counts = {"merged": 0, "there": 0, "use": 0}
    for cell in travelled:
        if cell.key not in keys:
            counts["use"] += 1
            continue
        scores = scores_of(cell.files)
        if cell.key in done:
            _refuse_other_scores(cell, scores, str(done[cell.key].folder), scores_in(done[cell.key].folder))
            counts["there"] += 1
        elif cell.key in new:
            _refuse_other_scores(cell, scores, str(new[cell.key].source), scores_of(new[cell.key].files))
        else:
            new[cell.key] = cell
    if travelled and counts["use"] == len(travelled):
        raise UserError(
            f"{', '.join(map(str, sources))}: no cell is of study {study.name} as it is planned here; its settings, "
            "data or seeds are others"
        )
    write_worlds(study, folder)
    plan = plan_of(study, folder, data)
    places = {cell.key: cell for cell in plan.cells}
    for key, cell in new.items():
        _write(folder, replace(places[key], folder=folder / MERGED / key[:16]), cell)
    plan.data.keep()
    return {**counts, "merged": len(new)}


def read_cells(source: Path) -> list[Travelled]:
    """The cells of a file.

    Raises:
        UserError: the file is missing, damaged, no file of cells, or of another format or results version.
    """
    require_file(source, "file of cells", "expected one that volta-switch study export wrote")
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror}); expected a file of study export") from None
    header = HEADER.match(content)
    if header is None:
        raise UserError(f"{source}: no file of cells; expected one that volta-switch study export wrote")
    if int(header[1]) != FORMAT:
        raise UserError(f"{source}: of format {int(header[1])}, expected {FORMAT}; export it with this version")
    packed = content[header.end() :]
    if _digest(packed) != header[2]:
        raise UserError(f"{source}: damaged (its checksum is not that of its content); copy or export it again")
    try:
        said = json.loads(lzma.decompress(packed))
        if said["results_version"] != RESULTS_VERSION:
            raise UserError(
                f"{source}: of results version {said['results_version']}, expected {RESULTS_VERSION}; its numbers are "
                "not those of this version"
            )
        return [_travelled(cell, said, source) for cell in said["cells"]]
    except (lzma.LZMAError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{source}: not as study export writes it ({type(error).__name__}: {error})") from None


def _without_items(results: Mapping[str, Any], tests: list[dict[str, Any]]) -> dict[str, Any]:
    """Results by item (``items.items_to_json``), the items themselves by their place in ``tests``."""
    short: dict[str, Any] = {}
    for metric, found in results.items():
        short[metric] = found
        if "points" in found:
            items = {name: found[name] for name in ("ids", "groups")}
            if items not in tests:
                tests.append(items)
            short[metric] = {"test": tests.index(items), "points": found["points"]}
    return short


def _with_items(results: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The other way round."""
    return {
        metric: {**tests[found["test"]], "points": found["points"]} if "points" in found else found
        for metric, found in results.items()
    }


def _travelled(said: Mapping[str, Any], of_file: Mapping[str, Any], source: Path) -> Travelled:
    key, files = str(said["key"]), dict(said["files"])
    wrong = [name for name in files if not SAFE_NAME.fullmatch(name)]
    if wrong or not re.fullmatch(r"[0-9a-f]{64}", key):  # both become names of files
        raise ValueError(f"{wrong[0] if wrong else key} is no name of a cell's")
    if "run.json" in files:
        data = dict(files["run.json"]["data"])
        files["run.json"] = {**files["run.json"], "data": data, "exported_from": str(of_file["folder"])}
    files = {
        name: _with_items(content, of_file["tests"]) if name.endswith("_items.json") else content
        for name, content in files.items()
    }
    return Travelled(
        key,
        str(said["name"]),
        str(said["training"]),
        float(said["seconds"]),
        files,
        source,
        dict(of_file.get("data") or {}),
    )


def _digest(packed: bytes) -> bytes:
    return hashlib.sha256(packed).hexdigest().encode()


def _files(plan: Plan, cell: Cell, reader: ItemReader) -> dict[str, Any]:
    """What a finished cell's folder says, but for weights and predictions."""
    if cell.work.startswith(ROUTES):
        return {ROUTES_FILE: _json(cell.folder / ROUTES_FILE)}
    found = {name: _json(cell.folder / name) for name in RUN_FILES if (cell.folder / name).is_file()}
    found[LOG] = _summary(lines_of(cell.folder / LOG)) if (cell.folder / LOG).is_file() else []
    if cell.work == PRETRAINING:
        return found
    task = next(task for task in plan.study.arms[cell.arm].tasks if plan.spec(cell.arm, task).key == cell.work)
    spec = plan.tested_spec(cell.arm, task)
    split = test_split(spec, plan.study.arms[cell.arm].tasks[task])
    metrics = found[f"{split}_metrics.json"] = _json(cell.folder / f"{split}_metrics.json")
    test = Evaluated(spec, split, cell.folder)
    items: dict[str, Any] = {}
    for metric in task_class(spec).headline:
        try:
            items[metric] = items_to_json(reader.items(test, metric, float(metrics[metric])))
        except NoItems as error:
            items[metric] = {"why_not": str(error)}
    found[test.travelled.name] = items
    return found


def _summary(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A log without most of its training steps."""
    steps = [place for place, line in enumerate(lines) if line["kind"] == "train"]
    kept = {steps[place] for place in np.linspace(0, len(steps) - 1, min(TRAIN_LINES, len(steps))).astype(int)}
    return [line for place, line in enumerate(lines) if line["kind"] != "train" or place in kept]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the cell again, or test it again") from None


def _refuse_other_scores(cell: Travelled, found: Mapping[str, Any], where: str, known: Mapping[str, Any]) -> None:
    other = [name for name in {**known, **found} if known.get(name) != found.get(name)]
    if other:
        raise UserError(
            f"{cell.source}: {cell.name}: {other[0]} is {found.get(other[0])}, and {known.get(other[0])} in {where}: "
            "two runs of one cell; nothing was merged; keep one of them"
        )


def _write(folder: Path, cell: Cell, travelled: Travelled) -> None:
    """Writes a cell's folder, which appears whole, and then the note that it is finished."""
    unfinished = cell.folder.with_name(f".{cell.folder.name}.unfinished")
    remove(unfinished)
    for name, content in travelled.files.items():
        if name == LOG:
            unfinished.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(line) + "\n" for line in content)
            (unfinished / name).write_text(lines, encoding="utf-8")
        else:
            content = _moved(content, str(folder)) if name == "run.json" else content
            record_json(unfinished / name, content)
    remove(cell.folder)  # of a merge that was killed before it wrote its note
    unfinished.rename(cell.folder)
    note_finished(folder, cell, travelled.seconds, merged=True)


def _moved(run: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """``run.json`` whose data lie in this study's folder, as those of runs made here, with which they are compared."""
    exported_from = str(run["exported_from"])

    def moved(value: Any) -> Any:
        inside = isinstance(value, str) and value.startswith(f"{exported_from}/")
        return folder + value.removeprefix(exported_from) if inside else value

    return {**run, "data": {name: moved(value) for name, value in run["data"].items()}}
