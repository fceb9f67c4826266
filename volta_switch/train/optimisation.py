"""What is optimised and how: models with their losses, the optimiser, its schedule, and steps that are left out."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from tqdm import tqdm

from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.ranges import (
    ADAM_BETA,
    ADAM_EPSILON,
    BATCH_SIZE,
    EPOCHS,
    GRADIENT_NORM,
    LEARNING_RATE,
    PROBABILITY,
    SEED,
    WARMUP_PROPORTION,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    Many,
    OrNone,
    bounded,
    read_fields,
    required,
    shown,
)
from volta_switch.train.checkpoints import TrainingProgress
from volta_switch.train.ranks import Ranks
from volta_switch.train.run_folder import RunFolder

Losses = dict[str, Tensor]  # named scalars; their sum is descended
LossCounts = dict[str, int]


class Learner(nn.Module, ABC):
    """A model with its losses. Each loss is a mean over as many things as ``counts`` says.

    A batch may be divided among processes and accumulation steps: the losses of the whole are the parts' losses,
    weighted by their counts. ``losses`` names them, the same for every batch.
    """

    losses: tuple[str, ...]
    head: Mapping[str, Any] | None = None  # what the model's task head was built for; None: pre-training

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """Returns the losses of a batch that lies on the model's device."""

    @abstractmethod
    def counts(self, batch: Batch) -> LossCounts:
        """Returns how many words, regions or samples each loss of a batch is a mean of.

        It is asked before the batch is moved, and reads nothing from the device. 0 for a stand-in.
        """


@dataclass(frozen=True)
class Validation:
    """What a validation found: ``score`` selects the best epoch (higher is better)."""

    score: float
    metrics: dict[str, float]

    @property
    def shown(self) -> str:
        """Returns the metrics as a line says them."""
        return _shown(self.metrics)

    def refuse_broken(self, run: Path, step: int) -> None:
        """Keeps weights that compute no numbers from becoming a run's best.

        Args:
            run: the run's folder, for the message.
            step: after which it was validated.

        Raises:
            UserError: the score, a loss or a metric is not finite.
        """
        found = {"score": self.score, **self.metrics}
        broken = {name: value for name, value in found.items() if not math.isfinite(value)}
        if broken:
            raise UserError(
                f"{run}: validation after step {step}: {_shown(broken)}, expected finite numbers; no weights are "
                "written, and what was written before stays; lower the learning rate, take --precision bf16 or fp32, "
                "or go back to an earlier checkpoint (--resume_file)"
            )


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that may change what a run learns, the model's configuration and the data aside.

    Two runs are compared only where these agree. How a step is divided among processes and accumulation steps is not
    among them: it changes nothing but rounding and which random numbers are drawn (``--deterministic``: not these).
    """

    epochs: int = required(EPOCHS)
    batch_size: int = required(BATCH_SIZE)  # samples per optimiser step, of all processes and accumulation steps
    learning_rate: float = required(LEARNING_RATE)  # the peak
    warmup_proportion: float = bounded(0.1, WARMUP_PROPORTION)  # of all optimiser steps
    warmup_steps: float | None = bounded(None, OrNone(WARMUP_STEPS))  # overrides the proportion
    schedule_epochs: int | None = bounded(None, OrNone(EPOCHS))  # the schedule's length; None: the epochs trained
    adam_betas: tuple[float, float] = bounded((0.9, 0.999), Many(ADAM_BETA))
    adam_epsilon: float = bounded(1e-6, ADAM_EPSILON)
    weight_decay: float = bounded(0.01, WEIGHT_DECAY)  # none on biases and LayerNorm
    clip_grad_norm: float = bounded(0.0, GRADIENT_NORM)  # 0: none
    seed: int = bounded(0, SEED)
    head_prior: float = bounded(0.5, PROBABILITY)  # fine-tuning: what a task head's outputs start from (0.5: zero bias)

    def __post_init__(self) -> None:
        read_fields(self)
        if len(self.adam_betas) != 2:
            raise UserError(f"adam_betas: expected two numbers, found {shown(self.adam_betas)}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the values as JSON types."""
        values = asdict(self)
        return {**values, "adam_betas": list(self.adam_betas)}


