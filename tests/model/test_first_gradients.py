"""The first steps' gradients: a spike in some architectures, which ``image_bias_range`` takes away.

Where a LayerNorm reads the projection of a region's features alone, a masked region gives it zeros.
"""

import copy

import pytest
import torch

from golden_files import relative_error
from model.small_models import encoder_of, random_batch
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.model.reference import Reference
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, build_schedule, clipped_step

SPIKED = ("ctrl_uniter", "ctrl_lxmert", "ctrl_interbert", "switchbert")
OTHERS = ("ctrl_vilbert", "ctrl_visualbert", "ctrl_vl-bert")
PLAIN, DRAWN = "image_bias_range=0", "image_bias_range=0.05"  # as wide as the demo's other weights
LIMIT = 50  # of the norm, in place of 2e5 and more
PROJECTION = {
    "ctrl_uniter": "bert.embeddings.image_embeddings", "ctrl_interbert": "bert.embeddings.image_embeddings",
    "switchbert": "bert.embeddings.image_embeddings", "ctrl_lxmert": "bert.v_embeddings.image_embeddings",
    "ctrl_vilbert": "bert.v_embeddings.image_embeddings", "ctrl_visualbert": "bert.embeddings.projection",
    "ctrl_vl-bert": "bert.embeddings.obj_downsample.1",
}  # fmt: skip


def model_of(name, *overrides):
    torch.manual_seed(0)
    return BertForVLPreTraining(load_config(f"demo/{name}", overrides)).train()


def task_model(config):
    return BertForVLTasks(config, {"TASK10": {"type": "V-logit"}})


def masked_batch(config, seed):
    """A batch whose masked regions have no features, as pre-training masks them."""
    batch = random_batch(config, B=8, T=9, boxes=6, seed=seed)
    boxes = slice(1, None) if config.add_global_imgfeat == "first" else slice(-1)
    batch["image_feat"][:, boxes][batch["image_label"] == 1] = 0
    return batch


def first_steps(name, *overrides, steps=12):
    """The gradient's norm at each of the first steps of a clipped and warmed-up run, and whose is the largest."""
    model = model_of(name, *overrides)
    hyper = Hyperparameters(epochs=1, batch_size=16, learning_rate=1.5e-3, clip_grad_norm=1.0)
    optimizer = build_optimizer(model, hyper)
    schedule = build_schedule(optimizer, hyper, steps_per_epoch=576)
    norms, largest = [], []
    for step in range(steps):
        model(**masked_batch(model.config, step)).loss.backward()
        gradients = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
        norms.append(float(torch.stack(list(gradients.values())).norm()))
        largest.append(max(gradients, key=gradients.get))
        clipped_step(optimizer, hyper.clip_grad_norm)
        schedule.step()
        optimizer.zero_grad()
    return norms, largest


@pytest.mark.parametrize("name", SPIKED)
def test_masked_regions_spike_the_first_gradients(name):
    norms, largest = first_steps(name, PLAIN)
    assert min(norms[:2]) > 1e5  # the first step's rate is 0, so that the second's weights are the same
    assert sum(norm > 1000 for norm in norms) >= 3
    assert {of.rpartition(".")[0] for of in largest[:3]} == {PROJECTION[name]}


@pytest.mark.parametrize("name", [*SPIKED, *OTHERS])
def test_with_drawn_biases_there_is_no_spike(name):
    assert max(first_steps(name, DRAWN)[0]) < LIMIT


@pytest.mark.parametrize("name", OTHERS)
def test_where_more_is_added_before_the_layer_norm_there_is_no_spike_anyway(name):
    assert max(first_steps(name, PLAIN)[0]) < LIMIT


@pytest.mark.parametrize("name", [*SPIKED, *OTHERS])
@pytest.mark.parametrize("made", [BertForVLPreTraining, task_model])
def test_the_biases_alone_are_drawn_and_after_all_else(name, made):
    states, streams = [], []
    for override in (PLAIN, DRAWN):
        torch.manual_seed(0)
        states.append(made(load_config(f"demo/{name}", [override])).state_dict())
        streams.append(torch.get_rng_state())
    plain, drawn = states
    assert torch.equal(*streams)  # from which the noise of training is drawn
    assert plain.keys() == drawn.keys()
    assert [key for key in plain if not torch.equal(plain[key], drawn[key])] == [f"{PROJECTION[name]}.bias"]
    assert not plain[f"{PROJECTION[name]}.bias"].any()
    assert 0.03 < drawn[f"{PROJECTION[name]}.bias"].std() < 0.07


def test_a_configuration_without_it_says_nothing_of_it():
    assert "image_bias_range" not in load_config("demo/switchbert", [PLAIN]).to_dict()
    values = load_config("demo/switchbert", [DRAWN]).to_dict()
    assert values["image_bias_range"] == 0.05 and load_config(values).to_dict() == values


@pytest.mark.parametrize("name", SPIKED)
def test_the_start_with_drawn_biases_is_the_specifications(name):
    """Where features are masked, in float64; the LayerNorm of zeros would amplify any rounding."""
    model = model_of(name, DRAWN).double().eval()
    reference = Reference(copy.deepcopy(model), "soft")
    batch = masked_batch(model.config, 0)
    batch = {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in batch.items()}
    if name == "switchbert":
        encoder_of(model).routing = "soft"
    losses = [each(**batch).loss for each in (model, reference)]
    for loss in losses:
        loss.backward()
    assert abs(losses[0] - losses[1]) < 1e-6
    for (of, parameter), expected in zip(model.named_parameters(), reference.model.parameters(), strict=True):
        if expected.grad is not None:
            assert relative_error(parameter.grad, expected.grad) < 1e-5, of
