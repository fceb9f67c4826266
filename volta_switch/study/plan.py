"""A study's plan: which runs are made, from one YAML file, with one place for every hyperparameter.

Keys of the file: ``name``; ``world`` (``WorldSpec`` fields; the world is written into the study's folder) or
``data`` (``tasks_config_file``, ``features_path``, ``annotations_path``); ``models``, ``seeds``; ``set`` (overrides of
every model's configuration); ``pretraining`` (flags of ``train_concap.py``); ``tasks`` (per task ``train``, flags of
``train_task.py``, and ``test``, flags of the evaluation, ``split`` among them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volta_switch.config import find_config, load_config
from volta_switch.errors import UserError
from volta_switch.files import read_yaml
from volta_switch.tasks import TaskSpec, load_task
from volta_switch.world.spec import WorldSpec

KEYS = ("name", "world", "data", "models", "seeds", "set", "pretraining", "tasks")
LISTS: dict[str, type] = {"models": str, "seeds": int, "set": str}  # of what
SECTIONS = ("world", "data", "pretraining", "tasks")


@dataclass(frozen=True)
class Study:
    """A plan as written; paths are relative to the working directory."""

    name: str
    models: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, Any]]  # task -> train: flags of train_task.py, test: flags of the evaluation
    seeds: tuple[int, ...] = (0,)
    pretraining: Mapping[str, Any] = field(default_factory=dict)  # flags of train_concap.py; empty: none
    overrides: tuple[str, ...] = ()
    world: Mapping[str, Any] | None = None
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One unit of work: a pre-training run, or a fine-tuning run with its test."""

    name: str  # "switchbert/seed0/refcoco+"
    model: str
    seed: int
    task: str  # "" for pre-training
    commands: tuple[tuple[str, tuple[str, ...]], ...]  # (entry point, its arguments), in order
    needs: str = ""  # the cell that must be finished before


def load_study(path: str | Path) -> Study:
    """Reads and checks a plan.

    Raises:
        UserError: the file cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    path = Path(path)
    values = read_yaml(path, "no such study; shipped ones are in studies/")
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys {', '.join(KEYS)}")
    unknown = [str(key) for key in values if key not in KEYS]
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]}; a study has {', '.join(KEYS)}")
    values = {key: value for key, value in values.items() if value is not None}
    for key in ("models", "tasks"):
        if not values.get(key):
            raise UserError(f"{path}: {key} is missing or empty")
    _check_kinds(path, values)
    if ("world" in values) == bool(values.get("data")):
        raise UserError(f"{path}: give either world (to write one) or data (where yours lie)")
    for model in values["models"]:
        load_config(model, values.get("set") or ())
    stems = [find_config(model).stem for model in values["models"]]
    for stem in stems:
        if stems.count(stem) > 1:
            raise UserError(f"{path}: models has {stem} twice; each needs a file name of its own, its rows' name")
    return Study(
        name=str(values.get("name", path.stem)),
        models=tuple(values["models"]),
        tasks={str(task): flags or {} for task, flags in values["tasks"].items()},
        seeds=tuple(values.get("seeds") or (0,)),
        pretraining=values.get("pretraining") or {},
        overrides=tuple(values.get("set") or ()),
        world=values.get("world"),
        data=values.get("data") or {},
    )


def _check_kinds(path: Path, values: Mapping[str, Any]) -> None:
    """Raises UserError unless lists are lists and sections sections."""
    for key, kind in LISTS.items():
        found = values.get(key, [])
        if not isinstance(found, list) or not all(type(item) is kind for item in found):
            raise UserError(f"{path}: {key}: expected a list of {kind.__name__}, found {found!r}")
    sections = {key: values[key] for key in SECTIONS if key in values}
    for task, flags in dict(values["tasks"]).items() if isinstance(values["tasks"], Mapping) else ():
        sections[f"tasks.{task}"] = flags or {}
        if isinstance(flags, Mapping):
            sections |= {f"tasks.{task}.{part}": inner or {} for part, inner in flags.items()}
            wrong = [str(part) for part in flags if part not in ("train", "test")]
            if wrong:
                raise UserError(f"{path}: tasks.{task} has {wrong[0]}; expected train and test, each with flags")
    for key, found in sections.items():
        if not isinstance(found, Mapping):
            raise UserError(f"{path}: {key}: expected a section of settings, found {found!r}")
    fields = WorldSpec.__dataclass_fields__
    unknown = [str(key) for key in values.get("world", ()) if key not in fields]
    if unknown:
        raise UserError(f"{path}: world has no {unknown[0]}; its parameters are {', '.join(fields)}")


@dataclass(frozen=True)
class Places:
    """Where a study reads and writes."""

    folder: Path
    tasks_config_file: Path
    features_path: Path
    annotations_path: Path
    overrides: tuple[str, ...]  # of every model, the vocabulary included


def places(study: Study, folder: Path) -> Places:
    """The study's paths; a world's are inside the study's folder."""
    if study.world is None:
        data = study.data
        missing = [key for key in ("tasks_config_file", "features_path", "annotations_path") if key not in data]
        if missing:
            raise UserError(f"study {study.name}: data lacks {', '.join(missing)}")
        paths = (Path(data["tasks_config_file"]), Path(data["features_path"]), Path(data["annotations_path"]))
        return Places(folder, *paths, study.overrides)
    world = folder / "world"
    captions = world / "datasets" / "conceptual_captions"
    features = captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    overrides = (*study.overrides, f"bert_model={world / 'bert-world'}")
    return Places(folder, world / "tasks.yml", features, captions / "annotations", overrides)


