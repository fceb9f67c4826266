"""What routes do: the value of a route, and where attention goes.

| measure | how |
|---|---|
| the value of a route | the metric with one option forced or forbidden at one layer, and with other whole routes |
| attention maps | the share of attention's mass from text and vision to text and vision, per layer and head |

A change at one layer leaves everything else as the unforced model chose it, sample by sample. Later layers keep their
choices too, though their switchers might have chosen otherwise: one decision is measured, not its consequences.
Whether samples need routes of their own is measured by giving all of them one route, or each another sample's.

The attention of training keeps no weights. Here they are computed again from a sublayer's inputs, one mode at a time,
by the plain formula. No other code has the weights.

Legend: B batch, T text slots, R region slots, K = T + R, H heads, d head width, n rows, L layers, O options.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.config import ATTENTION_MODES
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import BertForVLTasks
from volta_switch.model.encoder import Encoder, SwitchEncoder
from volta_switch.model.rows import PackedLayout, States
from volta_switch.model.sublayers import AttentionSublayer
from volta_switch.model.switch import Routes
from volta_switch.routes.record import INPUT_NAMES, ObservedModel, Record, evaluate, one_hot_routes
from volta_switch.routes.report import ImageSample, WeightedValues, means
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


SIDES = ("text", "vision")


def attention_weights(
    sublayer: AttentionSublayer,
    states: States,
    layout: PackedLayout,
    *,
    weights: Tensor | None = None,
    modes: tuple[str, ...] = (),
) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None]:
    """Returns weights (B, H, T or R, K) and values (B, H, K, d) of text and of vision; None for one without sublayer.

    Every row of ``layout`` is a query. Rows sum to 1 over the keys that may be attended to; arguments as those of
    ``AttentionSublayer.forward``. A key that is never attended to has the weight 0 and the value 0.
    """
    own, heads = sublayer.attention_self, (sublayer.heads, sublayer.heads if sublayer.shared else sublayer.v_heads)
    inputs, rows = layout.split(states), (layout.text, layout.vision)
    projected: list[list[Tensor] | None] = []
    for side, has in enumerate((sublayer.has_text, sublayer.has_vision)):
        project = (own.of_text if side == 0 else own.of_vision) if has else ()
        projected.append([rows[side].split_heads(part(inputs[side]), heads[side]) for part in project] if has else None)
    pairs = ((sublayer.tt, sublayer.tv), (sublayer.vt, sublayer.vv))
    found: list[tuple[Tensor, Tensor] | None] = []
    for side in (0, 1):
        mine = projected[side]
        if mine is None:
            found.append(None)
            continue
        kinds = [(pairs[side], None)]
        if weights is not None:
            kinds = [
                (ATTENTION_MODES[mode].pairs[2 * side : 2 * side + 2], share)  # type: ignore[misc]
                for mode, share in zip(modes, weights.unbind(1), strict=True)
            ]
        found.append(_mixed(mine, projected, layout, kinds))
    return found[0], found[1]


def _mixed(mine: list[Tensor], projected: list[Any], layout: PackedLayout, kinds: list[Any]) -> tuple[Tensor, Tensor]:
    """Returns weights and values of one side's queries; ``kinds``: who is attended to, and its share (B,) or None."""
    query = mine[0].float()
    B, H, _, d = query.shape
    real = [layout.text.real, layout.vision.real]
    key_parts, value_parts = [], []
    for side, (other, mask) in enumerate(zip(projected, real, strict=True)):
        if any(seen[side] for seen, _ in kinds):
            key_parts.append(other[1].float())
            value_parts.append(other[2].float())
        else:  # the other modality may have none, or heads of another width
            key_parts.append(query.new_zeros(B, H, mask.shape[1], d))
            value_parts.append(key_parts[-1])
    keys, values = torch.cat(key_parts, 2), torch.cat(value_parts, 2)
    scores = query @ keys.transpose(2, 3) * d**-0.5  # (B, H, Q, K)
    mixture = torch.zeros_like(scores)
    for seen, share in kinds:
        allowed = torch.cat([mask & bool(sees) for mask, sees in zip(real, seen, strict=True)], 1)[:, None, None]
        probability = scores.masked_fill(~allowed, -torch.inf).softmax(-1).nan_to_num()  # NaN: nothing to attend to
        mixture += probability if share is None else share[:, None, None, None] * probability
    return mixture, values


class AttentionMass:
    """Attention's mass over batches, of each sublayer, side and row, to text and to vision; and numbers of queries.

    Of each batch, the first of every ``every`` rows counts.
    """

    def __init__(self, every: int = 1) -> None:
        self._every = every
        self._sums: dict[tuple[int, str], list[Tensor]] = {}  # (rows, H, 2) each
        self._queries: dict[tuple[int, str], list[Tensor]] = {}  # (rows,) each

    def add(self, sublayer: AttentionSublayer, given: tuple[Any, ...], mixture: dict[str, Any]) -> None:
        """Adds the mass of one call of a sublayer, which has these arguments."""
        states, layout, _ = given
        T = layout.text.N
        found = attention_weights(sublayer, states, layout, **mixture)
        for name, of_side, real in zip(SIDES, found, (layout.text.real, layout.vision.real), strict=True):
            if of_side is None:
                continue
            on = (of_side[0] * real[:, None, :, None])[:: self._every]  # (rows, H, Q, K)
            mass = torch.stack((on[..., :T].sum((2, 3)), on[..., T:].sum((2, 3))), 2)  # (rows, H, 2)
            key = (sublayer.number, name)
            self._sums.setdefault(key, []).append(mass.double().cpu())
            self._queries.setdefault(key, []).append(real[:: self._every].sum(1).cpu())

    def report(self) -> list[dict[str, Any]]:
        """Returns, per attention sublayer, its number and for each pair the mean mass of a query, by head."""
        found: list[dict[str, Any]] = means(self.values())
        return found

    def values(self) -> list[dict[str, Any]]:
        """Returns ``report`` with the rows' values in place of their means."""
        layers = []
        for layer, number in enumerate(sorted({number for number, _ in self._sums}), 1):
            line: dict[str, Any] = {"layer": layer, "sublayer": number}
            for side in SIDES:
                if (number, side) in self._sums:
                    sums = torch.cat(self._sums[number, side]).numpy()  # (n, H, 2)
                    queries = torch.cat(self._queries[number, side]).numpy()  # (n,)
                    for place, other in enumerate(SIDES):
                        line[f"{side} to {other}"] = [
                            WeightedValues(of_head, queries) for of_head in sums[:, :, place].T
                        ]
            layers.append(line)
        return layers


@contextmanager
def watched(encoder: Encoder, every: int = 1) -> Iterator[AttentionMass]:
    """Adds up every attention sublayer's mass in forward passes inside the block; ``every`` as in ``AttentionMass``."""
    masses = AttentionMass(every)
    sublayers = [sublayer for sublayer in encoder.layer if isinstance(sublayer, AttentionSublayer)]
    handles = [sublayer.register_forward_pre_hook(masses.add, with_kwargs=True) for sublayer in sublayers]
    try:
        yield masses
    finally:
        for handle in handles:
            handle.remove()
