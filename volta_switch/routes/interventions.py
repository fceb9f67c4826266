"""The value of a route: the metric with one option forced or forbidden at one layer, and with other whole routes.

A change at one layer leaves everything else as the unforced model chose it, sample by sample. Later layers keep their
choices too, though their switchers might have chosen otherwise: one decision is measured, not its consequences.
Whether samples need routes of their own is measured by giving all of them one route, or each another sample's.

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
from volta_switch.routes.record import INPUT_NAMES, ObservedModel, Record, evaluate, one_hot_routes
from volta_switch.routes.report import ImageSample
from volta_switch.tasks import Evaluation, Task

ModesInputs = tuple[np.ndarray, np.ndarray]  # numbers of options, (n, L) each


@dataclass(frozen=True)
class Change:
    """One option at one layer, forced on all samples or forbidden to all."""

    kind: str  # "force" or "forbid"
    block: str  # "modes" or "inputs"
    layer: int  # from 0
    option: int

    def applied(self, record: Record) -> ModesInputs:
        """Returns the routes with this change, modes and inputs (n, L); the next best replaces a forbidden option."""
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
    """Yields every option of every switcher that has a choice, forced and forbidden."""
    switch = encoder.switch
    for block, switched, first, options in (
        ("modes", switch.attention, 0, len(switch.modes)),
        ("inputs", switch.input, 1, switch.input_candidates),
    ):
        for layer in range(first, encoder.depth if switched and options > 1 else 0):
            for option in range(options):
                yield Change("force", block, layer, option)
                yield Change("forbid", block, layer, option)


def forced_metrics(
    task: Task,
    model: BertForVLTasks,
    encoder: SwitchEncoder,
    batches: Iterable[Batch],
    device: torch.device,
    routes: ModesInputs,
) -> Evaluation:
    """Evaluates the task with given routes, modes and inputs (n, L)."""
    modes, inputs = routes
    M, C = len(encoder.switch.modes), encoder.switch.input_candidates

    def given(rows: slice) -> Routes:
        return one_hot_routes(modes[rows], inputs[rows], M, C)

    return evaluate(task, ObservedModel(model, encoder, given), batches, device)


def intervene(
    task: Task,
    model: BertForVLTasks,
    encoder: SwitchEncoder,
    batches: Callable[[], Iterable[Batch]],
    device: torch.device,
    record: Record,
    drawn: ImageSample | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Measures the metrics that changes lead to; what reroutes no sample is not run again.

    Returns:
        ``interventions``: every option of every switcher; ``whole routes``: those of ``substitute_routes``. Each has
        ``intervals`` where the samples are of drawn images.
    """
    names = {"modes": encoder.switch.modes, "inputs": INPUT_NAMES}
    planned: list[tuple[dict[str, Any], ModesInputs]] = [
        (
            {"kind": each.kind, "block": each.block, "layer": each.layer + 1, "option": names[each.block][each.option]},
            each.applied(record),
        )
        for each in changes(encoder)
    ]
    whole: list[tuple[dict[str, Any], ModesInputs]] = [
        ({"kind": kind}, routes) for kind, routes in substitute_routes(record)
    ]
    found = []
    for number, (said, routes) in enumerate([*planned, *whole], 1):
        rerouted = (routes[0] != record.modes).any(1) | (routes[1] != record.inputs).any(1)  # (n,)
        forced = record.evaluation
        if rerouted.any():
            forced = forced_metrics(task, model, encoder, batches(), device, routes)
        print(f"[{number}/{len(planned) + len(whole)}] {' '.join(map(str, said.values()))}", file=sys.stderr)
        found.append(
            {
                **said,
                "samples": len(set(record.ids)),
                "rerouted": len({record.ids[row] for row in rerouted.nonzero()[0]}),
                task.metric: forced.score,
                "change": forced.score - record.evaluation.score,
                **({} if drawn is None else {"intervals": _intervals(task.metric, drawn, record, forced)}),
            }
        )
    return {"interventions": found[: len(planned)], "whole routes": found[len(planned) :]}


def _intervals(metric: str, drawn: ImageSample, record: Record, forced: Evaluation) -> dict[str, list[float] | None]:
    """Returns the intervals of the metric with other routes, and of its change, sample by sample."""
    own, other = (100 * np.array(evaluation.measured[metric]) for evaluation in (record.evaluation, forced))
    return drawn.intervals({metric: other, "change": other - own}, drawn.groups(record.scored))


def substitute_routes(record: Record) -> Iterator[tuple[str, ModesInputs]]:
    """Yields routes that are not the samples' own: the commonest for all, and other samples' without replacement.

    Yields:
        "most frequent" and "shuffled", and modes (n, L) and inputs (n, L); a sample's rows stay together.
    """
    both = np.concatenate([record.modes, record.inputs], axis=1)  # (n, 2L)
    routes, counts = np.unique(both[record.counted], axis=0, return_counts=True)
    depth, samples = record.modes.shape[1], len(set(record.ids))
    drawn = np.random.default_rng(0).permutation(samples)
    for kind, taken in (
        ("most frequent", np.broadcast_to(routes[counts.argmax()], both.shape)),
        ("shuffled", both.reshape(samples, -1, 2 * depth)[drawn].reshape(both.shape)),
    ):
        yield kind, (taken[:, :depth], taken[:, depth:])
