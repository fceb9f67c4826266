"""What a step costs in floating-point operations: PyTorch's counter, arithmetic, and Switch-BERT beside UNITER."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from flops import Counts, counted, training_step
from train_step import shortened, some_batch

from volta_switch import BertForVLPreTraining, load_config

NARROW = {
    **{"hidden_size": 96, "intermediate_size": 384, "pooler_size": 128, "vocab_size": 30522},
    **{"v_hidden_size": 96, "v_intermediate_size": 384, "v_pooler_size": 128},
}
STATIC = ["ctrl_uniter_base", "ctrl_vilbert_base", "ctrl_lxmert", "ctrl_visualbert_base", "ctrl_vl-bert_base"]


def architecture(name, top_k=4, layers=0, **sizes):
    overrides = (f"switch.top_k={top_k}",) if name == "switchbert" else ()
    return load_config({**shortened(name, layers), **sizes}, overrides)


def counted_and_expected(config, B):
    """FLOPs of a forward and backward pass of pre-training in training mode: counted, and by arithmetic."""
    batch = some_batch(B)
    model = BertForVLPreTraining(config).train()
    return counted(lambda: model(**batch).loss.backward()), training_step(config, Counts.of(config, batch))


@pytest.mark.parametrize("name", STATIC)
def test_the_counter_agrees_with_arithmetic(name):
    count, expected = counted_and_expected(architecture(name, **NARROW), B=6)
    assert count == pytest.approx(expected, rel=0.01)


def test_switchbert_counts_the_same_whatever_k_is():
    found = [counted_and_expected(architecture("switchbert", top_k, layers=4, **NARROW), B=6) for top_k in (1, 2, 4)]
    (count, expected), *others = found
    assert count == pytest.approx(expected, rel=0.01)
    assert others == [(count, expected)] * 2


@pytest.mark.parametrize("name", ["ctrl_uniter_base", "switchbert"])
def test_the_counter_agrees_with_arithmetic_at_bert_base_widths(name):
    count, expected = counted_and_expected(architecture(name, layers=2), B=8)
    assert count == pytest.approx(expected, rel=0.001)  # so that the comparison below holds of what is counted


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_switchbert_costs_at_most_half_a_percent_more_than_uniter(top_k):
    """12 layers at BERT-base widths, captions of 12 +- 4 word pieces in 38 slots, 37 regions."""
    uniter, switched = architecture("ctrl_uniter_base"), architecture("switchbert", top_k)
    for seed in range(4):
        batch = some_batch(32, seed)
        costs = [training_step(config, Counts.of(config, batch)) for config in (uniter, switched)]
        assert 1 < costs[1] / costs[0] <= 1.005
