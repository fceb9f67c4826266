"""Path FLOPs accumulated over batches, from the routes that were taken: the paper's way to count (section 3.4.5)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from volta_switch.config import Config
from volta_switch.cost import EPSILON
from volta_switch.cost.counts import Counts, Task
from volta_switch.cost.executed import inference, training_step
from volta_switch.cost.paths import Activity, inference_paths, training_paths
from volta_switch.model.switch import Routes


class Tracked:
    """Operations of the batches that were added, as if each had been trained on, and as if it had been read alone.

    ``task`` as in ``Counts``; a path is active where its weight exceeds ``epsilon``.
    """

    def __init__(self, config: Config, task: Task | None, epsilon: float = EPSILON):
        self._config, self._task, self._epsilon = config, task, epsilon
        self._sums = dict.fromkeys(
            ("training_executed", "inference_executed", "training_paths", "inference_paths"), 0.0
        )
        self._rows = 0

    def add(self, batch: Mapping[str, Tensor], soft: Routes, hard: Routes) -> None:
        """A batch as the model takes it, with the routes of training and those of inference."""
        counts = Counts.of(self._config, batch, self._task)
        of_training, of_inference = (Activity.of(routes, self._epsilon) for routes in (soft, hard))
        for name, flops in (
            ("training_executed", training_step(self._config, counts)),
            ("inference_executed", inference(self._config, counts)),
            ("training_paths", training_paths(self._config, counts, of_training)),
            ("inference_paths", inference_paths(self._config, counts, of_inference)),
        ):
            self._sums[name] = self._sums.get(name, 0.0) + flops
        self._rows += counts.samples

    def report(self) -> dict[str, float]:
        """FLOPs of an image-text pair, the means."""
        return {name: total / max(self._rows, 1) for name, total in self._sums.items()}
