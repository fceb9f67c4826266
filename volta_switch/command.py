"""How a command ends: its exit code, the line that a user reads, and what becomes of its standard streams.

What a command has found goes to standard output; remarks and progress go to standard error. Either may be closed, a
pipe that nobody reads, or a file on a full disk. Remarks that cannot be written are lost, and the command goes on.
Results that cannot be written end it: quietly where the reader has gone, with a line otherwise.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from volta_switch.errors import Stopped, UserError

# What the system refuses whatever the code does, and what a user can do about it.
_REFUSED = {
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "the disk is read-only; give another place",
    errno.ENOSPC: "make room, then give the same command again",
    errno.EDQUOT: "make room, then give the same command again",
    errno.EFBIG: "the disk takes no file of this size; give another place",
    errno.ENOENT: "check the path",
    errno.EISDIR: "it is a folder where a file is needed; check the path",
    errno.ENOTDIR: "a file stands where a folder is needed; check the path",
    errno.EEXIST: "a file stands where a folder is needed; move it away",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "the link leads to itself; check the path",
    errno.EIO: "the disk fails; copy the file to another one",
    errno.ESTALE: "the network disk was changed under it; give the same command again",
    errno.EMFILE: "raise the limit on open files (ulimit -n 4096), or take fewer --num_workers",
    errno.ENFILE: "the machine has too many files open; end what holds them, or take fewer --num_workers",
}


def typed_program() -> list[str]:
    """Returns what to type for this program: its name, or how it was started where the shell does not find the name."""
    name, started = "volta-switch", sys.argv[0]
    found = shutil.which(name)
    own = started if os.path.basename(started) == name else os.path.join(os.path.dirname(sys.executable), name)
    if found is not None and os.path.realpath(found) == os.path.realpath(own):
        return [name]
    return [own] if os.path.exists(own) else [sys.executable, "-m", "volta_switch"]


def run_command(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0, 2 with one line for bad input, 130 when interrupted, 141 without a reader.

    An error that has ``details`` is followed by one indented line for each.
    """
    with prepared_streams():
        code, lines = _outcome(main, sys.argv[1:] if argv is None else list(argv))
        for line in lines:
            print(line, file=sys.stderr)
    if code:
        raise SystemExit(code)


def _outcome(main: Callable[[Sequence[str]], object], argv: Sequence[str]) -> tuple[int, list[str]]:
    """Returns a command's exit code, and the lines that say why it is not 0."""
    try:
        try:
            main(argv)
        except SystemExit:  # of --help
            sys.stdout.flush()
            raise
        sys.stdout.flush()
    except UserError as error:
        return 2, [f"error: {error}", *(f"  {line}" for line in error.details)]
    except Stopped as stopped:
        return 128 + stopped.signal, [str(stopped)] if str(stopped) else []  # one of several processes says it
    except KeyboardInterrupt as interruption:
        resume = "interrupted; run the same command with --resume to continue from the last checkpoint"
        return 130, [str(interruption) or resume]
    except ReaderGone:
        return 128 + signal.SIGPIPE, []
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        return 2, [f"error: {where}{error.strerror or error}; {_REFUSED[error.errno]}"]
    return 0, []


class ReaderGone(Exception):
    """Whoever read standard output has closed it, as ``head`` does."""


class _Remarks:
    """Stands in for standard error; after its first failure what is written to it goes nowhere."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Does what the stream's own does."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:  # a file name, or a terminal of another encoding
            encoding = self._stream.encoding or "ascii"
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self._failed(error)
        return len(text)

    def flush(self) -> None:
        """Does what the stream's own does."""
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
    """Makes standard output and error fail as this module says, inside the block.

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
    """Opens the numbers 0, 1 and 2, else the next file gets one of them, and with it what others write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != number:
                return


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def environment_number(name: str, default: int) -> int:
    """Returns the number that a variable holds; ``default`` where it is not set or empty.

    Raises:
        UserError: it holds something else.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UserError(
            f"the environment variable {name} is {text!r}, expected a whole number; unset it, or use torchrun"
        )
    return int(text)


def is_in_environment(name: str) -> bool:
    """Returns whether a variable is set."""
    return bool(os.environ.get(name, "").strip())


class StopRequest:
    """Whether somebody has asked this process to stop, and by which signal (0: nobody)."""

    def __init__(self) -> None:
        self.signal = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Notes the first signal inside the block; a second one does what it does by default.

        Only the main thread can listen; elsewhere the block changes nothing. A SIGHUP that is ignored stays so: that
        is what nohup asks for.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        if before[signal.SIGHUP] == signal.SIG_IGN:
            del before[signal.SIGHUP]

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            for each in before:
                signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
