"""A study's units of work: what is run, in which folder, and by what a finished one is recognised."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volta_switch.config import Config, find_config, load_config
from volta_switch.errors import UserError
from volta_switch.results_version import RESULTS_VERSION
from volta_switch.study.arms import Arm, Table
from volta_switch.study.command_lines import (
    DATA_KEYS,
    DATA_ROOT,
    Places,
    as_flags,
    pretraining_command,
    routes_command,
    test_command,
    training_command,
)
from volta_switch.study.data_identities import DataIdentities
from volta_switch.study.given_flags import taken_by
from volta_switch.study.plan import Study
from volta_switch.tasks import TaskSpec, load_task, task_class
from volta_switch.world.spec import WorldSpec
from volta_switch.world.vocabulary import Lexicon

PRETRAINING = ""  # in place of a task
ROUTES = "routes of "  # before a task
ROUTES_FILE = "routes.json"
# What the study's file may say otherwise: images stay decoded, and a run without pre-training starts at random.
READ_ONCE: dict[str, Any] = {"in_memory": True}
_LEARNING = ("batch_size", "lr", "num_epoch", "fusion_method", "train_split", "val_split")  # of a task's entry
WITHOUT = READ_ONCE | {"from_pretrained": ""}


@dataclass(frozen=True)
class Cell:
    """One unit of work: a pre-training run, a fine-tuning run with its test, or the routes of one."""

    name: str  # "switchbert/seed0/refcoco+"
    arm: str  # the first one that it belongs to
    seed: int
    work: str  # "" for pre-training, a task's key, or "routes of " and it
    commands: tuple[tuple[str, tuple[str, ...]], ...]  # (entry point, its arguments), in order
    folder: Path  # the run's
    key: str  # a hash of all that decides its outcome: equal for equal work, whatever the arms and folders are called
    training: str  # a hash of what decides the run alone, without its test
    needs: str = ""  # the cell that must be finished before

    @property
    def typed(self) -> list[str]:
        """Its commands as they are typed in a shell."""
        scripts = {"routes": ("volta-switch", "routes")}
        return [shlex.join([*scripts.get(entry, ("python", f"{entry}.py")), *own]) for entry, own in self.commands]


@dataclass(frozen=True)
class Known:
    """What was begun or finished in a study's folder."""

    folders: Mapping[str, Path] = field(default_factory=dict)  # a cell's key -> where it lies
    trained: Mapping[Path, str] = field(default_factory=dict)  # such a folder -> ``Cell.training`` of what it holds
    data: Mapping[str, Any] = field(default_factory=dict)  # what came with merged cells of the data


