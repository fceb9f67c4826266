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
def test_compiled_layers_give_the_same_at_any_number_of_rows_without_being_compiled_again(kind):
    golden, switched = switch_model()
    model = switched if kind == "switched" else static_model(["J"] * 4)
    model.eval()

    def run(lengths):
        """The last states and the gradient of the word table, texts being cut to these lengths."""
        inputs = dict(golden.inputs)
        inputs["attention_mask"] = (torch.arange(inputs["input_ids"].shape[1]) < torch.tensor(lengths)[:, None]).long()
        if kind == "switched":
            inputs["modes"] = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)
        states = model(**inputs).sequence_t
        return states, torch.autograd.grad(states.square().sum(), model.bert.embeddings.word_embeddings.weight)[0]

    every = [[5, 3, 4, 2], [6, 2, 5, 5], [4, 4, 3, 3]]
    expected = [run(lengths) for lengths in every]
    for layer in model.bert.encoder.layer:
        layer.compile(dynamic=True, backend="aot_eager", fullgraph=True)
    graphs = []
    for lengths, (states, gradient) in zip(every, expected, strict=True):
        found = run(lengths)
        graphs.append(dynamo.utils.counters["stats"]["unique_graphs"])
        assert torch.allclose(found[0], states, atol=1e-6) and torch.allclose(found[1], gradient, atol=1e-4)
    assert graphs[1] == graphs[2]
