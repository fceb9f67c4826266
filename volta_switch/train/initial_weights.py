"""The weights that a run starts from: random ones, another run's, or a Hugging Face BERT's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from volta_switch.config import Config
from volta_switch.hub import is_weight_file
from volta_switch.model.bert import switch_encoder
from volta_switch.weights import load_bert, load_volta, read_weights


def initial_weights(model: nn.Module, config: Config, source: str) -> str:
    """Sets a model's start: from nothing (``""``), another run's weights, or a Hugging Face BERT.

    Returns:
        What was done, in words for the log.
    """
    if not source:
        return "random initial weights"
    if is_weight_file(source):
        state = read_weights(source)
        if any(".attention_self." in name for name in state):
            return _from_run(model, state, Path(source))
    load_bert(model, config, source)
    return f"text side from {source}"


def _from_run(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> str:
    heads = ("clfs_dict",) if hasattr(model, "clfs_dict") else ()
    switched = switch_encoder(model)
    fresh = (*heads, "switch") if switched is not None and not any("switch" in name for name in state) else heads
    left = ("cls.",) if heads else ("clfs_dict",)
    kept = load_volta(model, state, fresh=fresh, unused=left, source=str(path))
    if switched is not None:  # another run's weights: the temperature starts anew, lower
        switched.start_annealing(switched.switch.finetune_temperature)
    started = sorted({name.split(".")[0] if "switch" not in name else "switchers" for name in kept})
    return f"weights from {path}" + (f"; fresh: {', '.join(started)}" if started else "")
