"""Visual question answering: a classifier over the answers with soft targets (VQAv2)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.collate import Batch
from volta_switch.data.vqa import load_vqa
from volta_switch.data.vqa_dataset import VqaDataset
from volta_switch.tasks.metrics import soft_accuracy
from volta_switch.tasks.task import Task


class VqaTask(Task):
    """Binary cross-entropy per answer, summed over the answers; the score is the soft label of the best answer."""

    metric = "vqa_score"
    headline = ("vqa_score",)

    def dataset(self, split: str, training: bool) -> VqaDataset:
        """Questions of a split."""
        annotations = load_vqa(self.spec.path(self.spec.dataroot), split, self.spec.num_labels)
        self.label2ans = annotations.label2ans
        return VqaDataset(
            annotations,
            self.store(),
            self.tokenizer,
            **self.sizes,
        )

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over questions of the summed binary cross-entropies (VOLTA: mean x number of labels)."""
        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target) * scores.shape[1]

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) soft label of the best answer."""
        assert batch.target is not None
        return soft_accuracy(scores.cpu().numpy(), batch.target.cpu().numpy())

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """The official test format: ``{"question_id", "answer"}``."""
        answers = scores.argmax(1).tolist()
        return [
            {"question_id": int(question), "answer": self.label2ans[answer]}
            for question, answer in zip(batch.ids, answers, strict=True)
        ]
