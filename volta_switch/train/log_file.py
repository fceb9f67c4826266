"""Logs: one JSON object a line, appended while a run goes on, each line with a checksum of itself and its number.

A line that a machine's end cut short is passed over; one that has changed, is gone or has moved is refused. The last
lines of a log can be lost unseen only until the run ends: then the whole file has a checksum (``checksums``).

Numbers also go to TensorBoard's event files, written where they are logged: errors of the disk show there, and no
thread runs.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from volta_switch.checksums import Changed, is_there, read_recorded, record, release
from volta_switch.errors import UserError

_CHECK = re.compile(rb'(?:, )?"crc32": "([0-9a-f]{8})"\}')


class LogFile:
    """A log that is written, which is continued where it is there already.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("a+b") as log:
            log.seek(0)
            self._lines = 0
            last = b"\n"
            while part := log.read(1 << 20):
                self._lines += part.count(b"\n")
                last = part[-1:]
            if last != b"\n":  # cut short
                log.write(b"\n")
                self._lines += 1
        release(path)
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def write(self, values: dict[str, Any]) -> None:
        """Appends a line.

        Raises:
            UserError: the system refused to write.
        """
        text = json.dumps(values)[:-1]
        with writing(str(self.path)):
            self._file.write(f'{text}{", " if values else ""}"crc32": "{_check(self._lines, text.encode())}"}}\n')
        self._lines += 1

    def close(self) -> None:
        """Closes the log, and keeps the checksum of all of it."""
        if self._file.closed:
            return
        with writing(str(self.path)):
            self._file.close()
            record(self.path)


class EventFile:
    """One event file of a run, in its folder of logs."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        """``resumed_at``: the step that a run goes on from; TensorBoard leaves out what was drawn behind it before.

        Raises:
            OSError: the file cannot be made.
        """
        from tensorboard.compat.proto.event_pb2 import SessionLog  # here, not above: who reads a log needs none of it
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if resumed_at is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(step=resumed_at + 1, session_log=start)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Adds scalars.

        Raises:
            OSError: they cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=Summary(value=scalars))

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the lines of a log in their order; those of earlier versions have no checksum and are read as they are.

    Raises:
        UserError: it cannot be read, or is not what was written.
    """
    try:
        lines = read_recorded(path).split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    checked = False
    for number, line in enumerate(lines):
        found = _CHECK.search(line) if line.endswith(b'"}') else None
        if found is not None and found.end() == len(line):
            checked = True
            if found[1].decode() != _check(number, line[: found.start()]):
                raise _changed(path, number)
            values = _values(line)
        else:
            values = None if checked else _values(line)
        if values is not None:
            values.pop("crc32", None)
            yield values
        elif not _is_cut_short(lines, number):
            raise _changed(path, number)


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Returns what stands of a log: the lines of the last run in a folder, without those written anew.

    A run that goes on from a checkpoint writes again what had been written behind it; its start says how many lines
    the checkpoint knew of, or, of samples, which steps.

    Raises:
        UserError: as ``read_log``.
    """
    lines: list[dict[str, Any]] = []
    for line in read_log(log):
        if line.get("kind") == "start":
            known = lines[: line["keeps"]] if "keeps" in line else lines
            lines = [before for before in known if before["step"] <= line["step"]] if line["resumed"] else []
        lines.append(line)
    return lines


def seconds_trained(log: Path) -> float:
    """Returns how long all runs in a folder have trained, by their log, also what was lost and done again."""
    total, before = 0.0, math.inf
    for line in read_log(log) if is_there(log) else ():
        if line.get("kind") != "start":
            total += max(line["time"] - before, 0.0)
        before = line["time"]
    return total


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Gives an error of the system inside the block the line that a user reads."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{name}: cannot be written ({error.strerror}); what was complete is kept: free some space, then the same "
            "command with --resume goes on"
        ) from None


def _check(number: int, text: bytes) -> str:
    return f"{zlib.crc32(b'%d %s' % (number, text)):08x}"


def _values(line: bytes) -> dict[str, Any] | None:
    """Returns what a line holds; None where it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _is_cut_short(lines: list[bytes], number: int) -> bool:
    """Returns whether a line is what a machine's end leaves: the last one, or followed by a new start; not whole."""
    following = lines[number + 1] if number + 1 < len(lines) else b""
    is_last = number + 1 >= len(lines) or (not following and number + 2 >= len(lines))
    return (is_last or b'"kind": "start"' in following) and not lines[number].endswith(b"}")


def _changed(path: Path, number: int) -> Changed:
    return Changed(
        f"{path}, line {number + 1}: not what was written (damaged, or lines before it are gone or were added); put "
        "the file back, or move it away: what was logged before is lost then, and nothing else"
    )
