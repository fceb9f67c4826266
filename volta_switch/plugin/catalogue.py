"""How repairs are listed and chosen; the repairs themselves are in ``repairs``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from volta_switch.errors import UserError
from volta_switch.plugin.script import Script

CONCAP, TASK, EVALUATE, RETRIEVAL = "train_concap.py", "train_task.py", "eval_task.py", "eval_retrieval.py"
Mend = Callable[[Script], None]


@dataclass(frozen=True)
class Repair:
    """One entry of the catalogue."""

    name: str
    where: str  # VOLTA's file and line
    problem: str
    stage: str  # when it is applied, one of script.STAGES
    scripts: tuple[str, ...]  # which it concerns; () for all
    needed: Callable[[], bool]  # on this machine
    fixes_numbers: bool
    mend: Mend

    def concerns(self, script: Script) -> bool:
        """Whether there is anything to mend, in this script and on this machine."""
        return (not self.scripts or script.name in self.scripts) and self.needed()


REPAIRS: list[Repair] = []


def stops(
    where: str, stage: str = "volta", scripts: tuple[str, ...] = (), needed: Callable[[], bool] = lambda: True
) -> Callable[[Mend], Mend]:
    """Lists a repair of what stops a run; applied unless ``--without`` names it."""
    return _listed(where, stage, scripts, needed, fixes_numbers=False)


def corrupts(where: str, stage: str = "volta", scripts: tuple[str, ...] = ()) -> Callable[[Mend], Mend]:
    """Lists a repair of what changes numbers; applied only where ``--fix`` names it."""
    return _listed(where, stage, scripts, lambda: True, fixes_numbers=True)


def choose(without: Sequence[str] = (), fix: Sequence[str] = ()) -> list[Repair]:
    """The repairs to apply: those of what stops a run except ``without``, and those of numbers in ``fix``.

    Raises:
        UserError: a name that there is not; the nearest is suggested.
    """
    fixes_numbers = {repair.name: repair.fixes_numbers for repair in REPAIRS}
    for flag, given, wanted in (("--without", without, False), ("--fix", fix, True)):
        for name in given:
            if name not in fixes_numbers:
                near = difflib.get_close_matches(name, list(fixes_numbers), n=1)
                hint = f"; did you mean {near[0]}?" if near else ";"
                raise UserError(f"{flag} {name}: no such repair{hint} --list-repairs prints them all")
            if fixes_numbers[name] != wanted:
                when = "only with --fix" if fixes_numbers[name] else "unless --without names it"
                raise UserError(f"{flag} {name}: this one is applied {when}; leave the flag out")
    return [one for one in REPAIRS if (one.name in fix if one.fixes_numbers else one.name not in without)]


def _listed(
    where: str, stage: str, scripts: tuple[str, ...], needed: Callable[[], bool], fixes_numbers: bool
) -> Callable[[Mend], Mend]:
    def add(mend: Mend) -> Mend:
        problem = " ".join((mend.__doc__ or "").split()).rstrip(".")
        name = mend.__name__.replace("_", "-")
        REPAIRS.append(Repair(name, where, problem, stage, scripts, needed, fixes_numbers, mend))
        return mend

    return add
