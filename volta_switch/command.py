"""How a command ends: its exit code, and the line that a user reads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from volta_switch.errors import UserError
from volta_switch.train.stopping import Stopped


def run_command(main: Callable[[Sequence[str]], object], argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0, 2 with one line for bad input, 130 when interrupted.

    An error that has ``details`` is followed by one indented line for each.
    """
    try:
        main(sys.argv[1:] if argv is None else list(argv))
    except UserError as error:
        print(f"error: {error}", *(f"  {line}" for line in error.details), sep="\n", file=sys.stderr)
        raise SystemExit(2) from None
    except Stopped as stopped:
        print(str(stopped), end="\n" if str(stopped) else "", file=sys.stderr)  # one of several processes says it
        raise SystemExit(128 + stopped.signal) from None
    except KeyboardInterrupt as interruption:
        resume = "interrupted; run the same command with --resume to continue from the last checkpoint"
        print(str(interruption) or resume, file=sys.stderr)
        raise SystemExit(130) from None
