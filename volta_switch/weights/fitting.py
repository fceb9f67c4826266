"""What a tensor must be to become a model's parameter: of real numbers, dense, of the right shape, finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from volta_switch.errors import UserError
from volta_switch.weights.names import some

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def fitted(own: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str, advice: str) -> dict[str, Tensor]:
    """Tensors as a model takes them, each of its parameter's type.

    Args:
        own: the model's state.
        given: what is to be loaded, under the model's names. Floating-point numbers of 16, 32 and 64 bits are taken.
        source: where it came from, for messages.
        advice: what to do about another shape.

    Raises:
        UserError: a tensor is of another kind or shape, or holds a number that is not finite.
    """
    for name, tensor in given.items():
        if found := _other_kind(own[name], tensor):
            kind = "floating-point numbers" if own[name].is_floating_point() else "whole numbers"
            raise UserError(f"{source}: {some([name])} is {found}; expected a dense tensor of {kind}")
    for name, tensor in given.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{source}: {name} has shape {list(tensor.shape)}, the model expects {list(own[name].shape)}; {advice}"
            )
    cast = {name: tensor.to(own[name].dtype) for name, tensor in given.items()}
    # After the cast: what 64 bits hold may be infinite in 32.
    check_finite(cast, source, "; nothing can be computed with them: give other weights, such as an earlier epoch's")
    return cast


def check_finite(state: Mapping[str, Tensor], source: str, advice: str = "") -> None:
    """Raises UserError, which names the weights, where some hold numbers that are not finite."""
    wrong = [name for name, tensor in state.items() if not _is_finite(tensor)]
    if wrong:
        hold = "holds" if len(wrong) == 1 else "hold"
        raise UserError(f"{source}: {some(wrong)} {hold} numbers that are not finite (NaN, or beyond float32){advice}")


def check_shared(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Raises UserError where names of one shared weight hold different values."""
    for names in shared_names(model):
        given = [name for name in names if name in state]
        if any(not torch.equal(state[given[0]], state[name]) for name in given[1:]):
            raise UserError(f"{source}: {some(given)} are one shared weight in this model but hold different values")


def shared_names(model: nn.Module) -> list[list[str]]:
    """Groups of names that stand for one parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are; the extremes say it, a NaN being both, in a seventh of ``isfinite``'s time."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    return all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(tensor))


def _other_kind(own: Tensor, given: Tensor) -> str:
    """What keeps a tensor from being a parameter, whatever its shape; "" where nothing does."""
    if given.is_nested or given.layout != torch.strided:
        return "a sparse or nested tensor"
    if given.is_meta:
        return "a tensor without values (meta)"
    if given.dtype not in (_FLOATS if own.is_floating_point() else _WHOLE):
        return f"a tensor of {str(given.dtype).removeprefix('torch.')}"
    return ""
