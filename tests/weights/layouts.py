"""Weights as other programs name them, small: a BERT's in its spellings, and those of other vision-and-language models.

Shapes are those of the golden models (``hugging_face_state``), so that the text side of each would fit. What stands
beside it has one element: no such file may be read so far that its shape counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

State = dict[str, torch.Tensor]


def hugging_face_state(layers: int = 3, vocabulary: int = 97, width: int = 24) -> State:
    """Names and shapes of a Hugging Face BERT, without heads."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (vocabulary, width),
        "embeddings.position_embeddings.weight": (40, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width), "pooler.dense.bias": (width,),
    }  # fmt: skip
    for layer in range(layers):
        for part, (rows, columns) in {
            "attention.self.query": (width, width), "attention.self.key": (width, width),
            "attention.self.value": (width, width), "attention.output.dense": (width, width),
            "intermediate.dense": (40, width), "output.dense": (width, 40),
        }.items():  # fmt: skip
            shapes[f"encoder.layer.{layer}.{part}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{layer}.{part}.bias"] = (rows,)
        for part in ("attention.output", "output"):
            shapes[f"encoder.layer.{layer}.{part}.LayerNorm.weight"] = (width,)
            shapes[f"encoder.layer.{layer}.{part}.LayerNorm.bias"] = (width,)
    generator = torch.Generator().manual_seed(0)
    return {f"bert.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def with_heads(state: State) -> State:
    """The same BERT with its two pre-training heads, and what its buffers and ties add to a file."""
    words = state["bert.embeddings.word_embeddings.weight"]
    (vocabulary, width), generator = words.shape, torch.Generator().manual_seed(1)
    shapes = {
        "predictions.transform.dense.weight": (width, width), "predictions.transform.dense.bias": (width,),
        "predictions.transform.LayerNorm.weight": (width,), "predictions.transform.LayerNorm.bias": (width,),
        "predictions.bias": (vocabulary,), "seq_relationship.weight": (2, width), "seq_relationship.bias": (2,),
    }  # fmt: skip
    heads = {f"cls.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tied = {"cls.predictions.decoder.weight": words, "cls.predictions.decoder.bias": heads["cls.predictions.bias"]}
    return {**state, **heads, **tied, "bert.embeddings.position_ids": torch.arange(40)[None]}


def renamed(state: State, change: Callable[[str], str]) -> State:
    return {change(name): tensor for name, tensor in state.items()}


def gamma_beta(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


def bare(name: str) -> str:
    return name.removeprefix("bert.")


# A BERT as programs write it: each is read as the same weights.
SPELLINGS: dict[str, Callable[[State], object]] = {
    "plain": dict,
    "gamma and beta": lambda state: renamed(state, gamma_beta),
    "module": lambda state: renamed(state, "module.{}".format),
    "module twice": lambda state: renamed(state, "module.module.{}".format),
    "compiled": lambda state: renamed(state, "_orig_mod.{}".format),
    "compiled layers": lambda state: renamed(state, lambda n: re.sub(r"(layer\.\d+\.)", r"\1_orig_mod.", n)),
    "compiled in DDP": lambda state: renamed(state, "module._orig_mod.{}".format),
    "encoder alone": lambda state: renamed(state, bare),
    "encoder alone in a module": lambda state: renamed(state, lambda name: gamma_beta(f"module.{bare(name)}")),
    "model": lambda state: {"model": state, "epoch": 9},
    "state_dict": lambda state: {"state_dict": renamed(state, "module.{}".format), "optimizer": {"state": {}}},
    "model_state_dict": lambda s: {"model_state_dict": s, "score": torch.ones(1), "rng": {"cpu": torch.ones(2)}},
    "nested": lambda state: {"state": 1, "state_dict": {"model": renamed(state, gamma_beta)}},
}


def beside(prefix: str, names: str) -> Callable[[], State]:
    """A BERT's text side under another prefix, and modules beside it; ``#`` stands for the prefix."""

    def made() -> State:
        text = renamed(with_heads(hugging_face_state()), lambda name: re.sub(r"^bert\.", prefix, name))
        added = [name.replace("#", prefix) for name in names.split()]
        return {**text, **{f"{name}.{end}": torch.zeros(1) for name in added for end in ("weight", "bias")}}

    return made


def in_module(made: Callable[[], State]) -> Callable[[], State]:
    return lambda: renamed(made(), "module.{}".format)


UNITER = "#img_embeddings.img_linear #img_embeddings.pos_linear #img_embeddings.LayerNorm itm_output"
LXMERT = "#encoder.visn_fc.box_fc #encoder.x_layers.0.visual_attention.att.query obj_predict_head.transform.dense"
VILBERT = "#v_embeddings.image_embeddings #encoder.v_layer.0.attention.self.query " \
          "#encoder.c_layer.0.biattention.query1 #t_pooler.dense"  # fmt: skip
VISUAL_BERT = "bert.bert.embeddings.token_type_embeddings_visual bert.bert.embeddings.projection"

# Whose weights a message must say they are -> files as those projects write them.
OTHERS: dict[str, tuple[str, Callable[[], State]]] = {
    "UNITER": ("UNITER", beside("uniter.", UNITER)),
    "UNITER under bert": ("UNITER", beside("bert.", UNITER)),
    "UNITER in a module": ("UNITER", in_module(beside("bert.", UNITER))),
    "LXMERT": ("LXMERT (its own layout)", beside("bert.", LXMERT)),
    "LXMERT in a module": ("LXMERT (its own layout)", in_module(beside("bert.", LXMERT))),
    "LXMERT fine-tuned": ("LXMERT (its own layout)", beside("lxrt_encoder.model.bert.", LXMERT + " logit_fc.0")),
    "LXMERT of transformers": ("LXMERT (Hugging Face's layout)", beside("lxmert.", LXMERT)),
    "LXMERT of transformers, bare": ("LXMERT", beside("", LXMERT)),
    "ViLBERT": ("ViLBERT", beside("bert.", VILBERT)),
    "12-in-1": ("12-in-1", in_module(beside("bert.", VILBERT + " vil_prediction_gqa.logit_fc.0"))),
    "VisualBERT": ("VisualBERT (its own layout)", beside("bert.bert.", VISUAL_BERT)),
    "VisualBERT of transformers": (
        "VisualBERT (Hugging Face's layout)", beside("visual_bert.", "#embeddings.visual_token_type_embeddings")
    ),
    "VL-BERT": ("VL-BERT (its own layout)", in_module(beside("vlbert.", "vlbert.embedding_LayerNorm"))),
    "Oscar": ("Oscar or VinVL", beside("bert.", "#img_embedding")),
    "ViLT": ("ViLT", beside("vilt.", "#embeddings.patch_embeddings.projection")),
    "ALBEF": ("ALBEF or BLIP", beside("text_encoder.bert.", "visual_encoder.blocks.0.attn.qkv")),
    "RoBERTa": ("RoBERTa", beside("roberta.", "lm_head.dense")),
    "DistilBERT": ("DistilBERT", beside("distilbert.", "distilbert.transformer.layer.0.attention.q_lin")),
    "ELECTRA": ("ELECTRA", beside("electra.", "discriminator_predictions.dense")),
}  # fmt: skip
