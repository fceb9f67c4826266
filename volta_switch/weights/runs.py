"""Weights under VOLTA's names: a model's, and those of VOLTA's and this project's runs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from volta_switch.errors import UserError
from volta_switch.weights.fitting import check_shared, fitted, shared_names
from volta_switch.weights.names import normalised, some
from volta_switch.weights.origins import refuse_bert, refuse_others

__all__ = ["fingerprint", "load_volta", "shared_names", "to_volta"]


def to_volta(model: nn.Module) -> dict[str, Tensor]:
    """The model's state under VOLTA's names and shapes, shared weights repeated as VOLTA repeats them."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def load_volta(
    model: nn.Module,
    state: Mapping[str, Tensor],
    fresh: Sequence[str] = (),
    unused: Sequence[str] = (),
    source: str = "state dict",
) -> list[str]:
    """Loads a state under VOLTA's names into a model, accounting for every name, shape and type.

    Args:
        model: ``BertForVLPreTraining`` or ``BertForVLTasks``.
        state: name -> tensor, in any spelling that ``names`` knows; floating-point numbers of any width.
        fresh: parts of names that may be missing and then keep their initial values, such as ``("switch",)``.
        unused: beginnings of names that may be left over, such as ``("cls.",)`` for a pre-training head.
        source: where the state came from, for messages.

    Returns:
        The names that kept their initial values.

    Raises:
        UserError: a name is missing, left over or there twice, a tensor is misshapen, of another kind or not finite, or
            two names of one shared weight differ. The model is as it was.
    """
    state = normalised(state, source)
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    kept = [name for name in missing if any(part in name for part in fresh)]
    lost = [name for name in missing if name not in kept]
    extra = [name for name in state if name not in own and not name.startswith(tuple(unused))]
    if lost or extra:
        wanted = "give weights of a run, this project's or VOLTA's"
        refuse_others(state, source, wanted)
        refuse_bert(state, source, wanted)
    if lost:
        raise UserError(f"{source}: {some(lost)} missing; is it a checkpoint of another architecture or head?")
    if extra:
        raise UserError(f"{source}: {some(extra)} unexpected; is it a checkpoint of another architecture or head?")
    given = {name: state[name] for name in own if name in state}
    given = fitted(own, given, source, "is it a checkpoint of another size?")
    check_shared(model, given, source)
    model.load_state_dict(given, strict=False)
    return kept


def fingerprint(model: nn.Module) -> str:
    """A short checksum of the model's weights: equal where two runs start from the same ones."""
    digest = hashlib.sha256()
    for name, tensor in to_volta(model).items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
