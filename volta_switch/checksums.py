"""Checksums of the files that this project writes: one that is not what was written is refused when it is read.

A folder's ``volta_switch.sums`` tells what happened to its files, and to those of the folders below, line by line:

| line | |
|---|---|
| ``new <sha256> "<name>"`` | this content is about to take its place |
| ``set <sha256> "<name>"`` | it has: what stood there before no longer counts |
| ``free "<name>"`` | not covered from here on |

Lines are appended before and after a file takes its place. So a process that is killed in between leaves a file that is
known, the old one or the new one, and several processes may write different files of one folder. A file that no line
names (of an earlier version, of another program, or moved away from its folder) is read as it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from volta_switch.errors import UserError
from volta_switch.files import CannotWrite, json_bytes, measured, replacing
from volta_switch.files import require_file as require_regular_file

SUMS = "volta_switch.sums"
_HEADER = "volta_switch checksums 1"
_LINE = re.compile(r'(?:(new|set) ([0-9a-f]{64})|(free)) (".*")')
_CURE = "copy it again or have it written again (--overwrite), or, if the change is meant, remove its lines there"
_TRIES = 10  # to read a file that others replace meanwhile
Content = TypeVar("Content")


class Changed(UserError):
    """A file is not what was written: damaged, exchanged for another one, or changed by hand."""


@contextmanager
def recording(path: Path) -> Iterator[Path]:
    """Replaces a file like ``files.replacing``, and keeps its checksum in its folder.

    Raises:
        CannotWrite: the system refused to write; ``path`` is what it was.
    """
    with replacing(path) as temporary:
        yield temporary
        digest = measured(temporary)["sha256"]
        is_new = _listed(path) != _Known(Path(os.path.abspath(path)).with_name(SUMS), [digest], True)
        if is_new:
            _append(path, f"new {digest}")
    if is_new:
        with suppress(OSError):  # until the next time, what stood there before counts, too
            _append(path, f"set {digest}")


def record_json(path: Path, value: Any) -> None:
    """Writes JSON like ``files.write_json``, and keeps the file's checksum in its folder."""
    record_bytes(path, json_bytes(value))


def record_bytes(path: Path, content: bytes) -> None:
    """Writes a file of this content, and keeps its checksum in its folder; raises as ``recording``."""
    with recording(path) as temporary:
        temporary.write_bytes(content)


def record(path: Path) -> None:
    """Keeps the checksum of a file as it is now.

    Raises:
        OSError: it cannot be read, or nothing can be written beside it.
    """
    digest = measured(path)["sha256"]
    for kind in ("new", "set"):
        _append(path, f"{kind} {digest}")


def release(path: Path) -> None:
    """Says that a file will change piece by piece: it is not covered until ``record`` is called again."""
    if _listed(path) is not None:
        _append(path, "free")


def record_tree(root: Path, files: Iterable[Path]) -> None:
    """Keeps the checksums of files below a folder that nobody else knows of yet."""
    said = [f"{measured(file)['sha256']} {json.dumps(file.relative_to(root).as_posix())}" for file in files]
    lines = [f"{kind} {each}" for each in said for kind in ("new", "set")]
    (root / SUMS).write_text("\n".join([_HEADER, *lines, ""]), encoding="utf-8")


def read_recorded(path: Path) -> bytes:
    """Returns a file's content, verified where a folder above it has its checksum.

    Raises:
        Changed: it is not what was written.
        OSError: it cannot be read.
    """

    def read() -> tuple[bytes, str]:
        content = path.read_bytes()
        return content, hashlib.sha256(content).hexdigest()

    return path.read_bytes() if _listed(path) is None else _verified(path, read)


def verify(path: Path) -> None:
    """Reads all of a file, or of the files below a folder, whose checksums are kept; of others nothing.

    Raises:
        Changed: one is not what was written.
        OSError: one cannot be read.
    """
    for file in _files(path):
        if _listed(file) is not None:
            _verified(file, lambda file=file: (None, measured(file)["sha256"]))  # type: ignore[misc]


