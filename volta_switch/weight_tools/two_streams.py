"""Layouts of two streams: LXMERT, in its own files and Hugging Face's, and ViLBERT with 12-in-1."""

from __future__ import annotations

import json

from volta_switch.config.depths import lxmert_layers, vilbert_layers
from volta_switch.errors import UserError
from volta_switch.weight_tools.places import (
    BOTH,
    ENDS,
    FIRST,
    TEXT,
    VISION,
    WORDS,
    GivenWeights,
    Places,
    attention_parts,
    head_widths,
    sizes,
)

CROSS = attention_parts("visual_attention.att", "visual_attention.output")


def lxmert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """LXMERT: text and vision alone, then layers in which each attends to the other with shared weights.

    Its poolers end in tanh, where VOLTA's configuration of LXMERT has ReLU. In its matching, row 1 is aligned.
    """
    text, vision, crossed = (given.count(f"encoder.{name}") for name in ("layer", "r_layers", "x_layers"))
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
    for layer in range(crossed):
        theirs, meeting = f"encoder.x_layers.{layer}", 2 * max(text, vision) + 3 * layer
        places.attention(theirs, meeting, BOTH, CROSS)
        for streams, name in ((TEXT, "lang"), (VISION, "visn")):
            own = attention_parts(f"{name}_self_att.self", f"{name}_self_att.output")
            places.attention(theirs, meeting + 1, streams, own)
            places.feed_forward(theirs, meeting + 2, streams, f"{name}_inter", f"{name}_output")
    places.module("pooler.dense", "bert.t_pooler.dense")
    places.words_head()
    places.matching_head("cls.seq_relationship", swapped=True)
    for part in ("dense", "LayerNorm"):
        name = f"transform.{part}"
        places.module(f"obj_predict_head.{name}", f"cls.imagePredictions.{name}", head="obj_predict_head")
    for theirs, target in (("obj", "3"), ("attr", "4"), ("feat", "5")):
        ours = f"cls.imagePredictions.decoder_dict.{target}"
        places.module(f"obj_predict_head.decoder_dict.{theirs}", ours, head="obj_predict_head")
    answers = given.head("logit_fc", "answer_head.logit_fc")
    if answers:
        places.answers_head(answers, task)
    objects = "obj_predict_head.decoder_dict"
    overrides = [
        *sizes(given, "encoder.visn_fc.visn_fc", "encoder.visn_fc.box_fc"),
        *_as_wide(given, f"{FIRST}.intermediate.dense"),
        *lxmert_layers(text, vision, crossed),
        *head_widths(given, f"{objects}.obj", f"{objects}.attr", f"{answers}.0"),
    ]
    return overrides, places


def volta_lxmert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """LXMERT as VOLTA's conversion writes it: VOLTA's names, with LXMERT's answers and its order of matching."""
    places = Places()
    for name in given.trunk:
        places.tensor(name, f"bert.{name}")
    answers = "cls.qaPredictions.logit_fc"
    for name in given.heads:
        if not name.startswith(f"{answers}."):
            places.tensor(name, name, head="cls")
    places.swapped |= {f"cls.bi_seq_relationship.{end}" for end in ENDS}
    places.answers_head(answers, task)
    boxes, decoders = "v_embeddings.image_location_embeddings", "cls.imagePredictions.decoder_dict"
    overrides = [
        *sizes(given, "v_embeddings.image_embeddings", boxes, "encoder.layer.1.intermediate.dense"),
        *_as_wide(given, "encoder.layer.1.intermediate.dense"),
        *head_widths(given, f"{decoders}.3", f"{decoders}.4", f"{answers}.0"),
    ]
    return overrides, places


def _as_wide(given: GivenWeights, between: str) -> list[str]:
    """Returns LXMERT's overrides for vision, which is as wide as text, and its activation of poolers."""
    hidden = given.width(WORDS, 1)
    return [
        *(f"{key}={hidden}" for key in ("v_hidden_size", "pooler_size", "v_pooler_size")),
        f"v_num_attention_heads={given.attention_heads('num_attention_heads', hidden, 64)}",
        f"v_intermediate_size={given.width(f'{between}.weight')}",
        "fusion_act=tanh",
    ]


