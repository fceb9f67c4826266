"""Other programs' checkpoints as models of this project: read, placed, checked name by name, and written as a folder.

What becomes of every name of a file is told: it has a place, or it is left out for a reason that its layout gives. A
name without either, a missing one, another shape or a part of a head refuse the file. No code in it is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volta_switch.config import Config, load_config
from volta_switch.errors import UserError
from volta_switch.files import find_object, write_json
from volta_switch.hub import VOCABULARY, WEIGHTS, find_bert
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.weight_tools.layouts import Layout, layout_of
from volta_switch.weight_tools.places import Places, split
from volta_switch.weights.files import read_weights, write_weights
from volta_switch.weights.loading import fitted, is_of_a_run, project_of, refuse_bert, some, to_volta

CONFIG = "config.json"
HEADS = ("num_attention_heads", "v_num_attention_heads")  # which depend on widths
REGIONS = "preprocessor.json"


@dataclass(frozen=True)
class ImportedModel:
    """A file's weights under this project's names, and what became of the rest."""

    layout: Layout
    project: str
    """Whose file it is, in words."""
    config: Config
    state: Mapping[str, Tensor]
    heads: tuple[str, ...]
    """Of the file's, that are kept."""
    left_out: Mapping[str, str]
    """Name of theirs -> why it is left out."""
    initial: tuple[str, ...]
    """Names of ours that the file has nothing for, and that have initial values."""
    answers: int | None
    """Of the task's head, if one is kept."""
    source: Path

    @property
    def parameters(self) -> int:
        """Number of weights, shared ones once."""
        return sum(tensor.numel() for tensor in {id(tensor): tensor for tensor in self.state.values()}.values())


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
        source: a file, or a folder with ``model.safetensors`` or ``pytorch_model.bin``; ``config.json`` beside it is
            read for what weights do not tell.
        layout: ask for one of ``layouts.LAYOUTS``; by default it is found by names.
        overrides: ``key=value`` of the configuration.
        task: the task whose head the file's answers become, such as "TASK1"; "": they are left out.
        labels: the answers of the file's head, in its order; needed with ``task``.
        wanted: the task's answers in the order of its data: rows are brought into it.

    Raises:
        UserError: the file is of no layout, or of another one than was asked for; a name of it has no place, or one is
            missing; a weight is misshapen or not finite; the answers' names do not fit its head.
    """
    path = find_bert(source) if Path(source).is_dir() else Path(source)
    state, said = read_weights(path), str(path)
    project = project_of(state)
    if is_of_a_run(state) and not project:
        raise UserError(f"{said}: these are weights of a run, this project's or VOLTA's, and need no import")
    if not project:
        refuse_bert(state, said, "it needs no import")
    found = layout_of(state, said, layout)
    given = split(state, {**_settings(path), **_numbers(overrides)}, said)
    own, places = found.read(given, task)
    config = _configuration(found, own, overrides, said)
    names = {**given.trunk, **given.heads}
    _check_names(names, places, f"{said}: {project}")
    placed = _placed(names, places)
    answers = _answers(placed, task)
    if answers is not None:
        placed = _in_order(placed, task, labels, wanted, said)
        answers = len(wanted or labels)
    expected = _expected(config, placed, task, answers)
    initial = [name for name in expected if name not in placed]
    if lost := [name for name in initial if not name.startswith("cls.")]:
        raise UserError(f"{said}: {some(lost)} missing, of a whole model of {project}")
    advice = "is its config.json another model's?"
    whole = dict(fitted({name: expected[name] for name in placed}, placed, said, advice))
    if initial:
        torch.manual_seed(0)
        start = to_volta(BertForVLPreTraining(config))
        whole |= {name: start[name] for name in initial}
    kept = sorted({head for name, head in places.heads.items() if name in names})
    left = {name: places.reason(name) for name in names if name not in places.of}
    return ImportedModel(found, project, config, whole, tuple(kept), left, tuple(initial), answers, path)


def write_model(model: ImportedModel, folder: Path) -> None:
    """Writes configuration, weights, what is known of its regions, and the vocabulary where one lies beside the file.

    Raises:
        UserError: the folder is there and not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = model.source.with_name(VOCABULARY)
    config = model.config.to_dict()
    if vocabulary.is_file():
        shutil.copyfile(vocabulary, folder / VOCABULARY)
    write_json(folder / CONFIG, config)
    config_of_regions = {
        "regions": model.layout.regions,
        "width": model.config.v_feature_size,
        "locations": model.config.num_locs,
        "global_region": model.config.add_global_imgfeat,
    }
    write_json(folder / REGIONS, config_of_regions)
    write_weights(folder / WEIGHTS[0], model.state, recorded=True)


