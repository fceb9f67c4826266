"""Finished runs by their folders, whoever started them, and the tests that were made of them.

A test belongs to a run where the run's best weights are those that it was made of: the test's record has their
checksum. So it does not count where either folder lies, and results that are older than the weights are refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there, recorded
from volta_switch.config import Config, load_config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import task_in
from volta_switch.data.files.json_files import read_object
from volta_switch.errors import UserError
from volta_switch.study.planned_runs import RunRecord
from volta_switch.tasks.task_file import WORLD
from volta_switch.train.run_folder import BEST, FINISHED

PRETRAINING = "pre-training"  # in the place of a task's name
RUN, METRICS = "run.json", "metrics.json"
TESTED = "_metrics.json"  # the end of the name of a test's metrics
RESULTS = "results"  # where the examples write tests, beside the folder of runs
_LEVELS = 3  # folders above a run, in which its tests may lie
_START = re.compile(
    r"(random initial weights|weights|text side)(?: from (.*?))?(?:; (?:left out|fresh): .*)?", re.DOTALL
)


@dataclass(frozen=True)
class RunTest:
    """What a test on one split gave."""

    path: Path
    """Of its metrics."""
    split: str
    metrics: Mapping[str, Any]
    of: Mapping[str, Any]
    """What decided the results (``EvaluationRun.identity``)."""


@dataclass(frozen=True)
class FoundRun:
    """A finished run, its tests, and the run that it started from."""

    folder: Path
    record: RunRecord | None
    """What it wrote down; None: there are tests of its weights alone."""
    config: Config
    task: str
    """The data set's name, or ``PRETRAINING``."""
    key: str = ""
    """The task file's, of the task."""
    entry: Mapping[str, Any] = field(default_factory=dict)
    """What of the task's entry decides."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Its validation."""
    tests: Mapping[str, RunTest] = field(default_factory=dict)
    """Split -> its test."""
    before: FoundRun | None = None
    """The run whose weights it started from, where that is found."""
    remarks: tuple[str, ...] = ()
    """What could not be checked."""

    @property
    def start(self) -> tuple[str, str]:
        """In what way it started ("random initial weights", "weights", "text side"), and from which file or name."""
        found = _START.fullmatch((self.record and self.record.start) or "")
        return (found[1], found[2] or "") if found else ("", "")

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """Its seed, and those of the runs before it; None: not recorded."""
        seed: Any = (self.record.hyperparameters or {}).get("seed") if self.record else None
        return (seed, *(self.before.seeds if self.before else ()))

    @property
    def is_synthetic(self) -> bool:
        """Whether its data are a synthetic world's."""
        if self.record is None:
            return False
        places = [Path(str(place)) for name, place in (self.record.data or {}).items() if name != "fingerprints"]
        return "--world" in self.record.command or any((above / WORLD).is_file() for p in places for above in p.parents)

    @cached_property
    def weights(self) -> str:
        """The checksum of its best weights (``weights.fingerprint``); empty where they are gone."""
        from volta_switch.weights import read_weights, state_fingerprint

        path = self.folder / BEST
        return state_fingerprint(read_weights(path)) if is_there(path) else ""


def find_runs(folders: Sequence[str], results: Sequence[str] = ()) -> list[FoundRun]:
    """Reads finished runs with their tests, in order; a run that is named twice once.

    Args:
        folders: of runs, or of tests: these stand for the run that they are of.
        results: folders of tests. Without any, those that were named, in the run's own folder, and where the examples
            write them: below ``results`` in the working directory, or beside the folder of runs.

    Raises:
        UserError: a folder holds no finished run, or something damaged; tests are of other weights, or of none of the
            runs.
    """
    found: dict[Path, FoundRun] = {}
    own: dict[Path, list[Path]] = {}  # run's folder -> named folders of its tests
    for name in folders:
        folder = Path(name)
        run = _run_in(folder)
        place = run.folder.resolve()
        found.setdefault(place, run)
        tests = own.setdefault(place, [])
        if not is_there(folder / RUN) and folder.resolve() not in [each.resolve() for each in tests]:
            tests.append(folder)
    if not results:
        return [_with_tests(run, own[place] or _places(run), bool(own[place])) for place, run in found.items()]
    return _matched(list(found.values()), [*(each for of in own.values() for each in of), *map(Path, results)])


