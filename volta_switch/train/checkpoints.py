"""Checkpoints: the folders ``step-00000120`` from which a run goes on, whole or not there at all.

| file | content |
|---|---|
| ``model.safetensors`` | weights under VOLTA's names; ``--from_pretrained`` takes it too |
| ``training.safetensors`` | the optimiser's state by ``<kind>/<parameter name>``, random states |
| ``manifest.json`` | format, progress, identity, plain values, sizes and checksums |

A checkpoint is written under a name that starts with a dot, flushed to the disk and then renamed. Nothing in it is a
pickle, so that reading one runs no code.
"""

from __future__ import annotations

import os
import re
import shlex
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from volta_switch.errors import UserError
from volta_switch.files import UNFINISHED, flush_folder, measured, remove, remove_unfinished
from volta_switch.identities import differences
from volta_switch.train.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    TrainingProgress,
    UnusableCheckpoint,
    encoded,
    read_manifest,
    regular_size,
    write_manifest,
)
from volta_switch.weights import check_finite, read_tensors, write_weights

__all__ = ["FORMAT", "Checkpoint", "CheckpointStore", "TrainingProgress", "check_identity"]

MODEL, TRAINING = "model.safetensors", "training.safetensors"
_REPLACED = "-replaced"  # a whole checkpoint that makes way for another of the same step
_STEP = re.compile(rf"step-(\d{{8,18}})({_REPLACED})?")
_ABANDONED = "abandoned-"
_NEWER = ("data", "precision", "entry")  # of an identity


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds."""

    path: Path
    progress: TrainingProgress
    identity: dict[str, Any]  # what must agree when the run goes on
    plain: dict[str, Any]  # JSON values: schedule, loss scale, number of ranks
    model: dict[str, Tensor]  # under VOLTA's names, shared weights repeated
    training: dict[str, Tensor]  # the optimiser's state by "<kind>/<parameter name>", random states


class CheckpointStore:
    """The checkpoints of one run, in ``<run>/checkpoints/``; the last ``keep`` stay.

    At every moment, also while one is replaced or removed, each folder with a complete name is a whole checkpoint.
    A new one is written before an old one goes, so that the disk needs room for ``keep`` + 1. One process writes.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        if keep < 1:
            raise UserError(f"at least 1 checkpoint must be kept, not {keep}")
        self.folder, self.keep = folder, keep

    def save(
        self,
        progress: TrainingProgress,
        identity: Mapping[str, Any],
        plain: Mapping[str, Any],
        model: Mapping[str, Tensor],
        training: Mapping[str, Tensor],
    ) -> Path:
        """Writes a checkpoint, whole or not at all, and then removes all but the last ``keep``.

        ``identity`` and ``plain`` hold JSON values; tuples come back as lists.

        Raises:
            UserError: the system refused to write; says which checkpoint to go on from, and nothing has changed.
            TypeError, ValueError: ``identity`` or ``plain`` holds what JSON cannot; nothing has changed.
        """
        target = self.folder / f"step-{progress.step:08d}"
        unfinished = self.folder / f".{target.name}{UNFINISHED}"
        encoded([identity, plain])  # what JSON cannot hold is found before anything is written
        try:
            remove(unfinished)  # a killed process's
            unfinished.mkdir(parents=True)
            write_weights(unfinished / MODEL, model)
            write_weights(unfinished / TRAINING, training)
            files = {name: measured(unfinished / name) for name in (MODEL, TRAINING)}
            write_manifest(unfinished, Manifest(progress, dict(identity), dict(plain), files))
            flush_folder(unfinished)
            self._put(unfinished, target)
        except OSError as error:
            raise UserError(self._cannot_save(target, error)) from error
        finally:
            with suppress(OSError):
                remove(unfinished)
        self._prune(target)
        return target

    def newest(self) -> Path | None:
        """Returns the checkpoint of the latest step, not verified; None where there is none."""
        found = _checkpoints_in(self.folder)
        return found[-1] if found else None

    def load(self, path: str | Path) -> Checkpoint:
        """Reads a checkpoint of this run or another's, after verifying all of it.

        Raises:
            UserError: it cannot be used; says why, and which is the newest good one before it.
        """
        path = Path(path)
        try:
            return _read(path)
        except UnusableCheckpoint as error:
            raise UserError(f"{path}: {error}; {self._offer(path)}") from None

    def abandon_after(self, step: int) -> None:
        """Renames the checkpoints of later steps to ``abandoned-step-…``, for a run that goes back or starts anew (-1).

        They stay until someone removes them, and ``newest`` passes them over.

        Raises:
            UserError: one cannot be renamed.
        """
        later = [path for path in _checkpoints_in(self.folder) if not _is_before(path, step + 1)]
        for path in later:
            name, again = f"{_ABANDONED}{path.name}", 1
            while os.path.lexists(self.folder / name):
                again += 1
                name = f"{_ABANDONED}{path.name}-{again}"
            try:
                path.rename(self.folder / name)
                flush_folder(self.folder)
            except OSError as error:
                raise UserError(f"{path}: cannot be renamed to {name} ({error.strerror}); move it away") from None

    def clear_unfinished(self) -> None:
        """Ends what a killed process left half done: removes unfinished checkpoints, gives a replaced one its name.

        Raises:
            UserError: something cannot be removed or renamed.
        """
        try:
            for path in _checkpoints_in(self.folder):
                target = path.with_name(path.name.removesuffix(_REPLACED))
                if not target.exists():
                    path.rename(target)
                elif target != path:
                    _discard(path)
            remove_unfinished(self.folder)
        except OSError as error:
            raise UserError(f"{error.filename or self.folder}: cannot be cleared away ({error.strerror})") from None

    def _put(self, unfinished: Path, target: Path) -> None:
        """Gives a written checkpoint its name; where one has it already, that one keeps a complete name until then."""
        replaced = target.with_name(target.name + _REPLACED)
        was_there = target.exists()
        if was_there:
            _discard(replaced)
            target.rename(replaced)
        try:
            unfinished.rename(target)
        except OSError:
            if was_there:
                replaced.rename(target)
            raise
        flush_folder(self.folder)
        flush_folder(self.folder.parent)  # where the store's folder may be new
        if was_there:
            _drop(replaced)

    def _prune(self, newest: Path) -> None:
        """Removes all but the last ``keep``; ``newest`` stays whatever its number is."""
        others = [path for path in _checkpoints_in(self.folder) if path != newest]
        for path in others[: max(len(others) + 1 - self.keep, 0)]:
            _drop(path)

    def _cannot_save(self, target: Path, error: OSError) -> str:
        good = _newest_good(self.folder)
        kept = f"{good} is whole, and nothing after it is lost but time" if good else "there is no earlier one"
        return (
            f"{target}: the checkpoint cannot be written ({error.strerror or error}); {kept}; make room or change the "
            f"permissions, then give the same command{' with --resume' if good else ''} again"
        )

    def _offer(self, path: Path) -> str:
        """Returns what to do instead of going on from a checkpoint that cannot be used."""
        step = _step_of(path)
        for folder in (path, path.parent, self.folder):
            if good := _newest_good(folder, step):
                return f"{good.name} is good: add --resume_file {shlex.quote(str(good))}"
        return "no earlier checkpoint is good: leave out --resume and --resume_file to start anew"