def refuse_gone(paths: Iterable[Path]) -> None:
    """Tells files that were never there from those that were written and are gone, or are no files any more.

    Raises:
        Changed: one of the latter.
    """
    for path in paths:
        if not os.path.isfile(path) and "\0" not in str(path):
            listed = _listed(path)
            if listed is not None and listed.placed:
                raise _gone(path, listed)


def is_there(path: Path) -> bool:
    """Returns whether a file is there that may be missing; raises ``Changed`` where it was written and is gone."""
    refuse_gone([path])
    return path.is_file()


def require_file(path: Path, what: str, advice: str) -> None:
    """Does the same as ``files.require_file``; one that was written and is gone is told apart.

    Raises:
        Changed: the latter.
        UserError: no regular file is there and within reach.
    """
    refuse_gone([path])
    require_regular_file(path, what, advice)


def recorded(path: Path) -> list[str]:
    """Returns the checksums kept of a file, or of the files below a folder: equal where the same are expected."""
    listed = [_listed(file) for file in _files(path)]
    return [digest for known in listed if known is not None for digest in known.digests]


def _files(path: Path) -> list[Path]:
    """Returns a file, or those below a folder."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def json_digest(content: Any) -> str:
    """Returns the digest of JSON values, not of a file's bytes: blanks and the order of keys do not count.

    Raises:
        ValueError: a number is not finite.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()


class _Known(NamedTuple):
    """What a file of checksums says of a name."""

    sums: Path
    digests: list[str]  # that the file may have
    placed: bool  # whether it has been in its place, not only about to take it


def _verified(path: Path, read: Callable[[], tuple[Content, str]]) -> Content:
    """Returns what ``read`` gives beside its sha256; reads again where the file has been replaced meanwhile."""
    listed = _listed(path)
    for _ in range(_TRIES):
        try:
            content, digest = read()
        except FileNotFoundError:
            if listed is None or not listed.placed:
                raise
            raise _gone(path, listed) from None
        before, listed = listed, _listed(path)
        if listed is None or digest in listed.digests:
            return content
        if listed == before:
            break
    assert listed is not None
    raise Changed(
        f"{path}: not what was written (damaged, exchanged or changed since: its sha256 is not that in {listed.sums}); "
        f"{_CURE}"
    )


def _gone(path: Path, listed: _Known) -> Changed:
    return Changed(f"{path}: gone, though {listed.sums} names it; {_CURE}")


def _listed(path: Path) -> _Known | None:
    """Returns what the nearest file of checksums that names a file says of it; None where none covers it."""
    for place in dict.fromkeys((Path(os.path.abspath(path)), Path(os.path.realpath(path)))):  # a loop of links ends
        for folder in place.parents:
            known = _known(folder / SUMS, place.relative_to(folder).as_posix())
            if known is not None:
                return known if known.digests else None
    return None


def _known(sums: Path, name: str) -> _Known | None:
    """Returns what is said of one name, nothing where it is no longer covered; None where it never was."""
    try:
        lines = sums.read_bytes().decode("utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    if lines[0] != _HEADER:
        return None
    digests: list[str] = []
    named = placed = False
    quoted = json.dumps(name)
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None or found[4] != quoted:
            continue
        named = True
        if found[3]:
            digests, placed = [], False
        elif found[1] == "new":
            digests.append(found[2])
        elif found[2] in digests:
            digests, placed = digests[len(digests) - 1 - digests[::-1].index(found[2]) :], True
    return _Known(sums, digests, placed) if named else None


def _append(path: Path, line: str) -> None:
    """Writes one line more about a file, which is on the disk when this returns."""
    sums = path.with_name(SUMS)
    try:
        with sums.open("a+b") as file:
            with suppress(OSError):  # a file system without locks: what is appended at once stays whole on most
                fcntl.lockf(file, fcntl.LOCK_EX)
            start = b""
            if not file.seek(0, os.SEEK_END):
                start = f"{_HEADER}\n".encode()
            else:
                file.seek(-1, os.SEEK_END)
                start = b"" if file.read(1) == b"\n" else b"\n"  # a process was killed, or the disk was full
            file.write(start + f"{line} {json.dumps(path.name)}\n".encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CannotWrite(sums, error) from error
