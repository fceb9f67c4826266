"""One forward and backward pass of a small model: what two devices, or two ways to compute, are compared by.

The models have dropout and Gumbel noise that is a function of the samples, so that it is the same on every device.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from model.parts_of_batches import IDS, LOSSES, B, batch_of, config_of, gradients, model_of
from model.small_models import perturb_switchers, random_batch
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.data.batches.collate import Batch
from volta_switch.model.noise import sample_keys

# Beside the seven architectures, Switch-BERT with one, two and all modes of a layer, and with its inputs alone (SIB).
SWITCHED = {
    "switch, K = 1": {"top_k": 1},
    "switch, K = 2": {"top_k": 2},
    "switch, K = 4": {"top_k": 4},
    "switch, inputs alone": {"attention": False},
    "switch, modes alone": {"input": False},
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Found:
    """What a pass gave, on the CPU: losses by name, gradients by parameter."""

    losses: dict[str, float]
    gradients: dict[str, Tensor]

    def loss_error(self, other: Found) -> float:
        """The largest difference of a loss, as a share of it."""
        return max(abs(loss - other.losses[name]) / abs(other.losses[name]) for name, loss in self.losses.items())

    def gradient_error(self, other: Found) -> float:
        """The largest difference of a parameter's gradient, in norm, as a share of it.

        Of gradients that are next to nothing, as that of a bias which softmax ignores, a share of the typical one.
        """
        assert self.gradients.keys() == other.gradients.keys()
        norms = {name: float(gradient.norm()) for name, gradient in other.gradients.items()}
        typical = sorted(norms.values())[len(norms) // 2]
        differences = {name: float((self.gradients[name] - other.gradients[name]).norm()) for name in norms}
        return max(differences[name] / max(norms[name], typical) for name in norms)


@lru_cache
def prepared(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """A model on the CPU, in training, and a batch for it."""
    if name not in SWITCHED:
        return model_of(name), batch_of(name)
    values = config_of("switch").to_dict()
    config = load_config({**values, "switch": {**values["switch"], **SWITCHED[name]}})
    torch.manual_seed(0)
    model = BertForVLPreTraining(config).train()
    perturb_switchers(model)
    return model, random_batch(config, B, boxes=6)


def a_pass(
    name: str, device: torch.device, dtype: torch.dtype = torch.float32, epoch: int = 1, compiled: bool = False
) -> Found:
    """Forward and backward pass of a model on a device; autocast below float32. ``epoch``: of the noise."""
    kept, inputs = prepared(name)
    model = copy.deepcopy(kept).to(device)
    if compiled:
        from volta_switch.train.replicas import compile_layers

        compile_layers(model)
    batch = Batch(inputs, None, IDS).to(device)
    keys = sample_keys(3, epoch, IDS, B)
    low = dtype != torch.float32
    with torch.autocast(device.type, dtype) if low else nullcontext():
        out = model(**batch.inputs, noise_keys=keys)
    losses = {loss: getattr(out, loss) for loss in LOSSES}
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    return Found(
        {loss: float(value.detach()) for loss, value in losses.items()},
        {parameter: gradient.float().cpu() for parameter, gradient in gradients(model).items()},
    )
