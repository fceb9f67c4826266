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
    text, vision = (golden.inputs[f"{kind}attention_mask"] == 1 for kind in ("", "image_"))
    for key, real in (("sequence_t", text), ("prediction_scores_t", text), ("sequence_v", vision)):
        assert relative_error(getattr(out, key)[real], expected[key][real]) < TOLERANCE, key
    for key in ("pooled_t", "pooled_v", "seq_relationship_score"):
        assert relative_error(getattr(out, key), expected[key]) < TOLERANCE, key
    for target, scores in out.prediction_scores_v.items():
        reference = expected[f"prediction_scores_v/{target}"]
        assert relative_error(scores[vision][:, :64], reference[vision]) < TOLERANCE
    assert not text.all() and not out.sequence_t[~text].any()  # differs from VOLTA: padding is not computed
    assert not vision.all() and not out.sequence_v[~vision].any()


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
        expected = golden.tensors[f"output/{task}"]
        if golden.tasks[task]["type"] == "V-logit":
            padding = golden.inputs["image_attention_mask"] == 0
            assert padding.any() and (scores[padding] == -10000).all() and (expected[padding] < -9990).all()
            scores, expected = scores[~padding], expected[~padding]
        assert relative_error(scores, expected) < TOLERANCE, task
