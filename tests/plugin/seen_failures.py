"""The account of which test sees what which repair mends, and running VOLTA where it is to fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from plugin.volta_runs import VoltaWorld
from volta_switch.plugin.script import Repair


class SeenFailures:
    """A decorator of tests: ``@sees("task-format", "format")`` sees what that repair mends.

    The tokens are words on the lines of VOLTA that the repair names, in their order.
    """

    def __init__(self, repairs: Iterable[Repair]):
        self.repairs = {one.name: one for one in repairs}
        self._tokens: dict[str, tuple[str, ...]] = {}

    def __call__(self, name: str, *tokens: str, simulated: bool = False) -> Callable[..., Any]:
        """Notes it. The test is skipped where there is nothing to mend, unless it makes the machine such a one."""
        assert name in self.repairs and name not in self._tokens, name
        self._tokens[name] = tokens
        idle = not simulated and not self.repairs[name].needed()
        return pytest.mark.skipif(idle, reason=f"{name}: nothing to mend on this machine")

    def check(self, name: str, home: Path) -> None:
        """There is a test for a repair, and the lines that the repair names are in the checkout."""
        assert name in self._tokens, f"no test is marked @sees({name!r}, ...): write one that runs VOLTA without it"
        for place, token in zip(self.repairs[name].where.split(", "), self._tokens[name], strict=True):
            file, line = place.split(":")
            assert token in (home / file).read_text().splitlines()[int(line) - 1], place


def failure_of(world: VoltaWorld, script: str, *flags: Any, without: Sequence[str] = ()) -> str:
    """What a script of VOLTA fails with, as the last line of its trace."""
    try:
        world.run_here(script, *flags, without=without)
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    else:
        pytest.fail(f"{script} finished without {', '.join(without)}")
    return failure
