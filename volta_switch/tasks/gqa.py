"""GQA: questions about real scenes, each with one answer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from volta_switch.data.annotations.gqa import load_gqa
from volta_switch.data.annotations.vqa import VqaAnnotations
from volta_switch.data.batches.collate import Batch
from volta_switch.tasks.vqa import AnswerTask


class GqaTask(AnswerTask):
    """Trained as VQA; the score is the share of questions that are answered exactly."""

    metric = "accuracy"
    headline = ("accuracy",)

    def annotations(self, split: str) -> VqaAnnotations:
        """Questions of a split."""
        return load_gqa(self.spec.path(self.spec.dataroot), split, self.spec.num_labels)

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """The official test format: ``{"questionId", "prediction"}``."""
        pairs = zip(batch.ids, self.answers(scores), strict=True)
        return [{"questionId": question, "prediction": answer} for question, answer in pairs]
