"""Other programs' checkpoints as models of this project: read, placed, and checked name by name.

What becomes of every name of a file is told: it has a place, or it is left out for a reason that its layout gives. A
name without either, a missing one, another shape or a part of a head refuse the file. No code in it is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.config import Config, load_config
from volta_switch.config.model_folder import is_model_folder
from volta_switch.errors import UserError
from volta_switch.hub import HUB_WEIGHTS
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.tasks.nlvr2 import TRUTH_VALUES
from volta_switch.weight_tools.given import as_floats, divided, read_settings, weights_file
from volta_switch.weight_tools.layouts import Layout, layout_of
from volta_switch.weight_tools.places import PAIRS, Places
from volta_switch.weights.files import read_weights
from volta_switch.weights.loading import (
    check_shared,
    distinct,
    fitted,
    is_of_a_run,
    project_of,
    refuse_bert,
    shared_names,
    some,
    to_volta,
)

HEADS = ("num_attention_heads", "v_num_attention_heads")  # what --set may say of a file that has no config.json
TASK_NAME = re.compile(r"TASK[0-9]{1,4}")


@dataclass(frozen=True)
class ImportedModel:
    """A file's weights under this project's names, and what became of the rest."""

    layout: Layout
    project: str
    """Whose file it is, in words."""
    config: Config
    state: Mapping[str, Tensor]
    heads: tuple[str, ...]
    """Prediction heads of the file's, that are kept."""
    left_out: Mapping[str, str]
    """Name of theirs -> why it is left out."""
    initial: tuple[str, ...]
    """Names of ours that the file has nothing for, and that have initial values."""
    task: Mapping[str, Mapping[str, Any]]
    """What ``task.yml`` holds: the task whose head the file's answers are; empty without one."""
    source: Path
    overrides: tuple[str, ...]
    """That were given: what the model computes may differ from the file's own program by them."""
    labels: tuple[str, ...] = ()
    """What each row of the task's head stands for."""

    @property
    def parameters(self) -> int:
        """Number of weights, shared ones once."""
        return sum(tensor.numel() for tensor in distinct(self.state).values())


def import_weights(
    source: str | Path,
    layout: str = "",
    overrides: Sequence[str] = (),
    task: str = "",
    labels: Sequence[str] = (),
    wanted: Sequence[str] = (),
) -> ImportedModel:
    """Reads another program's checkpoint.

    Args:
        source: a file, a folder with ``model.safetensors`` or ``pytorch_model.bin``, or an address on the hub;
            ``config.json`` beside it is read for what weights do not tell.
        layout: ask for one of ``layouts.LAYOUTS``; by default it is found by names.
        overrides: ``key=value`` of the configuration.
        task: the task whose head the file's answers become, such as "TASK1"; "": they are left out.
        labels: the answers of the file's head, in its order; needed with ``task``.
        wanted: the task's answers in the order of its data: rows are brought into it.

    Raises:
        UserError: the file is of no layout, or of another one than was asked for; a name of it has no place, or one is
            missing; a weight is misshapen or not finite; what stands beside it is of another model; the answers' names
            do not fit its head, or it has none.
    """
    if task and not TASK_NAME.fullmatch(task):
        raise UserError(f"--task {task!r}: expected TASK and a number, as task files have it: TASK1")
    if is_model_folder(source):
        raise UserError(f"{source}: is a model's folder of this project and needs no import; give it as it is")
    path = weights_file(source, HUB_WEIGHTS)
    return import_state(path, read_weights(path), layout, overrides, task, labels, wanted)


