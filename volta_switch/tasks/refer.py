"""Referring expressions: which region is meant (RefCOCO, RefCOCO+, RefCOCOg)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.annotations.file_names import refer_boxes
from volta_switch.data.annotations.refer import ReferEntry, load_refer
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.refer_dataset import FEWEST, LOWEST_CEILING, ReferDataset, no_overlap
from volta_switch.data.image_ids import id_number
from volta_switch.errors import UserError
from volta_switch.tasks.metrics import grounding_ceiling, grounding_hits
from volta_switch.tasks.task import Evaluation, Gathered, Task


class ReferTask(Task):
    """Binary cross-entropy of every region's score against its IoU with the referent, summed over the regions.

    The score is the share of expressions whose best region overlaps the referent by more than 0.5; ``oracle_ceiling``
    is what a perfect model would reach with these boxes. Split "test" is testA and testB together, and both are also
    reported by themselves. The global region is trained on, as in VOLTA, but is no answer. With ``volta_compat`` it is
    one, and results call an expression by its image and count all slots, as VOLTA's do.
    """

    metric = "accuracy"
    headline = ("accuracy",)

    def dataset(self, split: str, training: bool) -> ReferDataset:
        """Expressions of a split."""
        root = self.spec.path(self.spec.dataroot)
        entries = load_refer(root, self.spec.name, split)
        self.entries: dict[str, ReferEntry] = {str(entry.sent_id): entry for entry in entries}
        parts = {entry.split for entry in entries}
        self.parts = sorted(parts) if len(parts) > 1 else []  # a split that is all there is needs no second number
        store = self.store(split)
        dataset = ReferDataset(entries, store, self.tokenizer, **self.sizes)
        self.files = str(refer_boxes(root, self.spec.name)), str(store.path)
        dataset.check_boxes(*self.files)
        return dataset

    def notes(self) -> dict[str, str]:
        """Whose boxes the candidates are."""
        return {"boxes": self.options.boxes}

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over expressions of the summed binary cross-entropies; padding contributes nothing."""
        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores[..., 0], batch.target) * scores.shape[1]

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) whether the best candidate is right."""
        assert batch.target is not None
        arrays = (scores[..., 0], batch.target, self._candidates(batch))
        return grounding_hits(*(array.cpu().numpy() for array in arrays), volta_ties=self.options.volta_compat)

    def measures(self, scores: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        """Accuracy, its ceiling, and the accuracy on each part of the split."""
        assert batch.target is not None
        hits = self.hits(scores, batch)
        ceiling = grounding_ceiling(batch.target.cpu().numpy(), self._candidates(batch).cpu().numpy())
        part_of = np.array([self.entries[name].split for name in batch.ids])
        by_part = {f"accuracy_{part}": hits[part_of == part] for part in self.parts}
        return {"accuracy": hits, "oracle_ceiling": ceiling, **by_part}

    def completed(self, evaluation: Evaluation, gathered: Gathered) -> Evaluation:
        """The evaluation as it is.

        Raises:
            UserError: the ceiling is next to 0: regions and annotated boxes do not belong together.
        """
        ceiling = evaluation.metrics.get("oracle_ceiling", 100.0) / 100
        if ceiling < LOWEST_CEILING and len(self.entries) >= FEWEST:
            total = len(self.entries)
            raise UserError(no_overlap(*self.files, round(ceiling * total), total))
        return evaluation

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """Per expression: its id, the chosen box's index (from 0, the global region not counted), and the IoU.

        ``"tied": true`` where another box scores as high and does not overlap enough, so that this is no hit.
        """
        assert batch.target is not None
        compat = self.options.volta_compat
        best = scores[..., 0].masked_fill(~self._candidates(batch), float("-inf")).argmax(1, keepdim=True)
        overlaps = batch.target.gather(1, best)[:, 0].tolist()
        boxes = (best[:, 0] - (0 if compat else self.layout.boxes_from)).tolist()
        names = [id_number(self.entries[name].image_id) if compat else name for name in batch.ids]
        return [
            {"id": name, "target": box, "IOU": overlap, **({"tied": True} if overlap > 0.5 and not hit else {})}
            for name, box, overlap, hit in zip(names, boxes, overlaps, self.hits(scores, batch).tolist(), strict=True)
        ]

    def _candidates(self, batch: Batch) -> Tensor:
        """(B, R) the slots that may be answered."""
        assert batch.candidates is not None
        if self.options.volta_compat:
            return batch.inputs["image_attention_mask"].to(batch.candidates.device, torch.bool)
        return batch.candidates
