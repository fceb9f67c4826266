"""What is exported: a model as its folder has it; and the two formats that need no layout, VOLTA's and a BERT's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volta_switch.checksums import is_there, read_recorded
from volta_switch.config import Config, load_config
from volta_switch.config.checks import attention_size, intermediate_size
from volta_switch.config.loading import CONFIG, read_json_object
from volta_switch.config.model_folder import (
    LABELS,
    REGIONS,
    TASK,
    WEIGHTS,
    is_model_folder,
    labels_in,
    task_in,
    weights_in,
)
from volta_switch.errors import UserError
from volta_switch.files import json_bytes
from volta_switch.hub import HUB_WEIGHTS, VOCABULARY
from volta_switch.hub_models import is_address
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.model.heads import OF_ATTRIBUTES, OF_CLASSES, OF_FEATURES
from volta_switch.weight_tools.places import PAIRS, fits, text_settings
from volta_switch.weights.bert import bert_places
from volta_switch.weights.files import read_weights
from volta_switch.weights.loading import FLOOR_SAMPLES, fitted, is_of_a_run, some
from volta_switch.weights.loading import to_volta as to_volta_names

VOLTA, BERT = "volta", "bert"
TARGETS = "cls.imagePredictions.decoder_dict."  # of our names: the predictions of masked regions, by visual target
_ANSWERING = ("VL-classifier", "VL-classifier-GQA")  # types of tasks whose head is a classifier of answers
_TOKENIZER = "tokenizer_config.json"  # of transformers
# VOLTA's code has these numbers; the names are fields of a configuration that VOLTA does not know.
_FIXED_IN_VOLTA = {"v_num_classes": 1601, "v_num_attributes": 401}


@dataclass(frozen=True)
class OwnModel:
    """A model of this project, as its folder has it."""

    path: Path
    """Its weights."""
    config: Config
    state: Mapping[str, Tensor]
    answers: str
    """The task whose head is a classifier of answers, such as "TASK1"; "": there is none."""
    labels: tuple[str, ...] = ()
    """What each row of that head stands for, where the folder says it."""
    beside: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the folder that others may read: name -> content."""


@dataclass(frozen=True)
class ExportedModel:
    """The same model under another program's names, and what became of the rest."""

    format: str
    source: Path
    state: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    """Of the ``config.json`` that the program reads."""
    file: str
    """Of the weights."""
    beside: Mapping[str, bytes]
    left_out: Mapping[str, str]
    """Name of ours -> why it is left out."""
    absent: tuple[str, ...] = ()
    """What the program has, and no model here."""
    not_told: tuple[str, ...] = ()
    """Settings of training that the program has otherwise."""


def own_model(source: str | Path, config_file: str = "") -> OwnModel:
    """Reads a model of this project.

    Raises:
        UserError: there is none, its weights are another program's, or something of it is damaged.
    """
    if is_model_folder(source):
        path = weights_in(source)
    elif is_address(source) or Path(source).is_dir():
        raise UserError(
            f"{source}: no folder of a model of this project; import it first (volta-switch weights import)"
        )
    else:
        path = Path(source)
    folder = path.parent
    if not config_file and not is_model_folder(folder):
        raise UserError(f"{source}: no {CONFIG} of this project's beside it; say with --config_file what it is")
    state = read_weights(path)
    if not is_of_a_run(state):
        raise UserError(f"{path}: no weights of a run, this project's or VOLTA's; import them first")
    key, entry = (task_in(folder) if is_model_folder(folder) else None) or ("", {})
    names = (VOCABULARY, LABELS, REGIONS, TASK)
    beside = {name: read_recorded(folder / name) for name in names if is_there(folder / name)}
    config = load_config(
        config_file or read_json_object(folder / CONFIG)
    )  # not by its path: the vocabulary is not the folder's
    _check_weights(state, config, str(path))
    answering = (PAIRS,) if config.fusion.joins_images else _ANSWERING
    answers = key if entry.get("type") in answering else ""
    labels = labels_in(folder).get(answers, []) if answers else []
    return OwnModel(path, config, state, answers, tuple(labels), beside)


