"""Models in training with noise in every place, and batches that are given to them in parts."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from golden_files import load_golden
from model.small_models import perturb_switchers, random_batch, single_stream
from volta_switch import BertForVLPreTraining, Config, load_config
from volta_switch.model.bert import Output

MODELS = ("ctrl_uniter", "ctrl_visualbert", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_interbert", "switch")
LOSSES = ("loss_mlm", "loss_vision", "loss_itm")
TEXT = ("input_ids", "token_type_ids", "attention_mask", "masked_lm_labels")
INPUTS = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
TASKS = {
    "answer": {"type": "VL-classifier", "num_labels": 5},
    "point": {"type": "V-logit", "num_clf_layers": 2},
    "pair": {"type": "VL-binary-classifier"},
}
B = 6
IDS = [f"sample {number}" for number in range(B)]


@lru_cache
def config_of(name: str) -> Config:
    golden = load_golden("route_mixed" if name == "switch" else name).config
    if name == "switch":
        switch = {"hidden_size": 14, "top_k": 3, "input_candidates": 4}
        golden = {**single_stream(golden, ["J"] * 4), "switch": switch}
    where = "last" if name in ("ctrl_vl-bert", "ctrl_interbert") else "first"
    return load_config({**golden, "add_global_imgfeat": where, "visual_target_weights": {"0": 1.0, "1": 0.5}})


@lru_cache
def model_of(name: str, kind: type = BertForVLPreTraining, rate: float = 0.1) -> nn.Module:
    """With its weights off their start, in training mode."""
    config = config_of(name)
    if rate != 0.1:
        kinds = ("hidden_dropout_prob", "attention_probs_dropout_prob")
        config = load_config({**config.to_dict(), **{f"{side}{key}": rate for side in ("", "v_") for key in kinds}})
    torch.manual_seed(0)
    model = kind(config) if kind is BertForVLPreTraining else kind(config, TASKS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    perturb_switchers(model)
    return model.train()


def batch_of(name: str) -> dict[str, Tensor]:
    """B samples with padding."""
    batch = random_batch(config_of(name), B, boxes=6)
    if name == "ctrl_vl-bert":  # its positions depend on the shortest text: the longest and shortest are in every part
        batch["attention_mask"][:] = 1
        batch["input_ids"].clamp_(min=1)
    return batch


def counts_of(batch: dict[str, Tensor], name: str) -> dict[str, int]:
    """How many words, regions and samples each loss is a mean of."""
    boxes = slice(None, -1) if config_of(name).add_global_imgfeat == "last" else slice(1, None)
    words = (batch["masked_lm_labels"] != -1) & (batch["attention_mask"] == 1)
    regions = (batch["image_label"] == 1) & (batch["image_attention_mask"][:, boxes] == 1)
    return {"loss_mlm": int(words.sum()), "loss_vision": int(regions.sum()), "loss_itm": len(words)}


def share_of_losses(out: Output, counts: dict[str, int], totals: dict[str, int]) -> dict[str, Tensor]:
    """What a part's losses add to those of the whole batch."""
    return {key: getattr(out, key) * counts[key] / totals[key] for key in LOSSES}


def part(batch: dict[str, Tensor], rows: list[int] | slice) -> dict[str, Tensor]:
    return {key: tensor[rows] for key, tensor in batch.items()}


def padded(batch: dict[str, Tensor], name: str, tokens: int, regions: int) -> dict[str, Tensor]:
    """More padding behind the words, and behind the boxes: before a global region in the last slot."""
    out = {}
    last = config_of(name).add_global_imgfeat == "last"
    for key, tensor in batch.items():
        extra = tokens if key in TEXT else 0 if key == "next_sentence_label" else regions
        if not extra:
            out[key] = tensor
            continue
        filling = torch.full((len(tensor), extra, *tensor.shape[2:]), -1 if key.endswith("label") else 0)
        at = tensor.shape[1] - (last and key.startswith("image_") and tensor.shape[1] == 7)
        out[key] = torch.cat((tensor[:, :at], filling.to(tensor.dtype), tensor[:, at:]), 1)
    return out


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Those that there are, by name; the model has none afterwards."""
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad(set_to_none=True)
    return found
