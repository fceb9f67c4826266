"""Full-size models have the paper's parameter counts; every shipped configuration loads, builds and trains."""

import json

import pytest
import torch

from model.small_models import random_batch
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.config.loading import CONFIG_FOLDERS

FOLDER = CONFIG_FOLDERS[0]
SHIPPED = sorted(str(path.relative_to(FOLDER))[: -len(".json")] for path in FOLDER.rglob("*.json"))
# Millions of parameters of the pre-training model; METHOD: measured on VOLTA itself, and the paper's for Switch-BERT.
MILLIONS = {
    "ctrl_uniter_base": 114.50,
    "ctrl_vl-bert_base": 116.07,
    "ctrl_visualbert_base": 114.88,
    "ctrl_lxmert": 211.37,
    "ctrl_vilbert_base": 242.08,
    "switchbert": 130.6,
}
NAMED_IN_THE_ISSUE = (*MILLIONS, "ctrl_interbert_base", "vilbert_base", "lxmert", "vl-bert_base")
SCALE = 16  # full-size widths are divided by it
WIDTHS = (
    "hidden_size", "intermediate_size", "pooler_size", "v_feature_size", "v_hidden_size", "v_intermediate_size",
    "v_pooler_size", "clf_hidden_size", "v_coordinate_embeddings_dim",
)  # fmt: skip
WIDTH_MAPS = (
    "sublayer2attn_hidden_size", "sublayer2intermediate_size", "sublayer2v_attn_hidden_size",
    "sublayer2v_intermediate_size",
)  # fmt: skip


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def full_size(name):
    with torch.device("meta"):
        return BertForVLPreTraining(load_config(name))


def small_overrides(name):
    """``--set`` values that shrink a full-size configuration, per-sublayer sizes included; none for a demo one."""
    if name.startswith("demo/"):
        return []
    config = load_config(name)
    values = {"vocab_size": 97, "max_position_embeddings": 40, "v_num_classes": 33, "v_num_attributes": 12}
    values |= {key: getattr(config, key) // SCALE for key in WIDTHS if getattr(config, key) is not None}
    for key in WIDTH_MAPS:
        values[key] = {number: width // SCALE for number, width in getattr(config, key).items()}
    if config.switch is not None:
        values["switch.hidden_size"] = config.switch.hidden_size // SCALE
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def test_every_configuration_of_the_issue_is_shipped():
    assert set(NAMED_IN_THE_ISSUE) <= set(SHIPPED)
    demo = {name for name in SHIPPED if name.startswith("demo/")}
    assert {"demo/switchbert", "demo/ctrl_uniter", "demo/ctrl_vilbert", "demo/ctrl_lxmert"} <= demo


@pytest.mark.parametrize("name", MILLIONS)
def test_full_size_parameter_counts_are_the_papers(name):
    assert count(full_size(name)) / 1e6 == pytest.approx(MILLIONS[name], abs=0.05)


def test_switch_bert_adds_only_its_switchers_to_uniter():
    switchers = 12 * (1536 * 454 + 454 + 454 * 4 + 4) + 11 * (1536 * 454 + 454 + 454 * 3 + 3)
    assert count(full_size("switchbert")) - count(full_size("ctrl_uniter_base")) == switchers


def test_interbert_shares_its_first_six_layers_only():
    uniter, interbert = count(full_size("ctrl_uniter_base")), count(full_size("ctrl_interbert_base"))
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert interbert - uniter == 6 * layer


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_survives_the_round_trip(name):
    config = load_config(name)
    assert load_config(config.to_dict()) == config
    assert load_config(f"{name}.json") == config
    assert load_config(FOLDER / f"{name}.json") == config


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_learns_from_one_step(name):
    config = load_config(name, small_overrides(name))
    torch.manual_seed(0)
    model, batch = BertForVLPreTraining(config), random_batch(config)
    with torch.no_grad():
        before = model.eval()(**batch).loss
    model.train()(**batch).loss.backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), parameter_name
    moved = [parameter for parameter in model.parameters() if parameter.grad is not None and parameter.grad.any()]
    assert len(moved) > 0.8 * len(list(model.parameters()))
    torch.optim.SGD(model.parameters(), lr=0.02).step()
    with torch.no_grad():
        assert model.eval()(**batch).loss < before
