"""Layouts of two streams: LXMERT, in its own files, Hugging Face's and VOLTA's, and ViLBERT with 12-in-1.

Functions return and raise as those of ``single_stream``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from volta_switch.config import Config, load_config
from volta_switch.config.checks import attention_size
from volta_switch.config.depths import lxmert_layers, lxmert_meetings, vilbert_layers, vilbert_meetings
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.weight_tools.given import GivenWeights
from volta_switch.weight_tools.places import (
    BOTH,
    ENDS,
    OF_BOTH,
    REGION_HEAD,
    TEXT,
    VISION,
    Places,
    attention_parts,
    fits,
    head_widths,
    sizes,
    text_settings,
    training_settings,
    vision_like_text,
)

CROSS = attention_parts("visual_attention.att", "visual_attention.output")
VILBERT = "vilbert_base"  # a shipped configuration
_ANSWERING = "LxmertForQuestionAnswering"
TARGETS = {"obj": "3", "attr": "4", "feat": "5"}  # what LXMERT predicts of a region -> VOLTA's visual target


def lxmert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """LXMERT: text and vision alone, then layers in which each attends to the other with shared weights.

    Its pooler ends in tanh, where VOLTA's configuration of LXMERT has ReLU. In its matching, row 1 is aligned.
    """
    text, vision, crossed = (given.count(f"encoder.{name}") for name in ("layer", "r_layers", "x_layers"))
    given.expect(model_type="lxmert", l_layers=text, r_layers=vision, x_layers=crossed)
    places = _lxmert_places(text, vision, crossed)
    targets = _lxmert_regions(given, places)
    answers = given.head("logit_fc", "answer_head.logit_fc")
    if answers:
        places.answers_head(answers, task)
    features, boxes, objects = "encoder.visn_fc.visn_fc", "encoder.visn_fc.box_fc", "obj_predict_head.decoder_dict"
    given.expect(visual_feat_dim=given.width(f"{features}.weight", 1), visual_pos_dim=given.width(f"{boxes}.weight", 1))
    overrides = [
        *sizes(given, features, boxes),
        *vision_like_text(given),
        *training_settings(given),
        *lxmert_layers(text, vision, crossed),
        *head_widths(given, f"{objects}.obj", f"{objects}.attr", f"{answers}.0"),
        f"visual_target_weights={json.dumps(targets)}",
    ]
    return overrides, places


def lxmert_settings(config: Config, state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Any], Places]:
    """What transformers reads of an LXMERT; the heads that are not there are switched off."""
    text, vision, crossed = _lxmert_depth(config)
    there = [name for name, target in TARGETS.items() if f"{REGION_HEAD}.decoder_dict.{target}.weight" in state]
    kinds = {"cls.predictions.bias": "LxmertForPreTraining", f"clfs_dict.{task}.logit_fc.0.bias": _ANSWERING}
    weights = [config.visual_target_weights[TARGETS[name]] for name in there]
    if len(set(weights)) > 1:
        raise UserError(f"visual_target_weights are {dict(config.visual_target_weights)}, and all equal in this layout")
    settings = {
        "architectures": [next((kind for name, kind in kinds.items() if name in state), "LxmertModel")],
        "model_type": "lxmert",
        **text_settings(config),
        **{"l_layers": text, "r_layers": vision, "x_layers": crossed},
        **{"visual_feat_dim": config.v_feature_size, "visual_pos_dim": config.num_locs},
        **{"num_object_labels": config.v_num_classes - 1, "num_attr_labels": config.v_num_attributes - 1},
        **{f"visual_{name}_loss": name in there for name in TARGETS},
        **{"task_obj_predict": bool(there), "task_qa": False},
        **({"visual_loss_normalizer": weights[0]} if weights else {}),
    }
    places = _lxmert_places(text, vision, crossed)
    _lxmert_region_places(places, there)
    if task and (answers := state.get(f"clfs_dict.{task}.logit_fc.3.bias")) is not None:
        fits(config, clf_hidden_size=2 * config.hidden_size)
        places.answers_head("answer_head.logit_fc", task)
        settings |= {"num_qa_labels": len(answers), "task_qa": True}
    return settings, places


def lxmert_sublayers(config: Config) -> Iterable[str]:
    """As ``single_stream.uniter_sublayers``."""
    return lxmert_layers(*_lxmert_depth(config))


def _lxmert_depth(config: Config) -> tuple[int, int, int]:
    """Returns the layers of text, of vision and of both that a configuration would have as an LXMERT."""
    crossed = len(config.tv_attn_sublayers)
    return len(config.tt_attn_sublayers) - crossed, len(config.vv_attn_sublayers) - crossed, crossed


def _lxmert_places(text: int, vision: int, crossed: int) -> Places:
    places = Places()
    places.text_embeddings()
    for theirs, ours in (
        ("visn_fc", "image_embeddings"),
        ("visn_layer_norm", "ImgLayerNorm"),
        ("box_fc", "image_location_embeddings"),
        ("box_layer_norm", "LocLayerNorm"),
    ):
        places.module(f"encoder.visn_fc.{theirs}", f"bert.v_embeddings.{ours}")
    for layer in range(text):
        places.layer(f"encoder.layer.{layer}", 2 * layer, TEXT)
    for layer in range(vision):
        places.layer(f"encoder.r_layers.{layer}", 2 * layer, VISION)
    for layer, meeting in enumerate(lxmert_meetings(text, vision, crossed)):
        theirs = f"encoder.x_layers.{layer}"
        places.attention(theirs, meeting, BOTH, CROSS)
        for streams, name in ((TEXT, "lang"), (VISION, "visn")):
            own = attention_parts(f"{name}_self_att.self", f"{name}_self_att.output")
            places.attention(theirs, meeting + 1, streams, own)
            places.feed_forward(theirs, meeting + 2, streams, f"{name}_inter", f"{name}_output")
    places.module("pooler.dense", "bert.t_pooler.dense")
    places.words_head()
    places.matching_head("cls.seq_relationship", swapped=True)
    return places


def _lxmert_regions(given: GivenWeights, places: Places) -> dict[str, float]:
    """Places the head of regions; returns the weights of its targets, of which the settings may leave some out."""
    there = [name for name in TARGETS if given.settings.get(f"visual_{name}_loss") is not False]
    _lxmert_region_places(places, there)
    return _target_weights(given, there or list(TARGETS))


def _lxmert_region_places(places: Places, there: Iterable[str]) -> None:
    for part in ("dense", "LayerNorm"):
        name = f"transform.{part}"
        places.module(f"obj_predict_head.{name}", f"{REGION_HEAD}.{name}", head="obj_predict_head")
    for name in there:
        ours = f"{REGION_HEAD}.decoder_dict.{TARGETS[name]}"
        places.module(f"obj_predict_head.decoder_dict.{name}", ours, head="obj_predict_head")


def _target_weights(given: GivenWeights, names: Iterable[str]) -> dict[str, float]:
    """Returns the weight of each visual target: LXMERT has one for all."""
    return {TARGETS[name]: given.settings.get("visual_loss_normalizer", 6.667) for name in names}


def volta_lxmert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """LXMERT as VOLTA's conversion writes it: VOLTA's names, with LXMERT's answers and its order of matching."""
    answers, between = "cls.qaPredictions.logit_fc", "encoder.layer.1.intermediate.dense"
    boxes, decoders = "v_embeddings.image_location_embeddings", f"{REGION_HEAD}.decoder_dict"
    overrides = [
        *sizes(given, "v_embeddings.image_embeddings", boxes, between),
        *vision_like_text(given, between),
        *training_settings(given),
        *head_widths(given, f"{decoders}.3", f"{decoders}.4", f"{answers}.0"),
        f"visual_target_weights={json.dumps(_target_weights(given, TARGETS))}",
    ]
    with torch.device("meta"):
        own = BertForVLPreTraining(load_config("lxmert", overrides)).state_dict()
    places = Places()
    for name in own:
        if name.startswith("bert."):
            places.tensor(name.removeprefix("bert."), name)
        else:
            places.tensor(name, name, head=".".join(name.split(".")[:2]))
    places.swapped |= {f"cls.bi_seq_relationship.{end}" for end in ENDS}
    places.answers_head(answers, task)
    return overrides, places


