"""The plan of a study's runs: what each does, in which folder, and by what a finished one is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from volta_switch.config import Config, load_config
from volta_switch.config.model_folder import config_name
from volta_switch.errors import UserError
from volta_switch.identities import RESULTS_VERSION
from volta_switch.study.arms import Arm, PlannedTable, TaskFlags, chosen_seeds
from volta_switch.study.command_lines import (
    Places,
    ablation_command,
    as_flags,
    from_bert,
    pretraining_command,
    refuse_untaken,
    routes_command,
    taken_by,
    test_command,
    training_command,
)
from volta_switch.study.plan import Study
from volta_switch.study.planned_runs import (
    ABLATION,
    ABLATION_REPORT,
    PRETRAINING,
    ROUTES_FILE,
    KnownData,
    PlannedRun,
    RunKind,
    StudyState,
    Work,
    study_state,
    works_of,
)
from volta_switch.study.records import Flags
from volta_switch.study.study_data import DataIdentities, places, test_pools, test_split, world_folder, write_task_file
from volta_switch.tasks import TaskSpec, load_task, task_class
from volta_switch.tasks.retrieval import check_pools
from volta_switch.world.spec import WorldSpec

LEARNING_SETTINGS = ("batch_size", "lr", "num_epoch", "fusion_method", "train_split", "val_split")  # of a task's entry
# What the study's file may say otherwise: images stay decoded, and a run without pre-training starts at random.
READ_ONCE: Flags = {"in_memory": True}
WITHOUT: Flags = {**READ_ONCE, "from_pretrained": ""}


class RunPlan:
    """All runs that a study's tables need, each once: arms that need the same work share it."""

    def __init__(self, study: Study, folder: Path, state: StudyState | None = None) -> None:
        """Plans a study over a folder.

        Args:
            study: the study.
            folder: its folder.
            state: what was begun or finished, which is used where it is.

        Raises:
            UserError: a claim is about a task or a metric that its table does not have, or stands there twice; one
                task has two names; a flag is none of the evaluation that a task takes.
        """
        self.study, self.folder, self._state = study, folder, state or StudyState()
        self.data = DataIdentities(folder, self._state.data)
        self.runs: list[PlannedRun] = []
        self._by_key: dict[str, PlannedRun] = {}
        self._of: dict[tuple[str, int, Work], PlannedRun] = {}
        self._places: dict[str, Places] = {}
        self._specs: dict[tuple[str, str], TaskSpec] = {}
        wanted = {
            (arm, seed, work)
            for table in study.tables
            for arm in table.arms
            for seed in table.seeds_of(study.arms[arm])
            for work in works_of(table.tasks)
            if work != PRETRAINING or study.arms[arm].pretraining
        }
        # Seed by seed, so that a study that is stopped has whole rows of the first seeds.
        for seed in dict.fromkeys(seed for arm in study.arms.values() for seed in arm.seeds):
            for work in works_of(study.tasks):
                for arm in study.arms.values():
                    if (arm.name, seed, work) in wanted:
                        pretrains = work == PRETRAINING
                        run = self._pretraining_run(arm, seed) if pretrains else self._task_run(arm, seed, work.task)
                        self._add(arm.name, seed, work, run)
            for arm in (study.arms[name] for name in study.routes.arms):
                for task in study.tasks:
                    reported = chosen_seeds(study.routes.seeds, arm.seeds)
                    if seed in reported and (arm.name, seed, Work.fine_tuning(task)) in wanted:
                        self._add(arm.name, seed, Work.routes(task), self._routes_run(arm, seed, task))
            for arm in (study.arms[name] for name in study.ablation.arms):
                if seed in chosen_seeds(study.ablation.seeds, arm.seeds) and (arm.name, seed, PRETRAINING) in wanted:
                    self._add(arm.name, seed, ABLATION, self._ablation_run(arm, seed))
        self._refuse_second_names()
        for table in study.tables:
            self._check_claims(table)

    def has(self, arm: str, seed: int, work: Work = PRETRAINING) -> bool:
        """Tells whether a table needs this of an arm."""
        return (arm, seed, work) in self._of

    def run_of(self, arm: str, seed: int, work: Work = PRETRAINING) -> PlannedRun:
        """Returns the run of an arm, which may be another arm's, too."""
        return self._of[arm, seed, work]

    def route_runs(self) -> dict[tuple[str, int, str], PlannedRun]:
        """Returns (arm, seed, the task as the plan calls it) -> what writes the report of routes, ``ROUTES_FILE``."""
        return {
            (arm, seed, work.task): run for (arm, seed, work), run in self._of.items() if work.kind is RunKind.ROUTES
        }

    def runs_of(self, work: Work) -> dict[tuple[str, int], PlannedRun]:
        """Returns (arm, seed) -> its run of a work."""
        return {(arm, seed): run for (arm, seed, own), run in self._of.items() if own == work}

    def task_of(self, run: PlannedRun) -> str:
        """Returns the task of a run as the study's file calls it."""
        return next(task for task in self.study.arms[run.arm].tasks if self.spec(run.arm, task).key == run.work.task)

    def places(self, arm: str) -> Places:
        """Returns ``places`` of an arm, worked out once."""
        if arm not in self._places:
            self._places[arm] = places(self.study, self.study.arms[arm], self.folder)
        return self._places[arm]

    def spec(self, arm: str, task: str) -> TaskSpec:
        """Returns a task as an arm's data have it."""
        if (arm, task) not in self._specs:
            places = self.places(arm)
            self._specs[arm, task] = load_task(places.tasks_config_file, task, places.data_root)
        return self._specs[arm, task]

    def tested_spec(self, arm: str, task: str) -> TaskSpec:
        """Returns the same with the annotations and the pools that the flags of the arm's test name."""
        spec, flags = self.spec(arm, task), self.study.arms[arm].tasks[task]
        spec = replace(spec, pool_images=test_pools(spec, flags))
        given = flags.test.get("val_annotations_jsonpath")
        return replace(spec, val_annotations_jsonpath=str(given), val_split=test_split(spec, flags)) if given else spec

    def config(self, arm: str) -> Config:
        """Returns the configuration of an arm's runs, the vocabulary of its data in it."""
        own = self.study.arms[arm]
        return load_config(own.model, (*own.overrides, *self.places(arm).overrides))

    def specs(self, table: PlannedTable) -> dict[str, TaskSpec]:
        """Returns a table's tasks as its first arm's data have them, under every name that a claim may call them by."""
        found = [(task, self.spec(table.arms[0], task)) for task in table.tasks]
        return {name: spec for task, spec in found for name in (task, spec.key, spec.name)}

    def sections(self, arm: str, tasks: Sequence[str]) -> dict[str, object]:
        """Returns what an arm's runs are given: kind of run ("pretraining", "refcoco+") -> flags, and "data"."""
        own = self.study.arms[arm]
        of_tasks = {self.spec(arm, task).name: own.tasks[task].written for task in tasks}
        return {"pretraining": own.pretraining, **of_tasks, "data": (own.world, own.data)}

    def _add(self, arm: str, seed: int, work: Work, made: PlannedRun) -> None:
        run = self._by_key.setdefault(made.key, made)
        if run is made:
            self.runs.append(run)
        self._of[arm, seed, work] = run

    def _refuse_second_names(self) -> None:
        """Raises UserError for a task under two names: it would be trained twice, or be given two arms' flags."""
        names: dict[tuple[str, str], str] = {}  # arm and key of a task -> what the plan calls it
        for arm, task in {(arm, work.task): None for arm, _, work in self._of if work.kind is RunKind.FINE_TUNING}:
            first = names.setdefault((arm, self.spec(arm, task).key), task)
            if first != task:
                spec = self.spec(arm, task)
                raise UserError(
                    f"study {self.study.name}: tasks: {first} and {task} are one task ({spec.key}, {spec.name}); keep "
                    "one of them"
                )

    def _check_claims(self, table: PlannedTable) -> None:
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
        """Returns a run's row ("switchbert/seed0") and folder: where it was begun, or else one that is free."""
        row = self.folder / arm.name / f"seed{seed}"
        if self._state.trained.get(row / name, training) != training:  # before the plan was changed
            row = row.with_name(f"seed{seed}-{training[:8]}")
        folder = self._state.folders.get(key, row / name)
        own = folder.parent if folder.parent.parent == row.parent else row
        return f"{arm.name}/{own.name}", folder

    def _pretraining_run(self, arm: Arm, seed: int) -> PlannedRun:
        where, stem = self.places(arm.name), config_name(arm.model)
        config = load_config(arm.model, arm.overrides).to_dict()
        named = self.data.of_named_files({"": arm.pretraining}, arm.world is not None)
        read = where.identity if arm.world else self.data.of_pairs(where.annotations_path, where.features_path)
        key = _key(["train_concap", config, dict(arm.pretraining), seed, read, *named])
        row, folder = self._place(arm, seed, stem, key, key)
        command = [
            *pretraining_command(arm, seed, where, folder.parent),
            *as_flags({**WITHOUT, **from_bert(arm, arm.pretraining), **arm.pretraining}),
        ]
        commands = (("train_concap", tuple(command)),)
        return PlannedRun(f"{row}/pretraining", arm.name, seed, PRETRAINING, commands, folder, key, key)

    def _task_run(self, arm: Arm, seed: int, task: str) -> PlannedRun:
        needed = self._of.get((arm.name, seed, PRETRAINING))
        spec, flags, stem = self.spec(arm.name, task), arm.tasks[task], config_name(arm.model)
        check_pools(self.tested_spec(arm.name, task), test_split(spec, flags))
        key, training = (
            self._task_key(arm, seed, task, given, "" if needed is None else needed.key)
            for given in (flags, flags.training_alone)
        )
        row, folder = self._place(arm, seed, f"{spec.name}_{stem}", key, training)
        return PlannedRun(
            name=f"{row}/{spec.name}",
            arm=arm.name,
            seed=seed,
            work=Work.fine_tuning(spec.key),
            commands=self._task_commands(arm, seed, spec, flags, folder, needed),
            folder=folder,
            key=key,
            training=training,
            needs=needed.name if needed else "",
        )

    def _task_key(self, arm: Arm, seed: int, task: str, flags: TaskFlags, after: str) -> str:
        """Returns the identity of a fine-tuning; ``after``: that of the pre-training that it starts from, or empty."""
        spec, written = self.spec(arm.name, task), flags.written
        config = load_config(arm.model, arm.overrides).to_dict()
        return _key(
            [
                *("task", spec.key, config, dict(written), seed, self._task_data(arm, task, flags), after),
                *self.data.of_named_files(written, arm.world is not None),
            ]
        )

    def _task_data(self, arm: Arm, task: str, flags: TaskFlags) -> object:
        """Returns what an arm's runs of a task read; a world's files follow from the world.

        Args:
            arm: whose runs they are.
            task: as the study's file calls it.
            flags: of the training, and of the test where that counts.
        """
        spec = self.spec(arm.name, task)
        split = None if flags.written.get("test") is None else test_split(spec, flags)
        pools = [] if split is None or spec.pool_images is None else [{"pool_images": spec.pool_images}]
        if arm.world is not None:
            identity = self.places(arm.name).identity
            return [identity, *pools] if pools else identity
        found = self.data.of_task(dict(arm.data), spec, self.tested_spec(arm.name, task), flags, split)
        return [found, spec.deciding(), *(getattr(spec, name) for name in LEARNING_SETTINGS), *pools]

    def _task_commands(
        self, arm: Arm, seed: int, spec: TaskSpec, flags: TaskFlags, folder: Path, needed: PlannedRun | None
    ) -> tuple[tuple[str, tuple[str, ...]], ...]:
        where, entry = self.places(arm.name), task_class(spec).entry_point
        refuse_untaken(entry, flags.test, f"study {self.study.name}: tasks: {spec.name}: test")
        start = needed.folder if needed else None
        named = start is not None and folder.name != f"{spec.name}_{start.name}"  # an arm of another name shares it
        train = training_command(arm, seed, where, spec.key, folder.parent, start, named)
        train += as_flags({**(READ_ONCE if start else WITHOUT), **from_bert(arm, flags.train), **flags.train})
        test = test_command(seed, where, spec.key, folder)
        test += as_flags({**READ_ONCE, "split": test_split(spec, flags), **flags.test})
        return ("train_task", tuple(train)), (entry, tuple(test))

    def _routes_run(self, arm: Arm, seed: int, task: str) -> PlannedRun:
        """Plans the report of the routes that the fine-tuned model takes on the split that the study reports."""
        tuned = self._of[arm.name, seed, Work.fine_tuning(task)]
        where, spec, flags = self.places(arm.name), self.spec(arm.name, task), arm.tasks[task]
        key = _key(["routes", dict(self.study.routes.flags), tuned.key])
        row, folder = self._place(arm, seed, f"{spec.name}_routes", key, key)
        command = routes_command(seed, where, spec.key, tuned.folder, folder / ROUTES_FILE)
        of_test = taken_by("routes", flags.test)
        command += as_flags({**READ_ONCE, "split": test_split(spec, flags), **of_test, **self.study.routes.flags})
        name, commands = f"{row}/{spec.name} routes", (("routes", tuple(command)),)
        return PlannedRun(name, arm.name, seed, Work.routes(spec.key), commands, folder, key, key, tuned.name)

    def _ablation_run(self, arm: Arm, seed: int) -> PlannedRun:
        """Plans the cross-modal ablation of the arm's pre-trained model; a world's files follow from the world."""
        trained, where = self._of[arm.name, seed, PRETRAINING], self.places(arm.name)
        flags = self.study.ablation.flags
        read = [] if arm.world is not None else [self.data.of_entities(where, flags)]
        key = _key(["ablate", dict(flags), trained.key, *read])
        row, folder = self._place(arm, seed, "ablation", key, key)
        command = [*ablation_command(where, trained.folder, folder / ABLATION_REPORT), *as_flags(flags)]
        commands = (("ablate", tuple(command)),)
        return PlannedRun(f"{row}/ablation", arm.name, seed, ABLATION, commands, folder, key, key, trained.name)


