"""NLVR2: is a sentence true of a pair of images?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.annotations.nlvr2 import load_nlvr2
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.nlvr2_dataset import Nlvr2Dataset
from volta_switch.tasks.metrics import clear_choices, consistency
from volta_switch.tasks.task import Evaluation, Gathered, Task


class Nlvr2Task(Task):
    """Binary cross-entropy of "false" and of "true", averaged over the two, as in VOLTA.

    The score is the accuracy; ``consistency`` is the share of sentences that are judged rightly for all their pairs.
    Where both score alike, neither is predicted.
    """

    metric = "accuracy"
    headline = ("accuracy", "consistency")

    def dataset(self, split: str, training: bool) -> Nlvr2Dataset:
        """Statements of a split."""
        entries = load_nlvr2(self.spec.path(self.spec.dataroot), split, self.spec.given_annotations(split))
        self.sentences = {entry.identifier: entry.sentence for entry in entries}
        return Nlvr2Dataset(entries, self.store(split), self.tokenizer, **self.sizes)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over statements and the two labels of the binary cross-entropies."""
        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target)

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) whether the right label scores strictly highest."""
        assert batch.target is not None
        return clear_choices(scores.cpu().numpy()) == batch.target.cpu().numpy().argmax(1)

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """Per statement: identifier, sentence, prediction (1 true, 0 false, -1 where both score alike) and label."""
        assert batch.target is not None
        choices = clear_choices(scores.cpu().numpy()).tolist()
        labels = batch.target.argmax(1).tolist()
        return [
            {"identifier": name, "sentence": self.sentences[name], "prediction": choice, "label": label}
            for name, choice, label in zip(batch.ids, choices, labels, strict=True)
        ]

    def completed(self, evaluation: Evaluation, gathered: Gathered) -> Evaluation:
        """Adds the consistency."""
        own = [(result["sentence"], result["prediction"] == result["label"]) for result in evaluation.results]
        everywhere = [pair for part in gathered(own) for pair in part]  # a sentence's statements may lie anywhere
        hits = np.array([hit for _, hit in everywhere])
        evaluation.metrics["consistency"] = consistency([sentence for sentence, _ in everywhere], hits)
        return replace(evaluation, submission=submission(evaluation.results))


def submission(results: Iterable[dict[str, Any]]) -> str:
    """The official evaluator's CSV of an evaluation's results: ``identifier,true`` or ``identifier,false`` a line."""
    return "".join(f"{result['identifier']},{str(result['prediction'] == 1).lower()}\n" for result in results)
