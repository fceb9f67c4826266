"""torch.compile, applied where a model spends its time."""

from __future__ import annotations

import torch
from torch import nn

from volta_switch.model.encoder import encoder_of


def compile_layers(model: nn.Module) -> None:
    """Compiles each sublayer of a model's encoder in place, for any number of rows, when it is first called."""
    torch._dynamo.config.recompile_limit = 64  # all sublayers of a kind share one limit
    for layer in encoder_of(model).layer:
        layer.compile(dynamic=True)
