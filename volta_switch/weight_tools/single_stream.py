"""Layouts of one stream: UNITER, and VisualBERT in its own files and Hugging Face's.

For each a function from a file's weights to the overrides of its layout's configuration, and the places of all names;
it raises UserError where sizes are not known, or settings beside the weights are of a model that cannot be imported.
And one from a configuration to the settings that its program reads, and the same places; it raises UserError for what
the program cannot be told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from volta_switch.config import Config, load_config
from volta_switch.config.depths import with_layers
from volta_switch.config.variants import FUSIONS
from volta_switch.errors import UserError
from volta_switch.weight_tools.given import GivenWeights
from volta_switch.weight_tools.places import (
    ANSWERS,
    BOTH,
    ENDS,
    PAIR_ANSWERS,
    PAIRS,
    REGION_HEAD,
    Places,
    fits,
    head_widths,
    sizes,
    text_settings,
    training_settings,
    vision_like_text,
)

UNITER, VISUAL_BERT = "ctrl_uniter_base", "ctrl_visualbert_base"  # shipped configurations
NAMES = ("visual_projection", "visual_token_type_embeddings", "visual_position_embeddings")  # of Hugging Face's
OWN_NAMES = ("projection", "token_type_embeddings_visual", "position_embeddings_visual")  # of VisualBERT's own files
# Of VisualBERT in transformers: the classes whose head, one linear layer, a task can have -> the fusion before it.
ANSWERING = {
    "VisualBertForQuestionAnswering": "visualbert_vqa",
    "VisualBertForVisualReasoning": "visualbert_nlvr2",
}
# Why the head of a class is none of a task's here.
OTHER_HEADS = {
    "VisualBertForMultipleChoice": "the head of VisualBertForMultipleChoice scores answers that are part of the text",
}


def uniter(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """UNITER: seven numbers of a box, a tanh pooler of the text. In its matching, row 1 is aligned."""
    given.expect(hidden_act="gelu")  # which its region classifier has, whatever its settings say
    answers = given.head("vqa_output")
    places = _uniter_places(_layers(given), answers, task)
    overrides = [
        *_overrides(given, UNITER, "img_embeddings.img_linear", "img_embeddings.pos_linear"),
        *training_settings(given),
        *head_widths(given, "region_classifier.net.3", answers=f"{answers}.0", background=True),
    ]
    return overrides, places


def uniter_settings(config: Config, state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Any], Places]:
    """What UNITER's own program reads; it takes the number of classes from its command line."""
    fits(config, num_locs=7, hidden_act="gelu", **({"clf_hidden_size": 2 * config.hidden_size} if task else {}))
    layers = len(config.attention_sublayers)
    return {**text_settings(config), "num_hidden_layers": layers}, _uniter_places(
        layers, "vqa_output" if task else "", task
    )


def uniter_sublayers(config: Config) -> Iterable[str]:
    """Overrides of the sublayer lists of a UNITER that has as many layers as a configuration."""
    return with_layers(load_config(UNITER), len(config.attention_sublayers))


def _uniter_places(layers: int, answers: str, task: str) -> Places:
    places = _stream(layers)
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
    for theirs, ours in (("0", "transform.dense"), ("2", "transform.LayerNorm"), ("3", "decoder_dict.0")):
        places.module(f"region_classifier.net.{theirs}", f"{REGION_HEAD}.{ours}", head="region_classifier")
    if answers:
        places.answers_head(answers, task)
    return places


def visualbert(given: GivenWeights, task: str) -> tuple[list[str], Places]:
    """VisualBERT: no boxes, a tanh pooler of the text. Its files have no head for regions.

    Its answers' head is one linear layer: of questions, on the last word's state, which no pooler has changed; of
    statements about two images, whose regions stand in one sequence, on the pooled text.
    """
    given.expect(model_type="visual_bert", bypass_transformer=False)
    names = NAMES if f"embeddings.{NAMES[0]}.weight" in given.trunk else OWN_NAMES
    fusion = _answers_fusion(given, task) if "cls.weight" in given.heads else ""
    places = _visualbert_places(_layers(given), names, task, fusion if task else "")
    if not task:
        why = OTHER_HEADS.get(_written_by(given), "a task's head, and nothing says which task's")
        if fusion:
            why = PAIR_ANSWERS if FUSIONS[fusion].joins_images else ANSWERS
        places.left_out |= {f"cls.{end}": why for end in ENDS}
    features = f"embeddings.{names[0]}"
    given.expect(visual_embedding_dim=given.width(f"{features}.weight", 1))
    overrides = [*_overrides(given, VISUAL_BERT, features), *training_settings(given, "layer_norm_eps")]
    if fusion and task:
        overrides += [f"fusion_method={fusion}", "clf_hidden_size=null"]
    return overrides, places


