"""Optimiser steps that were left out because a loss or gradient was not finite."""

from __future__ import annotations

import sys

from torch import Tensor
from tqdm import tqdm

from volta_switch.errors import UserError
from volta_switch.train.checkpoints import Progress
from volta_switch.train.ranks import Ranks
from volta_switch.train.run_folder import RunFolder


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

    def look(self, progress: Progress) -> None:
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

    def refuse_idle(self, progress: Progress) -> None:
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
