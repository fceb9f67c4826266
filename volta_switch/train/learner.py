"""What a model is trained for, in a form whose parts can be put together exactly."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from volta_switch.data.batches.collate import Batch

Losses = dict[str, Tensor]  # named scalars; their sum is descended
Counts = dict[str, int]


class Learner(nn.Module, ABC):
    """A model with its losses. Each loss is a mean over as many things as ``counts`` says.

    A batch may be divided among processes and accumulation steps: the losses of the whole are the parts' losses,
    weighted by their counts. ``losses`` names them, the same for every batch.
    """

    losses: tuple[str, ...]
    head: Mapping[str, Any] | None = None  # what the model's task head was built for; None: pre-training

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    @abstractmethod
    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch that lies on the model's device."""

    @abstractmethod
    def counts(self, batch: Batch) -> Counts:
        """How many words, regions or samples each loss of a batch is a mean of.

        It is asked before the batch is moved, and reads nothing from the device. 0 for a stand-in.
        """
