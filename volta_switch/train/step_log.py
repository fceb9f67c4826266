"""What a log line tells of the steps since the line before: losses, how the time went, operations and routes.

Operations and routes are those of paper section 3.4.5 and table 7. The paper tracks the routes and accumulates the
operations. Here it is done in the optimiser steps that are logged, with the very weights that the step learns from,
Gumbel noise included; the other steps run as if nobody asked. Nothing is read from the device before the log line is
written, which waits for the losses anyway.

Legend: B image-text pairs of a part, L layers, M attention modes, C input candidates.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.cost import EPSILON
from volta_switch.cost.counts import BatchCounts
from volta_switch.cost.executed import training_step
from volta_switch.cost.paths import Activity, training_paths
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import EncoderOutput
from volta_switch.model.switch import Routes
from volta_switch.train.optimisation import Learner, Losses
from volta_switch.train.ranks import Ranks
from volta_switch.train.run_folder import RunFolder

PER_PAIR = EXECUTED, PATHS = ("executed_flops_per_pair", "path_flops_per_pair")


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
        """Makes a block in which this process waits for data."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start

    def state(self) -> dict[str, Any]:
        """Returns what has been added since the last reading, by all processes, for a checkpoint; all call it."""
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
        """Returns mean losses of the global batches since the last reading, and how the time went; all call it.

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


class RouteLog:
    """Operations and routes of a learner's steps; of a static architecture, the operations alone.

    A learner whose model has no configuration is left alone. All processes call the same methods in the same order.
    """

    def __init__(self, learner: Learner, ranks: Ranks | None = None, epsilon: float = EPSILON):
        """``epsilon``: a path is active where its weight exceeds it."""
        self._learner, self._ranks, self._epsilon = learner, ranks or Ranks(), epsilon
        self._config: Config | None = getattr(learner.model, "config", None)
        self._encoder = switch_encoder(learner.model)
        self._weights: Tensor | None = None  # (B, L, M + C) of the forward pass under way
        self._parts: list[tuple[BatchCounts, Tensor | None]] = []
        self._logged = dict.fromkeys(("pairs", *PER_PAIR), 0.0)  # of all steps that were read, by all processes

    @contextmanager
    def watching(self, due: bool = True) -> Iterator[None]:
        """Makes a block in which the learner's forward passes are noted, if this step is ``due`` to be logged."""
        if not due or self._config is None:
            yield
            return
        self._parts.clear()
        hooks = [self._learner.register_forward_hook(self._note_part)]
        if self._encoder is not None:
            hooks.append(self._encoder.register_forward_hook(self._note_routes))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _note_routes(self, _: nn.Module, __: Any, encoded: EncoderOutput) -> None:
        assert encoded.routes is not None
        self._weights = torch.cat((encoded.routes.modes, encoded.routes.inputs), -1).detach()

    def _note_part(self, _: nn.Module, given: tuple[Batch], __: Any) -> None:
        """Notes a part; what is counted lies on the host (``collate.ON_HOST``)."""
        (batch,) = given
        if len(batch) and self._config is not None:  # else it stands in for a part without samples
            self._parts.append((BatchCounts.from_batch(self._config, batch.inputs, self._learner.head), self._weights))
        self._weights = None

    def read(self) -> dict[str, Any]:
        """Returns what the log says of the last step that was watched, of all parts of all processes.

        Returns:
            ``pairs``, image-text pairs of the step; ``executed_flops_per_pair``; of Switch-BERT also
            ``path_flops_per_pair`` and ``routes``, see ``_described``. Empty where nothing is known.
        """
        if self._config is None:
            return {}
        own = torch.zeros(3 + self._tracked, dtype=torch.float64)
        for counts, weights in self._parts:
            own += self._sums(counts, None if weights is None else weights.cpu())
        self._parts.clear()
        pairs, *totals = self._ranks.sums(own.tolist())
        if not pairs:
            return {}
        for name, total in zip(self._logged, (pairs, *totals), strict=False):
            self._logged[name] += total
        executed, paths, *tracked = (total / pairs for total in totals)
        values: dict[str, Any] = {"pairs": int(pairs), "executed_flops_per_pair": executed}
        if self._encoder is not None:
            values |= {"path_flops_per_pair": paths, "routes": self._described(tracked)}
        return values

    def state(self) -> dict[str, float]:
        """Returns what ``record_means`` needs of the steps so far, for a checkpoint."""
        return dict(self._logged)

    def restore(self, state: dict[str, float] | None) -> None:
        """Goes on with what ``state`` returned; None: a checkpoint of before there was any."""
        self._logged.update(state or {})

    def record_means(self, run: RunFolder) -> None:
        """Sets ``PER_PAIR`` in ``metrics.json``: means over the steps that were logged, weighed by their pairs."""
        if not self._logged["pairs"]:
            return
        for name in PER_PAIR if self._encoder is not None else PER_PAIR[:1]:
            run.record(name, self._logged[name] / self._logged["pairs"])

    @property
    def _sizes(self) -> tuple[int, int, int]:
        """Returns L, M, C; 0 without switchers."""
        if self._encoder is None:
            return 0, 0, 0
        return self._encoder.depth, len(self._encoder.switch.modes), self._encoder.switch.input_candidates

    @property
    def _tracked(self) -> int:
        """Returns how many numbers describe the routes: of each layer M + C weights, two entropies, two path counts."""
        L, M, C = self._sizes
        return L * (M + C + 4)

    def _sums(self, counts: BatchCounts, weights: Tensor | None) -> Tensor:
        """Returns, of a part, its pairs, executed and path FLOPs, and what is tracked, added up over the pairs."""
        assert self._config is not None
        cost = [float(counts.samples), training_step(self._config, counts)]
        if weights is None:
            return torch.tensor([*cost, 0.0], dtype=torch.float64)
        _, M, C = self._sizes
        routes = Routes(*weights.split([M, C], -1))
        activity = Activity.from_routes(routes, self._epsilon)
        cost.append(training_paths(self._config, counts, activity))
        sides = [side.double() for side in (routes.modes, routes.inputs)]  # (B, L, M), (B, L, C)
        bits = [torch.special.entr(side).sum(-1, keepdim=True) / torch.tensor(2.0).double().log() for side in sides]
        active = [side.sum(-1, keepdim=True) for side in (activity.modes, activity.inputs)]  # (B, L, 1) each
        of_layers = torch.cat([*sides, *bits, *active], -1).sum(0)  # (L, M + C + 4)
        return torch.cat((torch.tensor(cost, dtype=torch.float64), of_layers.flatten()))

    def _described(self, tracked: list[float]) -> dict[str, Any]:
        """Returns means over the pairs, layer by layer.

        ``modes``, ``inputs``: the weights, (L, M) and (L, C); ``mode_entropy``, ``input_entropy``: of a pair's weights,
        bits, (L,); ``active_modes``, ``active_inputs``: how many weights exceed epsilon, (L,).
        """
        L, M, C = self._sizes
        of_layers = torch.tensor(tracked, dtype=torch.float64).view(L, M + C + 4).round(decimals=6).abs()  # no -0.0
        names = ("modes", "inputs", "mode_entropy", "input_entropy", "active_modes", "active_inputs")
        parts = of_layers.split([M, C, 1, 1, 1, 1], -1)
        return {
            name: (part if name in ("modes", "inputs") else part[:, 0]).tolist()
            for name, part in zip(names, parts, strict=True)
        }