def _run_in(folder: Path) -> FoundRun:
    """Returns the run of a folder, without its tests."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one that a run or an evaluation has written")
    if is_there(folder / RUN):
        return read_run(folder)
    tests = list(_tests_in(folder))
    if not tests:
        below = any(is_there(each / RUN) for each in folder.iterdir() if each.is_dir())
        raise UserError(
            f"{folder}: holds neither {RUN} of a run nor <split>{TESTED} of an evaluation; "
            + (f"give the runs in it ({folder}/*)" if below else "expected a folder that one of them has written")
        )
    weights = Path(str(tests[0].metrics.get("weights", "")))
    place = _there(weights.parent, folder, RUN) if weights.name == BEST else None
    if place is not None:
        return read_run(place)
    return _untrained(folder, tests[0])


def _untrained(folder: Path, test: RunTest) -> FoundRun:
    """Returns what is known of weights by a test of them alone."""
    try:
        config = load_config(test.of["config"])
    except (KeyError, TypeError, UserError) as error:
        raise UserError(f"{test.path}: its configuration cannot be read ({error}); evaluate again") from None
    task, entry = str(test.metrics.get("name")), test.of.get("entry", {})
    weights = test.metrics.get("weights")
    remark = f"{folder}: no {RUN} lies beside {weights}, so that nothing is known of its training"
    return FoundRun(folder, None, config, task, str(test.metrics.get("task")), entry, remarks=(remark,))


def read_run(folder: Path, finished: bool = True) -> FoundRun:
    """Reads a training run, without its tests.

    Args:
        folder: the run's.
        finished: whether one that has not ended is refused.

    Raises:
        UserError: the folder holds none, something damaged, or one that has not ended.
    """
    path = folder / RUN
    values = read_object(path)
    for name in ("hyperparameters", "settings", "data", "environment"):
        if not isinstance(values.get(name, {}), Mapping):
            raise UserError(f"{path}: {name} is {values[name]!r}, expected settings by their names; copy it again")
    record = RunRecord.from_dict(values)
    if record.entry_point not in ("train_concap", "train_task") or record.hyperparameters is None:
        raise UserError(f"{path}: no record of a training run (entry_point is {record.entry_point}); copy it again")
    metrics = read_object(folder / METRICS) if is_there(folder / METRICS) else {}
    ended = metrics.get(FINISHED)
    if finished and (ended is None or (record.steps is not None and ended < record.steps)):
        state = "its training has not begun to validate" if not metrics else "its training has not ended"
        raise UserError(f"{folder}: {state}; finish it (the same command with --resume), or leave it out")
    run = FoundRun(folder, record, load_config(folder / CONFIG), PRETRAINING, metrics=metrics)
    if record.entry_point == "train_task":
        settings = record.settings or {}
        key, entry = task_in(folder) or (str(settings.get("task")), {})
        name = str(entry.get("name") or Path(os.path.abspath(folder)).name.partition("_")[0])  # an older run's: VOLTA's
        run = replace(run, task=name, key=key, entry=settings.get("entry") or entry)  # type: ignore[arg-type]
    return _with_start(run)


def _with_start(run: FoundRun) -> FoundRun:
    """Returns a run with the one that it started from, where that one's folder still has these weights."""
    way, source = run.start
    if way != "weights" or run.record is None:
        return run
    weights = Path(source)
    place = _there(weights.parent, run.folder, RUN)
    if place is None or place.resolve() == run.folder.resolve():
        return replace(run, remarks=(f"{run.folder}: started from {weights}, where no run's record lies",))
    digest = (run.record.origin or {}).get("sha256")
    remarks = () if digest else (f"{run.folder}: that it started from the run in {place} is known by the path alone",)
    if digest and digest not in recorded(place / weights.name):
        remark = f"{run.folder}: {place / weights.name} is no longer what it started from, and is not compared"
        return replace(run, remarks=(remark,))
    before = read_run(place, finished=False)
    return replace(run, before=before, remarks=(*remarks, *before.remarks))


