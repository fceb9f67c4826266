"""VOLTA's task files: YAML, one entry per ``TASK<n>``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from volta_switch.config.checks import FUSION_METHODS
from volta_switch.errors import UserError, nearest
from volta_switch.files import here_or_shipped, read_yaml
from volta_switch.ranges import (
    ANY_TEXT,
    BATCH_SIZE,
    EPOCHS,
    LEARNING_RATE,
    NAME,
    PATH,
    POOL_IMAGES,
    WORDS,
    Choice,
    OrNone,
    Range,
    Text,
    bounded,
    range_of,
    required,
    whole,
)

WORLD = "world.json"  # lies beside a synthetic world's task file
REQUIRED = ("name", "type", "dataroot", "features_h5path1", "max_seq_length", "train_split", "val_split")
BESIDE = ("key", "folder", "extra", "data_root")  # of a ``TaskSpec``: what no entry says
# Keys of VOLTA's task files that nothing reads here, and why; "" where nothing is lost by it.
UNREAD = {
    "format": "",  # a feature file is known by what it holds
    "embed_clf": "VOLTA does not read it, either",
    "start_iteration": "VOLTA does not read it, either",
    "metric": "",  # of a model's own task: a task knows it
}


# Of an entry: what decides how a model sees the data and answers; a model's folder keeps it.
DECIDING = ("type", "process", "loss", "max_seq_length", "max_region_num", "num_labels", "num_clf_layers")
PATH_SETTINGS = (  # of an entry: what names its files
    *("dataroot", "features_h5path1", "features_h5path2", "train_annotations_jsonpath", "val_annotations_jsonpath"),
)


@dataclass(frozen=True)
class Kind:
    """What follows from an entry's ``type``, in VOLTA's words; an entry that says otherwise is refused."""

    data_set: str  # as which an entry of another name is read
    loss: str
    process: str
    num_labels: int | None = None  # None: the entry says how many
    num_clf_layers: tuple[int, ...] = (1,)


KINDS = {
    "VL-classifier": Kind("VQA", "BCEWithLogitLoss", "normal"),
    "VL-classifier-GQA": Kind("GQA", "BCEWithLogitLoss", "normal"),
    "VL-logit": Kind("RetrievalFlickr30k", "CrossEntropyLoss", "retrieval", 1),
    "V-logit": Kind("refcoco", "BCEWithLogitLoss", "normal", 1, (1, 2)),
    "VL-binary-classifier": Kind("NLVR2", "BCEWithLogitLoss", "nlvr", 2),
    "VL-tri-classifier": Kind("VisualEntailment", "BCEWithLogitLoss", "normal", 3),
}


@dataclass(frozen=True)
class TaskSpec:
    """One entry of a task file, field by field as VOLTA names them.

    Its relative paths lie below the data root: the folder that is named (``data_root``), or, of a synthetic world's
    task file, the world's. Without a data root they are looked for in the working directory and beside the task file.
    All must lie in one of the two, and none may lead to two different files.
    """

    key: str  # "TASK10"
    folder: Path  # the task file's
    name: str = required(NAME)  # "refcoco+"
    type: str = required(Text())  # which head and loss: "V-logit"
    dataroot: str = required(PATH)
    features_h5path1: str = required(PATH)
    max_seq_length: int = required(WORDS)  # word pieces, [CLS] and [SEP] included
    train_split: str = required(ANY_TEXT)  # empty in VOLTA's files of test splits
    val_split: str = required(NAME)
    process: str = bounded("", ANY_TEXT)  # as ``Kind`` says
    loss: str = bounded("", ANY_TEXT)  # as ``Kind`` says
    task_id: int = bounded(0, whole(0, 1_000_000))  # a label; neither VOLTA nor this project reads it
    features_h5path2: str = bounded("", ANY_TEXT)
    train_annotations_jsonpath: str = bounded("", ANY_TEXT)
    val_annotations_jsonpath: str = bounded("", ANY_TEXT)
    num_labels: int | None = bounded(None, OrNone(whole(1, 1_000_000)))
    num_clf_layers: int = bounded(1, Choice(1, 2))
    fusion_method: str | None = bounded(None, OrNone(Choice(*FUSION_METHODS)))  # overrides the model's
    max_region_num: int | None = bounded(None, OrNone(whole(1, 10_000)))  # boxes; the others are cut off
    batch_size: int = bounded(64, BATCH_SIZE)
    pool_images: int | None = bounded(None, OrNone(POOL_IMAGES))  # of retrieval's test (``retrieval_pools``)
    eval_batch_size: int | None = bounded(None, OrNone(BATCH_SIZE))
    lr: float = bounded(1e-4, LEARNING_RATE)
    num_epoch: int = bounded(20, EPOCHS)
    extra: Mapping[str, Any] = field(default_factory=dict)  # those of ``UNREAD``
    data_root: Path | None = None  # where all its relative paths lie

    def path(self, name: str) -> Path:
        """The file or folder that a path of the entry stands for; it need not exist.

        Raises:
            UserError: there are two, in the working directory and beside the task file.
        """
        root = self._root()
        if root is not None:
            return root / name
        self._refuse_two_roots()
        return self._only_one(name, self.folder, "name the data root (--data_root)")

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

    def _refuse_two_roots(self) -> None:
        """Raises UserError where some of the entry's files lie in the working directory alone, and some beside it."""
        names = [getattr(self, name) for name in PATH_SETTINGS if getattr(self, name)]
        here = [name for name in names if Path(name).exists() and not (self.folder / name).exists()]
        there = [name for name in names if (self.folder / name).exists() and not Path(name).exists()]
        if here and there:
            raise UserError(
                f"{self.key} ({self.name}): its data lie in two places, {here[0]} in {Path.cwd()} and {there[0]} in "
                f"{self.folder.absolute()}; name the data root (--data_root), or put them into one folder"
            )

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
        return {name: getattr(self, name) for name in DECIDING}

    def kept(self) -> dict[str, Any]:
        """What a model's folder keeps of the entry: its name, and what decides, without the places of data."""
        return {"name": self.name, **{name: value for name, value in self.deciding().items() if value is not None}}

    def head(self) -> dict[str, Any]:
        """What ``BertForVLTasks`` needs to build the head."""
        return {"type": self.type, "num_labels": self.num_labels, "num_clf_layers": self.num_clf_layers}


