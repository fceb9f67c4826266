"""The grid of retrieval scores on the device equals the plain model's of every pair, there and on the CPU."""

from __future__ import annotations

import copy
from functools import lru_cache

import pytest
import torch

from gpu.device import DEVICE
from model.parts_of_batches import MODELS, config_of
from model.small_models import encoder_of, perturb_switchers, random_batch
from volta_switch import BertForVLTasks, load_config
from volta_switch.data.batches.collate import on_device
from volta_switch.model.pairs import expand_pairs, score_pairs

TASKS = {"TASK8": {"type": "VL-logit"}}
TEXT = ("input_ids", "token_type_ids", "attention_mask")
IMAGE = ("image_feat", "image_loc", "image_attention_mask")
TOLERANCE = 1e-4  # of the scores' spread; float32
CPU = torch.device("cpu")


@lru_cache
def prepared(name):
    """A model in evaluation whose rows see much of each other, with texts and images of its widths."""
    name, _, routing = name.partition(", ")
    config = load_config({**config_of(name).to_dict(), "fusion_method": "mul"})
    torch.manual_seed(0)
    model = BertForVLTasks(config, TASKS).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    if routing:
        perturb_switchers(model, 4)
        encoder_of(model).routing = routing
    batch = random_batch(config, 5, boxes=6)
    if name == "ctrl_vl-bert":  # whose positions depend on the shortest text of a batch
        batch["attention_mask"][:] = 1
    return model, {key: batch[key][:5] for key in TEXT}, {key: batch[key][:4] for key in IMAGE}


def scores(model, texts, images, device, pair_by_pair):
    model = copy.deepcopy(model).to(device)
    texts, images = on_device(texts, device), on_device(images, device)
    with torch.inference_mode():
        if pair_by_pair:
            return model("TASK8", **expand_pairs(texts, images)).scores.view(5, 4).float().cpu()
        return score_pairs(model, texts, images, "TASK8").cpu()


@pytest.mark.parametrize("name", [*MODELS[:-1], "switch, hard", "switch, soft"])
def test_the_grid_equals_every_pair_by_itself(name):
    given = prepared(name)
    expected = scores(*given, CPU, pair_by_pair=True)
    spread = float(expected.std())
    assert spread > 0.01
    for pair_by_pair in (True, False):
        found = scores(*given, DEVICE, pair_by_pair)
        assert (found - expected).abs().max() < TOLERANCE * spread
