"""A study's runs: what one is, and what a study's folder notes of those that are begun or finished.

Files and flags call a run a cell. Each has a note in ``cells/``, under whatever name, that says where it lies.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there, read_recorded, record_json
from volta_switch.data.files.json_files import read_object
from volta_switch.study.arms import flat
from volta_switch.study.json_records import Record, in_json
from volta_switch.study.records import Settings
from volta_switch.study.run_commands import typed
from volta_switch.tasks.task import Share

ROUTES_FILE, ABLATION_REPORT = "routes.json", "ablation.json"
FINISHED, BEGUN = ".json", ".begun"
MERGED = "merged"  # the folder of runs that were made elsewhere (``exports``)
KnownData = Mapping[str, Mapping[str, str]]  # a hash of what a plan says of data -> file -> fingerprint
RunFiles = Mapping[str, Any]  # name of a run's file -> its JSON; of a log its lines


class RunKind(Enum):
    """What a run does."""

    PRETRAINING = "pre-training"
    FINE_TUNING = "fine-tuning"
    """A task's training, and the test of its best weights."""
    ROUTES = "routes"
    """The report of the routes that a fine-tuned model takes."""
    ABLATION = "ablation"
    """The cross-modal ablation of a pre-trained model."""


@dataclass(frozen=True)
class Work:
    """A kind of run, and the task that it is about."""

    kind: RunKind
    task: str = ""
    """As the study's file calls it, or the task file's key; empty for pre-training."""

    @classmethod
    def fine_tuning(cls, task: str) -> Work:
        """Returns the fine-tuning and the test on a task."""
        return cls(RunKind.FINE_TUNING, task)

    @classmethod
    def routes(cls, task: str) -> Work:
        """Returns the report of routes on a task."""
        return cls(RunKind.ROUTES, task)


PRETRAINING, ABLATION = Work(RunKind.PRETRAINING), Work(RunKind.ABLATION)
REPORTS = {RunKind.ROUTES: ROUTES_FILE, RunKind.ABLATION: ABLATION_REPORT}  # of kinds that train nothing


@dataclass(frozen=True)
class PlannedRun:
    """A pre-training run, a fine-tuning run with its test, or the routes of one."""

    name: str
    """``switchbert/seed0/refcoco+``."""
    arm: str
    """The first one that it belongs to."""
    seed: int
    work: Work
    """With the task file's key."""
    commands: tuple[tuple[str, tuple[str, ...]], ...]
    """(entry point, its arguments), in order."""
    folder: Path
    key: str
    """A hash of all that decides its outcome: equal for equal work, whatever the arms and folders are called."""
    training: str
    """A hash of what decides the training alone, without its test."""
    needs: str = ""
    """The run that must be finished before."""

    @property
    def typed(self) -> list[str]:
        """Its commands as they are typed in a shell, in any folder."""
        return [typed(command, own) for command, own in self.commands]


@dataclass(frozen=True)
class StudyState:
    """What was begun or finished in a study's folder."""

    folders: Mapping[str, Path] = field(default_factory=dict)
    """A run's key -> where it lies."""
    trained: Mapping[Path, str] = field(default_factory=dict)
    """Such a folder -> ``PlannedRun.training`` of what it holds."""
    data: KnownData = field(default_factory=dict)
    """What came with merged runs of the data."""


def works_of(tasks: Sequence[str]) -> Iterator[Work]:
    """Yields pre-training, and the fine-tuning on each task."""
    yield PRETRAINING
    yield from map(Work.fine_tuning, tasks)


def runs_of_share(runs: Sequence[PlannedRun], share: Share) -> list[PlannedRun]:
    """Returns one of several shares of a plan's runs, for job arrays, in the plan's order.

    A pre-training run, the fine-tuning runs that start from it and their routes are one share's, so that no share waits
    for another one. Such chains go to the shares in turn, forwards and backwards, so that not one share has all of the
    slowest arm. That depends on the plan alone, not on what is finished.
    """
    needs = {run.name: run.needs for run in runs}

    def root(name: str) -> str:
        while needs[name]:
            name = needs[name]
        return name

    roots = list(dict.fromkeys(root(run.name) for run in runs))
    turns = [*range(share.count), *reversed(range(share.count))]
    own = {root for place, root in enumerate(roots) if turns[place % len(turns)] == share.number}
    return [run for run in runs if root(run.name) in own]


# --- What runs wrote --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRecord(Record):
    """What a run's ``run.json`` says of it, as far as studies ask; None: it does not say it."""

    entry_point: str | None = None
    hyperparameters: Settings | None = None
    settings: Settings | None = None
    data: Settings | None = None
    precision: str | None = None
    command: tuple[str, ...] = ()
    environment: Settings | None = None
    steps: int | None = None
    """Of the whole training."""
    start: str | None = None
    """Where its weights come from, in words."""
    origin: Settings | None = None
    """The same without places, with their ``sha256`` (``cards.origin``); older runs do not say it."""
    results_version: int | None = None
    parameters: int | None = None
    """Numbers that are trained, those of its head among them."""

    def sections(self, names: Iterable[str]) -> dict[str, object]:
        """Returns those of some fields that it says."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def find_record(run: PlannedRun) -> RunRecord | None:
    """Reads a run's ``run.json``; None where it has not begun."""
    path = run.folder / "run.json"
    return RunRecord.from_dict(read_object(path)) if is_there(path) else None