def _check_weights(state: Mapping[str, Tensor], config: Config, source: str) -> None:
    """Raises UserError unless encoder and heads of pre-training are those of the configuration."""
    with torch.device("meta"):
        expected = to_volta_names(BertForVLPreTraining(config))
    given = {name: tensor for name, tensor in state.items() if not name.startswith("clfs_dict.")}
    lost = [name for name in expected if name.startswith("bert.") and name not in given]
    if lost := [name for name in lost if not name.endswith(FLOOR_SAMPLES)]:
        raise UserError(f"{source}: {some(lost)} missing; is the configuration another model's?")
    if strange := [name for name in given if name not in expected]:
        raise UserError(f"{source}: {some(strange)} unexpected; is the configuration another model's?")
    fitted(expected, given, source, "is the configuration another model's?")


def to_volta(model: OwnModel) -> ExportedModel:
    """VOLTA's names are those of this project; its configuration lacks what its code has built in."""
    config = model.config
    if not config.fusion.through_pooler or config.fusion.joins_images:
        raise UserError(f"fusion_method is {config.fusion_method!r}, which VOLTA does not have")
    if config.clf_hidden_size is None and any(name.startswith("clfs_dict.") for name in model.state):
        raise UserError("clf_hidden_size is None, and VOLTA's classifiers have two layers")
    targets = {target for target, weight in config.visual_target_weights.items() if weight > 0}
    heads = any(name.startswith(TARGETS) for name in model.state)
    if heads and targets & {*OF_CLASSES}:
        fits(config, v_num_classes=_FIXED_IN_VOLTA["v_num_classes"])
    if heads and targets & {*OF_ATTRIBUTES}:
        fits(config, v_num_attributes=_FIXED_IN_VOLTA["v_num_attributes"])
    if heads and targets & {*OF_FEATURES}:
        fits(config, v_feature_size=2048)
    unknown = (*_FIXED_IN_VOLTA, "image_bias_range", "route")
    settings = {key: value for key, value in config.to_dict().items() if key not in unknown}
    if config.clf_hidden_size is None:
        del settings["clf_hidden_size"]
    told = ("switch: VOLTA builds it with volta_switch.plugin alone",) if config.switch is not None else ()
    file = WEIGHTS[1]
    return ExportedModel(VOLTA, model.path, model.state, settings, file, model.beside, {}, not_told=told)


def to_bert(model: OwnModel) -> ExportedModel:
    """The text side as transformers' BERT: the sublayers that a BERT's layers would initialise."""
    config, own = model.config, model.state
    layers = [sorted(map(int, getattr(config, f"bert_layer2{kind}_sublayer"))) for kind in ("attn", "ff")]
    count = len(layers[0])
    if not count or layers != [list(range(count))] * 2:
        raise UserError("bert_layer2attn_sublayer and bert_layer2ff_sublayer name no layers 0, 1, ... of a BERT")
    for number in config.bert_layer2attn_sublayer.values():
        if number not in config.tt_attn_sublayers:
            raise UserError(f"in attention sublayer {number} text does not attend to text, as in a BERT's layers")
        if attention_size(config, number, "") != (config.hidden_size, config.num_attention_heads):
            raise UserError(f"attention sublayer {number} has another width or number of heads than a BERT's layers")
    for number in config.bert_layer2ff_sublayer.values():
        if intermediate_size(config, number, "") != config.intermediate_size:
            raise UserError(f"feed-forward sublayer {number} is not intermediate_size wide, as a BERT's layers are")
    places = {name: ours for name, ours in bert_places(config).items() if ".decoder." not in name}
    if len(set(places.values())) < len(places):
        raise UserError("one sublayer stands for several layers of a BERT")
    state = {name: own[ours] for name, ours in places.items() if ours in own}
    if lost := [ours for name, ours in places.items() if name.startswith("bert.") and name not in state]:
        raise UserError(f"{some(lost)} missing, which a BERT needs")
    left_out = {name: "no part of a BERT" for name in own if name not in {*places.values()}}
    has_head = any(name.startswith("cls.") for name in state)
    settings = {
        "architectures": ["BertForMaskedLM" if has_head else "BertModel"],
        "model_type": "bert",
        **text_settings(config, "layer_norm_eps", "pad_token_id"),
        "num_hidden_layers": count,
    }
    beside = {name: content for name, content in model.beside.items() if name == VOCABULARY}
    beside[_TOKENIZER] = json_bytes({"tokenizer_class": "BertTokenizer", "do_lower_case": config.do_lower_case})
    absent = ("bert.pooler.", "cls.seq_relationship.")
    return ExportedModel(BERT, model.path, state, settings, HUB_WEIGHTS[0], beside, left_out, absent)
