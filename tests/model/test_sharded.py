"""Two processes, by DDP or FSDP2 (gloo, CPU), train as one does: losses, gradients, weights after a step of AdamW."""

import pytest
import torch

from model.sharded_steps import CASES, RANKS, run, step
from volta_switch.model.layout import Streams

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """The folder with what two processes found in each case."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(run, (folder,), RANKS)
    return folder


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_train_as_one(case, of_two):
    expected, found = step(case, None), torch.load(of_two / f"{case}.pt", weights_only=True)
    for key, loss in expected["losses"].items():
        assert float(found["losses"][key]) == pytest.approx(float(loss), rel=TOLERANCE), key
    largest = max(float(gradient.abs().max()) for gradient in expected["gradients"].values())
    for name, gradient in found["gradients"].items():
        other = expected["gradients"].get(name, torch.zeros(()))  # FSDP gives zeros where one process gives nothing
        assert (gradient - other).abs().max() < TOLERANCE * max(1.0, largest), name
    assert expected["gradients"].keys() <= found["gradients"].keys()
    for name, weight in expected["weights"].items():
        if name not in expected["gradients"]:
            continue
        # The first step of AdamW moves a weight by its gradient's sign, where that is not near 0.
        sure = expected["gradients"][name].abs() > 1e-4
        assert torch.allclose(found["weights"][name][sure], weight[sure], rtol=0, atol=TOLERANCE), name


@pytest.mark.parametrize("joined", [False, True])
def test_pytrees_know_the_states(joined):
    given = Streams(None, torch.rand(5, 3), 2) if joined else Streams((torch.rand(2, 3), torch.rand(3, 4)))
    out = torch.utils._pytree.tree_map_only(torch.Tensor, lambda tensor: 2 * tensor, given)
    assert isinstance(out, Streams) and out.count == 2
    assert torch.equal(out.text, 2 * given.text) and torch.equal(out.vision, 2 * given.vision)