def check_identity(saved: Checkpoint, identity: dict[str, Any]) -> None:
    """Raises UserError, which names the first setting that differs, unless a checkpoint is of the same run.

    What checkpoints of earlier versions do not tell (data, precision) is not compared.
    """
    before, now = encoded(saved.identity), encoded(identity)
    now = {name: value for name, value in now.items() if name in before or name not in _NEWER}
    before.get("config", {}).pop("bert_model", None)  # earlier versions compared where the vocabulary lies
    found = list(differences(before, now))
    if found:
        name, was, is_now = min(found, key=lambda each: each[0] == "start")  # a setting says more than the weights
        raise UserError(
            f"{saved.path}: the run was started with {name} = {was}, now it is {is_now}; use the same "
            f"{'data' if name.startswith('data.') else 'settings'}, or start anew without --resume and --resume_file, "
            "under another --save_name or with --overwrite"
        )


def _checkpoints_in(folder: Path) -> list[Path]:
    """Returns a folder's checkpoints by step; of two of one step, the newer last."""
    found = [path for path in folder.glob("step-*") if _STEP.fullmatch(path.name) and os.path.isdir(path)]
    return sorted(found, key=lambda path: (_step_of(path), not path.name.endswith(_REPLACED)))


def _step_of(path: Path) -> int | None:
    """Returns the step in a checkpoint's name, an abandoned one's too; None where there is none."""
    found = _STEP.match(path.name.removeprefix(_ABANDONED))
    return int(found[1]) if found else None


