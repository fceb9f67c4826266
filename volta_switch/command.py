"""How a command ends: its exit code, and the line that a user reads."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Sequence

from volta_switch.errors import UserError
from volta_switch.standard_streams import ReaderGone, prepared_streams
from volta_switch.train.stopping import Stopped

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
    """A command's exit code, and the lines that say why it is not 0."""
    try:
        main(argv)
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
