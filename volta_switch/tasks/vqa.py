"""Visual question answering: a classifier over the answers with soft targets (VQAv2)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.data.annotations.file_names import VQA_SPLITS, vqa_answers
from volta_switch.data.annotations.vqa import VqaAnnotations, load_vqa
from volta_switch.data.annotations.vqa_answers import load_annotators
from volta_switch.data.batches.collate import Batch
from volta_switch.data.batches.vqa_dataset import VqaDataset
from volta_switch.data.image_ids import id_number
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLTasks
from volta_switch.tasks.metrics import soft_accuracy
from volta_switch.tasks.task import Evaluation, Task
from volta_switch.tasks.vqa_accuracy import vqa_accuracy


class AnswerTask(Task):
    """What tasks share in which one text about one image gets one of a list of answers.

    Binary cross-entropy per answer, summed over the answers; the score is the soft label of the best answer.
    """

    @abstractmethod
    def annotations(self, split: str) -> VqaAnnotations:
        """The texts and answers of a split."""

    def dataset(self, split: str, training: bool) -> VqaDataset:
        """Texts of a split with their images."""
        annotations = self.annotations(split)
        self.label2ans = annotations.label2ans
        return VqaDataset(annotations, self.store(split), self.tokenizer, **self.sizes)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over samples of the summed binary cross-entropies (VOLTA: mean x number of labels)."""
        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target) * scores.shape[1]

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) soft label of the best answer."""
        assert batch.target is not None
        return soft_accuracy(scores.cpu().numpy(), batch.target.cpu().numpy())

    def answers(self, scores: Tensor) -> list[str]:
        """The best answer of each sample."""
        return [self.label2ans[label] for label in scores.argmax(1).tolist()]


class VqaTask(AnswerTask):
    """VQAv2. ``vqa_score`` is VOLTA's: the soft label of the best answer.

    A test also gives ``vqa_accuracy``, the official evaluator's, where the official annotations lie beside the
    questions.
    """

    metric = "vqa_score"
    headline = ("vqa_score",)

    def annotations(self, split: str) -> VqaAnnotations:
        """Questions of a split."""
        return load_vqa(self.spec.path(self.spec.dataroot), split, self.spec.num_labels)

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """The official test format: ``{"question_id", "answer"}``."""
        pairs = zip(batch.ids, self.answers(scores), strict=True)
        return [{"question_id": id_number(question), "answer": answer} for question, answer in pairs]

    def test(self, model: BertForVLTasks, split: str, batch_size: int, device: torch.device) -> Evaluation:
        """Both scores."""
        evaluation = super().test(model, split, batch_size, device)
        predictions = {str(result["question_id"]): result["answer"] for result in evaluation.results}
        annotators = self.annotators(split)
        if annotators is not None:
            unknown = [question for question in predictions if question not in annotators]
            if unknown:
                raise UserError(
                    f"{self.spec.path(self.spec.dataroot)}: the official annotations lack {len(unknown)} questions of "
                    f"split {split!r}, first {unknown[0]}; take questions and annotations from one release"
                )
            evaluation.metrics["vqa_accuracy"] = vqa_accuracy(predictions, annotators)
        return evaluation

    def annotators(self, split: str) -> dict[str, tuple[str, ...]] | None:
        """What people answered to a split's questions, by question id; None where an annotation file is not there."""
        paths = [vqa_answers(self.spec.path(self.spec.dataroot), name) for name in VQA_SPLITS[split]]
        if not all(path.is_file() for path in paths):
            return None
        return {question.question_id: question.answers for path in paths for question in load_annotators(path)}
