"""A study's data: where they lie, and what they are wherever they lie, by which finished runs are recognised.

What was found is kept in ``data.json`` of the study's folder. It is taken from there on a machine that has the finished
runs and not the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from volta_switch.ablation import TASKS
from volta_switch.checksums import is_there
from volta_switch.config.model_folder import is_model_folder, weights_in
from volta_switch.data.entities import entities_digest
from volta_switch.data.files.json_files import read_object
from volta_switch.data.fingerprints import Fingerprint, file_fingerprint, store_fingerprint
from volta_switch.errors import UserError
from volta_switch.files import find_object, write_json
from volta_switch.hub import find_bert
from volta_switch.ranges import WORDS
from volta_switch.study.arms import Arm, TaskFlags
from volta_switch.study.command_lines import DATA_KEYS, DATA_ROOT, Places, as_flags
from volta_switch.study.plan import Study
from volta_switch.study.planned_runs import KnownData
from volta_switch.study.records import Flags, ReportedColumn
from volta_switch.tasks.task_file import PATH_SETTINGS, TaskSpec, load_task
from volta_switch.train.run_data import pair_fingerprints, task_fingerprints
from volta_switch.world.phrases import Lexicon
from volta_switch.world.spec import ABLATION_FILE, WorldSpec

DATA_FILE = "data.json"
BLIND_GUESSES = {  # task -> data set of a synthetic world, and what it calls the best guess without looking
    "VQA": ("vqa", "prior_by_kind"),
    "RetrievalCOCO": ("coco", "chance_r1"),
    "RetrievalFlickr30k": ("retrieval", "chance_r1"),
    "refcoco": ("refcoco", "chance"),
    "refcoco+": ("refer", "chance"),
    "refcocog": ("refcocog", "chance"),
    "NLVR2": ("nlvr2", "majority"),
    "VisualEntailment": ("snli_ve", "majority"),
    "GQA": ("gqa", "prior_by_kind"),
}


def places(study: Study, arm: Arm, folder: Path) -> Places:
    """Returns where an arm's data lie; a world's are inside the study's folder.

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
    own = (world / "tasks.yml", features, captions / "annotations", str(world), vocabulary, spec.as_dict())
    return Places(*own, entities_file=world / ABLATION_FILE)


def is_synthetic(study: Study) -> bool:
    """Tells whether a study's data are synthetic worlds; all of its arms have one, or none has."""
    return any(arm.world is not None for arm in study.arms.values())


def world_folder(study: Study, arm: Arm, folder: Path) -> Path:
    """Returns the folder of an arm's world: ``world`` is the first arm's; others' say where they differ from it."""
    first, own = (WorldSpec(**(each.world or {})).as_dict() for each in (next(iter(study.arms.values())), arm))
    changed = [f"{key}-{own.get(key)}" for key in {**first, **own} if first.get(key) != own.get(key)]
    return folder / "-".join(["world", *changed])


def write_worlds(study: Study, folder: Path) -> None:
    """Writes the synthetic worlds of a study's arms into its folder, where they are not there yet.

    Of several processes that work in the folder one writes, and the others wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for arm in study.arms.values():
        if arm.world is not None:
            from volta_switch.world import world_lock, write_world

            world = world_folder(study, arm, folder)
            with world_lock(world):
                write_world(world, **arm.world)


def write_task_file(spec: WorldSpec, folder: Path) -> None:
    """Writes the task file of a world that is not written yet; the lengths of its texts are not known."""
    from volta_switch.world.task_file import task_file

    folder.mkdir(parents=True, exist_ok=True)
    lengths = dict.fromkeys(spec.data_sets, int(WORDS.lowest))  # they play no part in what runs cost
    (folder / "tasks.yml").write_text(yaml.safe_dump(task_file(spec, lengths)), encoding="utf-8")


def test_split(spec: TaskSpec, flags: TaskFlags) -> str:
    """Returns the split that a study reports for a task."""
    return str(flags.test.get("split", spec.val_split))


def test_pools(spec: TaskSpec, flags: TaskFlags) -> int | None:
    """Returns the images of a pool of retrieval's test (``retrieval_pools``), as the flags or the entry have them."""
    given = as_flags({"pool_images": flags.test.get("pool_images")})
    return int(given[1]) if given else spec.pool_images


def blind_guesses(world: Path, columns: Sequence[ReportedColumn]) -> tuple[float, ...]:
    """Returns the best score without looking, in percent, per column; empty where the data are no synthetic world.

    Referring expressions and retrieval: at random (of retrieval in pools, within one); VQA and GQA: the commonest
    answer to each kind of question; NLVR2 and SNLI-VE: the commonest label.
    """
    path = world / "world.json"
    if not is_there(path):
        return ()
    balance = read_object(path)["balance"]
    found = []
    for column in columns:
        data, guess = BLIND_GUESSES[column.task]
        share = balance[data]["val" if column.split.startswith("val") else "test"][guess]
        if column.pool_images is not None:
            share = 1 / column.pool_images
        # A statement is true of some pairs and false of others: one guess for all of them is never consistent.
        found.append(0.0 if column.metric == "consistency" else 100 * share)
    return tuple(found)


