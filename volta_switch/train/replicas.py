"""The model on all processes: alone, a whole one on each (DDP), or divided among them (FSDP2); and compiled layers.

With DDP, gradients are averaged without its search for unused parameters (``find_unused_parameters``). A process's part
of a batch may reach fewer parameters than another's: it may have no masked word. DDP's search exchanges what it found
in every step, and waits for the device in every step in which something was not reached; referring expressions leave
out the poolers. Its walk over the graph is cheap: 0.05 ms of the host for UNITER's 12 layers, 0.15 for Switch-BERT's;
to reach all parameters, as here, takes 0.29 and 0.16. Which parameters a whole step reaches depends only on which
losses have anything to be a mean of, on any process. So it is found out once for each such set of losses.

With FSDP2, every process keeps a share of each parameter, its gradient and its optimiser state.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from volta_switch.data.batches.collate import ON_HOST, Batch
from volta_switch.errors import UserError
from volta_switch.model.encoder import encoder_of
from volta_switch.model.switch import batch_statistics
from volta_switch.train.optimisation import Learner, Losses
from volta_switch.train.ranks import Ranks
from volta_switch.weights import to_volta

LOOK_AGAIN = 500  # steps of a set of losses until it is looked again, whether it still reaches the same


class Replicas:
    """A learner on all processes; gradients are means over the processes.

    ``learner`` stays what it was: validation and weights go by it.
    """

    def __init__(
        self,
        learner: Learner,
        ranks: Ranks,
        device: torch.device,
        sharded: bool = False,
        precision: torch.dtype = torch.float32,
    ):
        """Raises UserError where there is one process to divide the model among."""
        if sharded and ranks.count == 1:
            raise UserError("--fsdp divides a model among several processes; start them with torchrun")
        self.learner, self.ranks, self.sharded = learner, ranks, sharded
        self._averaged: AveragedLearner | None = None
        self._statistics = batch_statistics(learner.model)
        for one in self._statistics:
            one.deferred = True
        if sharded:
            shard(learner.model, init_device_mesh(device.type, (ranks.count,)), precision, ON_HOST)
        elif ranks.count > 1:
            self._averaged = AveragedLearner(learner, ranks)

    def __call__(self, batch: Batch) -> Losses:
        """Returns the losses of this process's part of a batch."""
        called: Callable[[Batch], Losses] = self._averaged or self.learner
        losses = called(batch)
        if not len(batch):  # it stands in for a part without samples
            for one in self._statistics:
                one.waiting.pop()
        return losses

    def step(self, losses: Sequence[str]) -> AbstractContextManager[None]:
        """Makes a block of all parts of one step.

        ``losses``: those that have anything to be a mean of, the same on all processes.
        """
        return nullcontext() if self._averaged is None else self._averaged.step(losses)

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Makes a block of one part of a step; the processes exchange gradients in the last one."""
        if self.sharded:
            cast(Any, self.learner.model).set_requires_gradient_sync(last)
        with nullcontext() if self._averaged is None else self._averaged.exchanging(last):
            yield

    def update_statistics(self) -> None:
        """Gives the switchers' running statistics what all parts of a step have seen, on all processes."""
        if not self._statistics:
            return
        sums = torch.cat([one.collect() for one in self._statistics])
        if self.ranks.count > 1:
            with self.ranks.together():
                distributed.all_reduce(sums)
        sizes = [1 + 2 * len(one.mean) for one in self._statistics]
        for one, of_one in zip(self._statistics, sums.split(sizes), strict=True):
            one.update(of_one)

    def weights(self) -> dict[str, Tensor]:
        """Returns the whole model under VOLTA's names, shared weights as one tensor; all processes call it."""
        model = self.learner.model
        parameters = {name: id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False)}
        gathered: dict[Any, Tensor] = {}
        whole = {}
        for name, tensor in to_volta(model).items():
            one = parameters.get(name, name)
            if one not in gathered:
                gathered[one] = _whole(tensor)
            whole[name] = gathered[one]
        return whole

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """Returns what the optimiser keeps, ``exp_avg/<parameter>``, whole; all processes call it."""
        kept = {}
        for name, parameter in self.learner.model.named_parameters():
            for kind, value in optimizer.state.get(parameter, {}).items():
                kept[f"{kind}/{name}"] = _whole(value).detach()
        return kept

    def restore_optimizer(self, optimizer: torch.optim.Optimizer, kept: dict[str, Tensor]) -> None:
        """Gives the optimiser what ``optimizer_state`` returned, on any number of processes."""
        of_parameter: dict[str, dict[str, Tensor]] = {}
        for key, value in kept.items():
            kind, name = key.split("/", 1)
            of_parameter.setdefault(name, {})[kind] = value
        for name, parameter in self.learner.model.named_parameters():
            for kind, value in of_parameter.pop(name, {}).items():
                if value.shape != (() if kind == "step" else parameter.shape):
                    raise UserError(f"the optimiser's {kind} of {name} has shape {list(value.shape)}; start anew")
                optimizer.state[parameter][kind] = _like(value, parameter)
        if of_parameter:
            raise UserError(f"the optimiser's state is of parameters that the model lacks ({min(of_parameter)})")


def _whole(tensor: Tensor) -> Tensor:
    """Returns all of a divided tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(value: Tensor, parameter: Tensor) -> Tensor:
    """Returns a value on a parameter's device, and divided as it is; a scalar stays whole."""
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor) and value.shape == parameter.shape:
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return value.clone()