def build_optimizer(model: nn.Module, hyper: Hyperparameters) -> torch.optim.AdamW:
    """Builds bias-corrected AdamW: matrices and embeddings decay, vectors (biases, LayerNorm) do not.

    Differs from VOLTA: there is one group per kind and not one per parameter (so that the fused kernel pays), every
    LayerNorm is spared (VOLTA's name test misses some), and epsilon is added after the bias correction.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    spared = [parameter for parameter in parameters if parameter.dim() <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": hyper.weight_decay}, {"params": spared, "weight_decay": 0.0}],
        lr=hyper.learning_rate,
        betas=hyper.adam_betas,
        eps=hyper.adam_epsilon,
        fused=True,
    )


def clipped_step(optimizer: torch.optim.AdamW, limit: float) -> Tensor:
    """Takes an optimiser step with the gradients scaled down to a total norm of ``limit``; 0: as they are.

    As ``clip_grad_norm_`` before the step, but the fused kernel scales each gradient as it reads it: no pass over all
    gradients, and nothing is read back from the device. Gradients that are not finite change nothing, neither the
    weights nor what the optimiser keeps.

    Returns:
        1 where the step was left out for that, else 0; a float32 scalar on the gradients' device.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    norms = torch._foreach_norm(gradients)
    norm = torch.linalg.vector_norm(torch.stack(norms))
    if isinstance(norm, DTensor):  # of divided parameters: every process has a share of the squares
        norm = norm.full_tensor()
    scale = ((norm + 1e-6) / limit).clamp(min=1.0) if limit > 0 else torch.ones_like(norm)
    left_out = (~torch.isfinite(norm)).float()
    optimizer.grad_scale, optimizer.found_inf = scale, left_out  # type: ignore[attr-defined]  # divides; leaves out
    if isinstance(gradients[0], DTensor):
        mesh = gradients[0].device_mesh
        optimizer.grad_scale, optimizer.found_inf = (  # type: ignore[attr-defined]
            DTensor.from_local(value, mesh, [Replicate()], run_check=False) for value in (scale, left_out)
        )
    optimizer.step()
    return left_out


def build_schedule(
    optimizer: torch.optim.Optimizer, hyper: Hyperparameters, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Returns the learning rate's factor after each optimiser step."""
    total = steps_per_epoch * (hyper.schedule_epochs or hyper.epochs)
    warmup = hyper.warmup_proportion * total if hyper.warmup_steps is None else hyper.warmup_steps
    return torch.optim.lr_scheduler.LambdaLR(optimizer, linear_schedule(warmup, total))


def linear_schedule(warmup: float, total: float) -> Callable[[int], float]:
    """Returns a factor in [0, 1]: from 0 up to 1 over ``warmup`` steps, then down to 0 at ``total``."""

    def factor(step: int) -> float:
        if step < warmup:
            return step / max(1.0, warmup)
        return max(0.0, (total - step) / max(1.0, total - warmup))

    return factor


class SkippedSteps:
    """Names the samples of steps that were left out, and stops a run that leaves out too many.

    ``limit``: how many before the run is stopped. All processes call the same methods in the same order.
    """

    def __init__(self, run: RunFolder, ranks: Ranks, limit: int):
        self._run, self._ranks, self._limit = run, ranks, limit
        self._suspects: list[tuple[int, list[str], Tensor]] = []  # step, ids here, whether it was left out

    def suspect(self, step: int, ids: list[str], left_out: Tensor) -> None:
        """Notes a step and its samples here; ``left_out``, 0 or 1 on the device, is read later."""
        self._suspects.append((step, ids, left_out))

    def look(self, progress: TrainingProgress) -> None:
        """Names and counts what was left out since it looked last; waits for the device.

        Raises:
            UserError: there have been too many.
        """
        found = [(step, ids) for step, ids, left_out in self._suspects if float(left_out)]
        self._suspects.clear()
        for step, ids in found:  # the same ones on all processes, whose gradients are the same
            everywhere = [name for each in self._ranks.gathered(ids) for name in each]
            progress.skipped += 1
            self._run.log("skipped", step, {"epoch": progress.epoch, "ids": everywhere})
            if self._ranks.first:
                tqdm.write(
                    f"step {step} left out: its loss or gradient is not finite ({_some(everywhere)})", sys.stderr
                )
            if progress.skipped > self._limit:
                raise UserError(
                    f"{self._run.path}: {progress.skipped} steps had losses or gradients that are not finite, the "
                    f"last one step {step} (samples {_some(everywhere)}); lower the learning rate or look at these "
                    "samples, or raise --max_skipped_steps"
                )

    def refuse_idle(self, progress: TrainingProgress) -> None:
        """Keeps weights that have learnt nothing from becoming a run's best; looks first.

        Raises:
            UserError: every step was left out.
        """
        self.look(progress)
        if 0 < progress.step == progress.skipped:
            raise UserError(
                f"{self._run.path}: all {progress.step} steps were left out, their losses or gradients were not "
                "finite, so that the weights are those of the start and none are written; lower the learning rate, or "
                "look at the samples that log.jsonl names"
            )


def _some(ids: list[str], shown: int = 8) -> str:
    more = f" and {len(ids) - shown} more" if len(ids) > shown else ""
    return ", ".join(ids[:shown]) + more
