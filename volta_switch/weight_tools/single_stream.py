"""Layouts of one stream: UNITER, and VisualBERT in its own files and Hugging Face's.

Each function returns the overrides of its layout's configuration, and the places of all names; it raises UserError
where sizes are not known, or settings beside the weights are of a model that cannot be imported.
"""

from __future__ import annotations

from volta_switch.config import load_config
from volta_switch.config.depths import with_layers
from volta_switch.weight_tools.given import GivenWeights
from volta_switch.weight_tools.places import (
    BOTH,
    ENDS,
    Places,
    head_widths,
    sizes,
    training_settings,
    vision_like_text,
)


def uniter(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """UNITER: seven numbers of a box, a tanh pooler of the text. In its matching, row 1 is aligned."""
    given.expect(hidden_act="gelu")  # which its region classifier has, whatever its settings say
    places = _stream(given)
    for theirs, ours in (
        ("img_linear", "image_embeddings"),
        ("img_layer_norm", "image_layer_norm"),
        ("pos_linear", "image_location_embeddings"),
        ("pos_layer_norm", "image_location_layer_norm"),
        ("LayerNorm", "v_LayerNorm"),
    ):
        places.module(f"img_embeddings.{theirs}", f"bert.embeddings.{ours}")
    types = "embeddings.token_type_embeddings.weight"
    places.tensor(types, f"bert.{types}", "bert.embeddings.image_token_type_embeddings.weight")
    places.left_out["img_embeddings.mask_embedding.weight"] = (
        "added to masked regions in its pre-training; VOLTA's are zeros"
    )
    places.left_out["feat_regress."] = "predicts features by the transposed table of regions; no visual target does"
    places.left_out |= {
        f"cls.seq_relationship.{end}": "BERT's head, whether a sentence follows another" for end in ENDS
    }
    places.matching_head("itm_output", swapped=True)
    classifier = "region_classifier.net"
    for theirs, ours in (("0", "transform.dense"), ("2", "transform.LayerNorm"), ("3", "decoder_dict.0")):
        places.module(f"{classifier}.{theirs}", f"cls.imagePredictions.{ours}", head="region_classifier")
    answers = given.head("vqa_output")
    if answers:
        places.answers_head(answers, task)
    overrides = [
        *_overrides(given, "ctrl_uniter_base", "img_embeddings.img_linear", "img_embeddings.pos_linear"),
        *training_settings(given),
        *head_widths(given, f"{classifier}.3", answers=f"{answers}.0", background=True),
    ]
    return overrides, places


def visualbert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """VisualBERT: no boxes, a tanh pooler of the text. Its files have no head for regions, and no classifier."""
    given.expect(model_type="visual_bert", bypass_transformer=False)
    places = _stream(given)
    hugging_face = "embeddings.visual_projection.weight" in given.trunk
    names = ("visual_projection", "visual_token_type_embeddings", "visual_position_embeddings")
    theirs = names if hugging_face else ("projection", "token_type_embeddings_visual", "position_embeddings_visual")
    places.module(f"embeddings.{theirs[0]}", "bert.embeddings.projection")
    for name, ours in zip(theirs[1:], ("token_type_embeddings_visual", "position_embeddings_visual"), strict=True):
        places.tensor(f"embeddings.{name}.weight", f"bert.embeddings.{ours}.weight")
    places.matching_head("cls.seq_relationship")
    reads_others = "a linear layer of one of its tasks, which reads other states than any head of VOLTA's"
    places.left_out |= {f"cls.{end}": reads_others for end in ENDS}
    places.left_out["embeddings.position_ids"] = "a list of the numbers of positions"
    features = f"embeddings.{theirs[0]}"
    given.expect(visual_embedding_dim=given.width(f"{features}.weight", 1))
    overrides = _overrides(given, "ctrl_visualbert_base", features)
    return [*overrides, *training_settings(given, "layer_norm_eps")], places


def _stream(given: GivenWeights) -> Places:
    """Places what BERT and all of these have: text embeddings, layers, a pooler, the head for masked words."""
    places = Places()
    places.text_embeddings()
    layers = given.count("encoder.layer")
    given.expect(num_hidden_layers=layers)
    for layer in range(layers):
        places.layer(f"encoder.layer.{layer}", 2 * layer, BOTH)
    places.module("pooler.dense", "bert.t_pooler.dense")
    places.words_head()
    return places


def _overrides(given: GivenWeights, base: str, features: str, boxes: str = "") -> list[str]:
    """Returns those of sizes, depth and pooling; no global region."""
    return [
        *sizes(given, features, boxes),
        *vision_like_text(given),
        *("fusion_method=text", "add_global_imgfeat=null"),
        *with_layers(load_config(base), given.count("encoder.layer")),
    ]
