"""Layers that are computed again in the backward pass: the same gradients, and less is kept until then."""

import pytest
import torch

from model.parts_of_batches import MODELS, B, batch_of, gradients, model_of
from model.small_models import random_batch, single_stream
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.model.encoder import encoder_of
from volta_switch.model.noise import sample_keys
from volta_switch.model.rows import join

KEYS = sample_keys(1, 2, [str(sample) for sample in range(B)], B)


def descended(model, batch, checkpointing, keys=None):
    """Loss, and gradients by name."""
    encoder_of(model).checkpointing = checkpointing
    torch.manual_seed(0)
    try:
        loss = model(**batch, noise_keys=keys).loss
        loss.backward()
    finally:
        encoder_of(model).checkpointing = False
    return loss.detach(), gradients(model)


def kept_bytes(model, batch, checkpointing):
    """Bytes of the storages that a forward pass keeps for the backward pass, parameters left out."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    encoder_of(model).checkpointing = checkpointing
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    encoder_of(model).checkpointing = False
    del loss
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("keys", [None, KEYS], ids=["drawn", "keyed"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_the_same_bit_for_bit(name, keys):
    model, batch = model_of(name), batch_of(name)
    (loss, expected), (found_loss, found) = (descended(model, batch, again, keys) for again in (False, True))
    assert torch.equal(loss, found_loss) and found.keys() == expected.keys()
    assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())


@pytest.mark.parametrize("routing", ["soft", "hard"])
def test_gradients_are_the_same_on_any_route(routing):
    model, batch = model_of("switch"), batch_of("switch")
    encoder_of(model).routing = routing
    try:
        (_, expected), (_, found) = (descended(model, batch, again) for again in (False, True))
    finally:
        encoder_of(model).routing = "auto"
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], gradient) for key, gradient in expected.items())


def test_states_of_all_sublayers_are_still_given():
    model, batch = model_of("switch"), batch_of("switch")
    encoder = encoder_of(model)
    every = []
    hook = encoder.register_forward_pre_hook(lambda _, args, named: (args[:2], {"keep_all": True}), with_kwargs=True)
    seen = encoder.register_forward_hook(lambda _, args, out: every.append([join(one) for one in out.history]))
    for again in (False, True):
        encoder.checkpointing = again
        torch.manual_seed(0)
        model(**batch)
    encoder.checkpointing = False
    hook.remove()
    seen.remove()
    assert len(every[0]) == 9
    assert all(torch.equal(one, other) for one, other in zip(*every, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_is_computed_twice_when_asked_for(name):
    model, batch, calls = model_of(name), batch_of(name), []
    hooks = [layer.register_forward_pre_hook(lambda *_: calls.append(1)) for layer in encoder_of(model).layer]
    counts = []
    for again in (False, True):
        calls.clear()
        descended(model, batch, again)
        counts.append(len(calls))
    for hook in hooks:
        hook.remove()
    assert counts == [len(hooks), 2 * len(hooks)]


@pytest.mark.parametrize("switch", [None, {"hidden_size": 14, "input_candidates": 4}], ids=["static", "switched"])
def test_a_layer_more_costs_little_more_than_its_states(switch):
    """Bytes that 4 layers more keep: of the rows' states, at most 3 matrices a layer instead of more than 15."""
    sizes = {}
    for layers in (2, 6):
        config = {**single_stream(model_of("ctrl_uniter").config.to_dict(), ["J"] * layers), "switch": switch}
        config = load_config({key: value for key, value in config.items() if value is not None})
        model = BertForVLPreTraining(config).train()
        batch = random_batch(config, 8, T=16, boxes=12)
        for again in (False, True):
            sizes[layers, again] = kept_bytes(model, batch, again)
    rows = int(batch["attention_mask"].sum() + batch["image_attention_mask"].sum())
    states = rows * config.hidden_size * 4
    per_layer = {again: (sizes[6, again] - sizes[2, again]) / 4 / states for again in (False, True)}
    assert per_layer[True] < 3 < 15 < per_layer[False]