def _key(parts: list[object]) -> str:
    if RESULTS_VERSION > 1:  # finished runs of version 1 are older than the number
        parts = [*parts, {"results version": RESULTS_VERSION}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def plan_of(study: Study, folder: Path, data: KnownData | None = None) -> RunPlan:
    """Plans over a folder, where runs that were begun or finished stay wherever they lie.

    Args:
        study: the study.
        folder: its folder.
        data: what is known of the study's own data, where they are not here (``DataIdentities``).

    Raises:
        UserError: the study has not been begun there.
    """
    worlds = [world_folder(study, arm, folder) for arm in study.arms.values() if arm.world is not None]
    for needed in (folder, *worlds):
        if not needed.is_dir():
            raise UserError(f"{needed}: missing; run the study there first (volta-switch study run, --out)")
    return RunPlan(study, folder, replace(study_state(folder), data=data or {}))


@contextmanager
def plan_ahead(study: Study, folder: Path, data: KnownData | None = None) -> Iterator[RunPlan]:
    """Plans over a folder whose worlds need not be written yet, for the block; writes nothing there.

    Args:
        study: the study.
        folder: its folder.
        data: as ``plan_of`` takes it.

    Raises:
        UserError: as of ``RunPlan``.
    """
    with TemporaryDirectory() as scratch:
        place = folder
        if any(arm.world is not None and not world_folder(study, arm, folder).exists() for arm in study.arms.values()):
            place = Path(scratch)
            for arm in study.arms.values():
                if arm.world is not None:
                    write_task_file(WorldSpec(**arm.world), world_folder(study, arm, place))
        yield RunPlan(study, place, replace(study_state(folder), data=data or {}))
