"""What a process says when it cannot exchange with the others, and how it leaves them."""

import pytest
import torch.distributed as distributed

from volta_switch import UserError
from volta_switch.train import ranks
from volta_switch.train.ranks import Ranks

NCCL = "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, "
PEER_GONE = (
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:41953",
    "[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Read error [127.0.0.1]:27018: Connection reset by peer",
    "failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    NCCL + "remote process exited or there was a network error, NCCL version 2.27.5\n"
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\n"
    "Last error:\nsocketProgress: Connection closed by remote peer",
    "NCCL communicator was aborted on rank 1.",
)
OTHER_ERRORS = {  # what is said -> what must be told
    NCCL + "invalid usage (run with NCCL_WARN for details), NCCL version 2.27.5\n"
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
    "Last error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 81000": "Duplicate GPU detected",
    NCCL + "unhandled cuda error (run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'": "Cuda failure 2 'out of memory'",
    NCCL + "internal error, NCCL version 2.27.5\nncclInternalError: Internal check failed.": "ncclInternalError",
    "[enforce fail at ../third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4": (
        "op.preamble.length <= op.nbytes. 8 vs 4"
    ),
}


def said(message):
    with pytest.raises(UserError) as caught, Ranks(1, 2).together():
        raise RuntimeError(message)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("message", PEER_GONE)
def test_a_peer_that_is_gone_is_told(message):
    assert said(message).startswith("process 1 of 2: another one has ended, and its own lines say why (")


@pytest.mark.parametrize("message", OTHER_ERRORS)
def test_other_errors_of_an_exchange_are_told_by_their_own_words(message):
    line = said(message)
    assert "another one has ended" not in line and "cannot exchange tensors" in line
    assert OTHER_ERRORS[message] in line


def test_errors_of_something_else_are_not_touched():
    with pytest.raises(RuntimeError, match=r"^shapes \(2, 3\)$"), Ranks(0, 2).together():
        raise RuntimeError("shapes (2, 3)")
    with pytest.raises(RuntimeError, match="NCCL error"), Ranks().together():  # there is nobody to exchange with
        raise RuntimeError("NCCL error")


@pytest.mark.parametrize(("backend", "left"), [("cpu:gloo,cuda:nccl", "abort"), ("cpu:gloo,cuda:gloo", "destroy")])
def test_after_an_error_nccl_is_aborted_since_its_ordinary_end_may_wait_for_ever(monkeypatch, backend, left):
    """Whether NCCL waits can be seen with two GPUs alone; here, which way out is taken."""
    way = []
    monkeypatch.setattr(distributed, "get_backend_config", lambda: backend)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: way.append("destroy"))
    monkeypatch.setattr(distributed.distributed_c10d, "_abort_process_group", lambda: way.append("abort"))
    ranks._part_after_error()
    assert way == [left]
