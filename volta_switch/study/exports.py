"""Finished runs that go to another machine: ``volta-switch study export`` and ``merge``.

The file begins with a line, ``volta-switch study cells 1 <SHA-256 of all that follows>``; JSON in an xz container
follows. Of each finished run of a study's tables it has:

- the identity (``PlannedRun.key``), and what ``run.json`` and ``metrics.json`` say;
- a part of the log: every validation, some training steps;
- of a test its metrics and its results by item, of routes their report.

It has no weights: tables and reports are made of it, and what needs weights is run again (``study.run``).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import is_there, record_json
from volta_switch.errors import UserError
from volta_switch.files import remove, replacing, require_file
from volta_switch.identities import RESULTS_VERSION
from volta_switch.study.items import Evaluated, ItemReader, NoItems, items_to_json
from volta_switch.study.json_records import Record, in_json
from volta_switch.study.plan import Study
from volta_switch.study.planned_runs import (
    MERGED,
    PRETRAINING,
    REPORTS,
    KnownData,
    PlannedRun,
    RunFiles,
    finished_runs,
    note_finished,
    scores_in,
    scores_of,
)
from volta_switch.study.run_plan import RunPlan, plan_ahead, plan_of
from volta_switch.study.study_data import test_split, write_worlds
from volta_switch.tasks import task_class
from volta_switch.train.log_file import lines_of

LogLine = Mapping[str, Any]
FORMAT = 1
HEADER = re.compile(rb"volta-switch study cells (\d{1,9}) ([0-9a-f]{64})\n")
RUN_FILES = ("run.json", "metrics.json", "config.json")
LOG = "log.jsonl"
TRAIN_LINES = 50  # of a log's training steps, evenly spaced
_REPORTS = "|".join(map(re.escape, REPORTS.values()))
SAFE_NAME = re.compile(rf"(run|metrics|config)\.json|log\.jsonl|{_REPORTS}|[\w+.-]+_(metrics|items)\.json")


@dataclass(frozen=True)
class ItemNames(Record):
    """The items of a test, once in a file for all runs."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class ExportedRun(Record):
    """One run of a file."""

    name: str
    key: str
    training: str
    seconds: float
    files: RunFiles


@dataclass(frozen=True)
class ExportFile(Record):
    """What a file holds."""

    study: str
    folder: str
    results_version: int
    data: KnownData | None
    """What the study's own data are."""
    tests: tuple[ItemNames, ...]
    runs: tuple[ExportedRun, ...] = field(metadata=in_json("cells"))


@dataclass(frozen=True)
class ImportedRun:
    """A run that was read from a file, its results by item complete."""

    run: ExportedRun
    source: Path
    data: KnownData
    """Of its file."""


@dataclass(frozen=True)
class MergeCounts:
    """What became of the runs of some files."""

    merged: int
    present: int
    """Were there already."""
    unused: int
    """The study has no use for them."""


def export_runs(plan: RunPlan, to: Path) -> int:
    """Writes the finished runs of a study's plan to one file; returns how many.

    Raises:
        UserError: none is finished, or the file cannot be written.
    """
    done, reader, tests = finished_runs(plan.folder), ItemReader(), ItemTable()
    runs = tuple(
        ExportedRun(
            name=run.name,
            key=run.key,
            training=run.training,
            seconds=done[run.key].seconds,
            files={
                name: tests.shortened(content) if name.endswith("_items.json") else content
                for name, content in _files(plan, run, reader).items()
            },
        )
        for run in plan.runs
        if run.key in done
    )
    _refuse_other_files(to)
    if not runs:
        raise UserError(f"{plan.folder}: no cell of study {plan.study.name} is finished there; run it first")
    said = ExportFile(plan.study.name, str(plan.folder), RESULTS_VERSION, plan.data.known, tuple(tests.items), runs)
    packed = lzma.compress(json.dumps(said.to_dict(), ensure_ascii=False, separators=(",", ":")).encode(), preset=9)
    with replacing(to) as temporary:
        temporary.write_bytes(b"volta-switch study cells %d %s\n" % (FORMAT, _digest(packed)) + packed)
    return len(runs)


def _refuse_other_files(to: Path) -> None:
    """Raises UserError where a file stands that no export wrote."""
    if to.exists():
        require_file(to, "file of cells", "give another --to")
        with to.open("rb") as file:
            start = file.read(200)
        if not HEADER.match(start):
            raise UserError(f"{to}: is there already, and no file of cells; give another --to")


def merge_runs(study: Study, folder: Path, sources: Sequence[Path]) -> MergeCounts:
    """Puts the runs of some files into a study's folder, where they count as finished.

    Nothing is written before everything is checked.

    Raises:
        UserError: a file is damaged or no file of runs, no run is of this study, or two of one identity have other
            scores.
    """
    imported = [run for source in sources for run in read_exported(source)]
    data = {name: found for each in imported for name, found in each.data.items()}
    with plan_ahead(study, folder, data) as plan:
        keys, done = {run.key for run in plan.runs}, finished_runs(folder)
    new: dict[str, ImportedRun] = {}
    present = unused = 0
    for each in imported:
        key = each.run.key
        if key not in keys:
            unused += 1
        elif key in done:
            _refuse_other_scores(each, str(done[key].folder), scores_in(done[key].folder))
            present += 1
        elif key in new:
            _refuse_other_scores(each, str(new[key].source), scores_of(new[key].run.files))
        else:
            new[key] = each
    if imported and unused == len(imported):
        raise UserError(
            f"{', '.join(map(str, sources))}: no cell is of study {study.name} as it is planned here; its settings, "
            "data or seeds are others"
        )
    write_worlds(study, folder)
    plan = plan_of(study, folder, data)
    places = {run.key: run for run in plan.runs}
    for key, each in new.items():
        _write(folder, replace(places[key], folder=folder / MERGED / key[:16]), each.run)
    plan.data.keep()
    return MergeCounts(len(new), present, unused)