def _there(wanted: Path, near: Path, name: str) -> Path | None:
    """Returns where a folder lies that a record names, with a file of this name; None where it is not found.

    Paths in records are relative to where a command ran: that may be here, or a folder above the record. Of a tree that
    was moved as a whole the ends of paths are still right.
    """
    above = near.resolve().parents
    ends = [Path(*wanted.parts[-count:]) for count in range(len(wanted.parts) - wanted.is_absolute(), 1, -1)]
    places = [wanted, *(folder / end for end in ends for folder in above)]
    return next((place for place in places if (place / name).is_file()), None)


# --- Tests ----------------------------------------------------------------------------------------------------------


def _tests_in(folder: Path) -> Iterator[RunTest]:
    """Yields the tests of a folder."""
    for path in sorted(folder.glob(f"*{TESTED}")):
        metrics = read_object(path)
        split = path.name.removesuffix(TESTED)
        of = metrics.get("of")
        if not isinstance(of, Mapping):
            raise UserError(f"{path}: does not say what it was made of (an earlier version's); evaluate again")
        yield RunTest(path, split, metrics, of)


def _places(run: FoundRun) -> list[Path]:
    """Returns the folders in which tests of a run may lie.

    Its own; ``checkpoints/refcoco+/refcoco+_uniter`` has ``results/refcoco+/refcoco+_uniter``, here or beside
    ``checkpoints``. What tests a pre-trained model by itself puts the task's name in front.
    """
    folder = run.folder.resolve()
    above = folder.parents
    found = [run.folder]
    for level in range(min(_LEVELS, len(above) - 1)):
        below = folder.relative_to(above[level])
        found.append(Path(RESULTS) / below)
        found.append(above[level + 1] / RESULTS / below)
    if run.task == PRETRAINING:
        found += [each for place in found[1:] for each in sorted(place.parent.glob(f"*_{place.name}"))]
    return list({place.resolve(): place for place in found if place.is_dir()}.values())


def _with_tests(run: FoundRun, folders: Iterable[Path], named: bool) -> FoundRun:
    """Returns a run with its tests; of folders that were not named, those of zero-shot models are a pre-training's."""
    tests = [test for folder in folders for test in _tests_in(folder)]
    if not named:
        tests = [test for test in tests if bool(test.of.get("zero_shot")) == (run.task == PRETRAINING)]
    for test in tests:
        if not _is_of(test, run):
            raise UserError(
                f"{test.path}: results of other weights than {run.folder / BEST} has (they are older, or of another "
                "file); evaluate again, or name the folders of the tests with --results"
            )
    return _taken(run, tests)


def _matched(runs: list[FoundRun], folders: Sequence[Path]) -> list[FoundRun]:
    """Returns runs with the tests of these folders, which are known by their weights."""
    tests: dict[Path, list[RunTest]] = {run.folder: [] for run in runs}
    for folder in {folder.resolve(): folder for folder in folders}.values():
        found = list(_tests_in(folder)) if folder.is_dir() else []
        if not found:
            raise UserError(f"{folder}: holds no <split>{TESTED}; --results names folders that evaluations wrote")
        for test in found:
            owners = [run for run in runs if _is_of(test, run)]
            if len(owners) != 1:
                which = "none" if not owners else " and ".join(str(run.folder) for run in owners)
                raise UserError(f"{test.path}: its weights are those of {which} of the runs; expected one of them")
            tests[owners[0].folder].append(test)
    return [_taken(run, tests[run.folder]) for run in runs]


def _is_of(test: RunTest, run: FoundRun) -> bool:
    """Returns whether a test was made of a run's weights; where these are gone, whether it lies in the run's folder."""
    if run.record is None:
        return test.path.parent.resolve() == run.folder.resolve()
    if run.weights:
        return bool(test.of.get("weights") == run.weights)
    return test.path.parent.resolve() == run.folder.resolve()


def _taken(run: FoundRun, tests: Iterable[RunTest]) -> FoundRun:
    found: dict[str, RunTest] = {}
    for test in tests:
        other = found.setdefault(test.split, test)
        if other is not test and other.metrics != test.metrics:
            raise UserError(
                f"{other.path} and {test.path}: two different tests of one run on {test.split}; name one of them with "
                "--results"
            )
    gone = found and run.record is not None and not run.weights
    remark = (f"{run.folder}: {BEST} is gone, so that its tests are known by their folder alone",) if gone else ()
    return replace(run, tests=found, remarks=(*run.remarks, *remark))
