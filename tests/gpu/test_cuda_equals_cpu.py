"""Losses and gradients on the GPU are those of the CPU: all architectures, all ways to switch, float32 and bfloat16."""

from __future__ import annotations

import pytest
import torch

from gpu.device import DEVICE
from gpu.steps import CPU, SWITCHED, a_pass
from model.parts_of_batches import MODELS
from model.small_models import single_stream
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.cost.counts import some_batch
from volta_switch.data.batches.collate import Batch

# float32 without TF32. The CPU's own float32 is 2e-7 (losses) and 1e-6 (gradients) away from float64 on these models; a
# GPU adds up in another order and has its own exponential.
LOSS, GRADIENT = 1e-5, 5e-5
# bfloat16: as far from float32 as the CPU's own bfloat16 (gradients 1 to 6 %), times a factor: they round elsewhere.
AS_FAR = 4.0
# Those whose routes do not jump: a mode that is the last of the top K by a hair may be another one in bfloat16.
SMOOTH = (*MODELS[:-1], "switch, K = 4", "switch, inputs alone", "switch, modes alone")
NOISY = ("hidden", "attention_probs")


@pytest.fixture(autouse=True)
def exact_products():
    """Products of float32 in float32."""
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = allowed


@pytest.mark.parametrize("name", [*MODELS, *SWITCHED])
def test_losses_and_gradients_are_those_of_the_cpu(name):
    expected, found = a_pass(name, CPU), a_pass(name, DEVICE)
    assert found.loss_error(expected) < LOSS
    assert found.gradient_error(expected) < GRADIENT


@pytest.mark.parametrize("name", SMOOTH)
def test_bfloat16_is_as_near_to_float32_as_on_the_cpu(name):
    exact = a_pass(name, CPU)
    rounded, found = a_pass(name, CPU, torch.bfloat16), a_pass(name, DEVICE, torch.bfloat16)
    assert 0 < found.loss_error(exact) < AS_FAR * rounded.loss_error(exact) + 0.01
    assert found.gradient_error(exact) < AS_FAR * rounded.gradient_error(exact)


@pytest.mark.parametrize("name", ["ctrl_uniter_base", "switchbert"])
def test_two_layers_at_full_width_agree_too(name):
    """Widths of BERT-base, at which other kernels are chosen; noise that is drawn is left out."""
    values = load_config(name).to_dict()
    none = dict.fromkeys((f"{side}{kind}_dropout_prob" for side in ("", "v_") for kind in NOISY), 0.0)
    switch = {key: values[key] for key in ("switch",) if key in values}
    config = load_config({**single_stream(values, ["J", "J"]), **switch, **none})
    torch.manual_seed(0)
    model = BertForVLPreTraining(config).eval()
    batch = Batch(some_batch(8, config=config), None, [])
    losses = {}
    for device in (CPU, DEVICE):
        with torch.no_grad():
            losses[device] = model.to(device)(**batch.to(device).inputs).loss
    assert float(losses[DEVICE]) == pytest.approx(float(losses[CPU]), rel=LOSS)


@pytest.mark.parametrize("name", ["ctrl_uniter", "switch, K = 2"])
def test_the_comparison_is_not_blind(name):
    """Other noise, of another epoch, is far outside of what is allowed."""
    found = a_pass(name, DEVICE, epoch=2)
    assert found.gradient_error(a_pass(name, CPU)) > 1000 * GRADIENT