def read_exported(source: Path) -> list[ImportedRun]:
    """Reads the runs of a file.

    Raises:
        UserError: the file is missing, damaged, no file of runs, or of another format or results version.
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
        file = ExportFile.from_dict({"data": None, **said})
        return [ImportedRun(_completed(run, file), source, file.data or {}) for run in file.runs]
    except (lzma.LZMAError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{source}: not as study export writes it ({type(error).__name__}: {error})") from None


class ItemTable:
    """The items of tests, each once, and results by item that name a test by its place among them."""

    def __init__(self, items: Sequence[ItemNames] = ()) -> None:
        self.items = list(items)

    def shortened(self, results: RunFiles) -> RunFiles:
        """Returns results by item (``items_to_json``), the items themselves by their place."""
        short: dict[str, object] = {}
        for metric, found in results.items():
            short[metric] = found
            if "points" in found:
                items = ItemNames.from_dict(found)
                if items not in self.items:
                    self.items.append(items)
                short[metric] = {"test": self.items.index(items), "points": found["points"]}
        return short

    def completed(self, results: RunFiles) -> RunFiles:
        """Returns shortened results with the items themselves."""
        return {
            metric: {**self.items[found["test"]].to_dict(), "points": found["points"]} if "points" in found else found
            for metric, found in results.items()
        }


def _completed(run: ExportedRun, of_file: ExportFile) -> ExportedRun:
    """Returns a run of a file with its results by item complete, and with where it was exported from."""
    key, files = str(run.key), dict(run.files)
    wrong = [name for name in files if not SAFE_NAME.fullmatch(name)]
    if wrong or not re.fullmatch(r"[0-9a-f]{64}", key):  # both become names of files
        raise ValueError(f"{wrong[0] if wrong else key} is no name of a cell's")
    if "run.json" in files:
        data = dict(files["run.json"]["data"])
        files["run.json"] = {**files["run.json"], "data": data, "exported_from": str(of_file.folder)}
    tests = ItemTable(of_file.tests)
    files = {
        name: tests.completed(content) if name.endswith("_items.json") else content for name, content in files.items()
    }
    return ExportedRun(str(run.name), key, str(run.training), float(run.seconds), files)


def _digest(packed: bytes) -> bytes:
    return hashlib.sha256(packed).hexdigest().encode()


def _files(plan: RunPlan, run: PlannedRun, reader: ItemReader) -> RunFiles:
    """Returns what a finished run's folder says, but for weights and predictions."""
    if name := REPORTS.get(run.work.kind):
        return {name: _json(run.folder / name)}
    found = {name: _json(run.folder / name) for name in RUN_FILES if is_there(run.folder / name)}
    found[LOG] = _summary(lines_of(run.folder / LOG)) if is_there(run.folder / LOG) else []
    if run.work == PRETRAINING:
        return found
    task = plan.task_of(run)
    spec = plan.tested_spec(run.arm, task)
    split = test_split(spec, plan.study.arms[run.arm].tasks[task])
    metrics = found[f"{split}_metrics.json"] = _json(run.folder / f"{split}_metrics.json")
    test = Evaluated(spec, split, run.folder)
    items: dict[str, object] = {}
    for metric in task_class(spec).headline:
        try:
            items[metric] = items_to_json(reader.items(test, metric, float(metrics[metric])))
        except NoItems as error:
            items[metric] = {"why_not": str(error)}
    found[test.travelled.name] = items
    return found


def _summary(lines: Sequence[LogLine]) -> list[LogLine]:
    """Returns a log without most of its training steps."""
    steps = [place for place, line in enumerate(lines) if line["kind"] == "train"]
    kept = {steps[place] for place in np.linspace(0, len(steps) - 1, min(TRAIN_LINES, len(steps))).astype(int)}
    return [line for place, line in enumerate(lines) if line["kind"] != "train" or place in kept]


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run the cell again, or test it again") from None


def _refuse_other_scores(each: ImportedRun, where: str, known: Mapping[str, float]) -> None:
    """Raises UserError where a run has other scores than one of the same identity; ``where``: that one."""
    found = scores_of(each.run.files)
    other = [name for name in {**known, **found} if known.get(name) != found.get(name)]
    if other:
        raise UserError(
            f"{each.source}: {each.run.name}: {other[0]} is {found.get(other[0])}, and {known.get(other[0])} in "
            f"{where}: two runs of one cell; nothing was merged; keep one of them"
        )


def _write(folder: Path, run: PlannedRun, exported: ExportedRun) -> None:
    """Writes a run's folder, which appears whole, and then the note that it is finished."""
    unfinished = run.folder.with_name(f".{run.folder.name}.unfinished")
    remove(unfinished)
    for name, content in exported.files.items():
        if name == LOG:
            unfinished.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(line) + "\n" for line in content)
            (unfinished / name).write_text(lines, encoding="utf-8")
        else:
            record_json(unfinished / name, _moved(content, str(folder)) if name == "run.json" else content)
    remove(run.folder)  # of a merge that was killed before it wrote its note
    unfinished.rename(run.folder)
    note_finished(folder, run, exported.seconds, merged=True)


def _moved(run: RunFiles, folder: str) -> RunFiles:
    """Returns ``run.json`` with its data in this study's folder, as those of runs made here, to be compared."""
    exported_from = str(run["exported_from"])

    def moved(value: object) -> object:
        if isinstance(value, str) and value.startswith(f"{exported_from}/"):
            return folder + value.removeprefix(exported_from)
        return value

    return {**run, "data": {name: moved(value) for name, value in run["data"].items()}}