def cells(study: Study, where: Places) -> list[Cell]:
    """All cells, pre-training first."""
    specs = {task: load_task(where.tasks_config_file, task) for task in study.tasks}
    plan: list[Cell] = []
    for seed in study.seeds:
        for model in study.models:
            if study.pretraining:
                plan.append(_pretraining_cell(study, where, model, seed))
    for task, flags in study.tasks.items():
        for seed in study.seeds:
            for model in study.models:
                plan.append(_task_cell(study, where, model, seed, specs[task], flags))
    return plan


def _row_folder(where: Places, model: str, seed: int) -> Path:
    return where.folder / find_config(model).stem / f"seed{seed}"


def _pretraining_cell(study: Study, where: Places, model: str, seed: int) -> Cell:
    folder = _row_folder(where, model, seed)
    arguments = [
        *_common(where, model, seed, folder),
        *("--annotations_path", str(where.annotations_path), "--features_path", str(where.features_path)),
        *("--logdir", str(folder / "logs"), "--resume"),
        *_flags({"from_pretrained": "", **study.pretraining}),
    ]
    name = f"{find_config(model).stem}/seed{seed}/pretraining"
    return Cell(name, model, seed, "", (("train_concap", tuple(arguments)),))


def _task_cell(study: Study, where: Places, model: str, seed: int, spec: TaskSpec, flags: Mapping[str, Any]) -> Cell:
    folder = _row_folder(where, model, seed)
    stem = find_config(model).stem
    common = [
        *_common(where, model, seed, folder),
        *("--tasks_config_file", str(where.tasks_config_file), "--task", spec.key),
    ]
    start = str(folder / stem / "pytorch_model_best.bin") if study.pretraining else ""
    train = [*common, "--from_pretrained", start, "--logdir", str(folder / "logs"), "--resume"]
    train += _flags(flags.get("train") or {})
    best = folder / f"{spec.name}_{stem}" / "pytorch_model_best.bin"
    test = [
        *common,
        "--from_pretrained",
        str(best),
        *_flags({"split": test_split(spec, flags), **(flags.get("test") or {})}),
    ]
    entry = "eval_retrieval" if spec.type == "VL-logit" else "eval_task"
    needs = f"{stem}/seed{seed}/pretraining" if study.pretraining else ""
    commands = (("train_task", tuple(train)), (entry, tuple(test)))
    return Cell(f"{stem}/seed{seed}/{spec.name}", model, seed, spec.key, commands, needs)


def test_split(spec: TaskSpec, flags: Mapping[str, Any]) -> str:
    """The split that a study reports for a task."""
    return str((flags.get("test") or {}).get("split", spec.val_split))


def _common(where: Places, model: str, seed: int, folder: Path) -> list[str]:
    overrides = [part for override in where.overrides for part in ("--set", override)]
    return ["--config_file", model, *overrides, "--seed", str(seed), "--output_dir", str(folder), "--in_memory"]


def _flags(values: Mapping[str, Any]) -> list[str]:
    """``{"lr": 1e-3, "adam_betas": [0.9, 0.98], "resume": true}`` as command-line flags."""
    flags: list[str] = []
    for key, value in values.items():
        if value is False or value is None:
            continue
        flags.append(f"--{key}")
        if isinstance(value, list):
            flags += [str(item) for item in value]
        elif value is not True:
            flags.append(str(value))
    return flags
