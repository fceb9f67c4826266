"""A training step asks the device for nothing: it runs on tensors that have no values.

The meta device knows shapes alone; whatever needs a value of it (``item``, ``nonzero``, a mask as an index) raises.
What a step may read, masks and which positions are masked, is on the CPU, as ``Batch.to`` leaves it. The optimiser's
fused kernel has no form for this device and is left out.
"""

import pytest
import torch

from golden_files import load_golden
from model.small_models import single_stream
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.data.batches.collate import ON_HOST, Batch
from volta_switch.model.noise import sample_keys

MODELS = ("ctrl_uniter", "ctrl_visualbert", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_interbert", "switch")
HEADS = {"VL-classifier": {"num_labels": 5}, "VL-logit": {}, "V-logit": {}, "VL-binary-classifier": {}}


def config_of(name):
    config = load_golden("route_mixed" if name == "switch" else name).config
    if name == "switch":
        switch = {"hidden_size": 14, "top_k": 2, "input_candidates": 4}
        config = {**single_stream(config, ["J"] * 4), "switch": switch}
    return load_config({**config, "visual_target_weights": dict.fromkeys("0123456", 1.0)})


def batch_of(name, config):
    """The golden batch with labels for every loss, sent to the meta device."""
    inputs = dict(load_golden("route_mixed" if name == "switch" else name).inputs)
    B, N = len(inputs["image_feat"]), inputs["image_feat"].shape[1] - (config.add_global_imgfeat is not None)
    generator = torch.Generator().manual_seed(0)
    inputs["masked_lm_labels"] = torch.where(torch.rand(inputs["input_ids"].shape, generator=generator) < 0.4, 3, -1)
    inputs["image_label"] = torch.where(torch.rand(B, N, generator=generator) < 0.4, 1, -1)
    inputs["image_cls"] = torch.rand(B, N, config.v_num_classes)
    for kind in ("obj", "attr"):
        inputs |= {f"{kind}_labels": torch.ones(B, N, dtype=torch.long), f"{kind}_confs": torch.rand(B, N)}
    inputs["next_sentence_label"] = torch.zeros(B, dtype=torch.long)
    ids = [str(sample) for sample in range(B)]
    return Batch({**inputs, "noise_keys": sample_keys(0, 0, ids, B)}, None, ids).to("meta").inputs


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_pretraining_step_reads_no_value_of_the_device(name, keyed):
    config = config_of(name)
    model = BertForVLPreTraining(config).to("meta").train()
    inputs = batch_of(name, config)
    assert {key for key, tensor in inputs.items() if tensor.device.type == "cpu"} == ON_HOST
    if not keyed:
        del inputs["noise_keys"]
    model(**inputs).loss.backward()
    assert all(parameter.grad.device.type == "meta" for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("kind", HEADS)
def test_a_task_step_reads_no_value_of_the_device(kind):
    config = config_of("switch")
    model = BertForVLTasks(config, {"TASK": {"type": kind, **HEADS[kind]}}).to("meta").train()
    inputs = batch_of("switch", config)
    given = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
    scores = model("TASK", **{key: inputs[key] for key in given}).scores
    scores.sum().backward()
    assert scores.device.type == "meta"


def test_the_meta_device_does_refuse_what_must_wait():
    config = config_of("ctrl_uniter")
    model = BertForVLPreTraining(config).to("meta").train()
    inputs = batch_of("ctrl_uniter", config)
    inputs["masked_lm_labels"] = inputs["masked_lm_labels"].to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        model(**inputs)
