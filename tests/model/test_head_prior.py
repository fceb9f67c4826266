"""The start of a task head's outputs."""

import pytest
import torch

from volta_switch.model.bert import start_from_prior
from volta_switch.model.heads import SimpleClassifier


@pytest.mark.parametrize("probability", [0.03, 0.5, 0.9])
def test_outputs_start_near_the_prior(probability):
    torch.manual_seed(0)
    head = SimpleClassifier(8, 16, 5, 1e-12)
    torch.nn.init.zeros_(head.logit_fc[3].weight)
    start_from_prior(head, probability)
    assert head(torch.randn(3, 8)).sigmoid().flatten().tolist() == pytest.approx([probability] * 15)


def test_a_single_layer_head_starts_there_too():
    head = torch.nn.Linear(8, 1)
    start_from_prior(head, 0.1)
    assert head.bias.sigmoid().item() == pytest.approx(0.1)