class DataIdentities:
    """The fingerprints of what each kind of run of a study reads."""

    def __init__(self, folder: Path, known: KnownData | None = None) -> None:
        """Begins with those that a study's folder has, and those that came with merged runs (``known``)."""
        self._path = folder / DATA_FILE
        self.known: dict[str, Mapping[str, str]] = {**(find_object(self._path) or {}), **(known or {})}

    def of_pairs(self, annotations: Path, features: Path) -> Mapping[str, str]:
        """Returns what a pre-training run reads."""
        return self._of(["pairs", str(annotations), str(features)], lambda: pair_fingerprints(annotations, features))

    def of_task(
        self, lies: object, spec: TaskSpec, tested: TaskSpec, flags: TaskFlags, split: str | None
    ) -> Mapping[str, str]:
        """Returns what a task's runs read.

        Args:
            lies: where the plan says that the data are, as JSON values.
            spec: the task.
            tested: the same with the annotations that the test's flags name.
            flags: of the training and of the test.
            split: that is tested; None: the training alone counts.
        """
        train, test = flags.train, flags.test
        given: dict[str, Any] = {name: str(train[name]) for name in PATH_SETTINGS if train.get(name)}
        trained = replace(spec, **given)
        read = [
            (train.get("train_split", spec.train_split), True, train.get("train_features_lmdbpath", "")),
            (train.get("val_split", spec.val_split), False, train.get("val_features_lmdbpath", "")),
        ]
        of_test = [] if split is None else [(split, False, test.get("val_features_lmdbpath", ""))]
        boxes = [str(of.get("boxes", "detected")) for of in (train, test)]
        places = [[getattr(of, name) for name in PATH_SETTINGS] for of in (trained, tested)]

        def fingerprints() -> dict[str, Fingerprint]:
            found = task_fingerprints(tested, boxes[1], of_test)
            return task_fingerprints(trained, boxes[0], read) | {f"test {name}": each for name, each in found.items()}

        return self._of([spec.key, lies, *places, read, of_test, boxes], fingerprints)

    def of_entities(self, where: Places, flags: Flags) -> Mapping[str, str]:
        """Returns what the cross-modal ablation reads; ``flags``: the study's for it."""
        file = str(flags.get("tasks_config_file", TASKS))
        spec = load_task(file, str(flags.get("task", "TASK18")), where.data_root)
        split, given = str(flags.get("split", spec.val_split)), str(flags.get("features", ""))

        def fingerprints() -> dict[str, Fingerprint]:
            features = spec.given_path(given) if given else spec.path(spec.features_h5path1)
            phrases = {"sha256": entities_digest(spec.path(spec.dataroot), split)}
            return {"phrases": phrases, "features": store_fingerprint(features)}

        sizes = [spec.max_seq_length, spec.max_region_num]
        return self._of(["entities", file, where.data_root, split, given, *sizes], fingerprints)

    def of_named_files(
        self, sections: Mapping[str, Flags | None], in_world: bool
    ) -> list[dict[str, Mapping[str, str]]]:
        """Returns what the files are that flags name besides the data, weights above all; nothing where they name none.

        Args:
            sections: of flags, by name.
            in_world: whether the study's data are a synthetic world: a relative path is then the world's own, which
                follows from the world. Of other data ``of_task`` tells all but weights.
        """
        found = {}
        for section, flags in sections.items():
            for name, value in (flags or {}).items():
                is_start = name == "from_pretrained"
                is_data = in_world and name.endswith("path") and isinstance(value, str) and Path(value).is_absolute()
                if isinstance(value, str) and (is_start or is_data) and os.path.lexists(value):
                    read = partial(_weights if is_start else _data, Path(value), name)
                    found[f"{section}.{name}".removeprefix(".")] = self._of(["file", value], read)
        return [found] if found else []

    def _of(self, asked: object, read: Callable[[], Mapping[str, Fingerprint]]) -> Mapping[str, str]:
        """Returns file -> fingerprint of what a run reads, or what was kept of it where the data are not here.

        Args:
            asked: what the plan says of the data, as JSON values.
            read: works the fingerprints out; raises UserError where a file is not there.
        """
        name = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]
        try:
            found = {file: str(each.get("fingerprint", each.get("sha256"))) for file, each in read().items()}
        except UserError:
            return self.known.get(name, {"not here": name})
        self.known[name] = found
        return found

    def keep(self) -> None:
        """Writes down what was found.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        if self.known and find_object(self._path) != self.known:
            write_json(self._path, self.known)


def _weights(path: Path, name: str) -> dict[str, Fingerprint]:
    if is_model_folder(path):
        path = weights_in(path)
    return {name: file_fingerprint(find_bert(path, fetch=False) if path.is_dir() else path)}


def _data(path: Path, name: str) -> dict[str, Fingerprint]:
    return {name: store_fingerprint(path) if "features" in name else file_fingerprint(path)}
