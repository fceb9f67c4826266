"""Image-text retrieval (Flickr30k, COCO): 4-way training, all pairs in the test, or all within pools of its images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.checksums import is_there
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import Choice
from volta_switch.tasks.task import Evaluation, FinishedTest, Grader, Item, Task
from volta_switch.tasks.task_file import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from volta_switch.data.batches.collate import Batch
    from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
    from volta_switch.tasks.retrieval_dataset import RetrievalAnnotations, RetrievalDataset, RetrievalPairs
    from volta_switch.tasks.retrieval_scores import PairScorer

ALTERNATIVES = 4  # the pair, a random caption, a random image, a hard-negative caption
FOLD = 1000  # images among which COCO's "1k" numbers rank


def captions_file(spec: TaskSpec, split: str) -> Path:
    """Returns the file of a split's captions: the task file's, or ``<split>_ann.jsonl`` beside it.

    VOLTA calls the validation file ``valid_ann.jsonl``; COCO's ``test1k`` is a split of its own.
    """
    path = spec.given_annotations(split)
    if path is not None:
        return path
    beside = spec.val_annotations_jsonpath or spec.train_annotations_jsonpath
    if not beside:
        raise UserError(f"{spec.key} ({spec.name}): the task file names no annotations for {split!r}")
    return spec.path(beside).with_name(f"{'valid' if split == 'val' else split}_ann.jsonl")


def hard_negatives_file(dataroot: Path) -> Path:
    """Returns the file of the images that resemble each image, for training."""
    return dataroot / "hard_negative.pkl"


class RetrievalTask(Task):
    """Cross-entropy over four alternatives; validation by 4-way accuracy, the test by R@k over all pairs."""

    data_sets = ("RetrievalFlickr30k", "RetrievalCOCO")
    heads = ("VL-logit",)
    named_annotations = True
    second_features = "validation"
    entry_point = "eval_retrieval"
    metric = "accuracy_4way"
    headline = ("ir_r1", "tr_r1")
    alternatives = ALTERNATIVES

    @classmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """As ``captions_file``."""
        return [(captions_file(spec, split),)]

    @classmethod
    def training_files(cls, spec: TaskSpec) -> list[Choice]:
        """The hard negatives."""
        return [(hard_negatives_file(spec.path(spec.dataroot)),)]

    def dataset(self, split: str, training: bool) -> RetrievalDataset:
        """Captions of a split with their alternatives; hard negatives in training only."""
        from volta_switch.tasks.retrieval_dataset import RetrievalDataset, load_hard_negatives

        annotations = annotations_of(self.spec, split)
        pool = hard_negatives_file(self.spec.path(self.spec.dataroot))
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
        import torch.nn.functional as F

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
        """R@1, 5, 10 in both directions over all image-caption pairs, or over those within pools (``pool_images``).

        Over a multiple of 1000 images (COCO's 5000) also the means over its thousands, ``ir_r1_1k`` and so on.
        A pre-training model is tested zero-shot, by the probability that its matching head gives to "aligned".
        Results hold the indices of the 20 best images per caption, as VOLTA's.
        """
        self.check_model(model)
        pairs = self.pairs(split)
        return self.ranked(self.scorer(model, pairs, batch_size, device).whole(), pairs.caption_image)

    def check_model(self, model: BertForVLTasks | BertForVLPreTraining) -> None:
        """Refuses a model that cannot score a pair.

        Raises:
            UserError: a pre-training model without a matching head.
        """
        from volta_switch.model.bert import BertForVLPreTraining

        if isinstance(model, BertForVLPreTraining) and model.config.fusion_method == "none":
            raise UserError("zero-shot retrieval needs a model with a matching head (fusion_method is none)")

    def pairs(self, split: str) -> RetrievalPairs:
        """All captions and images of a split; UserError where the images do not fill whole pools."""
        from volta_switch.tasks.retrieval_dataset import RetrievalPairs

        annotations, sizes = annotations_of(self.spec, split), {**self.sizes, "pool_images": self.spec.pool_images}
        return RetrievalPairs(annotations, self.store(split), self.tokenizer, **sizes)

    def scorer(
        self,
        model: BertForVLTasks | BertForVLPreTraining,
        pairs: RetrievalPairs,
        batch_size: int,
        device: torch.device,
    ) -> PairScorer:
        """What scores the pairs of a split, ``batch_size`` of them at once."""
        from volta_switch.tasks.retrieval_scores import PairScorer

        return PairScorer(model, pairs, self.layout, self.spec.key, batch_size, device)

    def ranked(self, scores: np.ndarray, caption_image: np.ndarray) -> Evaluation:
        """The metrics of scores (captions, images of a pool), by the index of each caption's image (captions,)."""
        import numpy as np

        from volta_switch.tasks.metrics import best_first, mean_of_folds, rank_metrics, ranks_in_pools

        ties, size = self.options.volta_compat, scores.shape[1]
        ranks = ranks_in_pools(scores, caption_image, volta_ties=ties)
        metrics = rank_metrics(ranks)
        if self.spec.pool_images is None and size > FOLD and size % FOLD == 0:
            folds = mean_of_folds(scores, caption_image, FOLD, volta_ties=ties)
            metrics |= {f"{name}_1k": value for name, value in folds.items()}
        best = best_first(scores) if ties else np.argsort(-scores, axis=1, kind="stable")
        best = best[:, :20] + (caption_image - caption_image % size)[:, None]  # of the split, not of the pool
        lists = {direction: found.tolist() for direction, found in ranks.items()}
        pools = {"pools": f"{len(ranks['tr']) // size} of {size} images each, ranked within each"}
        notes = {} if self.spec.pool_images is None else pools
        return Evaluation(metrics["ir_r1"], metrics, best.tolist(), notes, ranks=lists)

    @classmethod
    def graded_file(cls, test: FinishedTest, metric: str) -> Path:
        """The ranks; of a test that is older than they are, the results, which tell image R@1 alone."""
        if is_there(test.ranks):
            return test.ranks
        if metric == "ir_r1":
            return test.results
        raise UserError(f"{test.ranks}: missing (the test was made before there was such a file); test again")

    @classmethod
    def grader(cls, spec: TaskSpec, split: str) -> Grader:
        """``ir_r1``: captions whose image ranks first; ``tr_r1``: images of which a caption does."""
        truth = annotations_of(spec, split)
        images, places = truth.image_ids, truth.caption_image.tolist()

        def grade(found: Any, metric: str) -> list[Item]:
            if isinstance(found, Mapping):  # ranks
                right = [float(rank == 0) for rank in found[metric.removesuffix("_r1")]]
            else:
                right = [float(row[0] == own) for row, own in zip(found, places, strict=True)]
            if metric == "tr_r1":
                return list(zip(images, images, right, strict=True))
            names = [f"{images[place]}#{number}" for number, place in enumerate(places)]
            return list(zip(names, [images[place] for place in places], right, strict=True))

        return grade


def check_pools(spec: TaskSpec, split: str) -> None:
    """Refuses a split whose images do not fill whole pools, before anything is trained or scored.

    Raises:
        UserError: its captions are there, and their number of lines is no multiple of the entry's ``pool_images``.
    """
    from volta_switch.tasks.retrieval_pools import refuse_uneven

    if spec.pool_images is None or spec.type not in RetrievalTask.heads:
        return
    path = captions_file(spec, split)
    if is_there(path):
        lines = sum(bool(line.strip()) for line in path.read_bytes().splitlines())
        refuse_uneven(lines, spec.pool_images, str(path))


def annotations_of(spec: TaskSpec, split: str) -> RetrievalAnnotations:
    """Reads the captions of a split."""
    from volta_switch.tasks.retrieval_dataset import load_retrieval

    return load_retrieval(captions_file(spec, split), "id" if "COCO" in spec.name else "img_path")
