"""Downstream tasks: one file each, found by their data set; and the files that an entry of a task file reads.

VOLTA's task files name a data set (``name: refcoco+``) and a head (``type: V-logit``). An entry belongs to the task of
this folder whose ``data_sets`` hold its name and whose ``heads`` hold its type. Entries of other names are read as
VOLTA's own data set with this head (``task_file.KINDS``). Modules are found by the text of ``data_sets``, and only the
one that is asked for is imported; nothing here opens a data file or imports what takes time.

| read | to see |
|---|---|
| ``task_file.py`` | an entry, field by field |
| ``task.py`` | what is asked of a task |
| ``dataset.py`` | what data sets have in common |
| ``gqa.py`` | a small task; then ``snli_ve.py``, ``nlvr2.py``, ``refer.py``, ``vqa.py``, ``retrieval.py`` |
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from volta_switch.errors import UserError
from volta_switch.tasks.dataset import Choice, chosen
from volta_switch.tasks.task import DataOptions, Evaluation, Task
from volta_switch.tasks.task_file import KINDS, TaskSpec, load_task

if TYPE_CHECKING:
    from volta_switch.config import Config
    from volta_switch.data.tokenizer import Tokenizer

__all__ = [
    "DataOptions",
    "Evaluation",
    "Task",
    "TaskSpec",
    "annotation_files",
    "build_task",
    "data_set_modules",
    "features_path",
    "load_task",
    "read_files",
    "task_class",
    "task_of",
]

_DATA_SETS = re.compile(r"^    data_sets = (\([^()]*\))", re.MULTILINE)


@functools.cache
def data_set_modules() -> dict[str, str]:
    """The module of every data set that has a task.

    Raises:
        ValueError: two modules name one data set.
    """
    found: dict[str, str] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for names in _DATA_SETS.findall(path.read_text(encoding="utf-8")):
            for name in ast.literal_eval(names):
                module = f"{__name__}.{path.stem}"
                if found.setdefault(name, module) != module:
                    raise ValueError(f"data set {name} is named by {found[name]} and {module}; expected one task")
    return found


def task_of(data_set: str) -> type[Task] | None:
    """The task of a data set, by the name that task files give it; None where there is none."""
    name = data_set_modules().get(data_set)
    defined = vars(importlib.import_module(name)).values() if name else ()
    tasks = (each for each in defined if isinstance(each, type) and issubclass(each, Task))
    return next((task for task in tasks if data_set in vars(task).get("data_sets", ())), None)


def task_class(spec: TaskSpec) -> type[Task]:
    """The task that an entry describes.

    Raises:
        UserError: this project has no data set of the entry's name, and none for its ``type``.
    """
    found = task_of(spec.name)
    if found is None or spec.type not in found.heads:
        found = task_of(KINDS[spec.type].data_set) if spec.type in KINDS else None
    if found is None:
        raise UserError(f"{spec.key} ({spec.name}): no data set for type {spec.type}; there are {', '.join(KINDS)}")
    return found


def build_task(spec: TaskSpec, config: Config, tokenizer: Tokenizer, options: DataOptions) -> Task:
    """The task that an entry describes, ready to read its data; raises as ``task_class`` does."""
    return task_class(spec)(spec, config, tokenizer, options)


def annotation_files(spec: TaskSpec, split: str, training: bool) -> list[Choice]:
    """The annotation files of a split, and what training needs beside them.

    Raises:
        UserError: the data set has no such split, or the task file names no annotations for it, or some that the data
            set does not read.
    """
    task = task_class(spec)
    for name in ("train_annotations_jsonpath", "val_annotations_jsonpath"):
        if getattr(spec, name) and not task.named_annotations:
            raise UserError(f"{spec.key} ({spec.name}): {name} is not read, annotations lie in dataroot; leave it out")
    return [*task.annotation_files(spec, split), *(task.training_files(spec) if training else [])]


def features_path(spec: TaskSpec, split: str, features: str = "", boxes: str = "detected") -> Path:
    """The image features of a split.

    Args:
        spec: the task.
        split: of its annotations.
        features: another file than the task file's.
        boxes: "detected", or "gt" for those of the annotated boxes (referring expressions).

    Raises:
        UserError: boxes that the task does not have, or that the task file names no features of.
    """
    second = task_class(spec).second_features
    if spec.features_h5path2 and not second:
        raise UserError(f"{spec.key} ({spec.name}): features_h5path2 is not read; leave it out")
    if boxes != "detected" and second != "annotated boxes" and not features:
        raise UserError(f"{spec.key} ({spec.name}): --boxes {boxes} is for RefCOCO's tasks")
    if features:
        return spec.given_path(features)
    if second == "annotated boxes" and boxes == "gt":
        if not spec.features_h5path2:
            raise UserError(
                f"{spec.key} ({spec.name}): --boxes gt needs features of the annotated boxes; name the file in the "
                "task file's features_h5path2"
            )
        return spec.path(spec.features_h5path2)
    own = spec.features_h5path2 if second == "validation" and split == spec.val_split else ""
    return spec.path(own or spec.features_h5path1)


def read_files(spec: TaskSpec, split: str, training: bool, features: str, boxes: str) -> tuple[list[Path], Path]:
    """The annotation files of a split that are there, and its image features; arguments as above."""
    found = [chosen(choice) for choice in annotation_files(spec, split, training)]
    return [path for path in found if path.is_file()], features_path(spec, split, features, boxes)