def vilbert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """ViLBERT: text alone, then layers of both streams with a crossing layer before each.

    Its first stream is vision: ``query1`` asks of the image. 12-in-1's word for the task, which stands behind [CLS] in
    each of its texts, has no place in VOLTA's inputs; its heads were trained with it.
    """
    text, vision, crossed = (given.count(f"encoder.{name}") for name in ("layer", "v_layer", "c_layer"))
    if vision != crossed or text < crossed or not crossed:
        raise UserError(
            f"{given.source}: {text} text, {vision} vision and {crossed} crossing layers; expected as many of vision "
            "as crossing ones, one at least, and no fewer of text"
        )
    given.expect(**_vilbert_depth(text, crossed), fast_mode=False, in_batch_pairs=False)
    fusion = given.setting("fusion_method", "mul", "sum")
    overrides = [
        *sizes(given, "v_embeddings.image_embeddings", "v_embeddings.image_location_embeddings"),
        *_vilbert_widths(given, vilbert_meetings(text, crossed)),
        *training_settings(given),
        *([f"fusion_method={fusion}"] if fusion else ()),
        *vilbert_layers(text, crossed),
        *head_widths(given, f"{REGION_HEAD}.decoder", background=True),
    ]
    return overrides, _vilbert_places(text, crossed)


