"""Operations as the paper counts them for Switch-BERT (section 3.4.5, table 7): each active path is paid for.

The paper says that it tracks the routes and accumulates the operations, that what costs more is "mainly caused by SABs
that activate all paths at the beginning of training", and that K = 2 is acceptable. It gives neither the formula nor
when a path is active. Read here (differs from the paper: it does not say):

- An active mode is an attention sublayer of its own: projections of query, key, value and output, and the products over
  the pairs that the mode allows; keys and values only of modalities that it attends to. Were the projections shared
  (``shared=True``), K = 4 would cost some 2 % more than UNITER, which the paper would hardly call an overhead.
- An active input candidate is read and weighed, a multiplication an element where more than one is active; the layer
  runs once, on their sum (eq. 8). So is the output of a mode.
- A path is active where its weight exceeds epsilon; or, without tracked routes, K modes of a layer are, each as
  probable as any other, and all candidates. K acts on modes alone, as in the paper.
- Everything else (feed-forward sublayers, embeddings, heads, switchers, unread rows) is what is executed.

Legend: B batch, L layers, M modes, C input candidates, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from volta_switch.config import ATTENTION_MODES, Config, attention_size
from volta_switch.cost import EPSILON
from volta_switch.cost.counts import BatchCounts, TaskHead
from volta_switch.cost.executed import encoder, feed_forward, inference, inference_flops, training_flops, training_step
from volta_switch.model.switch import Routes


@dataclass(frozen=True)
class Activity:
    """Which paths are active, or how probably: ``modes`` (B, L, M) and ``inputs`` (B, L, C), in [0, 1]."""

    modes: Tensor
    inputs: Tensor

    @classmethod
    def from_routes(cls, routes: Routes, epsilon: float = EPSILON) -> Activity:
        """Returns the paths of tracked routes whose weight exceeds ``epsilon``."""
        return cls((routes.modes > epsilon).double(), (routes.inputs > epsilon).double())

    @classmethod
    def expected(cls, config: Config, samples: int, training: bool) -> Activity:
        """Returns the activity of K equally probable modes and all input candidates; in inference, of one each."""
        assert config.switch is not None
        switch, L = config.switch, len(config.attention_sublayers)
        modes = torch.zeros(samples, L, len(switch.modes), dtype=torch.float64)
        if switch.attention:
            modes += (switch.active_modes if training else 1) / len(switch.modes)
        else:
            modes[..., switch.modes.index("J")] = 1
        inputs = torch.zeros(samples, L, switch.input_candidates, dtype=torch.float64)
        inputs[:, :1, 0] = 1
        if switch.input:
            inputs[:, 1:] = 1 if training else 1 / switch.input_candidates
        else:
            inputs[:, 1:, 0] = 1
        return cls(modes, inputs)


def training_paths(
    config: Config, counts: BatchCounts, activity: Activity | None = None, shared: bool = False
) -> float:
    """Returns the path FLOPs of a training step; of a static architecture, the executed ones."""
    return training_flops(config, counts, _encoder(config, counts, activity, shared, training=True))


def inference_paths(
    config: Config, counts: BatchCounts, activity: Activity | None = None, shared: bool = False
) -> float:
    """Returns the path FLOPs of a forward pass; of a static architecture, the executed ones."""
    return inference_flops(config, counts, _encoder(config, counts, activity, shared, training=False))


def _encoder(config: Config, counts: BatchCounts, activity: Activity | None, shared: bool, training: bool) -> float:
    """Returns the multiplications of the encoder's forward pass."""
    if config.switch is None:
        return encoder(config, counts)
    active = Activity.expected(config, counts.samples, training) if activity is None else activity
    macs = float(sum(feed_forward(config, counts, number) for number in config.ff_sublayers))
    for layer in range(len(config.attention_sublayers)):
        macs += _modes(config, counts, layer, active.modes[:, layer].double(), shared)
        macs += _inputs(config, counts, layer, active.inputs[:, layer].double())
    return macs


def _modes(config: Config, counts: BatchCounts, layer: int, active: Tensor, shared: bool) -> float:
    """Returns the multiplications of a layer's active modes (B, M)."""
    assert config.switch is not None
    number, D = config.attention_sublayers[layer], config.hidden_size
    width, _ = attention_size(config, number, "")
    queries, keys = counts.rows_still_needed(config, number), counts.rows_still_needed(config, number - 1)
    going_on, text, vision = (
        torch.tensor(lengths, dtype=torch.float64)  # (B,)
        for lengths in (
            [sum(pair) for pair in zip(queries[0].lengths, queries[1].lengths, strict=True)],
            keys[0].lengths,
            keys[1].lengths,
        )
    )
    macs = float((_weighed(active) * going_on).sum() * D)
    if shared:
        macs += float((going_on + text + vision).sum() * 2 * D * width)
    for mode, on in zip(config.switch.modes, active.unbind(1), strict=True):
        tt, tv, vt, vv = ATTENTION_MODES[mode].pairs
        if not shared:  # query and output; key and value
            macs += float((on * (going_on + max(tt, vt) * text + max(tv, vv) * vision)).sum() * 2 * D * width)
        of_text = queries[0].longest * (tt * keys[0].longest + tv * keys[1].longest)
        of_vision = queries[1].longest * (vt * keys[0].longest + vv * keys[1].longest)
        macs += float(on.sum() * 2 * (of_text + of_vision) * width)  # scores; weights by values
    return macs


def _inputs(config: Config, counts: BatchCounts, layer: int, active: Tensor) -> float:
    """Returns the multiplications of a layer's active input candidates (B, C)."""
    text, vision = counts.rows_still_needed(config, config.attention_sublayers[layer] - 1)
    rows = torch.tensor(text.lengths, dtype=torch.float64) + torch.tensor(vision.lengths)
    return float((_weighed(active) * rows).sum() * config.hidden_size)


def _weighed(active: Tensor) -> Tensor:
    """Returns the number of options (B,) that are weighed, of active ones (B, O); a single one needs no weight."""
    total = active.sum(1)
    return torch.where(total > 1, total, 0)


class TrackedFlops:
    """FLOPs summed over batches from the routes that were taken: the paper's way to count (section 3.4.5).

    Each batch is counted twice, as a training step and as inference. ``task`` as in ``BatchCounts``; a path is active
    where its weight exceeds ``epsilon``.
    """

    def __init__(self, config: Config, task: TaskHead | None, epsilon: float = EPSILON):
        self._config, self._task, self._epsilon = config, task, epsilon
        self._sums = dict.fromkeys(
            ("training_executed", "inference_executed", "training_paths", "inference_paths"), 0.0
        )
        self._rows = 0

    def add(self, batch: Mapping[str, Tensor], soft: Routes, hard: Routes) -> None:
        """Adds a batch as the model takes it, with its routes in training (``soft``) and in inference (``hard``)."""
        counts = BatchCounts.from_batch(self._config, batch, self._task)
        of_training, of_inference = (Activity.from_routes(routes, self._epsilon) for routes in (soft, hard))
        for name, flops in (
            ("training_executed", training_step(self._config, counts)),
            ("inference_executed", inference(self._config, counts)),
            ("training_paths", training_paths(self._config, counts, of_training)),
            ("inference_paths", inference_paths(self._config, counts, of_inference)),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + flops
        self._rows += counts.samples

    def report(self) -> dict[str, float]:
        """Returns the mean FLOPs of an image-text pair, by kind of count."""
        return {name: total / max(self._rows, 1) for name, total in self._sums.items()}