def load_task(path: str | Path, task: str, data_root: str | Path = "") -> TaskSpec:
    """Finds one task by number (``10``), key (``TASK10``) or name (``refcoco+``).

    ``data_root``: the folder below which its relative paths lie; "": as ``TaskSpec`` says.

    Raises:
        UserError: the file cannot be read, has no such task (the nearest is suggested), or the entry lacks a key, has
            one that nobody knows, a value out of its range, or one that its type does not have.
    """
    path = here_or_shipped(path)
    entries = _entries(path)
    wanted = task.strip()
    names = {str(entry.get("name")): key for key, entry in entries.items()}
    key = next((k for k in (wanted, f"TASK{wanted}", names.get(wanted)) if k in entries), None)
    alike = [each for each, entry in entries.items() if str(entry.get("name")) == wanted]
    if len(alike) > 1 and key == names.get(wanted):
        raise UserError(f"{path}: {', '.join(alike)} are all called {wanted}; give the number of one with --task")
    if key is None:
        known = [f"{key} ({entry.get('name')})" for key, entry in entries.items()]
        near = nearest(wanted, [*entries, *names])
        hint = f"; did you mean {near}?" if near else "."
        if not wanted:
            raise UserError(f"{path}: which task? It has {', '.join(known)}; choose one with --task")
        raise UserError(f"{path}: no task {wanted!r}{hint} It has {', '.join(known)}; choose one with --task")
    return _spec(path, key, entries[key], _root(data_root))


def names_of_tasks(path: str | Path) -> list[str]:
    """Returns what a task file calls its tasks, in its order; raises UserError where it cannot be read."""
    return [str(entry.get("name", key)) for key, entry in _entries(here_or_shipped(path)).items()]


