"""Two processes, by DDP or FSDP2 (gloo, CPU), train as one does: losses, gradients, weights after a step of AdamW."""

import inspect

import pytest
import torch
from torch import nn
from torch.distributed.fsdp._fully_shard._fsdp_state import FSDPState

from train.sharded_steps import CASES, RANKS, run, step
from volta_switch.train.replicas import gathered_as, keep_on_host

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The folder with what two processes found in each case."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(run, (folder,), RANKS)
    return folder


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_train_as_one(case, of_two):
    expected, found = step(case, None), torch.load(of_two / f"{case}.pt", weights_only=True)
    tolerance = TOLERANCE[case.precision]
    for key, loss in expected["losses"].items():
        assert float(found["losses"][key]) == pytest.approx(float(loss), rel=tolerance), key
    largest = max(float(gradient.abs().max()) for gradient in expected["gradients"].values())
    for name, gradient in found["gradients"].items():
        other = expected["gradients"].get(name, torch.zeros(()))  # FSDP gives zeros where one process gives nothing
        assert (gradient - other).abs().max() < tolerance * max(1.0, largest), name
    if case.sharded:
        assert expected["gradients"].keys() <= found["gradients"].keys()
    else:
        assert expected["gradients"].keys() == found["gradients"].keys()
    for name, weight in expected["weights"].items():
        if name not in expected["gradients"]:
            continue
        # The first step of AdamW moves a weight by its gradient's sign, where that is not near 0.
        sure = expected["gradients"][name].abs() > 10 * tolerance * max(1.0, largest if tolerance > 1e-3 else 1.0)
        assert torch.allclose(found["weights"][name][sure], weight[sure], rtol=0, atol=1e-5), name


def test_on_gpus_bf16_halves_what_is_gathered_and_leaves_sums_in_float32():
    """Whether FSDP2 does so is shown on a GPU (tests/gpu): without one, its exchanges are of the CPU alone."""
    policy = gathered_as("cuda", torch.bfloat16)
    assert (policy.param_dtype, policy.reduce_dtype) == (torch.bfloat16, torch.float32)
    assert not policy.cast_forward_inputs and policy.output_dtype is None
    for device, precision in (("cuda", torch.float32), ("cpu", torch.bfloat16)):
        assert gathered_as(device, precision).param_dtype is None


def test_weights_and_gradients_stay_float32(of_two):
    for case in CASES:
        found = torch.load(of_two / f"{case}.pt", weights_only=True)
        assert {tensor.dtype for tensor in found["weights"].values()} == {torch.float32}, case
        assert {tensor.dtype for tensor in found["gradients"].values()} == {torch.float32}, case


def test_what_is_read_on_the_host_goes_past_a_hook_that_moves_all_inputs():
    seen = {}

    class Model(nn.Module):
        def forward(self, **given):
            seen.update({name: tensor.device.type for name, tensor in given.items()})

    def move(module, args, given):  # as FSDP2's, which was registered before
        return args, {name: tensor.to("meta") for name, tensor in given.items()}

    model = Model()
    model.register_forward_pre_hook(move, prepend=True, with_kwargs=True)
    keep_on_host(model, ("attention_mask", "noise_keys"))
    for _ in range(2):
        model(input_ids=torch.ones(1), attention_mask=torch.ones(1))
    assert seen == {"input_ids": "meta", "attention_mask": "cpu"}


def test_fsdp_moves_inputs_before_hooks_that_were_registered_later():
    """What ``keep_on_host`` rests on: FSDP2's hook is the first of those that are prepended before it, and it moves."""
    source = inspect.getsource(FSDPState)
    assert "register_forward_pre_hook" in source and "prepend=True" in source and "_to_kwargs" in source
