"""SNLI-VE: does an image entail a sentence, contradict it, or neither?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.annotations.snli_ve import load_snli_ve
from volta_switch.data.annotations.vqa import VqaAnnotations
from volta_switch.data.batches.collate import Batch
from volta_switch.tasks.metrics import clear_choices
from volta_switch.tasks.vqa import AnswerTask


class SnliVeTask(AnswerTask):
    """Binary cross-entropy per relation, averaged over the three, as in VOLTA.

    A pair without a gold label is trained on as none of the three, as in VOLTA, but does not count in the accuracy.
    With ``volta_compat`` it counts as wrong, as in VOLTA.
    """

    metric = "accuracy"
    headline = ("accuracy",)

    def annotations(self, split: str) -> VqaAnnotations:
        """Pairs of a split."""
        return load_snli_ve(self.spec.path(self.spec.dataroot), split, self.spec.given_annotations(split))

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over pairs and relations of the binary cross-entropies."""
        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target)

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B',) whether the right relation scores strictly highest, of the pairs that count."""
        assert batch.target is not None
        target = batch.target.cpu().numpy()
        gold = target.any(1)
        right = gold & (clear_choices(scores.cpu().numpy()) == target.argmax(1))
        return right if self.options.volta_compat else right[gold]

    def counted(self, batch: Batch) -> np.ndarray:
        """(B,) bool: pairs with a relation."""
        assert batch.target is not None
        return np.ones(len(batch), bool) if self.options.volta_compat else batch.target.any(1).cpu().numpy()

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """Per pair: its id and the relation predicted; ``"tied": true`` where another scores as high: never right."""
        found = zip(batch.ids, self.answers(scores), clear_choices(scores.cpu().numpy()) < 0, strict=True)
        return [
            {"id": name, "prediction": relation, **({"tied": True} if tied else {})} for name, relation, tied in found
        ]
