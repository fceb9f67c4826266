"""Image-text retrieval (Flickr30k, COCO): 4-way training, all pairs in the test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.annotations.file_names import hard_negatives
from volta_switch.data.annotations.retrieval import RetrievalAnnotations, load_hard_negatives, load_retrieval
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.retrieval_dataset import RetrievalDataset, RetrievalPool
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.tasks.inputs import captions_path
from volta_switch.tasks.metrics import best_first, mean_of_folds, rank_metrics, retrieval_ranks
from volta_switch.tasks.score_matrix import PairScorer
from volta_switch.tasks.task import Evaluation, Task
from volta_switch.tasks.task_file import TaskSpec

ALTERNATIVES = 4  # the pair, a random caption, a random image, a hard-negative caption
FOLD = 1000  # images among which COCO's "1k" numbers rank


class RetrievalTask(Task):
    """Cross-entropy over four alternatives; validation by 4-way accuracy, the test by R@k over all pairs."""

    metric = "accuracy_4way"
    headline = ("ir_r1", "tr_r1")

    def dataset(self, split: str, training: bool) -> RetrievalDataset:
        """Captions of a split with their alternatives; hard negatives in training only."""
        annotations = annotations_of(self.spec, split)
        pool = hard_negatives(self.spec.path(self.spec.dataroot))
        return RetrievalDataset(
            annotations,
            self.store(split),
            self.tokenizer,
            **self.sizes,
            hard_negatives=load_hard_negatives(pool, annotations) if training else None,
            volta_compat=self.options.volta_compat,
            seed=self.options.seed,
        )

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean cross-entropy of the right pair among its alternatives."""
        assert batch.target is not None
        return F.cross_entropy(scores.view(-1, ALTERNATIVES), batch.target)

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) whether the right pair scores strictly highest."""
        four = scores.view(-1, ALTERNATIVES)
        return (four[:, :1] > four[:, 1:]).all(1).float().cpu().numpy()

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """Per caption: its index and the four scores."""
        four = scores.view(-1, ALTERNATIVES).tolist()
        return [{"caption": int(name), "answer": row} for name, row in zip(batch.ids, four, strict=True)]

    def test(
        self, model: BertForVLTasks | BertForVLPreTraining, split: str, batch_size: int, device: torch.device
    ) -> Evaluation:
        """R@1, 5, 10 in both directions over all image-caption pairs.

        Over a multiple of 1000 images (COCO's 5000) also the means over its thousands, ``ir_r1_1k`` and so on.
        A pre-training model is tested zero-shot, by the probability that its matching head gives to "aligned".
        Results hold the indices of the 20 best images per caption, as VOLTA's.
        """
        self.check_model(model)
        pool = self.pool(split)
        return self.ranked(self.scorer(model, pool, batch_size, device).whole(), pool.caption_image)

    def check_model(self, model: BertForVLTasks | BertForVLPreTraining) -> None:
        """Refuses a model that cannot score a pair.

        Raises:
            UserError: a pre-training model without a matching head.
        """
        if isinstance(model, BertForVLPreTraining) and model.config.fusion_method == "none":
            raise UserError("zero-shot retrieval needs a model with a matching head (fusion_method is none)")

    def pool(self, split: str) -> RetrievalPool:
        """All captions and images of a split."""
        return RetrievalPool(annotations_of(self.spec, split), self.store(split), self.tokenizer, **self.sizes)

    def scorer(
        self,
        model: BertForVLTasks | BertForVLPreTraining,
        pool: RetrievalPool,
        batch_size: int,
        device: torch.device,
    ) -> PairScorer:
        """What scores the pairs of a pool, ``batch_size`` of them at once."""
        return PairScorer(model, pool, self.layout, self.spec.key, batch_size, device)

    def ranked(self, scores: np.ndarray, caption_image: np.ndarray) -> Evaluation:
        """The metrics of scores (captions, images), where ``caption_image`` is the index of each caption's image."""
        ties = self.options.volta_compat
        ranks = retrieval_ranks(scores, caption_image, volta_ties=ties)
        metrics = rank_metrics(ranks)
        if scores.shape[1] > FOLD and scores.shape[1] % FOLD == 0:
            folds = mean_of_folds(scores, caption_image, FOLD, volta_ties=ties)
            metrics |= {f"{name}_1k": value for name, value in folds.items()}
        best = best_first(scores) if ties else np.argsort(-scores, axis=1, kind="stable")
        lists = {direction: found.tolist() for direction, found in ranks.items()}
        return Evaluation(metrics["ir_r1"], metrics, best[:, :20].tolist(), ranks=lists)


def annotations_of(spec: TaskSpec, split: str) -> RetrievalAnnotations:
    """The captions of a split."""
    return load_retrieval(captions_path(spec, split), "id" if "COCO" in spec.name else "img_path")