def vilbert_settings(config: Config, state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Any], Places]:
    """What ViLBERT's own program reads."""
    text, crossed = len(config.tt_attn_sublayers), len(config.tv_attn_sublayers)
    width, heads = attention_size(config, config.tv_attn_sublayers[0], "")
    if config.fusion_method not in ("mul", "sum"):
        raise UserError(f"fusion_method is {config.fusion_method!r}, and 'mul' or 'sum' in this layout")
    fits(config, num_locs=5, pooler_size=width, v_pooler_size=width)
    vision = ("v_feature_size", "v_hidden_size", "v_num_attention_heads", "v_intermediate_size", "fusion_method")
    settings = {
        **text_settings(config, *vision, *(f"v_{key}" for key in OF_BOTH)),
        **_vilbert_depth(text, crossed),
        **{"bi_hidden_size": width, "bi_num_attention_heads": heads, "v_target_size": config.v_num_classes},
    }
    return settings, _vilbert_places(text, crossed)


def vilbert_sublayers(config: Config) -> Iterable[str]:
    """As ``single_stream.uniter_sublayers``; raises UserError without a layer in which both meet."""
    if not config.tv_attn_sublayers:
        raise UserError("tv_attn_sublayers is empty, and text and vision meet in this layout")
    text, crossed, base = len(config.tt_attn_sublayers), len(config.tv_attn_sublayers), load_config(VILBERT)
    meetings = [str(number) for number in vilbert_meetings(text, crossed)]
    widths = {"attn_hidden_size": base.v_hidden_size, "num_attention_heads": base.v_num_attention_heads}
    overrides = [f"sublayer2{key}={json.dumps(dict.fromkeys(meetings, size))}" for key, size in widths.items()]
    return *overrides, *vilbert_layers(text, crossed)