class Plan:
    """All cells that a study's tables need, each once: arms that need the same work share it."""

    def __init__(self, study: Study, folder: Path, known: Known | None = None) -> None:
        """``known``: what was begun or finished, which is used where it is.

        Raises:
            UserError: a claim is about a task or a metric that its table does not have, or stands there twice; one
                task has two names; a flag is none of the evaluation that a task takes.
        """
        self.study, self.folder, self._known = study, folder, known or Known()
        self.data = DataIdentities(folder, self._known.data)
        self.cells: list[Cell] = []
        self._by_key: dict[str, Cell] = {}
        self._of: dict[tuple[str, int, str], Cell] = {}
        self._places: dict[str, Places] = {}
        self._specs: dict[tuple[str, str], TaskSpec] = {}
        wanted = {
            (arm, seed, work)
            for table in study.tables
            for arm in table.arms
            for seed in table.seeds_of(study.arms[arm])
            for work in (PRETRAINING, *table.tasks)
            if work != PRETRAINING or study.arms[arm].pretraining
        }
        # Seed by seed, so that a study that is stopped has whole rows of the first seeds.
        for seed in dict.fromkeys(seed for arm in study.arms.values() for seed in arm.seeds):
            for work in (PRETRAINING, *study.tasks):
                for arm in study.arms.values():
                    if (arm.name, seed, work) in wanted:
                        self._add(arm.name, seed, work, self._run_cell(arm, seed, work))
            for arm in (study.arms[name] for name in study.routes.arms):
                for task in study.tasks:
                    if seed in arm.seeds[: study.routes.seeds] and (arm.name, seed, task) in wanted:
                        self._add(arm.name, seed, ROUTES + task, self._routes_cell(arm, seed, task))
        self._refuse_second_names()
        for table in study.tables:
            self._check_claims(table)

    def has(self, arm: str, seed: int, work: str = PRETRAINING) -> bool:
        """Whether a table needs this of an arm."""
        return (arm, seed, work) in self._of

    def cell(self, arm: str, seed: int, work: str = PRETRAINING) -> Cell:
        """The cell of an arm, which may be another arm's."""
        return self._of[arm, seed, work]

    def route_cells(self) -> dict[tuple[str, int, str], Cell]:
        """(arm, seed, the task as the plan calls it) -> what writes the report of its routes, ``ROUTES_FILE``."""
        return {
            (arm, seed, work.removeprefix(ROUTES)): cell
            for (arm, seed, work), cell in self._of.items()
            if work.startswith(ROUTES)
        }

    def places(self, arm: str) -> Places:
        """``places`` of an arm, worked out once."""
        if arm not in self._places:
            self._places[arm] = places(self.study, self.study.arms[arm], self.folder)
        return self._places[arm]

    def spec(self, arm: str, task: str) -> TaskSpec:
        """A task as an arm's data have it."""
        if (arm, task) not in self._specs:
            places = self.places(arm)
            self._specs[arm, task] = load_task(places.tasks_config_file, task, places.data_root)
        return self._specs[arm, task]

    def tested_spec(self, arm: str, task: str) -> TaskSpec:
        """The same with the annotations that the flags of the arm's test name."""
        spec, flags = self.spec(arm, task), self.study.arms[arm].tasks[task]
        given = (flags.get("test") or {}).get("val_annotations_jsonpath")
        return replace(spec, val_annotations_jsonpath=str(given), val_split=test_split(spec, flags)) if given else spec

    def config(self, arm: str) -> Config:
        """The configuration of an arm's runs, the vocabulary of its data in it."""
        own = self.study.arms[arm]
        return load_config(own.model, (*own.overrides, *self.places(arm).overrides))

    def specs(self, table: Table) -> dict[str, TaskSpec]:
        """A table's tasks as its first arm's data have them, under every name that a claim may call them by."""
        found = [(task, self.spec(table.arms[0], task)) for task in table.tasks]
        return {name: spec for task, spec in found for name in (task, spec.key, spec.name)}

    def sections(self, arm: str, tasks: Sequence[str]) -> dict[str, Any]:
        """What an arm's runs are given: kind of run ("pretraining", "refcoco+") -> flags, and "data"."""
        own = self.study.arms[arm]
        of_tasks = {self.spec(arm, task).name: own.tasks[task] for task in tasks}
        return {"pretraining": own.pretraining, **of_tasks, "data": (own.world, own.data)}

    def _add(self, arm: str, seed: int, work: str, made: Cell) -> None:
        cell = self._by_key.setdefault(made.key, made)
        if cell is made:
            self.cells.append(cell)
        self._of[arm, seed, work] = cell

    def _refuse_second_names(self) -> None:
        """One task under two names would be trained twice, or be given two arms' worth of flags."""
        names: dict[tuple[str, str], str] = {}  # arm and key of a task -> what the plan calls it
        for arm, task in {(arm, work): None for arm, _, work in self._of if work in self.study.tasks}:
            first = names.setdefault((arm, self.spec(arm, task).key), task)
            if first != task:
                spec = self.spec(arm, task)
                raise UserError(
                    f"study {self.study.name}: tasks: {first} and {task} are one task ({spec.key}, {spec.name}); keep "
                    "one of them"
                )

    def _check_claims(self, table: Table) -> None:
        specs, seen = self.specs(table), set()
        for claim in table.claims:
            where = f"study {self.study.name}: tables.{table.name}.claims: {claim.text}"
            if claim.task not in specs:
                raise UserError(f"{where}: task {claim.task} is none of {', '.join(table.tasks)}")
            metrics = task_class(specs[claim.task]).headline
            if claim.metric not in metrics:
                raise UserError(f"{where}: {claim.task} has no metric {claim.metric}; it has {', '.join(metrics)}")
            made = (claim.arms, specs[claim.task].key, claim.metric, claim.at_least)
            if made in seen:  # it would count twice in Holm's family
                raise UserError(
                    f"{where}: the table claims this twice ({claim.difference}, {claim.task} {claim.metric})"
                )
            seen.add(made)

    def _place(self, arm: Arm, seed: int, name: str, key: str, training: str) -> tuple[str, Path]:
        """The row of a cell ("switchbert/seed0") and its folder: where it was begun, or else one that is free."""
        row = self.folder / arm.name / f"seed{seed}"
        if self._known.trained.get(row / name, training) != training:  # before the plan was changed
            row = row.with_name(f"seed{seed}-{training[:8]}")
        folder = self._known.folders.get(key, row / name)
        own = folder.parent if folder.parent.parent == row.parent else row
        return f"{arm.name}/{own.name}", folder

    def _run_cell(self, arm: Arm, seed: int, task: str) -> Cell:
        where, stem = self.places(arm.name), find_config(arm.model).stem
        config = load_config(arm.model, arm.overrides).to_dict()
        if task == PRETRAINING:
            named = self.data.of_named_files({"": arm.pretraining}, arm.world is not None)
            key = _key(["train_concap", config, dict(arm.pretraining), seed, self._data(arm, task, {}), *named])
            row, folder = self._place(arm, seed, stem, key, key)
            command = [
                *pretraining_command(arm, seed, where, folder.parent),
                *as_flags({**WITHOUT, **_from_bert(arm, arm.pretraining), **arm.pretraining}),
            ]
            name, only = f"{row}/pretraining", (("train_concap", tuple(command)),)
            return Cell(name, arm.name, seed, task, only, folder, key, key)
        needed = self._of.get((arm.name, seed, PRETRAINING))
        spec = self.spec(arm.name, task)
        flags = arm.tasks[task]
        after = "" if needed is None else needed.key
        key, training = (
            _key(
                [
                    *("task", spec.key, config, dict(given), seed, self._data(arm, task, given), after),
                    *self.data.of_named_files(given, arm.world is not None),
                ]
            )
            for given in (flags, {"train": flags.get("train")})
        )
        row, folder = self._place(arm, seed, f"{spec.name}_{stem}", key, training)
        start = str(needed.folder / "pytorch_model_best.bin") if needed else ""
        commands = self._task_commands(arm, seed, spec, flags, folder, start)
        needs = needed.name if needed else ""
        return Cell(f"{row}/{spec.name}", arm.name, seed, spec.key, commands, folder, key, training, needs)

    def _data(self, arm: Arm, task: str, flags: Mapping[str, Any]) -> Any:
        """What an arm's runs of a task, or its pre-training, read; a world's files follow from the world.

        ``flags``: of a task's training, and of its test where that counts.
        """
        where = self.places(arm.name)
        if arm.world is not None:
            return where.identity
        if task == PRETRAINING:
            return self.data.of_pairs(where.annotations_path, where.features_path)
        spec = self.spec(arm.name, task)
        split = None if flags.get("test") is None else test_split(spec, flags)
        found = self.data.of_task(dict(arm.data), spec, self.tested_spec(arm.name, task), flags, split)
        return [found, spec.deciding(), *(getattr(spec, name) for name in _LEARNING)]

    def _task_commands(
        self, arm: Arm, seed: int, spec: TaskSpec, flags: Mapping[str, Any], folder: Path, start: str
    ) -> tuple[tuple[str, tuple[str, ...]], ...]:
        where, entry = self.places(arm.name), task_class(spec).entry_point
        own = {name: flags.get(name) or {} for name in ("train", "test")}
        for name in own["test"].keys() - taken_by(entry, own["test"]).keys():
            raise UserError(f"study {self.study.name}: tasks: {spec.name}: test: {entry}.py has no flag --{name}")
        train = training_command(arm, seed, where, spec.key, folder.parent, start)
        train += as_flags({**(READ_ONCE if start else WITHOUT), **_from_bert(arm, own["train"]), **own["train"]})
        test = test_command(arm, seed, where, spec.key, folder)
        test += as_flags({**READ_ONCE, "split": test_split(spec, flags), **own["test"]})
        return ("train_task", tuple(train)), (entry, tuple(test))

    def _routes_cell(self, arm: Arm, seed: int, task: str) -> Cell:
        """The routes that the fine-tuned model takes on the split that the study reports, and what they are worth."""
        tuned = self._of[arm.name, seed, task]
        where, spec, flags = self.places(arm.name), self.spec(arm.name, task), arm.tasks[task]
        key = _key(["routes", dict(self.study.routes.flags), tuned.key])
        row, folder = self._place(arm, seed, f"{spec.name}_routes", key, key)
        command = routes_command(arm, seed, where, spec.key, tuned.folder, folder / ROUTES_FILE)
        of_test = taken_by("routes", flags.get("test") or {})
        command += as_flags({**READ_ONCE, "split": test_split(spec, flags), **of_test, **self.study.routes.flags})
        name, commands = f"{row}/{spec.name} routes", (("routes", tuple(command)),)
        return Cell(name, arm.name, seed, ROUTES + spec.key, commands, folder, key, key, tuned.name)


