"""Standard output and error as a command uses them: what it has found goes to output, remarks and progress to error.

Either may be closed, a pipe that nobody reads, or a file on a full disk. Remarks that cannot be written are lost, and
the command goes on. Results that cannot be written end it: quietly where the reader has gone, with a line otherwise.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from volta_switch.errors import UserError


class ReaderGone(Exception):
    """Whoever read standard output has closed it, as ``head`` does."""


class _Remarks:
    """Stands in for standard error; after its first failure what is written to it goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # a file name, or a terminal of another encoding
            encoding = self._stream.encoding or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        """As the stream's."""
        try:
            self._stream.flush()
        except OSError as error:
            self._failed(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _failed(self, error: OSError) -> None:
        with suppress(OSError, ValueError):  # what replaces a stream in tests has no descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)


class _Results(_Remarks):
    """Stands in for standard output, whose first failure is raised."""

    def _failed(self, error: OSError) -> NoReturn:
        super()._failed(error)
        if error.errno == errno.EPIPE:
            raise ReaderGone from None
        raise UserError(
            f"standard output: cannot be written ({error.strerror}); make room, or send it to another file"
        ) from None


@contextmanager
def prepared_streams() -> Iterator[None]:
    """Standard output and error that fail as this module says, inside the block.

    Who prints results flushes standard output, to learn of a failure (``ReaderGone``, ``UserError``).
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout = _Results(sys.stdout or io.StringIO())  # type: ignore[assignment]
    sys.stderr = _Remarks(sys.stderr or io.StringIO())  # type: ignore[assignment]
    try:
        yield
    finally:
        with suppress(ReaderGone, UserError):  # another error is under way
            sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Takes the numbers 0, 1 and 2, which a file would get that is opened next, and with it what others write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != number:
                return
