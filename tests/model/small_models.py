"""Small models and batches for tests: VOLTA's reference architectures, and Switch-BERT over their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_files import Golden, load_golden
from volta_switch import BertForVLPreTraining, Config, load_config
from volta_switch.model.embeddings import ModelInputs
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.rows import PackedLayout, States
from volta_switch.weights import load_volta

PAIRS_OF_MODE = {"SS": ("tt", "vv"), "SC": ("tt", "vt"), "CS": ("tv", "vv"), "J": ("tt", "tv", "vt", "vv")}


def single_stream(config: dict[str, Any], modes: list[str]) -> dict[str, Any]:
    """The configuration with its attention sublayers spelt as ``modes``, one per layer, everything shared."""
    attention = [2 * layer for layer in range(len(modes))]
    ff = [number + 1 for number in attention]
    lists = {
        f"{pair}_attn_sublayers": [n for n, mode in zip(attention, modes, strict=True) if pair in PAIRS_OF_MODE[mode]]
        for pair in ("tt", "tv", "vt", "vv")
    }
    every = {"shared_sublayers": attention + ff, "single_ln_sublayers": attention + ff}
    maps = {
        "bert_layer2attn_sublayer": {str(layer): n for layer, n in enumerate(attention)},
        "bert_layer2ff_sublayer": {str(layer): n for layer, n in enumerate(ff)},
    }
    rest = {key: value for key, value in config.items() if key not in ("route", "switch")}
    return {**rest, **lists, **every, **maps, "t_ff_sublayers": ff, "v_ff_sublayers": ff}


def switch_config(name: str = "route_mixed", overrides: tuple[str, ...] = (), layers: int | None = None) -> Config:
    """Switch-BERT at the sizes of a single-stream reference model; the switchers are 14 wide."""
    golden = load_golden(name)
    layers = layers or len(golden.config["bert_layer2attn_sublayer"])
    config = {**single_stream(golden.config, ["J"] * layers), "switch": {"hidden_size": 14}}
    return load_config(config, overrides)


def static_model(modes: list[str], name: str = "route_mixed") -> BertForVLPreTraining:
    """The static encoder whose sublayer lists spell ``modes``, with the reference model's weights, in evaluation."""
    golden = load_golden(name)
    model = BertForVLPreTraining(load_config(single_stream(golden.config, modes))).eval()
    load_volta(model, golden.part("state"))
    return model


def switch_model(
    name: str = "route_mixed", overrides: tuple[str, ...] = (), perturbed: bool = True
) -> tuple[Golden, BertForVLPreTraining]:
    """Switch-BERT with the reference model's weights, in evaluation; ``perturbed``: with switchers that decide."""
    golden = load_golden(name)
    torch.manual_seed(0)
    model = BertForVLPreTraining(switch_config(name, overrides)).eval()
    load_volta(model, golden.part("state"), fresh=("switch",))
    if perturbed:
        perturb_switchers(model)
    return golden, model


def perturb_switchers(model: torch.nn.Module, scale: float = 1.5, seed: int = 0) -> None:
    """Moves the switchers off their uniform start, far enough that samples take different routes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "switch" in name:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)


def encoder_of(model: BertForVLPreTraining) -> SwitchEncoder:
    encoder = model.bert.encoder
    assert isinstance(encoder, SwitchEncoder)
    return encoder


def embedded(model: BertForVLPreTraining, batch: dict[str, Tensor]) -> tuple[States, PackedLayout]:
    """The embeddings that enter a single-stream encoder, packed, and where their rows lie."""
    layout = PackedLayout.of((batch["attention_mask"], batch["image_attention_mask"]))
    names = ("input_ids", "token_type_ids", "image_feat", "image_loc")
    text, vision, _ = model.bert.embed(ModelInputs(**{name: batch[name] for name in names}), layout)
    return (text, vision), layout


def real_part(batch: dict[str, Tensor], key: str, value: Tensor) -> Tensor:
    """An output at real positions only, (n, ...), where it has a row per position; else the whole of it."""
    if key in ("sequence_t", "prediction_scores_t"):
        return value[batch["attention_mask"] == 1]
    return value[batch["image_attention_mask"] == 1] if key == "sequence_v" else value


def random_batch(config: Config, B: int = 2, T: int = 7, boxes: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """A pre-training batch with padding of both modalities and every label, for any configuration."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    where = config.add_global_imgfeat
    R = boxes + (where is not None)
    corners = torch.rand(B, R, 4, generator=generator).sort(-1).values
    rest = torch.rand(B, R, max(config.num_locs - 4, 0), generator=generator)
    text_mask = (torch.arange(T) < torch.arange(T, T - B, -1)[:, None]).long()
    image_mask = torch.ones(B, R, dtype=torch.long)
    image_mask[-1, -2 if where == "last" else -1] = 0
    image_label = torch.where(integers(0, 2, B, boxes) == 1, 1, -1)
    image_label[:, 0] = 1
    words = torch.where(text_mask == 1, integers(1, config.vocab_size, B, T), 0)
    masked_words = torch.where(integers(0, 2, B, T) == 1, words, -1)
    masked_words[:, 1] = words[:, 1]
    return {
        "input_ids": words,
        "image_feat": torch.randn(B, R, config.v_feature_size, generator=generator),
        "image_loc": torch.cat((corners, rest), -1)[..., : config.num_locs],
        "token_type_ids": torch.zeros(B, T, dtype=torch.long),
        "attention_mask": text_mask,
        "image_attention_mask": image_mask,
        "masked_lm_labels": masked_words,
        "image_label": image_label,
        "image_cls": torch.randn(B, boxes, config.v_num_classes, generator=generator).softmax(-1),
        "obj_labels": integers(0, config.v_num_classes - 1, B, boxes),
        "obj_confs": torch.rand(B, boxes, generator=generator),
        "attr_labels": integers(0, config.v_num_attributes - 1, B, boxes),
        "attr_confs": torch.rand(B, boxes, generator=generator),
        "next_sentence_label": torch.arange(B) % 2,
    }
