"""Writes a whole world to a folder."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from volta_switch.checksums import SUMS, Changed, read_recorded, record_tree
from volta_switch.data.files.lmdb_environment import environment
from volta_switch.errors import UserError
from volta_switch.files import object_in
from volta_switch.world.balance import balance
from volta_switch.world.content import (
    SceneCaptions,
    SceneExpressions,
    SceneHypotheses,
    SceneQuestions,
    World,
    draw_world,
)
from volta_switch.world.files import write_datasets
from volta_switch.world.phrases import DIRECTORY, Caption, Lexicon, Phrase
from volta_switch.world.pictures import render_world
from volta_switch.world.questions import LABELS, Question
from volta_switch.world.spec import ABLATION_FILE, IMAGES_OF, WorldSpec
from volta_switch.world.statements import Contrast, Hypothesis, Statement
from volta_switch.world.task_file import ablation_file, task_file

SUMMARY, TASK_FILE = "world.json", "tasks.yml"
FORMAT = 3  # raised whenever the same parameters give other files


def write_world(out: str | Path, *, overwrite: bool = False, **parameters: Any) -> bool:
    """Writes the world with the given parameters (the fields of ``WorldSpec``) to the folder ``out``.

    The folder appears whole, at the end.

    Args:
        out: the folder.
        overwrite: replace a world with other parameters.
        parameters: fields of ``WorldSpec``.

    Returns:
        False, nothing having been written, if ``out`` already holds the world with the same parameters.

    Raises:
        UserError: a parameter is out of range, or ``out`` holds anything else and ``overwrite`` is not set.
    """
    out = Path(out)
    spec = WorldSpec(**parameters)
    if _already_written(out, spec, overwrite):
        return False
    unfinished = out.with_name(f"{out.name}.unfinished-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, spec)
        if out.exists():
            shutil.rmtree(out)
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def ensure_world(out: str | Path, **parameters: Any) -> None:
    """Writes a world unless it is complete; another world, or one of an older version, is replaced.

    For a folder that serves one purpose only. Of several processes, one writes and the others wait; what a killed one
    left is removed.

    Raises:
        UserError: it cannot be written, or ``out`` holds something else.
    """
    out = Path(out)
    spec = WorldSpec(**parameters)
    if _is_complete(out, spec):
        return
    try:
        with world_lock(out):
            if _is_complete(out, spec):  # another process was faster
                return
            for left in out.parent.glob(f"{out.name}.unfinished-*"):
                shutil.rmtree(left)
            write_world(out, overwrite=True, **parameters)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out.parent}: a file stands where a folder is needed; move it away") from error
    except OSError as error:
        reason = f"the world cannot be written ({error.strerror}); make room or change the permissions"
        raise UserError(f"{out}: {reason}") from error


def is_world(folder: Path) -> bool:
    """Returns whether a folder says of itself that it is a world, of whatever version."""
    try:
        return "spec" in (object_in((folder / SUMMARY).read_bytes()) or {})
    except OSError:
        return False


def world_spec(folder: Path) -> WorldSpec:
    """Returns the parameters of a world; raises UserError where a folder holds none, or of another version."""
    try:
        summary = object_in(read_recorded(folder / SUMMARY)) or {}
        values = summary["spec"]
        if summary["format"] != FORMAT:
            raise UserError(f"{folder}: a world of another version; write it anew (volta-switch world --overwrite)")
        known = {field.name for field in fields(WorldSpec)}
        return WorldSpec(**{name: value for name, value in values.items() if name in known})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: no world there ({SUMMARY}); write one with volta-switch world") from None


@contextmanager
def world_lock(out: Path) -> Iterator[None]:
    """Keeps other processes from writing the same world while the block runs; they wait."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("a") as lock:
        with suppress(OSError):  # a file system without locks
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _is_complete(out: Path, spec: WorldSpec) -> bool:
    """Returns whether a folder holds a world of these parameters and of this version, with all its files."""
    try:
        summary = json.loads(read_recorded(out / SUMMARY))
        same = summary["spec"] == spec.as_dict() and summary["format"] == FORMAT
        return same and all((out / name).is_file() for name in summary["sha256"])
    except (OSError, ValueError, TypeError, KeyError, Changed):
        return False


