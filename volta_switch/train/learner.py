"""What a model is trained for, in a form whose parts can be put together exactly, and what a validation found."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError

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