def _is_before(path: Path, step: int | None) -> bool:
    """Returns whether a checkpoint is of an earlier step; None stands for the end of time."""
    own = _step_of(path)
    return step is None or (own is not None and own < step)


def _newest_good(folder: Path, before: int | None = None) -> Path | None:
    """Returns the last checkpoint in a folder, before a step, that can be used."""
    for path in reversed(_checkpoints_in(folder)):
        if _is_before(path, before):
            with suppress(UnusableCheckpoint):
                return _read(path).path
    return None


def _discard(path: Path) -> None:
    """Removes a checkpoint; killed in the middle, no half of one keeps a complete name."""
    if os.path.lexists(path):
        leaving = path.with_name(f".{path.name}{UNFINISHED}")
        remove(leaving)
        path.rename(leaving)
        remove(leaving)


def _drop(path: Path) -> None:
    """Removes a checkpoint that is no longer needed; a run goes on where that fails."""
    try:
        _discard(path)
    except OSError as error:
        print(f"{path}: cannot be removed ({error.strerror}); remove it by hand", file=sys.stderr)


def _read(path: Path) -> Checkpoint:
    """Reads a checkpoint after verifying all of it; raises UnusableCheckpoint."""
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        raise UnusableCheckpoint("no checkpoint to resume from") from None
    except OSError as error:
        raise UnusableCheckpoint(f"could not be read as a checkpoint ({error.strerror})") from None
    if path.name in (MODEL, TRAINING, MANIFEST):
        raise UnusableCheckpoint("is a file of a checkpoint; give its folder")
    if not folder:
        raise UnusableCheckpoint(
            "could not be read as a checkpoint (expected a folder such as checkpoints/step-00000120; of VOLTA's and "
            "earlier versions' training states only weights can be used: pytorch_model_*.bin, with --from_pretrained)"
        )
    manifest = read_manifest(path)
    step = _step_of(path)
    if step is not None and step != manifest.progress.step:
        raise UnusableCheckpoint(f"{MANIFEST} is that of step {manifest.progress.step}")
    if manifest.files.keys() != {MODEL, TRAINING}:
        raise UnusableCheckpoint(f"{MANIFEST} describes other files than {MODEL} and {TRAINING}")
    for name, expected in manifest.files.items():
        _verify(path / name, expected)
    model, training = (_tensors(path / name) for name in (MODEL, TRAINING))
    return Checkpoint(path, manifest.progress, manifest.identity, manifest.plain, model, training)


def _verify(path: Path, expected: Any) -> None:
    """Raises UnusableCheckpoint unless a file is the one that the manifest describes."""
    if not isinstance(expected, dict) or expected.keys() != {"bytes", "sha256"}:
        raise UnusableCheckpoint(f"{MANIFEST} does not say how large {path.name} is and what its sha256 is")
    if (size := regular_size(path)) != expected["bytes"]:
        raise UnusableCheckpoint(
            f"{path.name} is damaged (it has {size} bytes, {str(expected['bytes'])[:20]} were written)"
        )
    try:
        if measured(path) != expected:
            raise UnusableCheckpoint(f"{path.name} is damaged (its sha256 is not the manifest's)")
    except OSError as error:
        raise UnusableCheckpoint(f"{path.name} cannot be read ({error.strerror})") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    """Returns what one file holds; raises UnusableCheckpoint, also for weights with which nothing can be computed."""
    try:
        tensors = read_tensors(path)
        if path.name == MODEL:  # moments may be infinite where steps are none
            check_finite(tensors, str(path))
        return tensors
    except UserError as error:
        raise UnusableCheckpoint(str(error).removeprefix(f"{path.parent}{os.sep}")) from None