class AveragedLearner:
    """A learner that is called as before; in the last part of a step gradients become means over the processes.

    Parameters that no process reached have no gradient afterwards, as on one process: the optimiser passes over them.
    """

    def __init__(self, learner: Learner, ranks: Ranks):
        self._learner, self._ranks = learner, ranks
        self._called = DistributedDataParallel(learner, gradient_as_bucket_view=True)
        self._parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self._steps: dict[tuple[str, ...], int] = {}
        self._unreached: dict[tuple[str, ...], list[int]] = {}  # numbers of parameters

    def __call__(self, batch: Batch) -> Losses:
        """Returns the losses of this process's part."""
        losses = self._called(batch)
        return dict(
            zip(losses, _TouchAllParameters.apply(len(losses), *losses.values(), *self._parameters), strict=True)
        )

    def exchanging(self, last: bool) -> Any:
        """Returns a block in which one part's gradients are computed; those of the last part are averaged."""
        return nullcontext() if last else self._called.no_sync()

    @contextmanager
    def step(self, losses: Sequence[str]) -> Iterator[None]:
        """Makes a block of all parts of one step.

        ``losses``: those that have anything to be a mean of, the same on all processes.
        """
        names = tuple(losses)
        looks = self._steps.get(names, 0) % LOOK_AGAIN == 0
        self._steps[names] = self._steps.get(names, 0) + 1
        if looks:
            with self._noting() as reached:
                yield
            self._learn(names, reached)
        else:
            yield
        for number in self._unreached[names]:
            self._parameters[number].grad = None

    @contextmanager
    def _noting(self) -> Iterator[set[int]]:
        """Yields the numbers of the parameters that get a gradient from this process's parts."""
        reached: set[int] = set()

        def note(parameter: Tensor, number: int) -> None:
            if parameter.grad is not None:  # DDP, which gives zeros where nothing came, comes after this
                reached.add(number)

        hooks = [
            parameter.register_post_accumulate_grad_hook(partial(note, number=number))
            for number, parameter in enumerate(self._parameters)
        ]
        try:
            yield reached
        finally:
            for hook in hooks:
                hook.remove()

    def _learn(self, names: tuple[str, ...], reached: set[int]) -> None:
        everywhere = set().union(*self._ranks.gathered(sorted(reached)))
        unreached = [number for number in range(len(self._parameters)) if number not in everywhere]
        if self._unreached.setdefault(names, unreached) != unreached:
            raise RuntimeError(f"the losses {', '.join(names)} reach other parameters than {LOOK_AGAIN} steps ago")


class _TouchAllParameters(torch.autograd.Function):
    """Losses as they are, from which the backward pass reaches every parameter, with no gradient of its own.

    DDP waits for each parameter to be reached.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *losses_and_parameters: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Takes ``count`` scalars, then parameters; returns the scalars."""
        ctx.set_materialize_grads(False)
        ctx.parameters = len(losses_and_parameters) - count
        return tuple(loss.view_as(loss) for loss in losses_and_parameters[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Returns the losses' gradients, and none for parameters."""
        return (None, *grads, *[None] * ctx.parameters)


def shard(
    model: nn.Module, mesh: DeviceMesh, precision: torch.dtype = torch.float32, on_host: Collection[str] = ()
) -> None:
    """Shards a model in place: each sublayer of its encoder is gathered by itself, the rest as one.

    Afterwards parameters can be read in a forward pass of the whole model alone; elsewhere they are DTensors, of which
    this process has a part. The rest (embeddings, switchers, heads) stays gathered from the forward pass to the
    backward pass: the word table is read at both ends of a model.

    Args:
        model: one of ``bert``'s, before its optimiser is made.
        mesh: one-dimensional, of all processes.
        precision: of the forward pass, see ``gathered_as``; the rest of the model is gathered in float32.
        on_host: the forward pass's keyword arguments that stay on the CPU.
    """
    policy = gathered_as(mesh.device_type, precision)
    sharded = [fully_shard(layer, mesh=mesh, mp_policy=policy) for layer in encoder_of(model).layer]
    for module in (*sharded, fully_shard(model, mesh=mesh)):
        if mesh.device_type == "cpu":
            # PyTorch 2.8's gloo sums where an average is asked for, and says nothing: gradients were too large by the
            # number of processes (github.com/pytorch/pytorch/issues/162338). A sum, divided afterwards, is the average.
            module.set_force_sum_reduction_for_comms(True)
    keep_on_host(model, on_host)


def gathered_as(device: str, precision: torch.dtype) -> MixedPrecisionPolicy:
    """Returns how sublayers are gathered: on GPUs in the forward pass's precision, half the bytes in bfloat16.

    Autocast would round the matrices to it in any case; the LayerNorms' weights are rounded beside (differs from DDP),
    and computed with in float32. What is kept, gradients while they are added up, and the residual stream stay float32.
    On a CPU everything is gathered in float32: autocast leaves LayerNorm out there, and its kernel takes no mixture.
    """
    if device != "cuda" or precision == torch.float32:
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    return MixedPrecisionPolicy(precision, torch.float32, cast_forward_inputs=False)


def keep_on_host(model: nn.Module, names: Collection[str]) -> None:
    """Takes keyword arguments past what sends all inputs to a GPU before a forward pass, as FSDP2's hook does.

    They are read on the host, so that they would be waited for on their way back.
    """
    kept: dict[str, Tensor] = {}

    def take(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        kept.update({name: given.pop(name) for name in names if name in given})
        return args, given

    def give(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        given = given | kept
        kept.clear()
        return args, given

    model.register_forward_pre_hook(take, prepend=True, with_kwargs=True)
    model.register_forward_pre_hook(give, with_kwargs=True)


def compile_layers(model: nn.Module) -> None:
    """Compiles each sublayer of a model's encoder in place, for any number of rows, when it is first called."""
    torch._dynamo.config.recompile_limit = 64  # all sublayers of a kind share one limit
    for layer in encoder_of(model).layer:
        layer.compile(dynamic=True)
