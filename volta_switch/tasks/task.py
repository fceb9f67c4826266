"""What a task is: data, batch → loss, batch → prediction, each once; training, validation and testing share them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from volta_switch.config import Config
from volta_switch.data.batching import BatchSampler, make_loader
from volta_switch.data.collate import Batch, Layout
from volta_switch.data.feature_lmdb import FeatureStore
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.model.bert import BertForVLTasks
from volta_switch.tasks.task_file import TaskSpec


@dataclass(frozen=True)
class DataOptions:
    """How the data are read: worker processes per loader, and whether decoded images stay in memory."""

    seed: int = 0
    num_workers: int = 0
    in_memory: bool = False
    features: str = ""  # another feature file than the task file's


@dataclass(frozen=True)
class Evaluation:
    """Metrics in percent (``loss`` aside), the score that selects epochs, and results in submission format."""

    score: float
    metrics: dict[str, float]
    results: list[Any]


class Task(ABC):
    """One downstream task.

    ``metric`` names the score that selects the best epoch, ``headline`` the test metrics of the side-by-side table.
    """

    metric: str
    headline: tuple[str, ...]

    def __init__(self, spec: TaskSpec, config: Config, tokenizer: Tokenizer, options: DataOptions):
        self.spec, self.config, self.tokenizer, self.options = spec, config, tokenizer, options
        self.layout = Layout(config.add_global_imgfeat, pad_id=config.pad_token_id)  # type: ignore[arg-type]

    @abstractmethod
    def dataset(self, split: str, training: bool) -> Any:
        """The samples of a split."""

    @abstractmethod
    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """A scalar: the mean over the samples of a batch of the head's scores."""

    @abstractmethod
    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) in [0, 1]: how right each sample is."""

    @abstractmethod
    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """The batch's entries in the submission file."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What every data set is told of the model and the task: location values, most word pieces, most regions."""
        return {
            "num_locs": self.config.num_locs,
            "max_seq_length": self.spec.max_seq_length,
            "max_regions": self.spec.max_region_num,
        }

    def store(self) -> FeatureStore:
        """The image features."""
        path = self.spec.path(self.options.features or self.spec.features_h5path1)
        return FeatureStore(path, self.config.v_feature_size, in_memory=self.options.in_memory)

    def loader(self, split: str, batch_size: int, training: bool) -> DataLoader:
        """Batches of a split, shuffled for training."""
        dataset = self.dataset(split, training)
        sampler = BatchSampler(dataset.text_lengths, batch_size, self.options.seed, shuffle=training)
        return make_loader(dataset, sampler, partial(dataset.collate, layout=self.layout), self.options.num_workers)

    def scores(self, model: BertForVLTasks, batch: Batch) -> Tensor:
        """The head's scores for a batch."""
        return model(self.spec.key, **batch.inputs).scores

    def evaluate(self, model: BertForVLTasks, batches: Iterable[Batch], device: torch.device) -> Evaluation:
        """Mean loss and score over all samples, each counted once; results where the samples have ids.

        Splits without answers give results and a score of NaN.
        """
        losses, hits, results, samples = 0.0, [], [], 0
        model.eval()
        with torch.inference_mode():
            for batch in batches:
                batch = batch.to(device)
                scores = self.scores(model, batch).float()
                results += self.results(scores, batch)
                samples += len(batch)
                if batch.target is not None:
                    losses += float(self.loss(scores, batch)) * len(batch)
                    hits.append(self.hits(scores, batch))
        score = 100.0 * float(np.concatenate(hits).mean()) if hits else float("nan")
        return Evaluation(score, {self.metric: score, "loss": losses / max(samples, 1)}, results)

    def test(self, model: BertForVLTasks, split: str, batch_size: int, device: torch.device) -> Evaluation:
        """The task's exact metrics on a split."""
        return self.evaluate(model, self.loader(split, batch_size, training=False), device)