def _already_written(out: Path, spec: WorldSpec, overwrite: bool) -> bool:
    """Returns whether ``out`` holds this world.

    Raises:
        UserError: it holds something that must not be replaced.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: a file; expected a folder for the world: give another OUT")
    if not out.exists() or not any(out.iterdir()):
        return False
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        summary = None
    if (not isinstance(summary, dict) or "spec" not in summary) and overwrite and (out / SUMS).is_file():
        return False  # a world whose summary is damaged
    if not isinstance(summary, dict) or "spec" not in summary:
        raise UserError(f"{out}: not empty and holds no world ({SUMMARY} missing); give another OUT")
    if summary["spec"] == spec.as_dict() and summary.get("format") == FORMAT:
        return not overwrite
    if not overwrite:
        wanted, found = spec.as_dict(), summary["spec"]
        names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)] or ["format"]
        raise UserError(f"{out}: holds another world ({', '.join(names)} differ); add --overwrite or give another OUT")
    return False


def _write(root: Path, spec: WorldSpec) -> None:
    world = draw_world(spec)
    lexicon = Lexicon(spec)
    lexicon.write(root / DIRECTORY)
    write_datasets(root, world, lexicon)
    lengths = text_lengths(world, lexicon)
    tasks = task_file(spec, lengths)
    (root / TASK_FILE).write_text(yaml.safe_dump(tasks, sort_keys=False), encoding="utf-8")
    if "entities" in spec.data_sets:
        ablation = ablation_file(spec, lengths)
        (root / ABLATION_FILE).write_text(yaml.safe_dump(ablation, sort_keys=False), encoding="utf-8")
    if spec.render:
        render_world(root / "scenes", world, lexicon)
    summary = {
        "format": FORMAT,
        "spec": spec.as_dict(),
        "images": {
            name: {split: len(world.scenes(name, split)) for split in getattr(world, name)}
            for name in spec.data_sets
            if name not in IMAGES_OF
        },
        "longest_text": lengths,
        "labels": len(LABELS),
        "vocabulary": len(lexicon.vocabulary()),
        "spelling": lexicon.spelling,
        "balance": balance(world),
        "sha256": digests(root),
    }
    text = json.dumps(summary, indent=2) + "\n"
    (root / SUMMARY).write_text(text, encoding="utf-8")
    covered = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.endswith("-lock"))
    edited = (root / TASK_FILE, root / ABLATION_FILE)  # by people
    record_tree(root, (path for path in covered if path not in edited))


def text_lengths(world: World, lexicon: Lexicon) -> dict[str, int]:
    """Returns the longest text of each data set in word pieces, [CLS] and [SEP] included."""
    return {
        name: 2 + max(lexicon.length(said.words()) for part in getattr(world, name).values() for said in _texts(part))
        for name in world.spec.data_sets
    }


def _texts(entries: list[Any]) -> Iterator[Caption | Phrase | Question | Statement | Hypothesis]:
    for entry in entries:
        match entry:
            case SceneCaptions():
                yield from entry.captions
            case SceneExpressions():
                yield from (phrase for _, phrase in entry.expressions)
            case SceneQuestions():
                yield from (question for question, _, _ in entry.questions)
            case Contrast():
                yield from (statement for statement, _ in entry.statements)
            case SceneHypotheses():
                yield from (hypothesis for hypothesis, _ in entry.hypotheses)


def digests(root: Path) -> dict[str, str]:
    """Returns the SHA-256 of every file by its path; of an LMDB, of its records in key order."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_dir() or path.name.endswith("-lock"):
            continue
        is_lmdb = path.suffix in (".lmdb", ".mdb")
        digest = _records_digest(path) if is_lmdb else hashlib.sha256(path.read_bytes())
        found[path.relative_to(root).as_posix()] = digest.hexdigest()
    return found


def _records_digest(path: Path) -> Any:
    digest = hashlib.sha256()
    env = environment(path, "records")
    with env.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            digest.update(len(key).to_bytes(4, "big") + bytes(key) + len(value).to_bytes(8, "big"))
            digest.update(value)
    return digest
