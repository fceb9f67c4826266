"""Floating-point operations of a step: PyTorch's counter against arithmetic, and Switch-BERT beside UNITER."""

import sys
from pathlib import Path

import pytest
import torch

from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import count_flops, inference, training_step
from volta_switch.data.batches.collate import Batch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from train_step import shortened

SEVEN = (
    *("ctrl_uniter_base", "ctrl_visualbert_base", "ctrl_vl-bert_base", "ctrl_interbert_base"),
    *("ctrl_lxmert", "ctrl_vilbert_base", "switchbert"),
)
NARROW = {
    **{"hidden_size": 96, "intermediate_size": 384, "pooler_size": 128},
    **{"v_hidden_size": 96, "v_intermediate_size": 384, "v_pooler_size": 128},
}
HEADS = {
    "VL-classifier": {"num_labels": 3129},
    "VL-logit": {},
    "V-logit": {"num_clf_layers": 2},
    "VL-binary-classifier": {},
    "VL-tri-classifier": {},
}
INPUTS = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")


def architecture(name, **changes):
    """All layers of a shipped configuration, narrow."""
    return load_config({**load_config(name).to_dict(), **NARROW, **changes})


def counted_both(model, run):
    """FLOPs of a training step and of inference; ``run`` gives a loss."""
    training = count_flops(lambda: run(model.train()).backward())
    with torch.inference_mode():
        return training, count_flops(lambda: run(model.eval()))


def counted_pretraining(config, batch):
    return counted_both(BertForVLPreTraining(config), lambda model: model(**batch).loss)


def counted_task(config, batch, task):
    inputs = {name: tensor for name, tensor in batch.items() if name in INPUTS}
    model = BertForVLTasks(config, {"TASK": task})
    return counted_both(model, lambda model: model("TASK", **inputs).scores.sum())


def expected(config, batch, task=None):
    counts = BatchCounts.from_batch(config, batch, task)
    return training_step(config, counts), inference(config, counts)


@pytest.mark.parametrize("name", SEVEN)
def test_the_counter_agrees_with_arithmetic_in_pretraining(name):
    config, batch = architecture(name), some_batch(4)
    assert counted_pretraining(config, batch) == pytest.approx(expected(config, batch), rel=0.005)


@pytest.mark.parametrize("name", ["switchbert", "ctrl_interbert_base", "ctrl_lxmert", "ctrl_vilbert_base"])
def test_the_counter_agrees_with_arithmetic_where_regions_alone_are_scored(name):
    """Text that nobody reads has a forward pass alone where it has sublayers of its own."""
    config, batch, task = architecture(name), some_batch(4), {"type": "V-logit"}
    assert counted_task(config, batch, task) == pytest.approx(expected(config, batch, task), rel=0.005)


@pytest.mark.parametrize("name", ["ctrl_uniter_base", "switchbert"])
def test_the_counter_agrees_with_arithmetic_at_bert_base_widths(name):
    """Counted on the meta device, which knows shapes alone."""
    config, batch = load_config(shortened(name, 2)), some_batch(8)
    with torch.device("meta"):
        model = BertForVLPreTraining(config)
    inputs = Batch(batch, None, [str(sample) for sample in range(8)]).to("meta").inputs
    found = counted_both(model, lambda model: model(**inputs).loss)
    assert found == pytest.approx(
        expected(config, batch), rel=0.001
    )  # so that the comparison below is of what is counted


@pytest.mark.parametrize("kind", HEADS)
def test_every_head_is_counted(kind):
    """One layer of narrow states, so that a head is a good part of the whole."""
    sizes = {"hidden_size": 24, "v_hidden_size": 24, "intermediate_size": 48, "v_intermediate_size": 48}
    config = load_config({**shortened("ctrl_uniter_base", 1), **sizes, "v_feature_size": 32, "clf_hidden_size": 500})
    task = {"type": kind, **HEADS[kind]}
    batch = some_batch(6, config=config)
    assert counted_task(config, batch, task) == pytest.approx(expected(config, batch, task), rel=0.005)


def test_two_images_in_one_row_are_counted():
    sizes = {"hidden_size": 24, "v_hidden_size": 24, "intermediate_size": 48, "v_intermediate_size": 48}
    joined = {"fusion_method": "visualbert_nlvr2", "add_global_imgfeat": None, "v_feature_size": 32}
    config = load_config({**shortened("ctrl_visualbert_base", 1), **sizes, **joined, "clf_hidden_size": 500})
    batch, task = some_batch(6, config=config), {"type": "VL-binary-classifier"}
    types = (torch.arange(batch["image_feat"].shape[1]) > 20).long().expand(6, -1)
    inputs = {name: tensor for name, tensor in batch.items() if name in INPUTS} | {"image_token_type_ids": types}
    model = BertForVLTasks(config, {"TASK": task})
    found = counted_both(model, lambda model: model("TASK", **inputs).scores.sum())
    assert found == pytest.approx(expected(config, batch, task), rel=0.005)


def test_switchbert_executes_the_same_whatever_k_is():
    batch, found = some_batch(4), []
    for top_k in (1, 2, 4):
        config = load_config({**shortened("switchbert", 3), **NARROW}, (f"switch.top_k={top_k}",))
        found.append((counted_pretraining(config, batch), expected(config, batch)))
    assert found == [found[0]] * 3


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_switchbert_costs_at_most_half_a_percent_more_than_uniter(top_k):
    """12 layers at BERT-base widths, captions of 12 +- 4 word pieces in 38 slots, 37 regions; issue: at most 1 %."""
    uniter, switched = load_config("ctrl_uniter_base"), load_config("switchbert", (f"switch.top_k={top_k}",))
    for seed in range(4):
        batch = some_batch(32, seed)
        for task in (None, *({"type": kind, **head} for kind, head in HEADS.items())):
            for uniters, switchberts in zip(
                *(expected(config, batch, task) for config in (uniter, switched)), strict=True
            ):
                assert 1 < switchberts / uniters <= 1.005
