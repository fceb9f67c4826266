"""The flags that a study's file gives, checked by the parsers of the entry points that will read them."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from volta_switch.errors import UserError
from volta_switch.flag_parser import FlagParser
from volta_switch.routes.flags import route_flags
from volta_switch.study.arms import Arm
from volta_switch.study.command_lines import as_flags, planned_command
from volta_switch.train.flags import (
    WITHOUT_EFFECT,
    evaluation_flags,
    finetuning_flags,
    pretraining_flags,
    retrieval_flags,
)

# Flags that the study does not say itself, and that would take a run out of its hands.
KEPT_FROM = {
    "save_name": "the study names the folders of its runs",
    "resume_file": "the study goes on from its runs' own checkpoints",
    "world": "the study's world or data are what its runs read",
    "shard": "the study scores all pairs",
    "restart": "the study goes on where it was",
    "zero_shot": "the study tests what it has fine-tuned",
    "overwrite": "the study keeps the results of its runs",
}


def refuse_arms_flags(source: str, arm: Arm) -> None:
    """Checks every flag that an arm's runs are given, the study's shared ones included.

    Raises:
        UserError: as ``refuse_flags``.
    """
    pretrained = bool(arm.pretraining)
    refuse_flags(f"{source}: pretraining", "train_concap", arm.pretraining, arm.name)
    for task, parts in arm.tasks.items():
        where = f"{source}: tasks.{task}"
        refuse_flags(f"{where}.train", "train_task", parts.get("train") or {}, arm.name, pretrained)
        # Whether the task is retrieval is known when its task file is read; then it is checked again.
        refuse_flags(f"{where}.test", "eval_retrieval", parts.get("test") or {}, arm.name)


def refuse_flags(where: str, entry: str, given: Mapping[str, Any], arm: str = "", pretrained: bool = True) -> None:
    """Asks an entry point's own parser about every flag that a section gives.

    Args:
        where: the section, for messages: "study.yaml: tasks.TASK10.train".
        entry: the entry point.
        given: flag -> value, as the file has them.
        arm: whose section it is.
        pretrained: whether the arm's fine-tuning starts from a pre-training of the study.

    Raises:
        UserError: a flag is unknown, is said by the study itself, stands there under two names, or has a value that
            the parser does not take.
    """
    flags, planned = _parser(entry), planned_command(entry, pretrained)
    known = {name.lstrip("-"): action for name, action in _options(flags).items() if name.startswith("--")}
    del known["help"]
    said = {known[name.lstrip("-")].dest for name in planned if name.startswith("--")}
    before = flags.ask(planned)
    names: dict[str, str] = {}
    for name, value in given.items():
        whose = f" (arm {arm})" if arm else ""
        here = f"{where}.{name}{whose}"
        action = known.get(str(name))
        if action is None:
            free = [other for other, of in known.items() if of.dest not in said and other not in KEPT_FROM]
            near = difflib.get_close_matches(str(name), free, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"{here}: {_TYPED[entry]} has no flag --{name}{hint}")
        if action.dest in said:
            raise UserError(f"{here}: the study says --{name} to its runs itself; {_instead(action.dest, where)}")
        if action.dest in {**KEPT_FROM, **WITHOUT_EFFECT}:
            reason = KEPT_FROM.get(action.dest) or f"it has no effect: {WITHOUT_EFFECT[action.dest]}"
            raise UserError(f"{here}: leave it out; {reason}")
        if action.dest in names:
            raise UserError(f"{here}: the same flag as {names[action.dest]}, which is given, too; keep one of them")
        names[action.dest] = str(name)
        problem = _problem(flags, action, str(name), value, planned, before)
        if problem:
            raise UserError(f"{here}: {problem}")


def taken_by(entry: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some flags that an entry point has, too."""
    options = _options(_parser(entry))
    return {name: value for name, value in given.items() if f"--{name}" in options}


_TYPED = {
    **{"train_concap": "train_concap.py", "train_task": "train_task.py", "eval_task": "eval_task.py"},
    **{"eval_retrieval": "eval_retrieval.py", "routes": "volta-switch routes"},
}
_INSTEAD = {  # flag -> where a study's file says it
    "seed": "list seeds under seeds",
    "set": "write it under set, of the study or of an arm",
    "config_file": "write the model under models, or as an arm's model",
    "from_pretrained": "only an arm with pretraining: false starts elsewhere (tasks: ..: train: from_pretrained)",
    "task": "name the task under tasks",
    "tasks_config_file": "write it under data",
    "features_path": "write it under data",
    "annotations_path": "write it under data",
}


def _instead(flag: str, where: str) -> str:
    if flag == "from_pretrained" and not where.endswith(".train"):
        return "what is tested are the weights that were fine-tuned"
    return _INSTEAD.get(flag, "leave it out")


@cache
def _parser(entry: str) -> FlagParser:
    if entry == "routes":
        return route_flags()
    return {
        **{"train_concap": pretraining_flags, "train_task": finetuning_flags},
        **{"eval_task": evaluation_flags, "eval_retrieval": retrieval_flags},
    }[entry]()


def _options(flags: FlagParser) -> Mapping[str, argparse.Action]:
    return flags._option_string_actions  # argparse has no public word for it


def _problem(
    flags: FlagParser,
    action: argparse.Action,
    name: str,
    value: Any,
    planned: list[str],
    before: argparse.Namespace,
) -> str:
    """Why a value cannot be given; empty where it can."""
    if value is None:
        return ""
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, Mapping | list) for item in items):
        return f"expected a value, found {value!r}"
    is_switch = action.nargs == 0 or action.const is True
    if any(isinstance(item, bool) for item in items) and not (is_switch and isinstance(value, bool)):
        return f"expected a value, found {value!r}"
    try:
        parsed = flags.ask([*planned, *as_flags({name: value})])
    except ValueError as error:
        said = str(error)
        if said.startswith(("unexpected", "unknown flag")):  # a value that is taken for another argument
            return f"expected {'true or false' if is_switch else 'one value'}, found {value!r}"
        return said if "found" in said else f"{said}, found {value!r}"
    if _others(vars(parsed), vars(before), action.dest):
        return f"expected {'true or false' if is_switch else 'one value'}, found {value!r}"
    return ""


def _others(parsed: Mapping[str, Any], before: Mapping[str, Any], own: str) -> Iterable[str]:
    """Flags beside a flag's own that a value has changed: ``adam_betas: [0.9, 0.98, --seed, 7]``."""
    return [flag for flag in {**parsed, **before} if flag != own and parsed.get(flag) != before.get(flag)]