@dataclass(frozen=True)
class FinishedRun:
    """Where a finished run lies, and how long it took."""

    folder: Path
    seconds: float
    has_weights: bool = True
    """False for a run that was made elsewhere and merged."""


@dataclass(frozen=True)
class RunNote(Record):
    """A file in ``cells/`` of a study's folder: a run that is begun or finished."""

    cell: str
    """The run's name."""
    key: str
    training: str | None = field(default=None, metadata=in_json(optional=True))
    """Older notes lack it."""
    folder: str = ""
    """Relative to the study's."""
    seconds: float = 0.0
    merged: bool = field(default=False, metadata=in_json(optional=True))
    """Whether the run was made elsewhere; its weights are not here."""


def finished_runs(folder: Path) -> dict[str, FinishedRun]:
    """Returns the finished runs of a study's folder by their keys, under whatever names."""
    found: dict[str, FinishedRun] = {}
    for _, place, note in _notes(folder, FINISHED):
        run = FinishedRun(place, note.seconds, not note.merged)
        if run.has_weights or note.key not in found:
            found[note.key] = run
    return found


def begun_runs(folder: Path) -> dict[str, Path]:
    """Returns the folders of runs that were begun and are not finished, by their keys."""
    return {note.key: place for _, place, note in _notes(folder, BEGUN)}


def study_state(folder: Path, without: Container[str] = ()) -> StudyState:
    """Returns all runs that were begun or finished in a study's folder.

    Args:
        folder: the study's.
        without: keys of merged runs that are to be run here.
    """
    finished = [
        (place, note) for _, place, note in _notes(folder, FINISHED) if not (note.merged and note.key in without)
    ]
    notes = [*((place, note) for _, place, note in _notes(folder, BEGUN)), *finished]
    trained = {place: note.training for place, note in notes if note.training is not None}
    return StudyState({note.key: place for place, note in notes}, trained)


def _notes(folder: Path, kind: str) -> Iterator[tuple[Path, Path, RunNote]]:
    """Yields each note's file, the run's folder, and what was noted, of runs whose folders are there."""
    for path in sorted((folder / "cells").glob(f"*{kind}")):
        try:
            said = json.loads(read_recorded(path))
            known = {"key": str(said["key"]), "folder": str(said["folder"]), "seconds": float(said["seconds"])}
            note = RunNote.from_dict({"cell": "", **said, **known})
        except (ValueError, TypeError, KeyError):  # of another version, or not ours
            continue
        place = folder / note.folder
        if place.is_dir():
            yield path, place, note


def note_begun(folder: Path, run: PlannedRun) -> None:
    """Writes down whose folder a run's folder is from now on; what another run left there no longer counts."""
    for path, place, note in _notes(folder, FINISHED):
        if note.key != run.key and place.resolve() == run.folder.resolve():  # the same training, tested otherwise
            path.unlink(missing_ok=True)
    _write_note(folder, run, BEGUN, 0.0)


def note_finished(folder: Path, run: PlannedRun, seconds: float, merged: bool = False) -> None:
    """Writes a run down as finished; ``merged``: elsewhere, its weights are not here."""
    _write_note(folder, run, FINISHED, seconds, merged)
    _note_path(folder, run, BEGUN).unlink(missing_ok=True)


def _write_note(folder: Path, run: PlannedRun, kind: str, seconds: float, merged: bool = False) -> None:
    place = os.path.relpath(run.folder, folder)
    note = RunNote(run.name, run.key, run.training, place, seconds, merged)
    record_json(_note_path(folder, run, kind), note.to_dict())


def log_path(folder: Path, run: PlannedRun) -> Path:
    """Returns the file of what the run's commands print."""
    return _note_path(folder, run, ".log")


def _note_path(folder: Path, run: PlannedRun, kind: str) -> Path:
    return folder / "cells" / f"{run.name.replace('/', '.').replace(' ', '.')}{kind}"


def scores_in(folder: Path) -> dict[str, float]:
    """Returns ``scores_of`` what a run's folder holds."""
    names = [path.name for path in sorted(folder.glob("*.json"))]
    return scores_of({name: json.loads((folder / name).read_text(encoding="utf-8")) for name in names})


def scores_of(files: RunFiles) -> dict[str, float]:
    """Returns every number that a run's files give as an outcome, by file and name; it is the same anywhere.

    What validation says of switchers is left out: the same runs of earlier versions do not have it.
    """
    found: dict[str, float] = {}
    for name in sorted(files):
        if name.endswith("metrics.json") or name == ROUTES_FILE:
            values = files[name] if name != ROUTES_FILE else {"metrics": files[name].get("metrics")}
            numbers = {key: value for key, value in flat(values).items() if isinstance(value, int | float)}
            numbers = {key: value for key, value in numbers.items() if ".switchers." not in key}
            found |= {f"{name}: {key}": value for key, value in numbers.items()}
    return found
