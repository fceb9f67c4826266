"""The pretended device itself: what it computes, refuses and notes."""

import copy
import threading

import pretended
import pytest
import torch
import torch.nn.functional as F

DEVICE = torch.device("cuda", 0)


def kinds(events):
    return [event.kind for event in events]


def test_pytorch_takes_it_for_a_gpu():
    assert torch.cuda.is_available() and torch.cuda.device_count() == 1 and torch.cuda.current_device() == 0
    assert torch.cuda.is_bf16_supported() and torch.cuda.get_device_name()
    assert torch.ones(2, device="cuda").device == DEVICE
    with pytest.raises(ValueError, match="specified index"):  # PyTorch's own check, not one of this device
        torch.cuda.set_device(torch.device("cuda"))


def test_it_computes_what_the_cpu_computes_and_so_does_its_backward_pass():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    x, wanted = torch.randn(5, 6), torch.randint(3, (5,))
    gradients = []
    for device in ("cpu", "cuda"):
        here = copy.deepcopy(model).to(device)
        F.cross_entropy(here(x.to(device)), wanted.to(device)).backward()
        assert all(parameter.grad.device.type == device for parameter in here.parameters())
        gradients.append([parameter.grad.cpu() for parameter in here.parameters()])
    for cpu, cuda in zip(*gradients, strict=True):
        torch.testing.assert_close(cpu, cuda, rtol=1e-5, atol=1e-6)


def test_views_share_memory_and_inference_mode_is_pytorchs():
    rows = torch.zeros(4, 3, device=DEVICE)
    rows.t()[1:].unflatten(0, (2, 1)).add_(1)
    assert rows.sum().item() == 8
    with torch.inference_mode():
        made = rows + 1
        assert made.is_inference() and not rows[1:].is_inference()
    with pytest.raises(RuntimeError, match="nference"):
        made.requires_grad_().sum().backward()


@pytest.mark.parametrize(
    "mixing",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: here.index_select(0, there.long()),
        lambda here, there: there[here.long()],
        lambda here, there: F.linear(here, there.expand(2, 3)),
        lambda here, there: here.add_(there),
        lambda here, there: torch.where(here > 0, here, there),
    ],
)
def test_tensors_of_two_devices_are_refused(mixing):
    with pytest.raises(RuntimeError, match="device"):
        mixing(torch.ones(3, device=DEVICE), torch.ones(3))


def test_a_scalar_of_the_host_goes_everywhere():
    assert (torch.ones(3, device=DEVICE) * torch.tensor(2.0)).sum().item() == 6


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).all()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: x.index_put_((x > 0,), torch.zeros((), device=DEVICE)),
        lambda x: torch.cuda.synchronize(),
        lambda x: torch.empty(3).copy_(x, non_blocking=True),  # to memory that is not pinned
        lambda x: x.copy_(torch.ones(3).pin_memory()),  # pinned, but not asked to go on
    ],
)
def test_waiting_is_noted(waiting):
    x = torch.ones(3, device=DEVICE)
    with pretended.watched() as events:
        waiting(x)
    assert "wait" in kinds(events)


def test_what_does_not_wait_is_not_noted():
    x = torch.ones(3, device=DEVICE)
    with pretended.watched() as events:
        y = torch.where(x > 0, x, 0.0).index_select(0, torch.arange(3, device=DEVICE)).softmax(0)
        y.new_zeros(3).index_copy_(0, torch.arange(3, device=DEVICE), y).sum()
    assert not events


def test_copies_are_pinned_or_pageable_and_pinning_is_for_the_host_alone():
    host = torch.ones(1000)
    pinned = host.pin_memory()
    assert pinned.is_pinned() and pinned[10:].is_pinned() and not host.is_pinned()
    with pretended.watched() as events:
        pinned.to(DEVICE, non_blocking=True)
        host.to(DEVICE, non_blocking=True)
        torch.tensor([1.0], device=DEVICE)
        torch.ones(3, device=DEVICE)[torch.tensor([0, 1])]  # an index of the host
    assert kinds(events)[:4] == ["pinned", "pageable", "pageable", "pageable"]
    assert events[0].size == 4000
    with pytest.raises(RuntimeError, match="only dense CPU tensors can be pinned"):
        torch.ones(3, device=DEVICE).pin_memory()


def test_its_random_numbers_are_its_own():
    torch.manual_seed(3)
    of_cpu, of_device = torch.get_rng_state(), torch.cuda.get_rng_state()
    first = torch.rand(5, device=DEVICE), F.dropout(torch.ones(100, device=DEVICE), 0.5)
    assert torch.equal(of_cpu, torch.get_rng_state()) and not torch.equal(of_device, torch.cuda.get_rng_state())
    assert 0 < first[1].mean().item() < 2
    torch.cuda.set_rng_state(of_device)
    second = torch.rand(5, device=DEVICE), F.dropout(torch.ones(100, device=DEVICE), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_autocast_scaling_and_the_fused_optimiser_take_their_paths_for_gpus():
    model = torch.nn.Linear(4, 4).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cuda", init_scale=1024.0)
    with torch.autocast("cuda", torch.float16):
        out = model(torch.randn(2, 4, device=DEVICE))
        assert out.dtype == torch.float16 and F.layer_norm(out, (4,)).dtype == torch.float32
    before = model.weight.clone()
    scaler.scale(out.float().sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 1024 and not torch.equal(before, model.weight)
    assert optimizer.state[model.weight]["exp_avg"].device == DEVICE
    scaler.scale(model(torch.full((2, 4), float("inf"), device=DEVICE)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 512


def test_events_say_who_caused_them_and_the_backward_pass_has_a_thread_of_its_own():
    threads = set()

    class Noting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            threads.add(threading.get_ident())
            grad.sum().item()
            return grad

    x = torch.ones(2, device=DEVICE, requires_grad=True)
    with pretended.watched() as events:
        Noting.apply(x).sum().backward()
    assert threads and threads != {threading.get_ident()}
    assert kinds(events) == ["wait"] and events[0].calls == ()


def test_memory_is_counted():
    before = torch.cuda.memory_allocated()
    block = torch.empty(2**20, device=DEVICE)
    assert torch.cuda.memory_allocated() - before == 2**22 <= torch.cuda.max_memory_allocated()
    del block
    assert torch.cuda.memory_allocated() == before


def test_launches_are_counted_and_views_are_none():
    x = torch.ones(4, 4, device=DEVICE)
    before = pretended.launches()
    x.t()[1:].view(-1) if x.t()[1:].is_contiguous() else x.t()[1:]
    assert pretended.launches() == before
    x + x
    assert pretended.launches() == before + 1
