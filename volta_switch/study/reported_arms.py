"""The sections of a study's file that report on some of its arms: their routes, and their cross-modal ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from volta_switch.config import load_config
from volta_switch.errors import UserError
from volta_switch.study.arms import Arm, PlannedTable
from volta_switch.study.command_lines import refuse_flags
from volta_switch.study.plan_values import refuse_twice
from volta_switch.study.records import Flags
from volta_switch.world.spec import WorldSpec

OF_WORLD = ("tasks_config_file", "task", "features")  # flags of the ablation: a synthetic world decides them


@dataclass(frozen=True)
class ReportedArms:
    """Whose routes, or whose cross-modal ablation, are reported, and how."""

    arms: tuple[str, ...] = ()
    seeds: int | tuple[int, ...] = 1  # how many of each arm's, from the first, or which
    flags: Flags = field(default_factory=dict)


def read_routes(
    path: Path, written: Mapping[str, Any], arms: Mapping[str, Arm], tables: Sequence[PlannedTable]
) -> ReportedArms:
    """Reads the section of routes; UserError for an arm that switches nothing."""
    found = _reported_arms(f"{path}: routes", "routes", "whose routes are reported", written, arms, tables)
    for name in found.arms:
        if load_config(arms[name].model, arms[name].overrides).switch is None:
            raise UserError(f"{path}: routes: {name} switches nothing ({arms[name].model} has no switch section)")
    return found


def read_ablation(
    path: Path, written: Mapping[str, Any], arms: Mapping[str, Arm], tables: Sequence[PlannedTable]
) -> ReportedArms:
    """Reads the section of the cross-modal ablation.

    Raises:
        UserError: an arm is not pre-trained, its world has no phrases, or a flag says what the world decides.
    """
    found = _reported_arms(f"{path}: ablation", "ablate", "that are measured", written, arms, tables)
    for name in found.arms:
        world = arms[name].world
        if not arms[name].pretraining:
            raise UserError(f"{path}: ablation: {name} is not pre-trained, which is what is measured; leave it out")
        if world is not None and "entities" not in WorldSpec(**world).data_sets:
            raise UserError(
                f"{path}: ablation: the world of {name} has no Flickr30k Entities; name entities and retrieval among "
                "its data_sets"
            )
        said = [flag for flag in OF_WORLD if world is not None and flag in found.flags]
        if said:
            raise UserError(f"{path}: ablation: {said[0]}: the world has its own; leave it out")
    return found


def _reported_arms(
    where: str,
    entry: str,
    what: str,
    written: Mapping[str, Any],
    arms: Mapping[str, Arm],
    tables: Sequence[PlannedTable],
) -> ReportedArms:
    """Reads which arms are reported on, and the flags of the command that does it; ``what``: which these are."""
    flags = dict(written)
    names, seeds = flags.pop("arms", []), flags.pop("seeds", 1)
    if written and (not isinstance(names, list) or not names):
        raise UserError(f"{where}: expected arms, a list of those {what}, found {names!r}")
    seeds = read_seeds(f"{where}: seeds", seeds)
    for name in names:
        if name not in arms:
            raise UserError(f"{where}: {name} is none of {', '.join(arms)}")
        if not any(name in table.arms for table in tables):
            raise UserError(f"{where}: {name} is in no table, so that it is not trained; add it to one")
        check_seeds(f"{where}: seeds", seeds, name, arms[name].seeds)
    refuse_twice(f"{where}: arms", names)
    refuse_flags(where, entry, flags)
    return ReportedArms(tuple(names), seeds, flags)


def check_seeds(where: str, chosen: int | tuple[int, ...] | None, arm: str, own: tuple[int, ...]) -> None:
    """Raises UserError for seeds that an arm does not have."""
    listed = ", ".join(map(str, own))
    if isinstance(chosen, int) and chosen > len(own):
        raise UserError(f"{where}: {chosen}, but {arm} has {len(own)} ({listed}); add seeds or take fewer")
    lacking = [seed for seed in chosen if seed not in own] if isinstance(chosen, tuple) else []
    if lacking:
        raise UserError(f"{where}: {arm} has no seed {lacking[0]} ({listed}); add it to arms.{arm}.seeds")


def read_seeds(where: str, given: Any) -> int | tuple[int, ...]:
    """Reads which of its arms' seeds a table or a report of routes takes."""
    if isinstance(given, list) and given and all(type(seed) is int for seed in given):
        refuse_twice(where, given)
        return tuple(given)
    if type(given) is int and given > 0:
        return given
    raise UserError(f"{where}: expected how many of the seeds, 1 or more, or a list of them, found {given!r}")
