"""A layer is one graph to torch.compile, switched or not, forward and backward, at any number of rows."""

import pytest
import torch
from torch import _dynamo as dynamo

from model.small_models import embedded, static_model, switch_model
from volta_switch.model.sublayers import Kept

ROUTE = ["J", "SS", "SC", "CS"]


def layer_of(kind):
    """A layer over joined rows (n, D), with its mixture of modes where it is switched, and the rows that enter it."""
    golden, switched = switch_model()
    model = switched if kind == "switched" else static_model(ROUTE)
    states, layout = embedded(model, golden.inputs)
    attention, feed_forward = model.bert.encoder.layer[:2]
    weights = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mixture = (weights, switched.bert.encoder.switch.modes) if kind == "switched" else ()

    def layer(joined):
        return feed_forward(attention(states.rejoined(joined), layout, Kept(layout, None, None), *mixture)).joined

    return model, layer, states.joined.detach().requires_grad_()


@pytest.fixture(autouse=True)
def compiled_anew():
    dynamo.reset()
    yield
    dynamo.reset()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", ["switched", "static"])
def test_a_layer_is_one_graph(kind, training):
    model, layer, rows = layer_of(kind)
    model.train(training)
    explained = dynamo.explain(layer)(rows)
    assert explained.graph_count == 1 and explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.parametrize("kind", ["switched", "static"])
def test_the_compiled_layer_gives_the_same_states_and_gradients(kind):
    model, layer, rows = layer_of(kind)
    model.eval()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    found, expected = compiled(rows), layer(rows)
    gradients = [torch.autograd.grad(out.square().sum(), rows)[0] for out in (found, expected)]
    assert torch.allclose(found, expected, atol=1e-6) and torch.allclose(*gradients, atol=1e-5)