def import_state(
    path: Path,
    state: Mapping[str, Tensor],
    layout: str = "",
    overrides: Sequence[str] = (),
    task: str = "",
    labels: Sequence[str] = (),
    wanted: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> ImportedModel:
    """Does the same with what ``weights.files.read_weights`` has read of ``path``, or will find there.

    ``settings``: those that its program wrote; by default of the ``config.json`` beside the file.
    """
    project = project_of(state)
    if is_of_a_run(state) and not project:
        raise UserError(f"{path}: these are weights of a run, this project's or VOLTA's, and need no import")
    if not project:
        refuse_bert(state, str(path), "it needs no import")
    found = layout_of(state, str(path), layout)
    said = f"{path}: {project}"
    settings = read_settings(path) if settings is None else settings
    given = divided(as_floats(state, said), settings, _numbers(overrides), said)
    own, places = found.read(given, task)
    config = _configuration(found, own, overrides, said)
    names = {**given.trunk, **given.heads}
    _check_names(names, places, said)
    placed = _placed(names, places)
    wanted = _wanted(places.task_type, wanted, said) if task else wanted
    entry = _task_entry(placed, task, labels, wanted, said, places.task_type)
    if entry:
        placed = _in_order(placed, task, labels, wanted, said)
    whole, initial = _whole(config, placed, entry, said)
    kept = sorted({head for name, head in places.heads.items() if name in names})
    left = {name: places.reason(name) for name in names if name not in places.targets}
    return ImportedModel(
        *(found, project, config, whole, tuple(kept), left, tuple(initial), entry, path, tuple(overrides)),
        tuple(wanted or labels) if entry else (),
    )


def _configuration(layout: Layout, own: Sequence[str], overrides: Sequence[str], source: str) -> Config:
    """Returns the layout's configuration with the sizes of the file, and what was asked for.

    Raises:
        UserError: the file and what stands beside it are of a model that cannot be built, or the overrides are wrong.
    """
    try:
        load_config(layout.base, own)
    except UserError as error:
        raise UserError(f"{source}: no model of this project is like it: {_without_file(error)}") from None
    try:
        return load_config(layout.base, [*own, *overrides])
    except UserError as error:
        raise UserError(f"--set {' '.join(overrides)}: {_without_file(error)}") from None


def _without_file(error: UserError) -> str:
    """Returns a message about a configuration without the file that it begins with: the layout's, not the user's."""
    return str(error).partition(": ")[2] or str(error)


def _numbers(overrides: Sequence[str]) -> dict[str, int]:
    """Returns the numbers of attention heads among overrides, which a layout needs before there is a configuration."""
    pairs = (override.partition("=")[::2] for override in overrides)
    return {key: int(value) for key, value in pairs if key in HEADS and re.fullmatch("[0-9]{1,6}", value)}


def _check_names(names: Mapping[str, Tensor], places: Places, source: str) -> None:
    """Raises UserError for a name without a place or a reason, and for what a trunk or a head lacks."""
    if strange := [name for name in names if name not in places.targets and not places.reason(name)]:
        raise UserError(f"{source}: {some(strange)} has no place in this layout, and would be lost")
    if lost := places.missing(names):
        of = places.heads.get(lost[0])
        raise UserError(f"{source}: {some(lost)} missing" + (f", of the head {of}" if of else ", of the whole model"))


def _placed(names: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """Returns the weights under our names; both rows of a matching head exchanged where theirs are the other way."""
    found: dict[str, Tensor] = {}
    for theirs, ours in places.targets.items():
        if theirs in names:
            tensor = names[theirs].flip(0) if theirs in places.swapped else names[theirs]
            found |= dict.fromkeys(ours, tensor)
    return found


def _task_entry(
    placed: Mapping[str, Tensor], task: str, labels: Sequence[str], wanted: Sequence[str], source: str, kind: str
) -> dict[str, dict[str, Any]]:
    """Returns the entry of the task whose head is kept; {} where none is asked for.

    Raises:
        UserError: a head is asked for, and the file has none that can be kept; or one that cannot be used.
    """
    if not task:
        return {}
    last = placed.get(f"{last_layer(placed, task)}.weight")
    if last is None:
        raise UserError(f"{source}: has no head of answers that could become {task}'s; leave out --task and --labels")
    rows = len(last)
    if len(labels) != rows:
        told = f"{len(labels)} were given" if labels else "none were given"
        raise UserError(
            f"{source}: its head has {rows} answers, and {told}; --labels FILE names them in its order (a JSON list), "
            "for no other program numbers answers as VOLTA does"
        )
    return {task: {"type": kind, "num_labels": len(wanted or labels)}}


def _wanted(kind: str, wanted: Sequence[str], source: str) -> Sequence[str]:
    """Returns the answers in the order of the task's data, as they are given, or as all data of the task have them.

    Raises:
        UserError: other ones are given than a task of this type has.
    """
    if kind != PAIRS:
        return wanted
    if wanted and tuple(wanted) != TRUTH_VALUES:
        raise UserError(
            f"{source}: its head says whether a statement about two images is true; leave out --answers-of, which is "
            "for answers to questions"
        )
    return TRUTH_VALUES


def _in_order(
    placed: Mapping[str, Tensor], task: str, labels: Sequence[str], wanted: Sequence[str], source: str
) -> dict[str, Tensor]:
    """Returns the weights with the answers' rows in the order of the task's data.

    Raises:
        UserError: an answer of the head stands twice, or one of the data's is none of them.
    """
    numbers = {answer: row for row, answer in enumerate(labels)}
    if len(numbers) < len(labels):
        raise UserError(f"{source}: an answer stands twice in --labels")
    if lacking := [answer for answer in wanted if answer not in numbers]:
        raise UserError(f"{source}: its head has no answer {some(lacking)}, which the task's data have")
    order, last = torch.tensor([numbers[answer] for answer in wanted or labels]), f"{last_layer(placed, task)}."
    return {name: tensor[order] if name.startswith(last) else tensor for name, tensor in placed.items()}


def last_layer(placed: Mapping[str, Tensor], task: str) -> str:
    """Returns the layer of a task's head that has a row for each answer: the classifier's last, or its only one."""
    one = f"clfs_dict.{task}"
    return one if f"{one}.weight" in placed else f"{one}.logit_fc.3"


def _whole(
    config: Config, placed: Mapping[str, Tensor], task: Mapping[str, Mapping[str, Any]], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns all weights of the model, and the names of those that the file has nothing for.

    Raises:
        UserError: a weight has no place in the model, or one is missing, misshapen or contradictory.
    """
    with torch.device("meta"):
        models: list[nn.Module] = [BertForVLPreTraining(config)]
        models += [BertForVLTasks(config, task)] if task else []
    expected = {name: tensor for model in models for name, tensor in to_volta(model).items()}
    if strange := [name for name in placed if name not in expected]:
        raise UserError(f"{source}: {some(strange)} has no place in a model of these settings; change --set")
    has_heads = any(name.startswith("cls.") for name in placed)
    initial = [name for name in expected if name not in placed and (has_heads or not name.startswith("cls."))]
    if lost := [name for name in initial if not name.startswith("cls.")]:
        raise UserError(f"{source}: {some(lost)} missing, of the whole model")
    advice = "does --set contradict the weights?"
    whole = dict(fitted({name: expected[name] for name in placed}, placed, source, advice))
    for model in models:
        check_shared(model, whole, source)
        for shared in shared_names(model):  # a file may hold one weight twice
            first = next((whole[name] for name in shared if name in whole), None)
            whole |= {name: first for name in shared if name in whole and first is not None}
    if initial:
        torch.manual_seed(0)
        start = to_volta(BertForVLPreTraining(config))
        whole |= {name: start[name] for name in initial}
    return whole, initial