def _answers_fusion(given: GivenWeights, task: str) -> str:
    """Returns the fusion before a head of answers, "" before any other; raises UserError where a task asks for that."""
    found = _written_by(given)
    if task and found not in ANSWERING:
        raise UserError(
            f"{given.source}: {OTHER_HEADS[found]}; leave out --task and --labels: the encoder is kept"
            if found in OTHER_HEADS
            else f"{given.source}: nothing says whose head cls.weight is; put the config.json beside the file that "
            f"says architectures = {' or '.join(str([name]) for name in ANSWERING)}, or leave out --task and --labels"
        )
    return ANSWERING.get(found, "")


def _written_by(given: GivenWeights) -> str:
    """Returns the class of transformers that wrote a file; "" where nothing says it."""
    found = given.settings.get("architectures")
    return found[0] if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str) else ""


def visualbert_settings(config: Config, state: Mapping[str, Tensor], task: str) -> tuple[dict[str, Any], Places]:
    """What transformers reads of a VisualBERT."""
    head, kind = f"clfs_dict.{task}.weight", "VisualBertModel"
    of_task = next((one for one, fusion in ANSWERING.items() if fusion == config.fusion_method), "")
    answers = head in state and bool(of_task)
    if "cls.predictions.bias" in state:
        kind = "VisualBertForPreTraining"
    elif answers:
        kind = of_task
    layers = len(config.attention_sublayers)
    settings = {
        "architectures": [kind],
        "model_type": "visual_bert",
        **text_settings(config, "layer_norm_eps", "pad_token_id"),
        "num_hidden_layers": layers,
        "visual_embedding_dim": config.v_feature_size,
        "bypass_transformer": False,
    }
    if answers:
        settings["num_labels"] = len(state[head])
    return settings, _visualbert_places(layers, NAMES, task, config.fusion_method if answers else "")


def visualbert_sublayers(config: Config) -> Iterable[str]:
    """As ``uniter_sublayers``."""
    return with_layers(load_config(VISUAL_BERT), len(config.attention_sublayers))


def _visualbert_places(layers: int, names: tuple[str, ...], task: str, fusion: str) -> Places:
    """``task``: whose head the answers become; ``fusion``: that before it, "" where they are left out."""
    pooled = not fusion or FUSIONS[fusion].through_pooler
    places = _stream(layers, pooled)
    places.module(f"embeddings.{names[0]}", "bert.embeddings.projection")
    for name, ours in zip(names[1:], OWN_NAMES[1:], strict=True):
        places.tensor(f"embeddings.{name}.weight", f"bert.embeddings.{ours}.weight")
    places.matching_head("cls.seq_relationship")
    places.left_out["embeddings.position_ids"] = "a list of the numbers of positions"
    if fusion:
        places.module("cls", f"clfs_dict.{task}", head="cls")
        places.task_type = PAIRS if FUSIONS[fusion].joins_images else places.task_type
    if not pooled:
        places.left_out |= {f"pooler.dense.{end}": "the answers' head does not read it" for end in ENDS}
    places.not_theirs[f"{REGION_HEAD}."] = "VisualBERT has no head for masked regions"
    return places


def _layers(given: GivenWeights) -> int:
    layers = given.count("encoder.layer")
    given.expect(num_hidden_layers=layers)
    return layers


def _stream(layers: int, pooled: bool = True) -> Places:
    """Places what BERT and all of these have: text embeddings, layers, a pooler, the head for masked words."""
    places = Places()
    places.text_embeddings()
    for layer in range(layers):
        places.layer(f"encoder.layer.{layer}", 2 * layer, BOTH)
    if pooled:
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
