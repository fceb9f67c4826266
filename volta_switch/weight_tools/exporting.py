"""A model of this project as another program's files: the way of an import, backwards.

There is one map of names for each layout (``places``): an export puts the weights back where an import takes them from,
then imports what it has made, and compares. So a model either becomes one that computes the same, or is refused by what
has no place. Two formats are none of ``layouts``: VOLTA's own, and the text side as a BERT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volta_switch.checksums import record_bytes, record_json
from volta_switch.config import Config, load_config
from volta_switch.config.checks import attention_size, intermediate_size
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import TASK
from volta_switch.errors import UserError
from volta_switch.files import writing_folder
from volta_switch.hub import HUB_WEIGHTS
from volta_switch.model.heads import OF_ATTRIBUTES, OF_CLASSES
from volta_switch.tasks.nlvr2 import TRUTH_VALUES
from volta_switch.weight_tools.given import GivenWeights
from volta_switch.weight_tools.importing import import_state, last_layer
from volta_switch.weight_tools.layouts import LAYOUTS, Layout
from volta_switch.weight_tools.own_models import (
    BERT,
    TARGETS,
    VOLTA,
    ExportedModel,
    OwnModel,
    own_model,
    to_bert,
    to_volta,
)
from volta_switch.weight_tools.places import Places
from volta_switch.weights.files import write_weights
from volta_switch.weights.loading import some

FORMATS = (VOLTA, *(layout.name for layout in LAYOUTS.values() if layout.written), BERT)
_OF_TRAINING = ("initializer_range", "visual_target_weights", "pad_token_id", "image_bias_range")
# What says where a model starts from, or what nothing reads.
_OF_NO_ACCOUNT = (
    *("bert_model", "bert_layer2attn_sublayer", "bert_layer2ff_sublayer", "single_ln_sublayers", "route"),
    *("max_boxes", "objective", "v_initializer_range"),
)


def export_weights(source: str | Path, layout: str, config_file: str = "") -> ExportedModel:
    """Brings a model into another program's layout; nothing is written.

    Args:
        source: a model's folder; or a file of weights, with ``config_file``.
        layout: one of ``FORMATS``.
        config_file: of a file that has no ``config.json`` beside it: its configuration.

    Raises:
        UserError: it is no model of this project; the layout is none of these; or something of the model has no place
            in it, or would compute something else there.
    """
    if layout not in FORMATS:
        raise UserError(f"--format {layout}: expected one of {', '.join(FORMATS)}")
    model = own_model(source, config_file)
    writers: dict[str, Callable[[OwnModel], ExportedModel]] = {VOLTA: to_volta, BERT: to_bert}
    try:
        if layout in writers:
            return writers[layout](model)
        return _to_layout(model, LAYOUTS[layout])
    except UserError as error:
        raise UserError(f"{model.path}: cannot be written as --format {layout}: {error}") from None


def write_export(model: ExportedModel, folder: Path) -> None:
    """Writes the program's folder whole or not at all; raises as ``files.writing_folder``."""
    with writing_folder(folder) as unfinished:
        for name, content in model.beside.items():
            record_bytes(unfinished / name, content)
        record_json(unfinished / CONFIG, dict(model.settings))
        write_weights(unfinished / model.file, model.state, recorded=True)


# --- Layouts that an import reads -------------------------------------------------------------------------------------


def _to_layout(model: OwnModel, layout: Layout) -> ExportedModel:
    assert layout.written is not None  # as ``FORMATS`` has them
    config, own = model.config, model.state
    _check_architecture(config, layout)
    settings, places = layout.written.settings(config, own, model.answers)
    theirs: dict[str, Tensor] = {}
    for name, ours in places.targets.items():
        there = [own[one] for one in ours if one in own]
        if any(not torch.equal(there[0], other) for other in there[1:]):
            raise UserError(f"{some(ours)} are one weight in this layout, and hold different values")
        if there:
            theirs[name] = there[0].flip(0) if name in places.swapped else there[0]
    trunk, heads = ({n: t for n, t in theirs.items() if (n in places.heads) is is_head} for is_head in (False, True))
    placed = {ours for name in theirs for ours in places.targets[name]}
    task = model.answers if any(ours.startswith("clfs_dict.") for ours in placed) else ""
    overrides, _ = layout.read(GivenWeights(trunk, heads, settings, {}, "the layout"), task)
    back = load_config(layout.base, overrides)
    _compare_settings(config, back, placed)
    if lost := places.missing(theirs):
        raise UserError(f"{some(places.targets[lost[0]])} missing, which the layout needs")
    left_out = _left_out(own, places)
    state = {f"{layout.written.prefix}{name}": tensor for name, tensor in trunk.items()} | heads
    _read_back(model, layout, state, settings, {name: own[name] for name in own if name not in left_out}, task)
    if layout.written.file == HUB_WEIGHTS[0]:  # safetensors hold a weight once: what reads them ties the two itself
        state.pop("cls.predictions.decoder.weight", None)
    if task and model.labels and "num_labels" in settings:
        settings["id2label"] = {str(row): label for row, label in enumerate(model.labels)}
    told = tuple(_differing(config, back, _of_training(config)))
    absent = tuple(name for name in places.left_out if not name.endswith("_ids"))  # numbers that nobody learns
    beside = {name: content for name, content in model.beside.items() if name != TASK}
    return ExportedModel(layout.name, model.path, state, settings, layout.written.file, beside, left_out, absent, told)


