"""The command lines of a study's runs: what the study says itself, then the flags that its file gives.

A later flag wins on a command line, so that a given flag must not be one that the study says itself: those are refused.
Every other given flag is checked by the parser of the entry point that will read it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from volta_switch.errors import UserError, nearest
from volta_switch.flag_parser import FlagParser
from volta_switch.study.arms import Arm
from volta_switch.study.records import Flags, Settings
from volta_switch.study.run_commands import parser_of, typed
from volta_switch.train.flags import WITHOUT_EFFECT

DATA_KEYS = ("tasks_config_file", "features_path", "annotations_path")  # of a study's section data
DATA_ROOT = "data_root"  # which it may have, too


@dataclass(frozen=True)
class Places:
    """Where an arm's data lie."""

    tasks_config_file: Path
    features_path: Path
    annotations_path: Path
    data_root: str = ""  # where the task file's paths begin
    overrides: tuple[str, ...] = ()  # the world's vocabulary
    identity: Settings | None = None  # what the data are, wherever they lie
    entities_file: Path | None = None  # a world's task file of the cross-modal ablation


def pretraining_command(arm: Arm, seed: int, where: Places, row: Path) -> list[str]:
    """Returns that of ``train_concap``, but for the flags of the arm's ``pretraining``."""
    data = ["--annotations_path", str(where.annotations_path), "--features_path", str(where.features_path)]
    return [*_common(arm, seed, where, row), *data, "--logdir", str(row / "logs"), "--resume"]


def training_command(
    arm: Arm, seed: int, where: Places, task: str, row: Path, start: Path | None, named: bool = False
) -> list[str]:
    """Returns that of ``train_task``, but for the flags of the task's ``train``.

    Args:
        arm: whose run it is.
        seed: the run's.
        where: the arm's data.
        task: as ``--task`` takes it.
        row: the folder of all runs of the arm and seed.
        start: the folder of the pre-training, which is the arm's model; None: it starts from none.
        named: the model is named all the same, because the run is called by it.
    """
    command = _common(arm, seed, where, row) if start is None or named else _of_folder(seed, where, row)
    command += [*_task(where, task), "--logdir", str(row / "logs"), "--resume"]
    return command if start is None else [*command, "--from_pretrained", str(start)]


def test_command(seed: int, where: Places, task: str, tuned: Path) -> list[str]:
    """Returns that of an evaluation of a fine-tuned model, but for the flags of the task's ``test``."""
    said = [*_of_folder(seed, where, tuned.parent), *_task(where, task)]
    return [*said, "--from_pretrained", str(tuned), "--overwrite"]


def routes_command(seed: int, where: Places, task: str, tuned: Path, out: Path) -> list[str]:
    """Returns that of ``routes`` of a fine-tuned model, but for the flags of the study's ``routes``."""
    return [*test_command(seed, where, task, tuned), "--out", str(out)]


def ablation_command(where: Places, pretrained: Path, out: Path) -> list[str]:
    """Returns that of ``ablate`` of a pre-trained model, but for the flags of the study's ``ablation``."""
    vocabulary = [part for override in where.overrides for part in ("--set", override)]
    root = ["--data_root", where.data_root] if where.data_root else []
    world = ["--tasks_config_file", str(where.entities_file)] if where.entities_file else []
    return [str(pretrained), *vocabulary, *world, *root, "--out", str(out), "--overwrite"]


def planned_command(entry: str, pretrained: bool) -> list[str]:
    """Returns what a study says to an entry point, itself or by a model's folder: to know the flags by.

    Args:
        entry: the entry point.
        pretrained: whether a fine-tuning run starts from a pre-training run of the study.
    """
    arm, where, folder = Arm("", "switchbert"), Places(Path(), Path(), Path(), "data", overrides=("a=1",)), Path("run")
    commands: dict[str, Callable[[], list[str]]] = {
        "train_concap": lambda: pretraining_command(arm, 0, where, folder),
        "train_task": lambda: training_command(arm, 0, where, "1", folder, folder if pretrained else None, True),
        "eval_task": lambda: test_command(0, where, "1", folder),
        "eval_retrieval": lambda: test_command(0, where, "1", folder),
        "routes": lambda: routes_command(0, where, "1", folder, folder / "routes.json"),
        "ablate": lambda: ablation_command(where, folder, folder / "ablation.json"),
    }
    of_folder = [] if entry.startswith("train") or entry == "ablate" else ["--config_file", arm.model]
    return [*commands[entry](), *of_folder]


