"""Means of the losses and shares of the time between two lines of the log."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from volta_switch.train.learner import Losses
from volta_switch.train.ranks import Ranks


class Meter:
    """Running means over optimiser steps, read from the device only when logged."""

    def __init__(self, device: torch.device, ranks: Ranks | None = None):
        self.device, self.ranks = device, ranks or Ranks()
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.samples = 0
        self.start_clock()

    def add(self, losses: Losses) -> None:
        """Adds a part's share of a step's losses."""
        for name, loss in losses.items():
            zero = torch.zeros((), dtype=torch.float64, device=self.device)
            self.sums[name] = self.sums.get(name, zero) + loss

    def start_clock(self) -> None:
        """Counts the time from here: what lies between two epochs is no training."""
        self.waited, self.since = 0.0, time.perf_counter()

    def step_done(self, samples: int) -> None:
        """Counts one optimiser step and the samples of all processes in it."""
        self.steps += 1
        self.samples += samples

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which this process waits for data."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start

    def state(self) -> dict[str, Any]:
        """What has been added since the last reading, by all processes, for a checkpoint; all processes call it."""
        names = sorted(self.sums)
        totals = self.ranks.sums([float(self.sums[name]) for name in names])
        return {"sums": dict(zip(names, totals, strict=True)), "steps": self.steps, "samples": self.samples}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on with what ``state`` returned; the time counts from here."""
        share = 1.0 if self.ranks.first else 0.0
        self.sums = {
            name: torch.tensor(share * total, dtype=torch.float64, device=self.device)
            for name, total in state["sums"].items()
        }
        self.steps, self.samples = state["steps"], state["samples"]

    def read(self) -> dict[str, Any]:
        """Mean losses of the global batches since the last reading, and how the time went; all processes call it.

        ``samples_per_second`` of all processes together; ``data_wait``, the share of this one's time, in [0, 1];
        ``memory_gib``, the most that this process has held, of the GPU or, on a CPU, of the machine.
        """
        totals = self.state()["sums"]
        seconds = max(time.perf_counter() - self.since, 1e-9)
        values: dict[str, Any] = {name: total / self.steps for name, total in totals.items()}
        values["loss"] = sum(values.values())
        values["samples_per_second"] = self.samples / seconds
        values["data_wait"] = round(self.waited / seconds, 4)
        values["memory_gib"] = round(_peak_bytes(self.device) / 2**30, 3)
        self._reset()
        return values


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