def _configuration(layout: Layout, own: Sequence[str], overrides: Sequence[str], source: str) -> Config:
    """Returns the layout's configuration with the sizes of the file.

    Raises:
        UserError: the overrides are wrong, or the file and what stands beside it are of a model that cannot be built.
    """
    load_config(layout.base, [each for each in overrides if each.partition("=")[0] not in HEADS])
    try:
        return load_config(layout.base, [*own, *overrides])
    except UserError as error:
        _, _, told = str(error).partition(": ")
        raise UserError(
            f"{source}: no model of this project is like it, or its {CONFIG} is another's: {told}"
        ) from None


def _settings(path: Path) -> dict[str, Any]:
    """Returns what a program wrote of its model beside the weights; {} without."""
    return find_object(path.with_name(CONFIG)) or {}


def _numbers(overrides: Sequence[str]) -> dict[str, int]:
    """Returns the numbers among overrides, which a layout may need before there is a configuration."""
    pairs = (override.partition("=")[::2] for override in overrides)
    return {key.strip(): int(value) for key, value in pairs if value.strip().isdecimal()}


def _check_names(names: Mapping[str, Tensor], places: Places, source: str) -> None:
    """Raises UserError for a name without a place or a reason, and for what a trunk or a head lacks."""
    if strange := [name for name in names if name not in places.of and not places.reason(name)]:
        raise UserError(f"{source}: {some(strange)} has no place in this layout, and would be lost")
    if lost := places.missing(names):
        of = places.heads.get(lost[0])
        raise UserError(f"{source}: {some(lost)} missing" + (f", of the head {of}" if of else ", of the whole model"))


def _placed(names: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """Returns the weights under our names; both rows of a matching head exchanged where theirs are the other way."""
    found: dict[str, Tensor] = {}
    for theirs, ours in places.of.items():
        if theirs in names:
            tensor = names[theirs].flip(0) if theirs in places.swapped else names[theirs]
            found |= dict.fromkeys(ours, tensor)
    return found


def _answers(placed: Mapping[str, Tensor], task: str) -> int | None:
    last = placed.get(f"clfs_dict.{task}.logit_fc.3.weight") if task else None
    return None if last is None else len(last)


def _in_order(
    placed: Mapping[str, Tensor], task: str, labels: Sequence[str], wanted: Sequence[str], source: str
) -> dict[str, Tensor]:
    """Returns the weights with the answers' rows in the order of the task's data.

    Raises:
        UserError: the answers' names are not given or not as many as the head's rows, or one of the data's is none of
            them.
    """
    last = f"clfs_dict.{task}.logit_fc.3"
    rows = len(placed[f"{last}.weight"])
    if len(labels) != rows:
        told = f"{len(labels)} were given" if labels else "none were given"
        raise UserError(
            f"{source}: its head has {rows} answers, and {told}; --labels FILE names them in its order (a JSON list), "
            "for no other program numbers answers as VOLTA does"
        )
    numbers = {answer: row for row, answer in enumerate(labels)}
    if len(numbers) < rows:
        raise UserError(f"{source}: an answer stands twice in --labels")
    if lacking := [answer for answer in wanted if answer not in numbers]:
        raise UserError(f"{source}: its head has no answer {some(lacking)}, which the task's data have")
    order = torch.tensor([numbers[answer] for answer in wanted or labels])
    return {name: tensor[order] if name.startswith(f"{last}.") else tensor for name, tensor in placed.items()}


def _expected(config: Config, placed: Mapping[str, Tensor], task: str, answers: int | None) -> dict[str, Tensor]:
    """Returns the model's own weights, without values; of heads those of which ``placed`` has some."""
    with torch.device("meta"):
        found = to_volta(BertForVLPreTraining(config))
        if answers is not None:
            entry = {"type": "VL-classifier", "num_labels": answers}
            found = {**found, **to_volta(BertForVLTasks(config, {task: entry}))}
    has_heads = any(name.startswith("cls.") for name in placed)
    return {name: tensor for name, tensor in found.items() if has_heads or not name.startswith("cls.")}