def load_model_task(
    path: str | Path, key: str, kept: Mapping[str, Any], data_root: str | Path = "", source: str | Path = "task.yml"
) -> TaskSpec:
    """Returns the task that a model was fine-tuned on: its kept settings, and of a task file's entry all others.

    Args:
        path: the task file; the entry is the one of the same name, or of the same key where none is kept.
        key: of the model's task, by which its head is called.
        kept: what the model's folder keeps of the entry (``TaskSpec.kept``).
        data_root: as ``load_task`` takes it.
        source: what messages call the model's own task file.

    Raises:
        UserError: the task file has no such task, or one of another type; a kept setting is refused as an entry's.
    """
    path = here_or_shipped(path)
    entries = _entries(path)
    name = str(kept.get("name", entries.get(key, {}).get("name", "")))
    entry = next((entry for entry in entries.values() if str(entry.get("name")) == name), None)
    given = f"{source}: {key}" + (f" ({name})" if name else "")
    if entry is None:
        raise UserError(f"{given}: {path} has no such task; give the task file that has (--tasks_config_file)")
    if kept.get("type", entry.get("type")) != entry.get("type"):
        raise UserError(
            f"{given}: a {kept['type']}, and a {entry.get('type')} in {path}; give the model's task file "
            "(--tasks_config_file)"
        )
    decided = {name: None for name in DECIDING if name in entry}  # where nothing is kept the model had none
    own = {**entry, "fusion_method": None, **(decided if "name" in kept else {}), **kept}
    return replace(_spec(Path(source), key, own, _root(data_root)), folder=path.parent)


def _root(data_root: str | Path) -> Path | None:
    root = Path(data_root) if str(data_root) else None
    if root is not None and not root.is_dir():
        raise UserError(f"{root}: no such folder; --data_root names the one that a task file's paths begin in")
    return root


def _entries(path: Path) -> dict[str, Mapping[str, Any]]:
    entries = read_yaml(path, "task file", "shipped ones are in config_tasks/")
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise UserError(f"{path}: expected entries TASK<n>, each with settings")
    return {str(key): entry for key, entry in entries.items()}


def _spec(path: Path, key: str, entry: Mapping[str, Any], root: Path | None) -> TaskSpec:
    """Returns a task file's entry, read and checked; raises UserError where it cannot be."""
    missing = [name for name in REQUIRED if entry.get(name) is None]
    if missing:
        raise UserError(f"{path}: {key} lacks {', '.join(missing)}")
    fields = [name for name in TaskSpec.__dataclass_fields__ if name not in BESIDE]
    try:
        extra = {name: value for name, value in entry.items() if name not in fields}
        _refuse_unknown(extra, [*fields, *UNREAD])
        given = {name: value for name, value in entry.items() if name in fields and value is not None}
        known_values = {name: _read(name, value) for name, value in given.items()}
        spec = TaskSpec(key=key, folder=path.parent, extra=extra, data_root=root, **known_values)
        _check_kind(spec)
    except ValueError as error:
        raise UserError(f"{path}: {key}: {error}") from None
    return spec


def _refuse_unknown(extra: Mapping[Any, Any], known: list[str]) -> None:
    for name in extra:
        if name not in UNREAD:
            near = nearest(str(name), known, cutoff=0.5)
            raise ValueError(f"unknown key {name}" + (f"; did you mean {near}?" if near else "; leave it out"))


def _read(name: str, value: Any) -> Any:
    """A setting in its field's range; YAML reads 1e-4 as text."""
    range_: Range = range_of(TaskSpec, name)
    try:
        return range_.spelt(value) if isinstance(value, str) else range_.read(value)
    except ValueError as error:
        quoted = isinstance(value, int | float) and "text" in range_.expected
        raise ValueError(f"{name}: {error}" + ("; put it in quotes" if quoted else "")) from None


def _check_kind(spec: TaskSpec) -> None:
    """Raises ValueError where the entry's settings are not those of its type; types that are not built pass."""
    kind = KINDS.get(spec.type)
    if kind is None:
        return
    if spec.loss not in ("", kind.loss):
        raise ValueError(f"loss: a {spec.type} is trained with {kind.loss} here, found {spec.loss}; leave it out")
    if spec.process not in ("", kind.process):
        raise ValueError(
            f"process: a {spec.type} is read as {kind.process} here, found {spec.process}: another data set"
        )
    if kind.num_labels is not None and spec.num_labels not in (None, kind.num_labels):
        raise ValueError(f"num_labels: a {spec.type} has {kind.num_labels}, found {spec.num_labels}; leave it out")
    if spec.num_clf_layers not in kind.num_clf_layers:
        raise ValueError(f"num_clf_layers: not read for a {spec.type}, found {spec.num_clf_layers}; leave it out")
    if spec.pool_images is not None and kind.process != "retrieval":
        raise ValueError(f"pool_images: not read for a {spec.type}, found {spec.pool_images}; leave it out")