def as_flags(values: Flags) -> list[str]:
    """Returns ``{"lr": 1e-3, "betas": [0.9, 0.98], "resume": true}`` as flags; false and null are left out."""
    flags: list[str] = []
    for key, value in values.items():
        if value is False or value is None:
            continue
        flags.append(f"--{key}")
        if isinstance(value, list):
            flags += [str(item) for item in value]
        elif value is not True:
            flags.append(str(value))
    return flags


def _task(where: Places, task: str) -> list[str]:
    root = ["--data_root", where.data_root] if where.data_root else []
    return ["--tasks_config_file", str(where.tasks_config_file), *root, "--task", task]


def _common(arm: Arm, seed: int, where: Places, folder: Path) -> list[str]:
    overrides = [part for override in arm.overrides for part in ("--set", override)]
    return ["--config_file", arm.model, *overrides, *_of_folder(seed, where, folder)]


def _of_folder(seed: int, where: Places, folder: Path) -> list[str]:
    """Returns what is said of a model that a folder of the study holds: its configuration is the arm's.

    The world's vocabulary is named all the same: a study that was moved has it elsewhere than its older runs say.
    """
    vocabulary = [part for override in where.overrides for part in ("--set", override)]
    return [*vocabulary, "--seed", str(seed), "--output_dir", str(folder)]


def from_bert(arm: Arm, given: Flags) -> Flags:
    """Returns flags of a run that starts from what its plan names: BERT may be deeper than the plan.

    They decide nothing but whether the run is refused, and are therefore no part of its identity.
    """
    return {"allow_deeper_bert": True} if arm.own_depth and given.get("from_pretrained") else {}


# --- Checks of given flags --------------------------------------------------------------------------------------------

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
    for task, flags in arm.tasks.items():
        where = f"{source}: tasks.{task}"
        refuse_flags(f"{where}.train", "train_task", flags.train, arm.name, pretrained)
        # Whether the task is retrieval is known when its task file is read; then it is checked again.
        refuse_flags(f"{where}.test", "eval_retrieval", flags.test, arm.name)


def refuse_flags(where: str, entry: str, given: Flags, arm: str = "", pretrained: bool = True) -> None:
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
    flags, planned = parser_of(entry), planned_command(entry, pretrained)
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
            near = nearest(str(name), free)
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"{here}: {typed(entry)} has no flag --{name}{hint}")
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


def refuse_untaken(entry: str, given: Flags, where: str) -> None:
    """Raises UserError where a flag is given that an entry point has not."""
    for name in given.keys() - taken_by(entry, given).keys():
        raise UserError(f"{where}: {typed(entry)} has no flag --{name}")


def taken_by(entry: str, given: Flags) -> Flags:
    """Returns those of some flags that an entry point has, too."""
    options = _options(parser_of(entry))
    return {name: value for name, value in given.items() if f"--{name}" in options}


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


def _options(flags: FlagParser) -> Mapping[str, argparse.Action]:
    return flags._option_string_actions  # argparse has no public word for it


def _problem(
    flags: FlagParser,
    action: argparse.Action,
    name: str,
    value: object,
    planned: list[str],
    before: argparse.Namespace,
) -> str:
    """Returns why a value cannot be given; empty where it can."""
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


def _others(parsed: Settings, before: Settings, own: str) -> Iterable[str]:
    """Returns flags beside a flag's own that a value has changed: ``adam_betas: [0.9, 0.98, --seed, 7]``."""
    return [flag for flag in {**parsed, **before} if flag != own and parsed.get(flag) != before.get(flag)]
