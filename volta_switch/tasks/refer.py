"""Referring expressions: which region is meant (RefCOCO, RefCOCO+, RefCOCOg)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.collate import Batch
from volta_switch.data.refer import load_refer
from volta_switch.data.refer_dataset import ReferDataset
from volta_switch.tasks.metrics import grounding_hits
from volta_switch.tasks.task import Task


class ReferTask(Task):
    """Binary cross-entropy of every region's score against its IoU with the referent, summed over the regions.

    The score is the share of expressions whose best region overlaps the referent by more than 0.5. The global region
    is trained on, as in VOLTA, but is no answer (VOLTA may answer with the whole image).
    """

    metric = "accuracy"
    headline = ("accuracy",)

    def dataset(self, split: str, training: bool) -> ReferDataset:
        """Expressions of a split."""
        return ReferDataset(
            load_refer(self.spec.path(self.spec.dataroot), self.spec.name, split),
            self.store(),
            self.tokenizer,
            **self.sizes,
        )

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over expressions of the summed binary cross-entropies; padding contributes nothing."""
        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores[..., 0], batch.target) * scores.shape[1]

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) whether the best candidate is right."""
        assert batch.target is not None and batch.candidates is not None
        arrays = (scores[..., 0], batch.target, batch.candidates)
        return grounding_hits(*(array.cpu().numpy() for array in arrays))

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """Per expression: its id, the chosen box's index (from 0, the global region not counted), and the IoU."""
        assert batch.target is not None and batch.candidates is not None
        best = scores[..., 0].masked_fill(~batch.candidates, float("-inf")).argmax(1, keepdim=True)
        overlaps = batch.target.gather(1, best)[:, 0].tolist()
        boxes = (best[:, 0] - self.layout.boxes_from).tolist()
        return [
            {"id": name, "target": box, "IOU": overlap}
            for name, box, overlap in zip(batch.ids, boxes, overlaps, strict=True)
        ]
