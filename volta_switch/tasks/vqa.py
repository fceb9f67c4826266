"""Visual question answering: a classifier over the answers with soft targets (VQAv2), and what tasks like it share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from volta_switch.checksums import is_there
from volta_switch.data.files.json_files import read_json
from volta_switch.data.image_ids import id_number, plain_id
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import (
    Choice,
    TaskDataset,
    chosen,
    id_field,
    load_coco_test_ids,
    read_entries,
    text_field,
)
from volta_switch.tasks.task import Evaluation, Grader, Item, Task
from volta_switch.tasks.task_file import TaskSpec
from volta_switch.tasks.vqa_files import (
    VQA_SPLITS,
    answers_file,
    is_test,
    load_annotators,
    load_labels,
    load_questions,
    load_targets,
    questions_file,
    soft_answer,
    targets_file,
    vqa_files,
)

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from volta_switch.data.batches.collate import Batch, BatchLayout, Sample
    from volta_switch.data.files.stores import FeatureStore
    from volta_switch.data.tokenizer import Tokenizer
    from volta_switch.model.bert import BertForVLTasks

_MINVAL = 3000  # the last questions of val, which VOLTA keeps for validation when it trains on trainval


# --- Annotations ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VqaEntry:
    """One question.

    Attributes:
        labels: the answers' indices; None where not given.
        scores: their soft scores in 0..1; None where not given.
    """

    question_id: str
    image_id: str
    question: str
    labels: tuple[int, ...] | None
    scores: tuple[float, ...] | None


@dataclass(frozen=True)
class VqaAnnotations:
    """The questions of a split and the answer that each label stands for."""

    entries: list[VqaEntry]
    label2ans: list[str]


def load_vqa(dataroot: str | Path, split: str, num_labels: int | None = None) -> VqaAnnotations:
    """Reads a split, ordered by question id.

    Args:
        dataroot: the folder of the files. Targets lie in cache/, or one level up.
        split: train, val, trainval (train and val without its last 3,000 questions), minval (those 3,000), mteval
            (train's questions on the images in cache/coco_test_ids.npy), test and test-dev (without answers unless
            there are targets for them: VQAv2's are not public, a synthetic world's are).
        num_labels: the number of answers that the task's head has.

    Raises:
        UserError: missing or contradictory files, another number of answers, or an empty split.
    """
    dataroot = Path(dataroot)
    vqa_files(dataroot, split)  # which knows the splits
    label2ans = load_labels(dataroot, num_labels)
    parts = {name: _load_part(dataroot, name, len(label2ans)) for name in VQA_SPLITS[split]}
    if split == "trainval":
        entries = parts["train"] + parts["val"][:-_MINVAL]
    elif split == "minval":
        entries = parts["val"][-_MINVAL:]
    elif split == "mteval":
        wanted = load_coco_test_ids(dataroot)
        entries = [entry for entry in parts["train"] if plain_id(entry.image_id) in wanted]
    else:
        entries = parts[split]
    if not entries:
        raise UserError(f"{dataroot}: split {split!r} of VQA is empty; check its questions file")
    return VqaAnnotations(entries, label2ans)


def _load_part(dataroot: Path, name: str, num_labels: int) -> list[VqaEntry]:
    """Reads the questions of one official file with their targets; those of a test may have none."""
    asked = questions_file(dataroot, name)
    questions = load_questions(asked)
    path = chosen(targets_file(dataroot, name))
    if is_test(name) and not is_there(path):
        return [VqaEntry(q["question_id"], q["image_id"], q["question"], None, None) for q in questions]
    targets = load_targets(path)
    ids = read_entries(path, targets, lambda target, _: id_field(target, "question_id"), "question_id", "target")
    by_id = dict(zip(ids, targets, strict=True))
    if len(by_id) != len(ids) or by_id.keys() != {question["question_id"] for question in questions}:
        raise UserError(
            f"{path}: {len(targets)} targets do not have the ids of the {len(questions)} questions in {asked.name}; "
            "take both files from one release"
        )
    entries = []
    for question in questions:
        image_id, target = question["image_id"], by_id[question["question_id"]]
        if "image_id" in target and plain_id(str(target["image_id"])) != plain_id(image_id):
            raise UserError(
                f"{path}: question {question['question_id']} is about image {target['image_id']!r}, in {asked.name} "
                f"about {image_id!r}; take both files from one release"
            )
        labels, scores = soft_answer(target, num_labels, path)
        entries.append(VqaEntry(**question, labels=labels, scores=scores))
    return entries


# --- Data set and tasks -----------------------------------------------------------------------------------------------


class VqaDataset(TaskDataset):
    """Samples add ``target``, the (num_labels,) float32 soft scores, or None for questions without answers.

    A sample's id is its question id.
    """

    @staticmethod
    def collate(samples: Sequence[Sample], layout: BatchLayout) -> Batch:
        """As ``collate.collate_labelled``."""
        from volta_switch.data.batches.collate import collate_labelled

        return collate_labelled(samples, layout)

    longest_text = 23

    def __init__(self, annotations: VqaAnnotations, store: FeatureStore, tokenizer: Tokenizer, **sizes: Any) -> None:
        super().__init__(annotations.entries, store, tokenizer, **sizes)
        self.label2ans = annotations.label2ans

    def text(self, entry: VqaEntry) -> str:
        """The question."""
        return entry.question

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task."""
        return [(str(entry.question_id), str(entry.image_id)) for entry in self.entries]

    def __getitem__(self, index: int) -> Sample:
        import numpy as np

        entry = self.entries[index]
        target = None
        if entry.labels is not None:
            target = np.zeros(len(self.label2ans), dtype=np.float32)
            target[list(entry.labels)] = entry.scores
        image = self._images[entry.image_id]
        return {"id": str(entry.question_id), "input_ids": self._tokens[index], "target": target, **image.inputs}


