"""A file from the web, whole and verified or not at all; what was fetched of it before is gone on with.

While it is fetched it lies under ``<name>.unfinished``, beside ``<name>.unfinished.json``, which says where its bytes
are from. A process that is killed at any moment leaves both, and the next one asks the server for the rest alone.
Bytes of two versions of a file are never put together: the server is asked with its own mark of the version
(``If-Range``), or the whole is compared with a checksum that is known. A server that sends the whole file instead is
read from the start.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from volta_switch.errors import UserError, first_line
from volta_switch.files import UNFINISHED, CannotWrite, find_object, flush_folder, lock_alone, measured, write_json
from volta_switch.time_limit import in_time

SECONDS = 10.0  # without an answer, or without a byte of one, after which a server is taken for gone
_PIECE = 1 << 20  # bytes read at once
_MOST_BYTES = 1 << 37  # of a file whose size nobody says
_MOST_TRIES = 100  # of one address that goes on sending a part
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})")
_WHOLE = re.compile(r"bytes \*/(\d{1,19})")


@dataclass(frozen=True)
class Expected:
    """What is known of a file; None where nothing is."""

    bytes: int | None = None
    sha256: str | None = None
    told_by: str = "the registry"
    """Who says so, for messages."""

    def difference(self, found: dict[str, Any]) -> str:
        """Returns in what a file (``files.measured``) is another one, "" where it is not."""
        if self.bytes is not None and found["bytes"] != self.bytes:
            return f"has {found['bytes']:,} bytes, and {self.told_by} says {self.bytes:,}"
        if self.sha256 is not None and found["sha256"] != self.sha256:
            return f"has the sha256 {found['sha256']}, and {self.told_by} says {self.sha256}"
        return ""


class NotFetched(UserError):
    """No address gave the file."""


def fetch(addresses: Sequence[str], to: Path, expected: Expected, seconds: float = SECONDS) -> dict[str, Any]:
    """Fetches a file from the first address that gives it; returns its size and sha256.

    Args:
        addresses: of http or https, tried in order.
        to: where it shall lie; its folder is there.
        expected: what it must be.
        seconds: of silence, after which a server is taken for gone.

    Raises:
        NotFetched: no address gave it, or what they gave is another file; one line says what each did.
        CannotWrite: the system refused to write; what was fetched is kept.
    """
    part = to.with_name(to.name + UNFINISHED)
    reasons = []
    with _opened_alone(part) as file:
        for address in addresses:
            try:
                found = _Fetching(address, file, part, expected, seconds).whole()
            except _Failed as failure:
                reasons.append(f"{address}: {failure}")
                continue
            try:
                os.fsync(file.fileno())
                os.replace(part, to)
                _notes(part).unlink(missing_ok=True)
                flush_folder(to.parent)
            except OSError as error:
                raise CannotWrite(to, error) from error
            return found
    kept = part.stat().st_size if part.exists() else 0
    rest = f"; {kept:,} bytes are kept, and the same command goes on from there" if kept else ""
    raise NotFetched(f"{to.name} could not be fetched: {'; '.join(reasons)}{rest}")


class _Failed(Exception):
    """One address does not give the file; the message says why."""


class _Again(Exception):
    """What is there cannot be gone on with, and has been thrown away."""


@dataclass
class _Fetching:
    """One file from one address."""

    address: str
    file: BinaryIO
    """What is there, opened for writing at its end."""
    part: Path
    expected: Expected
    seconds: float
    received: int = 0
    """Bytes, of all answers together."""

    def whole(self) -> dict[str, Any]:
        """Fetches what is missing; returns the size and sha256 of the whole."""
        for _ in range(_MOST_TRIES):
            before, began = self.received, self._continues()
            try:
                complete = self._more(began)
            except _Again:
                continue
            except _Failed:
                if self.received > before:  # a connection that broke
                    continue
                raise
            if not complete:
                if self.received > before:
                    continue
                raise _Failed(f"the connection ended after {self._size():,} bytes")
            found = measured(self.part)
            if not (difference := self.expected.difference(found)):
                return found
            self._restart()
            if not began:
                raise _Failed(f"another file: it {difference}")
        raise _Failed(f"it broke off {_MOST_TRIES} times")

    def _continues(self) -> int:
        """Returns after how many bytes to go on: all that are there, or 0 where they may be another version's."""
        notes = find_object(_notes(self.part)) or {}
        same = notes.get("address") == self.address and notes.get("version")
        return self._size() if notes and (same or self.expected.sha256) else 0

    def _more(self, began: int) -> bool:
        """Asks for the rest and writes it down; returns whether the file is as long as it should be."""
        notes = find_object(_notes(self.part)) or {} if began else {}
        headers = {"Accept-Encoding": "identity", "User-Agent": "volta-switch"}
        if began:
            headers["Range"] = f"bytes={began}-"
            if notes.get("address") == self.address and notes.get("version"):
                headers["If-Range"] = str(notes["version"])
        answer = self._ask(urllib.request.Request(self.address, headers=headers), began)
        if answer is None:
            return True
        with contextlib.closing(answer):
            kind = answer.headers.get_content_type()
            if kind in ("text/html", "application/xhtml+xml"):
                raise _Failed("answers with a web page, no file; open it in a browser: has it moved?")
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise _Failed("sends the file in another encoding than was asked for")
            total = self._total(answer, began, notes)
            began = began if answer.status == 206 else 0
            if total is None and not answer.chunked and not (self.expected.bytes or self.expected.sha256):
                raise _Failed("does not say how long the file is")
            if total is not None and self.expected.bytes is not None and total != self.expected.bytes:
                told = f"{self.expected.told_by} says {self.expected.bytes:,}"
                raise _Failed(f"another file: it has {total:,} bytes, and {told}")
            if not began:
                self._restart()  # only now that there is something better
                tag = answer.headers.get("ETag", "")
                version = answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
                write_json(_notes(self.part), {"address": self.address, "version": version, "total": total})
            self._write(answer, began, total)
        return self._size() == total if total is not None else True

    def _ask(self, request: urllib.request.Request, began: int) -> Any:
        """Returns the server's answer; None where it says that nothing is missing."""
        try:
            return _answer(request, self.seconds)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                whole = _WHOLE.fullmatch(error.headers.get("Content-Range", ""))
                if error.code == 416 and began:
                    if whole and int(whole[1]) == began:
                        return None
                    self._restart()
                    raise _Again from None
                raise _Failed(f"answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Failed(self._reason(error)) from None

    def _total(self, answer: Any, began: int, notes: dict[str, Any]) -> int | None:
        """Returns how long the whole file is by an answer's own words; None where it does not say."""
        if answer.status == 206:
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if not found or int(found[1]) != began or notes.get("total") not in (None, int(found[2])):
                self._restart()  # another part than was asked for, or of another file
                raise _Again
            return int(found[2])
        if answer.status != 200:
            raise _Failed(f"answers {answer.status} {answer.reason}")
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None

    def _write(self, answer: Any, began: int, total: int | None) -> None:
        from tqdm import tqdm

        most = total or self.expected.bytes or _MOST_BYTES
        shown = tqdm(total=total, initial=began, unit="B", unit_scale=True, disable=None, file=sys.stderr, leave=False)
        size = began
        with shown:
            while True:
                try:
                    piece = answer.read1(_PIECE)
                except (OSError, http.client.HTTPException, ValueError) as error:
                    raise _Failed(self._reason(error)) from None
                if not piece:
                    return
                size += len(piece)
                if size > most:
                    self._restart()
                    self.received = 0
                    raise _Failed(f"another file: it has more than {most:,} bytes")
                try:
                    self.file.write(piece)
                except OSError as error:
                    raise CannotWrite(self.part, error) from error
                self.received += len(piece)
                shown.update(len(piece))

    def _size(self) -> int:
        return os.fstat(self.file.fileno()).st_size

    def _restart(self) -> None:
        try:
            self.file.truncate(0)
        except OSError as error:
            raise CannotWrite(self.part, error) from error

    def _reason(self, error: Exception) -> str:
        inner = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(inner, TimeoutError):
            return f"no answer within {self.seconds:g} seconds"
        told = getattr(inner, "strerror", None) or (first_line(inner) if isinstance(inner, Exception) else inner)
        return f"cannot be reached ({told})"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https alone."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """See the base class."""
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise _Failed(f"leads to {newurl[:200]}, which is neither http nor https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _answer(request: urllib.request.Request, seconds: float) -> Any:
    """Returns a server's answer, or raises what went wrong."""
    if urllib.parse.urlsplit(request.full_url).scheme not in ("http", "https"):
        raise _Failed("neither http nor https")
    opener = urllib.request.OpenerDirector()  # not build_opener, whose own would read local files, too
    handlers = urllib.request
    for handler in (
        *(handlers.ProxyHandler(), handlers.UnknownHandler(), handlers.HTTPHandler(), handlers.HTTPSHandler()),
        *(handlers.HTTPDefaultErrorHandler(), handlers.HTTPErrorProcessor(), _Redirects()),
    ):
        opener.add_handler(handler)
    return in_time(lambda: opener.open(request, timeout=seconds), seconds + 1)


@contextmanager
def _opened_alone(part: Path) -> Iterator[BinaryIO]:
    """Yields an unfinished file, which no other process has meanwhile; removed where nothing is in it.

    Raises:
        UserError: another process has it.
        CannotWrite: it cannot be opened.
    """
    try:
        file = part.open("ab", buffering=0)
    except OSError as error:
        raise CannotWrite(part, error) from error
    with file:
        lock_alone(file, f"{part}: another process is fetching it; wait for that one")
        try:
            yield file  # type: ignore[misc]
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)
                _notes(part).unlink(missing_ok=True)


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")