def vilbert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """ViLBERT: text alone, then layers of both streams with a crossing layer before each.

    Its first stream is vision: ``query1`` asks of the image. 12-in-1's word for the task, which stands behind [CLS] in
    each of its texts, has no place in VOLTA's inputs; its heads were trained with it.
    """
    text, vision, crossed = (given.count(f"encoder.{name}") for name in ("layer", "v_layer", "c_layer"))
    if vision != crossed or text < crossed:
        raise UserError(
            f"{given.source}: {text} text, {vision} vision and {crossed} crossing layers; expected as many of vision "
            "as crossing ones, and no fewer of text: where else they would cross is not told by weights"
        )
    places = Places()
    places.text_embeddings()
    for name in ("image_embeddings", "image_location_embeddings", "LayerNorm"):
        places.module(f"v_embeddings.{name}", f"bert.v_embeddings.{name}")
    alone = text - crossed
    for layer in range(text):
        places.layer(f"encoder.layer.{layer}", 2 * layer if layer < alone else 4 * layer - 2 * alone + 2, TEXT)
    for layer in range(crossed):
        theirs, meeting = f"encoder.c_layer.{layer}", 2 * alone + 4 * layer
        for streams, number, name in ((VISION, "1", "v"), (TEXT, "2", "t")):
            parts = {part: f"{module}{number}" for part, module in attention_parts("biattention", "biOutput").items()}
            places.attention(theirs, meeting, streams, parts)
            places.feed_forward(theirs, meeting + 1, streams, f"{name}_intermediate", f"{name}_output")
            places.left_out[f"{theirs}.biOutput.q_dense{number}."] = "no program computes with it"
        places.layer(f"encoder.v_layer.{layer}", meeting + 2, VISION)
    for name in ("t_pooler", "v_pooler"):
        places.module(f"{name}.dense", f"bert.{name}.dense")
    places.words_head()
    places.matching_head("cls.bi_seq_relationship")
    for part in ("dense", "LayerNorm"):
        name = f"cls.imagePredictions.transform.{part}"
        places.module(name, name, head="cls.imagePredictions")
    decoder = "cls.imagePredictions.decoder"
    places.module(decoder, f"{decoder}_dict.0", head="cls.imagePredictions")
    of_tasks = "it was trained with a word for the task in each text, which has no place in VOLTA's inputs"
    places.left_out["embeddings.task_embeddings."] = of_tasks
    for head in ("prediction", "prediction_gqa", "binary_prediction", "logit", "tri_prediction"):
        places.left_out[f"vil_{head}."] = of_tasks
    places.left_out |= {"vision_logit.": of_tasks, "linguisic_logit.": of_tasks}
    width, both = (
        given.width(name) for name in ("v_embeddings.LayerNorm.weight", "encoder.c_layer.0.biattention.query2.weight")
    )
    vision_heads = given.attention_heads("v_num_attention_heads", width, 128)
    heads = given.attention_heads("bi_num_attention_heads", both, both // vision_heads)
    meetings = [str(2 * alone + 4 * layer) for layer in range(crossed)]
    of_meetings = {
        "sublayer2attn_hidden_size": both,
        "sublayer2num_attention_heads": heads,
        "sublayer2v_attn_hidden_size": both if both != width else None,
        "sublayer2v_num_attention_heads": heads if heads != vision_heads else None,
    }
    overrides = [
        *sizes(given, "v_embeddings.image_embeddings", "v_embeddings.image_location_embeddings"),
        f"v_hidden_size={width}",
        f"v_num_attention_heads={vision_heads}",
        f"v_intermediate_size={given.width('encoder.v_layer.0.intermediate.dense.weight')}",
        f"pooler_size={given.width('t_pooler.dense.weight')}",
        f"v_pooler_size={given.width('v_pooler.dense.weight')}",
        *(f"{key}={json.dumps(dict.fromkeys(meetings if each else (), each))}" for key, each in of_meetings.items()),
        *vilbert_layers(text, crossed),
        *([f"v_num_classes={len(given.heads[f'{decoder}.weight'])}"] if f"{decoder}.weight" in given.heads else ()),
    ]
    return overrides, places
