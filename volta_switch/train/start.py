"""The start of a training run, the same for pre-training and fine-tuning."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from volta_switch.config import Config
from volta_switch.data.batches.collate import Batch
from volta_switch.train.loop import Losses, Trainer, Validation
from volta_switch.train.optimisation import Hyperparameters
from volta_switch.train.run_folder import LATEST, RunFolder
from volta_switch.weights import fingerprint


@dataclass(frozen=True)
class Run:
    """What distinguishes one run: its name, its model and how that came about, its data and its settings."""

    entry_point: str  # "train_concap"
    name: str  # the run folder's
    config: Config
    hyper: Hyperparameters
    model: nn.Module
    start: str  # where the model's weights come from, in words
    settings: dict[str, Any]  # beside the hyperparameters; must agree when the run is resumed
    data: dict[str, str]  # where the data lie
    losses: Callable[[Batch], Losses]
    loader: DataLoader
    validate: Callable[[], Validation]


def start_run(
    args: argparse.Namespace, argv: Sequence[str], run: Run, device: torch.device, precision: torch.dtype
) -> Trainer:
    """Builds the trainer, resumes where asked, and only then writes the run folder's first files.

    Raises:
        UserError: the run cannot be resumed, or its folder cannot be made; nothing is written.
    """
    hyper = run.hyper.to_dict()
    parameters = sum(parameter.numel() for parameter in run.model.parameters())
    folder = RunFolder(Path(args.output_dir) / run.name, Path(args.logdir) / run.name)
    trainer = Trainer(
        model=run.model,
        losses=run.losses,
        loader=run.loader,
        validate=run.validate,
        hyper=run.hyper,
        run=folder,
        device=device,
        precision=precision,
        identity={
            "config": run.config.to_dict(),
            "hyperparameters": hyper,
            "start": fingerprint(run.model),
            **run.settings,
        },
        save_steps=args.save_steps,
        keep_epochs=not args.save_best_only,
    )
    latest = Path(args.resume_file) if args.resume_file else folder.path / LATEST
    resumed = bool(args.resume_file) or (args.resume and latest.is_file())
    if resumed:
        trainer.resume(latest)
    described = {
        "entry_point": run.entry_point,
        "start": run.start,
        "hyperparameters": hyper,
        "settings": run.settings,
        "data": run.data,
        "precision": str(precision).removeprefix("torch."),
        "parameters": parameters,
    }
    folder.start(run.config, [f"{run.entry_point}.py", *argv], described, resumed, trainer.progress.step)
    print(f"{folder.path}: {parameters / 1e6:.2f} M parameters, {run.start}, on {device}", file=sys.stderr)
    return trainer
