"""VOLTA's task files: YAML, one entry per ``TASK<n>``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volta_switch.errors import UserError
from volta_switch.files import read_yaml
from volta_switch.shipped import here_or_shipped

WORLD = "world.json"  # lies beside a small world's task file
REQUIRED = ("name", "type", "dataroot", "features_h5path1", "max_seq_length", "train_split", "val_split")


@dataclass(frozen=True)
class TaskSpec:
    """One entry of a task file, field by field as VOLTA names them.

    Its relative paths lie below the data root: the folder that is named (``data_root``), or, of a small world's task
    file, the world's. Without a data root they are looked for in the working directory and beside the task file, and
    must not lead to two different files.
    """

    key: str  # "TASK10"
    folder: Path  # the task file's
    name: str  # "refcoco+"
    type: str  # which head and loss: "V-logit"
    dataroot: str
    features_h5path1: str
    max_seq_length: int  # word pieces, [CLS] and [SEP] included
    train_split: str
    val_split: str
    process: str = "normal"
    loss: str = ""
    task_id: int = 0
    features_h5path2: str = ""
    train_annotations_jsonpath: str = ""
    val_annotations_jsonpath: str = ""
    num_labels: int | None = None
    num_clf_layers: int = 1
    fusion_method: str | None = None  # overrides the model's
    max_region_num: int | None = None
    batch_size: int = 64
    eval_batch_size: int | None = None
    lr: float = 1e-4
    num_epoch: int = 20
    extra: Mapping[str, Any] = field(default_factory=dict)  # keys that VOLTA reads and this project does not
    data_root: Path | None = None  # where all its relative paths lie

    def path(self, name: str) -> Path:
        """The file or folder that a path of the entry stands for; it need not exist.

        Raises:
            UserError: there are two, in the working directory and beside the task file.
        """
        root = self._root()
        return self._only_one(name, self.folder, "name the data root (--data_root)") if root is None else root / name

    def given_path(self, name: str) -> Path:
        """The file or folder that a flag names: in the data root where one is named and has it, else as a path here.

        Without a named data root it may also lie beside the task file.

        Raises:
            UserError: there are two.
        """
        if self.data_root is not None and (self.data_root / name).exists():
            return self.data_root / name
        return self._only_one(name, self.folder, "give the absolute path")

    def _root(self) -> Path | None:
        """The folder below which all paths of the entry lie, where there is one."""
        return self.folder if self.data_root is None and (self.folder / WORLD).is_file() else self.data_root

    def _only_one(self, name: str, other: Path, cure: str) -> Path:
        here, there = Path(name), other / name
        if not there.exists():
            return here
        if here.exists() and not here.samefile(there):
            raise UserError(
                f"{self.key} ({self.name}): {name} is there twice: {here.absolute()} and {there.absolute()}; {cure}, "
                "or move one of them away"
            )
        return there

    def given_annotations(self, split: str) -> Path | None:
        """The file that the entry names for a split; None where the split's name says which of the data root's."""
        given = {
            self.train_split: self.train_annotations_jsonpath,
            self.val_split: self.val_annotations_jsonpath,
        }.get(split)
        return self.path(given) if given else None

    def deciding(self) -> dict[str, Any]:
        """What of the entry decides how a model sees the data and answers, wherever they lie and however it learns."""
        names = ("type", "process", "loss", "max_seq_length", "max_region_num", "num_labels", "num_clf_layers")
        return {name: getattr(self, name) for name in names}

    def head(self) -> dict[str, Any]:
        """What ``BertForVLTasks`` needs to build the head."""
        return {"type": self.type, "num_labels": self.num_labels, "num_clf_layers": self.num_clf_layers}


def load_task(path: str | Path, task: str, data_root: str | Path = "") -> TaskSpec:
    """Finds one task by number (``10``), key (``TASK10``) or name (``refcoco+``).

    ``data_root``: the folder below which its relative paths lie; "": as ``TaskSpec`` says.

    Raises:
        UserError: the file cannot be read, has no such task (the nearest is suggested), or the entry lacks a key.
    """
    path = here_or_shipped(path)
    root = Path(data_root) if str(data_root) else None
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; --data_root names the one that a task file's paths begin in")
    entries = read_yaml(path, "no such task file; shipped ones are in config_tasks/")
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise UserError(f"{path}: expected entries TASK<n>, each with settings")
    entries = {str(key): entry for key, entry in entries.items()}
    wanted = task.strip()
    names = {str(entry.get("name")): key for key, entry in entries.items()}
    key = next((k for k in (wanted, f"TASK{wanted}", names.get(wanted)) if k in entries), None)
    if key is None:
        known = [f"{key} ({entry.get('name')})" for key, entry in entries.items()]
        near = difflib.get_close_matches(wanted, [*entries, *names], n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(f"{path}: no task {wanted!r}{hint} It has {', '.join(known)}; choose one with --task")
    entry = dict(entries[key])
    missing = [name for name in REQUIRED if entry.get(name) is None]
    if missing:
        raise UserError(f"{path}: {key} lacks {', '.join(missing)}")
    fields = {name for name in TaskSpec.__dataclass_fields__ if name not in ("key", "folder", "extra", "data_root")}
    extra = {name: value for name, value in entry.items() if name not in fields}
    given = {name: value for name, value in entry.items() if name in fields and value is not None}
    try:
        known_values = {name: _coerce(name, value) for name, value in given.items()}
    except ValueError as error:
        raise UserError(f"{path}: {key}: {error}") from None
    return TaskSpec(key=key, folder=path.parent, extra=extra, data_root=root, **known_values)


def _coerce(name: str, value: Any) -> Any:
    """A setting as its field's type; YAML reads 1e-4 as text."""
    kind = str(TaskSpec.__dataclass_fields__[name].type).removesuffix(" | None")
    try:
        fits = {"int": int, "float": float, "str": str}[kind](value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected {kind}, found {value!r}") from None
    if kind == "int" and isinstance(value, float | bool):
        raise ValueError(f"{name}: expected a whole number, found {value!r}")
    return fits
