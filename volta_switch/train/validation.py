"""What a validation found, and whether anything can be done with it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from volta_switch.errors import UserError


@dataclass(frozen=True)
class Validation:
    """What a validation found: ``score`` selects the best epoch (higher is better)."""

    score: float
    metrics: dict[str, float]

    @property
    def shown(self) -> str:
        """The metrics as a line says them."""
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
