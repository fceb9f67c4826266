"""What data a run has read: fingerprints, which are equal wherever the same data lie.

| of | what is read | what changes it |
|---|---|---|
| a file of annotations, a vocabulary | all of it | every change |
| a compact store, shards | their manifest's checksums | every change that ``data check`` does not call damage |
| other feature files | size, the names of all images, 64 records | a change of one in n records with chance 64 / n |

A change that touches a share p of a feature file's records and not its size is missed with chance (1 - p)^64: 0.1 %
where a tenth of the records has changed, 53 % where a hundredth has. ``volta-switch data check --full`` reads every
byte and keeps the checksum beside the data (``<name>.sha256.json``); it is part of the fingerprint from then on.

Files that this project has written with a checksum (a small synthetic world's; ``volta_switch.checksums``) are read
whole, and refused where they are not what was written.

A fingerprint is kept in a cache, by path, sizes and times, and worked out anew where one of them has changed.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from volta_switch.checksums import SUMS, json_digest, recorded, verify
from volta_switch.data.feature_files import open_source
from volta_switch.data.files.pair_files import is_address
from volta_switch.data.files.shard_cache import default_cache_folder
from volta_switch.errors import UserError
from volta_switch.files import CannotWrite, find_object, measured, write_json
from volta_switch.identities import WHOLE

Fingerprint = dict[str, Any]
State = list[list[Any]]  # of a file, or of each file of a folder (``_state``)
FORMAT = 2  # raised when the same data get other fingerprints
WHOLE_SUFFIX = ".sha256.json"
_NOT_DATA = ("lock.mdb", SUMS)  # LMDB writes into the first when a file is opened
_CHECKSUM = "checksum"  # of what a kept file holds
_SETTLED = 2.0  # seconds since a file was last written, before its times tell one content from another


def file_fingerprint(path: Path) -> Fingerprint:
    """Returns bytes and sha256 of a file that is read whole.

    Raises:
        UserError: it cannot be read, or has a checksum and is not what was written.
    """

    def work_out(state: State) -> Fingerprint:
        verify(path)
        return measured(path)

    return _cached("file", path, work_out)


def store_fingerprint(source: Path | str) -> Fingerprint:
    """Returns format, records and fingerprint of a feature file or shards, which may lie at an address; bytes of files.

    Raises:
        UserError: it cannot be read, or is of no known format.
    """
    if is_address(source):
        return open_source(source).fingerprint()
    path = Path(source)

    def work_out(state: State) -> Fingerprint:
        return open_source(path).fingerprint() | {"bytes": sum(size for _, size, *_ in state)}

    return _cached("store", path, work_out)


def whole_fingerprint(path: Path) -> Fingerprint:
    """Reads every byte of a file or folder, and keeps the checksum beside it.

    Raises:
        UserError: it cannot be read, or nothing can be written beside it.
    """
    state = _state(path)
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path)} {measured(file)['sha256']}\n".encode())
    _write(_checksum_path(path), {WHOLE: digest.hexdigest(), "state": _as_copied(state)})
    return {WHOLE: digest.hexdigest()}


def _cached(kind: str, path: Path, work_out: Callable[[State], Fingerprint]) -> Fingerprint:
    """Returns a fingerprint from the cache where sizes and times are those of before, else worked out and put there."""
    try:
        files, checksums = _state(path), recorded(path)
        state = [*files, *checksums]
        entry = default_cache_folder() / "fingerprints" / f"{_text_digest(f'{FORMAT} {kind} {path.resolve()}')}.json"
        found = _read(entry)
        if found is None or found["state"] != state:
            found = {"state": state, "fingerprint": work_out(files)}
            if _is_settled(files) and _state(path) == files and recorded(path) == checksums:
                with suppress(CannotWrite):  # a cache that cannot be written costs time alone
                    _write(entry, found)
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror}); check the path") from None
    whole = _read(_checksum_path(path))
    if whole is not None and whole["state"] == _as_copied(files):
        return {**found["fingerprint"], WHOLE: whole.get(WHOLE)}
    return dict(found["fingerprint"])


def _read(path: Path) -> dict[str, Any] | None:
    """Returns what a kept file holds; None where there is none of ours."""
    try:
        found = find_object(path)
    except OSError:
        return None
    if found is None or "state" not in found or found.pop(_CHECKSUM, None) != json_digest(found):
        return None
    return found


def _write(path: Path, found: dict[str, Any]) -> None:
    write_json(path, found | {_CHECKSUM: json_digest(found)})


def _state(path: Path) -> State:
    """Returns name, size and, in nanoseconds, the times of each file: of its content's last change, and of any."""
    found = [(file.name, file.stat()) for file in _files(path)]
    return [[name, about.st_size, about.st_mtime_ns, about.st_ctime_ns] for name, about in found]


def _as_copied(state: State) -> State:
    """Returns a state without the last time, which only this machine's system sets."""
    return [file[:-1] for file in state]


def _is_settled(state: State) -> bool:
    """Whether a further change of a file would show in its times, which some systems count in seconds."""
    return time.time() - max((file[-1] for file in state), default=0) / 1e9 > _SETTLED


def _files(path: Path) -> list[Path]:
    """Returns a file, or all files of a folder."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name not in _NOT_DATA)


def _text_digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + WHOLE_SUFFIX)