class AnswerTask(Task):
    """What tasks share in which one text about one image gets one of a list of answers.

    Binary cross-entropy per answer, summed over the answers; the score is the soft label of the best answer.

    Attributes:
        result_keys: what a result calls the text and the answer.
        unlabelled_count: whether a text without any right answer counts, as one that cannot be answered rightly.
    """

    result_keys: ClassVar[tuple[str, str]]
    unlabelled_count: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def annotations(cls, spec: TaskSpec, split: str) -> VqaAnnotations:
        """Reads the texts and answers of a split."""

    @classmethod
    def labels(cls, spec: TaskSpec) -> list[str]:
        """Returns the answer that each label stands for: those of the data root."""
        return load_labels(spec.path(spec.dataroot), spec.num_labels)

    @cached_property
    def label2ans(self) -> list[str]:
        """As ``labels``, read once."""
        return self.labels(self.spec)

    def dataset(self, split: str, training: bool) -> VqaDataset:
        """Texts of a split with their images."""
        return VqaDataset(self.annotations(self.spec, split), self.store(split), self.tokenizer, **self.sizes)

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over samples of the summed binary cross-entropies (VOLTA: mean x number of labels)."""
        import torch.nn.functional as F

        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target) * scores.shape[1]

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) soft label of the best answer."""
        from volta_switch.tasks.metrics import soft_accuracy

        assert batch.target is not None
        return soft_accuracy(scores.cpu().numpy(), batch.target.cpu().numpy())

    def answers(self, scores: Tensor) -> list[str]:
        """The best answer of each sample."""
        return [self.label2ans[label] for label in scores.argmax(1).tolist()]

    def results(self, scores: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Per text its id and the answer, by ``result_keys``."""
        text, answer = self.result_keys
        return [{text: name, answer: given} for name, given in zip(batch.ids, self.answers(scores), strict=True)]

    @classmethod
    def grader(cls, spec: TaskSpec, split: str) -> Grader:
        """The soft score of each answer; a text is an item, those about one image are a group."""
        annotations = cls.annotations(spec, split)
        names = annotations.label2ans
        truth: dict[str, tuple[str, dict[str, float] | None]] = {}
        for entry in annotations.entries:
            if entry.labels is None or entry.scores is None:
                raise UserError(f"question {entry.question_id} has no answer to compare with")
            scores = {names[label]: score for label, score in zip(entry.labels, entry.scores, strict=True)}
            truth[str(entry.question_id)] = str(entry.image_id), scores if scores or cls.unlabelled_count else None
        text, answer = cls.result_keys

        def grade(results: Any, metric: str) -> Iterable[Item]:
            for result in results:
                name = str(result[text])
                image, scores = truth[name]
                if scores is not None:
                    yield name, image, 0.0 if result.get("tied") else scores.get(result[answer], 0.0)

        return grade


class VqaTask(AnswerTask):
    """VQAv2. ``vqa_score`` is VOLTA's: the soft label of the best answer.

    A test also gives ``vqa_accuracy``, the official evaluator's, where the official annotations lie beside the
    questions.
    """

    data_sets = ("VQA",)
    heads = ("VL-classifier",)
    metric = "vqa_score"
    headline = ("vqa_score",)
    result_keys = ("question_id", "answer")  # of the official test format

    @classmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """As ``vqa_files``."""
        return vqa_files(spec.path(spec.dataroot), split)

    @classmethod
    def annotations(cls, spec: TaskSpec, split: str) -> VqaAnnotations:
        """Questions of a split."""
        return load_vqa(spec.path(spec.dataroot), split, spec.num_labels)

    def results(self, scores: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """The official test format, in which ids are numbers."""
        results = super().results(scores, batch)
        return [{**result, "question_id": id_number(result["question_id"])} for result in results]

    def test(self, model: BertForVLTasks, split: str, batch_size: int, device: torch.device) -> Evaluation:
        """Both scores."""
        from volta_switch.tasks.metrics import vqa_accuracy

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
        paths = self._answers_files(split)
        if paths is None:
            return None
        return {question.question_id: question.answers for path in paths for question in load_annotators(path)}

    def facts(self, split: str) -> dict[str, dict[str, Any]]:
        """``question type``, where the official annotations lie beside the questions."""
        types: dict[str, str] = {}
        for path in self._answers_files(split) or ():
            try:
                annotations = read_json(path)["annotations"]
                types |= {id_field(item, "question_id"): text_field(item, "question_type") for item in annotations}
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"{path}: expected VQA's annotations with question_id and question_type ({error!r})"
                ) from None
        return {"question type": types} if types else {}

    def _answers_files(self, split: str) -> list[Path] | None:
        """The official annotations of a split; None where one of them is not there."""
        paths = [answers_file(self.spec.path(self.spec.dataroot), name) for name in VQA_SPLITS[split]]
        return paths if all(map(is_there, paths)) else None
