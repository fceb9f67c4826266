"""Checkpoints: weights that VOLTA loads too, and the state that continues a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.files import replacing
from volta_switch.model.bert import switch_encoder
from volta_switch.weights import load_bert, load_plain, load_volta, read_weights, to_volta

FORMAT = "volta_switch training state 1"


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0  # the epoch under way
    batch: int = 0  # batches of it that are done
    step: int = 0  # optimiser steps
    samples: int = 0  # training samples seen
    best_score: float = float("-inf")
    best_epoch: int = -1


def initial_weights(model: nn.Module, config: Config, source: str) -> str:
    """Sets a model's start: from nothing (``""``), another run's weights, or a Hugging Face BERT.

    Returns:
        What was done, in words for the log.
    """
    if not source:
        return "random initial weights"
    path = Path(source)
    if path.suffix in (".bin", ".safetensors", ".pt") or path.is_file():
        state = read_weights(path)
        if any(".attention_self." in name for name in state):
            return _from_run(model, state, path)
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


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    progress: Progress,
    identity: dict[str, Any],
) -> None:
    """Writes everything that a run needs to go on; ``identity`` must be the same when it does."""
    state = {
        "format": FORMAT,
        "model_state_dict": to_volta(model),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": {"last_epoch": scheduler.last_epoch},
        "progress": asdict(progress),
        "rng": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
        "identity": identity,
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LambdaLR,
    identity: dict[str, Any],
) -> Progress:
    """Continues where ``save_state`` left off.

    Raises:
        UserError: the file is missing, damaged, of another program, or of a run with other settings (named).
    """
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint to resume from; leave out --resume and --resume_file to start anew")
    state = load_plain(path, "a checkpoint")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a training state of this program; start from weights with --from_pretrained")
    if difference := _difference("", state["identity"], identity):
        name, before, now = difference
        raise UserError(
            f"{path}: the run was started with {name} = {before}, now it is {now}; use the same settings, or leave out "
            "--resume and --resume_file to start anew"
        )
    load_volta(model, state["model_state_dict"], source=str(path))
    optimizer.load_state_dict(state["optimizer_state_dict"])  # the present rates are in it
    scheduler.last_epoch = state["scheduler_state_dict"]["last_epoch"]
    torch.set_rng_state(state["rng"]["cpu"])
    if state["rng"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["rng"]["cuda"])
    return Progress(**state["progress"])


def _difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any] | None:
    """The first setting that differs, ``hyperparameters.seed``, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now}, key=lambda key: (key == "start", key))  # a setting says more than the weights
        inside = (_difference(f"{name}.{key}".lstrip("."), before.get(key), now.get(key)) for key in keys)
        return next(filter(None, inside), None)
    return None if before == now else (name, before, now)