def _check_architecture(config: Config, layout: Layout) -> None:
    """Raises UserError where a configuration is of another architecture than a layout's."""
    assert layout.written is not None
    if config.switch is not None:
        raise UserError("switch: a Switch-BERT, whose switchers have no place in this layout")
    base = load_config(layout.base)
    if config.image_embeddings != base.image_embeddings:
        raise UserError(
            f"image_embeddings is {config.image_embeddings!r}, and {base.image_embeddings!r} in this layout: it is "
            "another architecture"
        )
    expected = load_config(layout.base, layout.written.sublayers(config))
    pairs = ("tt", "tv", "vt", "vv")
    lists = (*(f"{pair}_attn_sublayers" for pair in pairs), "t_ff_sublayers", "v_ff_sublayers", "shared_sublayers")
    for key in lists:
        found, wanted = (sorted(set(getattr(one, key))) for one in (config, expected))
        if found != wanted:
            raise UserError(f"{key} are {found}, and would be {wanted} in this layout: it is another architecture")


def _compare_settings(config: Config, back: Config, placed: set[str]) -> None:
    """Raises UserError where the configuration that an import would find computes otherwise.

    Args:
        config: the model's.
        back: an import's.
        placed: the names of the weights that have a place.
    """
    ignored = {*_OF_NO_ACCOUNT, *_of_training(config), *_unread(config, placed)}
    fields = [key for key in config.to_dict() if key not in ignored and not key.startswith("sublayer2")]
    if found := _differing(config, back, fields):
        raise UserError(f"{found[0]}: the layout has no place for that, or its program computes otherwise")
    for number in (*config.attention_sublayers, *config.ff_sublayers):
        for side in ("", "v_"):
            size = attention_size if number in config.attention_sublayers else intermediate_size
            if _takes_part(config, number, side) and size(config, number, side) != size(back, number, side):
                raise UserError(f"sublayer {number} has the sizes {size(config, number, side)}, and others there")


def _differing(config: Config, back: Config, fields: Iterable[str]) -> list[str]:
    """Returns in words which of these fields differ."""
    ours, theirs = config.to_dict(), back.to_dict()
    return [f"{key} is {ours[key]!r}, there {theirs.get(key)!r}" for key in fields if ours.get(key) != theirs.get(key)]


def _of_training(config: Config) -> list[str]:
    """Returns the fields of a configuration that decide how training goes, and nothing of what a model computes."""
    return [key for key in config.to_dict() if key in _OF_TRAINING or key.endswith("dropout_prob")]


def _unread(config: Config, placed: set[str]) -> set[str]:
    """Returns the fields that decide nothing, as the weights that have a place have no part with them."""
    targets = {name.removeprefix(TARGETS).partition(".")[0] for name in placed if name.startswith(TARGETS)}
    read = {
        "v_num_classes": bool(targets & {*OF_CLASSES}),
        "v_num_attributes": bool(targets & {*OF_ATTRIBUTES}),
        "image_head_ln": bool(targets),
        "clf_hidden_size": any(name.startswith("clfs_dict.") for name in placed),
        "pooler_size": config.fusion.pools_text,
        "v_pooler_size": config.fusion.pools_vision,
        "fusion_act": config.fusion.pools_text and config.fusion.through_pooler,
        "num_locs": config.image_embeddings != "visualbert",
    }
    return {key for key, is_read in read.items() if not is_read}


def _takes_part(config: Config, number: int, side: str) -> bool:
    """Returns whether text (``side`` "") or vision ("v_") has weights in a sublayer."""
    own = "v" if side else "t"
    lists = (f"{own}t_attn_sublayers", f"{own}v_attn_sublayers", f"{own}_ff_sublayers")
    return any(number in getattr(config, key) for key in lists)


def _left_out(own: Iterable[str], places: Places) -> dict[str, str]:
    """Returns the names of ours that a layout has no place for, and why that may be.

    Raises:
        UserError: for one there is no reason.
    """
    placed = {ours for names in places.targets.values() for ours in names}
    reasons = {name: _reason(name, places) for name in own if name not in placed}
    if strange := [name for name, why in reasons.items() if not why]:
        raise UserError(f"{some(strange)} has no place in this layout, and would be lost")
    return reasons


def _reason(name: str, places: Places) -> str:
    return next((why for start, why in places.not_theirs.items() if name.startswith(start)), "")


def _read_back(
    model: OwnModel,
    layout: Layout,
    state: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    kept: Mapping[str, Tensor],
    task: str,
) -> None:
    """Imports what is about to be written; raises UserError where another model comes back."""
    labels = [str(row) for row in range(len(kept[f"{last_layer(kept, task)}.bias"]))] if task else []
    labels = list(TRUTH_VALUES) if model.config.fusion.joins_images else labels  # no other answers are imported
    back = import_state(model.path, state, layout.name, (), task, labels, settings=settings)
    found = {name: tensor for name, tensor in back.state.items() if name not in back.initial}
    other = sorted({name for name in kept if name not in found or not torch.equal(found[name], kept[name].float())})
    if other or found.keys() - kept.keys():
        raise UserError(f"{some([*other, *sorted(found.keys() - kept.keys())])} would come back as another weight")
