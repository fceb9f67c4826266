"""A layer is one graph to torch.compile, switched or not, forward and backward, at any number of rows."""

import pytest
import torch
from torch import _dynamo as dynamo

from model.small_models import embedded, static_model, switch_model
from volta_switch.model.encoder import encoder_of
from volta_switch.model.noise import sample_keys
from volta_switch.model.rows import PackedLayout, join
from volta_switch.train.replicas import compile_layers

ROUTE = ["J", "SS", "SC", "CS"]


def layer_of(kind, keyed=False):
    """A layer over joined rows (n, D), with its mixture of modes where it is switched, and the rows that enter it.

    ``keyed``: its noise is a function of the samples.
    """
    golden, switched = switch_model()
    model = switched if kind == "switched" else static_model(ROUTE)
    states, layout = embedded(model, golden.inputs)
    if keyed:
        keys = sample_keys(0, 0, ["a", "b", "c", "d"], 4)
        layout = PackedLayout(layout.text, layout.vision, keys)
    attention, feed_forward = model.bert.encoder.layer[:2]
    weights = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)
    mixture = {"weights": weights, "modes": switched.bert.encoder.switch.modes} if kind == "switched" else {}

    def layer(joined):
        return join(feed_forward(attention((joined,), layout, layout, **mixture), layout))

    return model, layer, join(states).detach().requires_grad_()


@pytest.fixture(autouse=True)
def compiled_anew():
    dynamo.reset()
    yield
    dynamo.reset()


@pytest.mark.parametrize("noise", ["none", "drawn", "keyed"])
@pytest.mark.parametrize("kind", ["switched", "static"])
def test_a_layer_is_one_graph(kind, noise):
    model, layer, rows = layer_of(kind, noise == "keyed")
    model.train(noise != "none")
    explained = dynamo.explain(layer)(rows)
    assert explained.graph_count == 1 and explained.graph_break_count == 0, explained.break_reasons


@pytest.mark.long
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
    for layer in model.bert.encoder.layer[:2]:  # attention and feed-forward; the others are like them
        layer.compile(dynamic=True, backend="aot_eager", fullgraph=True)
    graphs = []
    for lengths, (states, gradient) in zip(every, expected, strict=True):
        found = run(lengths)
        graphs.append(dynamo.utils.counters["stats"]["unique_graphs"])
        assert torch.allclose(found[0], states, atol=1e-6) and torch.allclose(found[1], gradient, atol=1e-4)
    assert graphs[1] == graphs[2]


def test_a_compiled_layer_draws_the_same_keyed_noise():
    model, layer, rows = layer_of("static", keyed=True)
    model.train()
    before = torch.get_rng_state()
    plain, compiled = layer(rows), torch.compile(layer, backend="aot_eager", fullgraph=True)(rows)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.allclose(compiled, plain, atol=1e-6)
    found, expected = (torch.autograd.grad(out.square().sum(), rows)[0] for out in (compiled, plain))
    assert torch.allclose(found, expected, atol=1e-4)


def test_compile_layers_compiles_each_sublayer_in_place():
    model = static_model(ROUTE)
    compile_layers(model)
    assert all(layer._compiled_call_impl is not None for layer in encoder_of(model).layer)
    assert not hasattr(model, "_orig_mod")
