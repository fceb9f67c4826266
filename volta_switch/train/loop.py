"""The training loop, shared by pre-training and fine-tuning."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from volta_switch.data.batches.batching import start_epoch
from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.model.bert import switch_encoder
from volta_switch.train.checkpoints import Progress, load_state, save_state
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, build_schedule, clipped_step
from volta_switch.train.run_folder import BEST, LATEST, RunFolder
from volta_switch.weights import to_volta, write_weights

LOG_EVERY = 20  # optimiser steps, as VOLTA

Losses = dict[str, Tensor]  # named scalars; the one under "loss" is descended


@dataclass(frozen=True)
class Validation:
    """What a validation found: ``score`` selects the best epoch (higher is better)."""

    score: float
    metrics: dict[str, float]


@dataclass
class Trainer:
    """One run: descend ``losses`` over ``loader``, validate after every epoch, keep the best and the latest.

    ``losses`` maps a batch to named scalars, each a mean over the batch. ``validate`` is called in evaluation mode,
    for Switch-BERT with hard and with soft routes. ``identity`` must agree when a run is resumed.
    """

    model: nn.Module
    losses: Callable[[Batch], Losses]
    loader: DataLoader
    validate: Callable[[], Validation]
    hyper: Hyperparameters
    run: RunFolder
    device: torch.device
    precision: torch.dtype
    identity: dict[str, Any]
    save_steps: int = 0  # also saves the latest state every so many optimiser steps
    keep_epochs: bool = True  # keeps each epoch's weights

    def __post_init__(self) -> None:
        self.switch = switch_encoder(self.model)
        self.optimizer = build_optimizer(self.model, self.hyper)
        sampler: Any = self.loader.batch_sampler
        self.steps_per_epoch = sampler.batches_per_epoch // self.hyper.grad_acc_steps
        if self.steps_per_epoch == 0:
            raise UserError(
                f"the training split gives {sampler.batches_per_epoch} batches, fewer than one optimiser step needs "
                f"({self.hyper.grad_acc_steps}); lower --gradient_accumulation_steps or the batch size"
            )
        self.scheduler = build_schedule(self.optimizer, self.hyper, self.steps_per_epoch)
        self.progress = Progress()

    def resume(self, path: Path) -> None:
        """Continues from a saved state."""
        self.progress = load_state(path, self.model, self.optimizer, self.scheduler, self.identity)

    def fit(self) -> Progress:
        """Trains to the last epoch; returns where the run stands."""
        while self.progress.epoch < self.hyper.epochs:
            self._epoch()
            self._finish_epoch()
        return self.progress

    def _epoch(self) -> None:
        """The rest of the epoch under way."""
        progress, accumulate = self.progress, self.hyper.grad_acc_steps
        start_epoch(self.loader, progress.epoch, progress.batch)
        self.model.train()
        meter = Meter(self.device)
        label = f"epoch {progress.epoch + 1}/{self.hyper.epochs}"
        batches = self.steps_per_epoch * accumulate  # an incomplete last group is left out
        with tqdm(total=batches, initial=progress.batch, desc=label, unit="batch", disable=None) as bar:
            for batch in self.loader:
                if progress.batch >= batches:
                    break
                if len(batch):  # else all its records were passed over
                    meter.add(self._backward(batch.to(self.device, non_blocking=True)), len(batch))
                progress.batch += 1
                progress.samples += len(batch)
                if progress.batch % accumulate == 0:
                    self._step()
                    if progress.step % LOG_EVERY == 0:
                        self._log(meter, bar)
                    if self.save_steps and progress.step % self.save_steps == 0:
                        self._save_latest()
                bar.update()
            if meter.samples:
                self._log(meter, bar)

    def _backward(self, batch: Batch) -> Losses:
        if self.switch is not None:
            self.switch.switch_samples.fill_(self.progress.samples)
        mixed = torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)
        with mixed:
            losses = self.losses(batch)
        (losses["loss"] / self.hyper.grad_acc_steps).backward()
        return {name: loss.detach() for name, loss in losses.items()}

    def _step(self) -> None:
        clipped_step(self.optimizer, self.hyper.clip_grad_norm)
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1

    def _log(self, meter: Meter, bar: tqdm) -> None:
        values = meter.read()
        values |= {"epoch": self.progress.epoch, "samples": self.progress.samples}
        values["lr"] = self.scheduler.get_last_lr()[0]
        rate = f"{values['samples_per_second']:.0f}"
        bar.set_postfix({"loss": f"{values['loss']:.3f}", "lr": f"{values['lr']:.1e}", "samples/s": rate})
        if self.switch is not None:
            values["temperature"] = float(self.switch.temperature)
        self.run.log("train", self.progress.step, values)

    def _finish_epoch(self) -> None:
        """Validates, keeps what is to be kept, and moves on."""
        progress = self.progress
        validation = self._validation()
        values = {"epoch": progress.epoch, "samples": progress.samples, "score": validation.score}
        values |= validation.metrics
        self.run.log("valid", progress.step, values)
        tqdm.write(f"validation after epoch {progress.epoch + 1}: {_shown(validation.metrics)}")
        improved = validation.score > progress.best_score
        if improved:
            progress.best_score, progress.best_epoch = validation.score, progress.epoch
            write_weights(self.run.path / BEST, to_volta(self.model))
            self.run.record("best_validation", values)
        if self.keep_epochs:
            write_weights(self.run.path / f"pytorch_model_{progress.epoch}.bin", to_volta(self.model))
        self.run.record("last_validation", values)
        progress.epoch += 1
        progress.batch = 0
        self._save_latest()

    def _validation(self) -> Validation:
        """One validation; for Switch-BERT the score is that of hard routes, soft routes are logged beside it."""
        self.model.eval()
        if self.switch is None:
            return self.validate()
        with routed(self.switch, "soft"):
            soft = self.validate()
        with routed(self.switch, "hard"):
            hard = self.validate()
        extra = {f"{name}_soft_routes": value for name, value in soft.metrics.items()}
        return Validation(hard.score, {**hard.metrics, **extra})

    def _save_latest(self) -> None:
        save_state(self.run.path / LATEST, self.model, self.optimizer, self.scheduler, self.progress, self.identity)


class Meter:
    """Running means that are read from the device only when logged."""

    def __init__(self, device: torch.device):
        self.device = device
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.batches = self.samples = 0
        self.since = time.perf_counter()

    def add(self, losses: Losses, samples: int) -> None:
        """Counts one batch."""
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=self.device)) + loss.float()
        self.batches += 1
        self.samples += samples

    def read(self) -> dict[str, Any]:
        """Means since the last reading, and samples per second."""
        values: dict[str, Any] = {name: float(total) / self.batches for name, total in self.sums.items()}
        values["samples_per_second"] = self.samples / max(time.perf_counter() - self.since, 1e-9)
        self._reset()
        return values


@contextlib.contextmanager
def routed(switch: Any, routing: str) -> Any:
    """Reads the switchers softly or hard within the block."""
    before, switch.routing = switch.routing, routing
    try:
        yield
    finally:
        switch.routing = before


def _shown(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
