"""A checkpoint's ``manifest.json``: what the checkpoint is of, and checksums of its files and of itself.

The file is strict JSON. Numbers that JSON does not know stand as ``{"not_finite": "nan"}`` ("inf", "-inf").
"""

from __future__ import annotations

import json
import math
import stat
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from volta_switch import __version__
from volta_switch.checksums import json_digest
from volta_switch.files import replacing

MANIFEST = "manifest.json"
FORMAT = "volta_switch checkpoint 2"
_NOT_FINITE = "not_finite"
_MOST_BYTES = 2**26  # of a manifest; real ones hold some kilobytes


class UnusableCheckpoint(Exception):
    """Why a checkpoint cannot be used, in words that follow its name."""


@dataclass
class TrainingProgress:
    """Where a run stands."""

    epoch: int = 0  # the epoch under way
    batch: int = 0  # batches of it that are done
    step: int = 0  # optimiser steps
    samples: int = 0  # training samples seen
    best_score: float = float("-inf")
    best_epoch: int = -1
    skipped: int = 0  # optimiser steps left out for numbers that were not finite


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` says."""

    progress: TrainingProgress
    identity: dict[str, Any]  # what must agree when the run goes on
    plain: dict[str, Any]  # further values of the training's state
    files: dict[str, dict[str, Any]]  # name -> bytes and sha256, as ``measured`` gives them


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes a folder's manifest.

    Raises:
        TypeError, ValueError: a value that JSON cannot hold.
        CannotWrite: the system refused to write.
    """
    content = {"format": FORMAT, "version": __version__, **encoded(asdict(manifest))}
    content["sha256"] = json_digest(content)
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="ascii")


def read_manifest(folder: Path) -> Manifest:
    """Reads and verifies a folder's manifest; the files that it describes are the caller's to verify.

    Raises:
        UnusableCheckpoint: it is missing or damaged, is of another program or version, or has unexpected values.
    """
    path = folder / MANIFEST
    if regular_size(path) > _MOST_BYTES:
        raise UnusableCheckpoint(f"{MANIFEST} is larger than any manifest")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("format"), str):
            raise UnusableCheckpoint(f"{MANIFEST} is not the manifest of a checkpoint")
        if content.pop("sha256", None) != json_digest(content):
            raise UnusableCheckpoint(f"{MANIFEST} is damaged (its sha256 is not its content's)")
        content = decoded(content)
    except OSError as error:
        raise UnusableCheckpoint(f"{MANIFEST} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):  # of JSON, Unicode, or of numbers with too many digits
        raise UnusableCheckpoint(f"{MANIFEST} is damaged (it is not JSON as this program writes it)") from None
    if content["format"] != FORMAT:
        raise UnusableCheckpoint(f"its format is {content['format'][:80]!r}, this version reads {FORMAT!r}")
    if content.keys() != {"format", "version", *(field.name for field in fields(Manifest))}:
        raise UnusableCheckpoint(f"{MANIFEST} has other keys than {FORMAT!r}")
    for name in ("identity", "plain", "files"):
        if not isinstance(content[name], dict):
            raise UnusableCheckpoint(f"{MANIFEST}: {name} is not a JSON object")
    return Manifest(_progress(content["progress"]), content["identity"], content["plain"], content["files"])


def regular_size(path: Path) -> int:
    """Returns the size of a regular file, or of one that a link leads to.

    Raises:
        UnusableCheckpoint: there is none, or it is a folder, a pipe or a device.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UnusableCheckpoint(f"{path.name} is missing") from None
    except OSError as error:
        raise UnusableCheckpoint(f"{path.name} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(found.st_mode):
        raise UnusableCheckpoint(f"{path.name} is not a file")
    return found.st_size


def encoded(value: Any) -> Any:
    """Returns a value as the manifest holds it: tuples as lists, keys as strings, nan and infinity as objects.

    Raises:
        TypeError: a value that JSON cannot hold.
        ValueError: an object with the key that marks numbers that are not finite.
    """
    if isinstance(value, dict):
        if _NOT_FINITE in value:
            raise ValueError(f"the key {_NOT_FINITE!r} has another meaning in {MANIFEST}")
        return {str(key): encoded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [encoded(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {_NOT_FINITE: str(float(value))}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"{type(value).__name__} cannot be written to {MANIFEST}")


def decoded(value: Any) -> Any:
    """Returns the inverse of ``encoded``.

    Raises:
        ValueError: a number that is not finite is spelt in another way.
    """
    if isinstance(value, dict):
        if _NOT_FINITE not in value:
            return {key: decoded(inner) for key, inner in value.items()}
        if len(value) > 1 or value[_NOT_FINITE] not in ("nan", "inf", "-inf"):
            raise ValueError(f"{_NOT_FINITE} stands for no number")
        return float(value[_NOT_FINITE])
    return [decoded(inner) for inner in value] if isinstance(value, list) else value


def _progress(content: Any) -> TrainingProgress:
    kinds = {field.name: float if field.type == "float" else int for field in fields(TrainingProgress)}
    if not isinstance(content, dict) or content.keys() != kinds.keys():
        raise UnusableCheckpoint(f"{MANIFEST}: progress has other keys than {', '.join(kinds)}")
    for name, kind in kinds.items():
        least = -math.inf if kind is float else -1 if name == "best_epoch" else 0
        if type(content[name]) not in (int, kind) or content[name] < least:
            raise UnusableCheckpoint(f"{MANIFEST}: progress.{name} is not {'a number' if kind is float else 'a count'}")
    return TrainingProgress(**content)
