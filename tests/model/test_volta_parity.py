"""Outputs, losses and gradients equal VOLTA's, for every architecture, to 1e-5 (float32)."""

import pytest
import torch

from golden_files import EVERY, load_golden, relative_error
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.weights import load_volta, to_volta

TOLERANCE = 1e-5


def pretraining_model(name):
    golden = load_golden(name)
    model = BertForVLPreTraining(load_config(golden.config)).eval()
    load_volta(model, golden.part("state"))
    return golden, model


@pytest.mark.parametrize("name", EVERY)
def test_parameter_count_is_voltas(name):
    golden, model = pretraining_model(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == golden.parameters


@pytest.mark.parametrize("name", EVERY)
def test_state_has_voltas_names_and_survives_both_ways(name):
    golden, model = pretraining_model(name)
    state = to_volta(model)
    assert state.keys() == golden.part("state").keys()
    for key, tensor in golden.part("state").items():
        assert torch.equal(state[key], tensor), key


@pytest.mark.parametrize("name", EVERY)
def test_encoder_and_heads_equal_voltas(name):
    golden, model = pretraining_model(name)
    with torch.no_grad():
        out = model(**golden.inputs)
    expected = golden.part("output")
    for key in ("sequence_t", "sequence_v", "pooled_t", "pooled_v", "prediction_scores_t", "seq_relationship_score"):
        assert relative_error(getattr(out, key), expected[key]) < TOLERANCE, key
    for target, scores in out.prediction_scores_v.items():
        assert relative_error(scores[..., :64], expected[f"prediction_scores_v/{target}"]) < TOLERANCE


@pytest.mark.parametrize("name", EVERY)
def test_losses_and_gradients_equal_voltas(name):
    golden, model = pretraining_model(name)
    out = model(**golden.part("input"))
    for key in ("loss_mlm", "loss_vision", "loss_itm"):
        assert relative_error(getattr(out, key), golden.tensors[f"output/{key}"]) < TOLERANCE, key
    out.loss.backward()
    gradients = dict(model.named_parameters(remove_duplicate=False))
    assert golden.part("grad")
    for key, expected in golden.part("grad").items():
        found = gradients[key].grad
        found = torch.zeros_like(expected) if found is None else found
        assert relative_error(found, expected) < TOLERANCE, key


@pytest.mark.parametrize("name", EVERY)
def test_task_scores_equal_voltas(name):
    golden = load_golden(name)
    model = BertForVLTasks(load_config(golden.config), golden.tasks).eval()
    body = {key: value for key, value in golden.part("state").items() if key.startswith("bert.")}
    load_volta(model, {**body, **golden.part("task_state")})
    for task in golden.tasks:
        with torch.no_grad():
            scores = model(task, **golden.inputs).scores
        assert relative_error(scores, golden.tensors[f"output/{task}"]) < TOLERANCE, task