def places(study: Study, arm: Arm, folder: Path) -> Places:
    """Where an arm's data lie; a world's are inside the study's folder.

    Raises:
        UserError: the study's data section lacks a path.
    """
    if arm.world is None:
        missing = [key for key in DATA_KEYS if key not in arm.data]
        if missing:
            raise UserError(f"study {study.name}: data lacks {', '.join(missing)}")
        tasks, features, annotations = (Path(arm.data[name]) for name in DATA_KEYS)
        return Places(tasks, features, annotations, arm.data.get(DATA_ROOT, ""), identity=dict(arm.data))
    world = world_folder(study, arm, folder)
    captions = world / "datasets" / "conceptual_captions"
    features = captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    spec = WorldSpec(**arm.world)
    words = len(Lexicon(spec).vocabulary())  # fewer where they are spelt in pieces
    vocabulary = (f"bert_model={world / 'bert-world'}", f"vocab_size={words}")
    return Places(world / "tasks.yml", features, captions / "annotations", str(world), vocabulary, spec.as_dict())


def world_folder(study: Study, arm: Arm, folder: Path) -> Path:
    """``world`` is the first arm's; others' say in which fields they differ from it."""
    first, own = (WorldSpec(**(each.world or {})).as_dict() for each in (next(iter(study.arms.values())), arm))
    changed = [f"{key}-{own[key]}" for key in own if first[key] != own[key]]
    return folder / "-".join(["world", *changed])


def test_split(spec: TaskSpec, flags: Mapping[str, Any]) -> str:
    """The split that a study reports for a task."""
    return str((flags.get("test") or {}).get("split", spec.val_split))


def _from_bert(arm: Arm, given: Mapping[str, Any]) -> dict[str, bool]:
    """Flags of a run that starts from what its plan names: BERT's last layers may be left out where the plan has fewer.

    They decide nothing but whether the run is refused, so that no cell is known by them.
    """
    return {"allow_deeper_bert": True} if arm.own_depth and given.get("from_pretrained") else {}


def _key(parts: list[Any]) -> str:
    if RESULTS_VERSION > 1:  # finished cells of version 1 are older than the number
        parts = [*parts, {"results version": RESULTS_VERSION}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
