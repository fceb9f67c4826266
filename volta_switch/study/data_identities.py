"""What a study's own data are, wherever they lie: its cells are known by it.

What was found is kept in ``data.json`` of the study's folder, and taken from there on a machine that has the finished
cells and not the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from volta_switch.data.fingerprints import Fingerprint, file_fingerprint, store_fingerprint
from volta_switch.errors import UserError
from volta_switch.files import find_object, write_json
from volta_switch.hub import find_bert
from volta_switch.tasks.task_file import PATH_SETTINGS, TaskSpec
from volta_switch.train.run_data import pair_fingerprints, task_fingerprints

DATA_FILE = "data.json"


class DataIdentities:
    """The fingerprints of what each kind of run of a study reads.

    ``folder``: the study's. ``known``: those that came with merged cells.
    """

    def __init__(self, folder: Path, known: Mapping[str, Any] | None = None) -> None:
        self._path = folder / DATA_FILE
        self.known: dict[str, Any] = {**(find_object(self._path) or {}), **(known or {})}

    def of_pairs(self, annotations: Path, features: Path) -> dict[str, str]:
        """What a pre-training run reads."""
        return self._of(["pairs", str(annotations), str(features)], lambda: pair_fingerprints(annotations, features))

    def of_task(
        self, lies: Any, spec: TaskSpec, tested: TaskSpec, flags: Mapping[str, Any], split: str | None
    ) -> dict[str, str]:
        """What a task's runs read.

        Args:
            lies: where the plan says that the data are, as JSON values.
            spec: the task.
            tested: the same with the annotations that the test's flags name.
            flags: of the training (``train``) and of the test (``test``).
            split: that is tested; None: the training alone counts.
        """
        train, test = flags.get("train") or {}, flags.get("test") or {}
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

    def of_named_files(self, sections: Mapping[str, Mapping[str, Any] | None], in_world: bool) -> list[dict[str, Any]]:
        """What the files are that flags name beside the data, weights above all; nothing where they name none.

        Args:
            sections: of flags, by name.
            in_world: whether the study's data are a small world: a relative path is then the world's own, which follows
                from the world. Of other data ``of_task`` tells all but weights.
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

    def _of(self, asked: Any, read: Callable[[], Mapping[str, Fingerprint]]) -> dict[str, str]:
        """File -> fingerprint of what a run reads, or what was kept of it where the data are not here.

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
    return {name: file_fingerprint(find_bert(path, fetch=False) if path.is_dir() else path)}


def _data(path: Path, name: str) -> dict[str, Fingerprint]:
    return {name: store_fingerprint(path) if "features" in name else file_fingerprint(path)}