def _vilbert_depth(text: int, crossed: int) -> dict[str, Any]:
    """Returns the settings of a ViLBERT of this depth, and those that alone are like a model here."""
    alone = text - crossed
    return {
        "num_hidden_layers": text, "v_num_hidden_layers": crossed, "t_biattention_id": list(range(alone, text)),
        "v_biattention_id": list(range(crossed)), "with_coattention": True, "dynamic_attention": False, "model": "bert",
        "visual_target": 0,
    }  # fmt: skip


def _vilbert_places(text: int, crossed: int) -> Places:
    places, alone = Places(), text - crossed
    places.text_embeddings()
    for name in ("image_embeddings", "image_location_embeddings", "LayerNorm"):
        places.module(f"v_embeddings.{name}", f"bert.v_embeddings.{name}")
    for layer in range(alone):
        places.layer(f"encoder.layer.{layer}", 2 * layer, TEXT)
    for layer, meeting in enumerate(vilbert_meetings(text, crossed)):
        theirs = f"encoder.c_layer.{layer}"
        for streams, number, name in ((VISION, "1", "v"), (TEXT, "2", "t")):
            parts = {part: f"{module}{number}" for part, module in attention_parts("biattention", "biOutput").items()}
            places.attention(theirs, meeting, streams, parts)
            places.feed_forward(theirs, meeting + 1, streams, f"{name}_intermediate", f"{name}_output")
            places.left_out[f"{theirs}.biOutput.q_dense{number}."] = "no program computes with it"
        places.layer(f"encoder.layer.{alone + layer}", meeting + 2, TEXT)
        places.layer(f"encoder.v_layer.{layer}", meeting + 2, VISION)
    _vilbert_heads(places)
    return places


def _vilbert_heads(places: Places) -> None:
    """Places poolers and heads of pre-training; those of 12-in-1's tasks are left out."""
    for name in ("t_pooler", "v_pooler"):
        places.module(f"{name}.dense", f"bert.{name}.dense")
    places.words_head()
    places.matching_head("cls.bi_seq_relationship")
    for part in ("dense", "LayerNorm"):
        name = f"{REGION_HEAD}.transform.{part}"
        places.module(name, name, head=REGION_HEAD)
    places.module(f"{REGION_HEAD}.decoder", f"{REGION_HEAD}.decoder_dict.0", head=REGION_HEAD)
    of_tasks = "it was trained with a word for the task in each text, which has no place in VOLTA's inputs"
    places.left_out["embeddings.task_embeddings.weight"] = of_tasks
    for name in ("prediction", "prediction_gqa", "binary_prediction", "logit", "tri_prediction"):
        places.left_out[f"vil_{name}."] = of_tasks
    places.left_out |= {"vision_logit.": of_tasks, "linguisic_logit.": of_tasks}


def _vilbert_widths(given: GivenWeights, meetings: list[int]) -> list[str]:
    """Returns the overrides of vision's widths, and of the crossing layers'."""
    width = given.width("v_embeddings.LayerNorm.weight")
    both = given.width("encoder.c_layer.0.biattention.query2.weight")
    between = given.width("encoder.v_layer.0.intermediate.dense.weight")
    given.expect(v_hidden_size=width, bi_hidden_size=both, v_intermediate_size=between)
    vision_heads = given.attention_heads("v_num_attention_heads", width, 128)
    heads = given.attention_heads("bi_num_attention_heads", both, 128)
    of_meetings = {
        "sublayer2attn_hidden_size": both,
        "sublayer2num_attention_heads": heads,
        "sublayer2v_attn_hidden_size": both if both != width else None,
        "sublayer2v_num_attention_heads": heads if heads != vision_heads else None,
    }
    return [
        f"v_hidden_size={width}",
        f"v_num_attention_heads={vision_heads}",
        f"v_intermediate_size={between}",
        f"pooler_size={given.width('t_pooler.dense.weight')}",
        f"v_pooler_size={given.width('v_pooler.dense.weight')}",
        *(
            f"{key}={json.dumps(dict.fromkeys(map(str, meetings if each else ()), each))}"
            for key, each in of_meetings.items()
        ),
    ]
