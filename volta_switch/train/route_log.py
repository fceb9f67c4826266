"""What a training step's operations are, and which paths Switch-BERT takes in it (paper section 3.4.5, table 7).

The paper tracks the routes and accumulates the operations. Here it is done in the optimiser steps that are logged, with
the very weights that the step learns from, Gumbel noise included; the other steps run as if nobody asked. Nothing is
read from the device before the log line is written, which waits for the losses anyway.

Legend: B image-text pairs of a part, L layers, M attention modes, C input candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.cost import EPSILON
from volta_switch.cost.counts import Counts
from volta_switch.cost.executed import training_step
from volta_switch.cost.paths import Activity, training_paths
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import Encoded
from volta_switch.model.switch import Routes
from volta_switch.train.learner import Learner
from volta_switch.train.ranks import Ranks
from volta_switch.train.run_folder import RunFolder

PER_PAIR = EXECUTED, PATHS = ("executed_flops_per_pair", "path_flops_per_pair")


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
        self._parts: list[tuple[Counts, Tensor | None]] = []
        self._logged = dict.fromkeys(("pairs", *PER_PAIR), 0.0)  # of all steps that were read, by all processes

    @contextmanager
    def watching(self, due: bool = True) -> Iterator[None]:
        """A block in which the learner's forward passes are noted, if this step is ``due`` to be logged."""
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

    def _note_routes(self, _: nn.Module, __: Any, encoded: Encoded) -> None:
        assert encoded.routes is not None
        self._weights = torch.cat((encoded.routes.modes, encoded.routes.inputs), -1).detach()

    def _note_part(self, _: nn.Module, given: tuple[Batch], __: Any) -> None:
        """What is counted lies on the host (``collate.ON_HOST``)."""
        (batch,) = given
        if len(batch) and self._config is not None:  # else it stands in for a part without samples
            self._parts.append((Counts.of(self._config, batch.inputs, self._learner.head), self._weights))
        self._weights = None

    def read(self) -> dict[str, Any]:
        """What the log says of the last step that was watched, of all parts of all processes.

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
        """What ``record_means`` needs of the steps so far, for a checkpoint."""
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
        """L, M, C; 0 without switchers."""
        if self._encoder is None:
            return 0, 0, 0
        return self._encoder.depth, len(self._encoder.switch.modes), self._encoder.switch.input_candidates

    @property
    def _tracked(self) -> int:
        """How many numbers describe the routes: of each layer M + C weights, two entropies, two numbers of paths."""
        L, M, C = self._sizes
        return L * (M + C + 4)

    def _sums(self, counts: Counts, weights: Tensor | None) -> Tensor:
        """Of a part: its pairs, executed and path FLOPs, and what is tracked, added up over the pairs."""
        assert self._config is not None
        cost = [float(counts.samples), training_step(self._config, counts)]
        if weights is None:
            return torch.tensor([*cost, 0.0], dtype=torch.float64)
        _, M, C = self._sizes
        routes = Routes(*weights.split([M, C], -1))
        activity = Activity.of(routes, self._epsilon)
        cost.append(training_paths(self._config, counts, activity))
        sides = [side.double() for side in (routes.modes, routes.inputs)]  # (B, L, M), (B, L, C)
        bits = [torch.special.entr(side).sum(-1, keepdim=True) / torch.tensor(2.0).double().log() for side in sides]
        active = [side.sum(-1, keepdim=True) for side in (activity.modes, activity.inputs)]  # (B, L, 1) each
        of_layers = torch.cat([*sides, *bits, *active], -1).sum(0)  # (L, M + C + 4)
        return torch.cat((torch.tensor(cost, dtype=torch.float64), of_layers.flatten()))

    def _described(self, tracked: list[float]) -> dict[str, Any]:
        """Means over the pairs, layer by layer.

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
