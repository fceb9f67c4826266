"""Identities: what decides a result, as nested JSON values; where two differ; the versions of numbers and code."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

WHOLE = "sha256_of_all"  # of a fingerprint: known of some copies of the data, and compared where both sides know it

RESULTS_VERSION = 1
"""Raised by hand, by 1, with every change after which the same command gives other numbers: another order of random
draws, another initial weight, a mended loss or metric, another rounding of features.

It is part of the identity of a study's finished cells (``study.cells``): after it was raised a study runs its cells
again instead of setting new numbers beside old ones. A commit's name would do so after every change of a comment, and
throw days of runs away; nothing at all would mix them. ``tests/test_golden_runs.py`` trains and evaluates small models
and fails where their numbers are no longer those on record, unless this number was raised with them:
``make golden-runs`` writes the record anew. A change that adds something (a task, a flag that is off) leaves the
numbers, and this, as they are.

Runs of before there was this number are of version 1.
"""


def differences(before: Any, now: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields each setting in which two identities differ: its dotted name (``hyperparameters.seed``), both values.

    What one side alone has is None on the other. The order is that of ``now``.
    """
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        if before != now:
            yield name, before, now
        return
    for key in [*now, *(key for key in before if key not in now)]:
        if key != WHOLE or (key in before and key in now):
            yield from differences(before.get(key), now.get(key), f"{name}.{key}".removeprefix("."))


def described(there: Any, here: Any, shown: int = 3) -> str:
    """Returns the first differences between what lies in a folder and what is computed now; empty where none is."""
    found = [f"{name} ({one} there, {other} now)" for name, one, other in differences(there, here)]
    more = f" and {len(found) - shown} more" if len(found) > shown else ""
    return ", ".join(found[:shown]) + more


@cache
def commit_of_code() -> str | None:
    """Returns the commit of the checkout that this package lies in, ``1a2b3c4d5e6f with changes`` where files differ.

    None where it lies in no checkout of its own (an installed package), or git is not there to ask.
    """
    root = Path(__file__).resolve().parents[1]
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").split("\n")
        if Path(top).resolve() != root:  # a checkout of something else, such as one with an environment in it
            return None
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "volta_switch", "config")
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return f"{commit[:12]}{' with changes' if changed else ''}"


def _git(root: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
