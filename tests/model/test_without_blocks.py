"""Switch-BERT without its blocks, the paper's "neither", is UNITER: the same weights, outputs and training."""

import pytest
import torch

from volta_switch import BertForVLPreTraining, load_config
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import training_step

OFF = ["switch.attention=false", "switch.input=false"]
WORDS = ["vocab_size=30522"]  # those that some_batch draws


@pytest.mark.parametrize(
    ("switch", "uniter"), [("switchbert", "ctrl_uniter_base"), ("demo/switchbert", "demo/ctrl_uniter")]
)
def test_the_architecture_is_the_same(switch, uniter):
    neither, fixed = load_config(switch, OFF).to_dict(), load_config(uniter).to_dict()
    assert neither.pop("switch") and not fixed.pop("switch", None)
    differing = {key for key in {*neither, *fixed} if neither.get(key) != fixed.get(key)}
    assert differing <= {"bert_model"}, differing


def test_it_learns_bit_for_bit_the_same():
    losses, weights = [], []
    for config in (load_config("demo/switchbert", [*OFF, *WORDS]), load_config("demo/ctrl_uniter", WORDS)):
        torch.manual_seed(0)
        model = BertForVLPreTraining(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        batch = some_batch(4, config=config)
        found = []
        for _ in range(3):
            out = model(**batch)
            loss = out.loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
        weights.append(dict(model.named_parameters()))
    assert losses[0] == losses[1] and losses[0][2] < losses[0][0]
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_it_costs_the_same():
    costs = []
    for config in (load_config("switchbert", OFF), load_config("ctrl_uniter_base")):
        costs.append(training_step(config, BatchCounts.from_batch(config, some_batch(4, config=config))))
    assert costs[0] == costs[1]
