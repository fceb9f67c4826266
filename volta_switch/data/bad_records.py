"""Counting the records that cannot be used, up to how many of them may be passed over."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from volta_switch.errors import UserError


class BadRecords:
    """What was wrong with each record that was passed over, in the order in which they were met.

    limit: ``--max-bad-records``. known: those of an earlier run that this one continues.
    """

    def __init__(self, limit: int, known: Iterable[str] = ()) -> None:
        self._limit = limit
        self._reasons = dict.fromkeys(known)  # an ordered set: every epoch meets the same ones

    def __len__(self) -> int:
        return len(self._reasons)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def pass_over(self, reason: str) -> None:
        """Count a record and name it on stderr, each once; raises UserError where there are too many."""
        if reason in self._reasons:
            return
        if len(self) >= self._limit:
            before = f" ({len(self)} were passed over before)" if len(self) else ""
            raise UserError(f"{reason}{before}; --max-bad-records N passes over N such records")
        self._reasons[reason] = None
        print(f"bad record passed over ({len(self)} of at most {self._limit}): {reason}", file=sys.stderr)
