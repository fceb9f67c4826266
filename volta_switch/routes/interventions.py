"""What a route is worth: the metric with one option forced, or forbidden, at one layer.

Everything else stays as the unforced model chose it, sample by sample, also in later layers, whose switchers might have
chosen otherwise after the change: what is measured is one decision, not what follows from it.

Legend: n rows, L layers, O options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import BertForVLTasks
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Routes
from volta_switch.routes.record import INPUT_NAMES, Observed, Record, evaluate, one_hot_routes
from volta_switch.tasks import Task


@dataclass(frozen=True)
class Change:
    """One option at one layer, forced on all samples or forbidden to all."""

    kind: str  # "force" or "forbid"
    block: str  # "modes" or "inputs"
    layer: int  # from 0
    option: int

    def applied(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """The routes with this change, modes and inputs (n, L); a forbidden option gives way to the next best."""
        routes = {"modes": record.modes, "inputs": record.inputs}
        scores = {"modes": record.mode_scores, "inputs": record.input_scores}[self.block][:, self.layer]  # (n, O)
        chosen = routes[self.block].copy()
        if self.kind == "force":
            chosen[:, self.layer] = self.option
        else:
            others = scores.copy()
            others[:, self.option] = -np.inf
            hit = chosen[:, self.layer] == self.option
            chosen[hit, self.layer] = others.argmax(1)[hit]
        routes[self.block] = chosen
        return routes["modes"], routes["inputs"]


def changes(encoder: SwitchEncoder) -> Iterator[Change]:
    """Every option of every switcher that has a choice, forced and forbidden."""
    switch = encoder.switch
    for block, switched, first, options in (
        ("modes", switch.attention, 0, len(switch.modes)),
        ("inputs", switch.input, 1, switch.input_candidates),
    ):
        for layer in range(first, encoder.depth if switched and options > 1 else 0):
            for option in range(options):
                yield Change("force", block, layer, option)
                yield Change("forbid", block, layer, option)


def forced_score(
    task: Task,
    model: BertForVLTasks,
    encoder: SwitchEncoder,
    batches: Iterable[Batch],
    device: torch.device,
    routes: tuple[np.ndarray, np.ndarray],
) -> float:
    """The task's metric with routes given for every row, modes (n, L) and inputs (n, L)."""
    modes, inputs = routes
    M, C = len(encoder.switch.modes), encoder.switch.input_candidates

    def given(rows: slice) -> Routes:
        return one_hot_routes(modes[rows], inputs[rows], M, C)

    return evaluate(task, Observed(model, encoder, given), batches, device).score


def intervene(
    task: Task,
    model: BertForVLTasks,
    encoder: SwitchEncoder,
    batches: Callable[[], Iterable[Batch]],
    device: torch.device,
    record: Record,
) -> list[dict[str, Any]]:
    """Every change with the metric that it leads to; what reroutes no sample is not run again."""
    found = []
    names = {"modes": encoder.switch.modes, "inputs": INPUT_NAMES}
    planned = list(changes(encoder))
    for number, change in enumerate(planned, 1):
        modes, inputs = change.applied(record)
        rerouted = (modes != record.modes).any(1) | (inputs != record.inputs).any(1)  # (n,)
        score = record.evaluation.score
        if rerouted.any():
            score = forced_score(task, model, encoder, batches(), device, (modes, inputs))
        name = names[change.block][change.option]
        print(f"[{number}/{len(planned)}] {change.kind} {name} in layer {change.layer + 1}", file=sys.stderr)
        found.append(
            {
                **{"kind": change.kind, "block": change.block, "layer": change.layer + 1, "option": name},
                "samples": len(set(record.ids)),
                "rerouted": len({record.ids[row] for row in rerouted.nonzero()[0]}),
                task.metric: score,
                "change": score - record.evaluation.score,
            }
        )
    return found
