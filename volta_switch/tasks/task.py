"""What a task is: data, batch → loss, batch → prediction, each once; training, validation and testing share them.

A task is one file of this folder with a subclass of ``Task`` that names its data sets; the package finds it by them.
What others ask of a task stands here: which files it reads (asked before anything that takes time is imported, so that
those files and this one import NumPy and PyTorch where they are used), how it is trained and evaluated, what statistics
ask of its test items and route reports of its samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from volta_switch.errors import UserError
from volta_switch.tasks.dataset import Choice
from volta_switch.tasks.task_file import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from volta_switch.config import Config
    from volta_switch.data.batches.collate import Batch
    from volta_switch.data.batches.loader import Loader
    from volta_switch.data.files.stores import FeatureStore
    from volta_switch.data.tokenizer import Tokenizer
    from volta_switch.model.bert import BertForVLTasks

Boxes = Literal["detected", "gt"]
Gathered = Callable[[Any], list[Any]]  # what every process gives, from what this one gives
Item = tuple[str, str, float]  # of a test: its name, that of its group, how right (0 to 1)
Grader = Callable[[Any, str], Iterable[Item]]  # from a file of results, read, and a metric to the test's items


@dataclass(frozen=True)
class Share:
    """One process's share of the parts of a score matrix or of a study's cells.

    Attributes:
        number: which share, from 0.
        count: of so many.
    """

    number: int = 0
    count: int = 1


WHOLE = Share()


@dataclass(frozen=True)
class DataOptions:
    """How the data are read: worker processes per loader, whether decoded images stay in memory, what is passed over.

    ``boxes``: for referring expressions, the detector's (``features_h5path1``) or the annotated ones (its
    ``features_h5path2``). ``volta_compat``: with VOLTA's known errors, see docs/volta-differences.md.
    """

    seed: int = 0
    num_workers: int = 0
    in_memory: bool = False
    features: str = ""  # another feature file than the task file's
    boxes: Boxes = "detected"
    volta_compat: bool = False
    max_bad_records: int = 0  # records that cannot be used and are passed over before the run is stopped
    data_fraction: float = 1.0  # of the training samples, drawn by data_fraction_seed
    data_fraction_seed: int = 0
    rank: int = 0  # of so many processes that share each batch,
    ranks: int = 1
    parts: int = 1  # in training one part after the other
    worker_timeout: float = 0.0  # seconds without a batch; 0: never
    pin_memory: bool = False  # batches in page-locked memory, from which a GPU copies while the host goes on


@dataclass(frozen=True)
class Evaluation:
    """Metrics in percent (``loss`` aside), the score that selects epochs, and results in submission format.

    ``notes``: what else must be known to read the metrics, such as which boxes were the candidates. ``submission``:
    the CSV that a task's official evaluator takes, where that is not the JSON of the results. ``ranks``: of retrieval
    in both directions, from 0, which the results do not tell. ``measured``: what this process's samples gave for each
    metric that is a mean over samples, in the batches' order, from 0 to 1.
    """

    score: float
    metrics: dict[str, float]
    results: list[Any]
    notes: dict[str, str] = field(default_factory=dict)
    submission: str = ""
    ranks: dict[str, list[int]] = field(default_factory=dict)
    measured: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class FinishedTest:
    """A finished run's test on one split, by its files."""

    spec: TaskSpec  # as the test had it
    split: str
    folder: Path  # the run's

    @property
    def results(self) -> Path:
        """The file of what was predicted."""
        return self.folder / f"{self.split}_result.json"

    @property
    def ranks(self) -> Path:
        """The file of retrieval's ranks."""
        return self.folder / f"{self.split}_ranks.json"


def alone(value: Any) -> list[Any]:
    """``Gathered`` of one process."""
    return [value]


class Task(ABC):
    """One downstream task.

    Attributes:
        data_sets: the ``name`` of the task-file entries that it reads. Written as a tuple of texts, because modules
            are found by it without being imported.
        heads: the ``type`` of these entries: with which of ``model.heads`` it can be trained.
        named_annotations: whether an entry may name annotation files beside its data root's.
        second_features: what an entry's second feature file is; "": not read.
        entry_point: the command that tests it.
        metric: the score that selects the best epoch.
        headline: the test metrics of the side-by-side table.
        alternatives: rows of a sample of which the first is the true pair, and the others wrong ones.
        images: images of a sample, a row each unless the model's fusion joins them.
    """

    data_sets: ClassVar[tuple[str, ...]] = ()
    heads: ClassVar[tuple[str, ...]] = ()
    named_annotations: ClassVar[bool] = False
    second_features: ClassVar[Literal["", "validation", "annotated boxes"]] = ""
    entry_point: ClassVar[str] = "eval_task"
    metric: ClassVar[str]
    headline: ClassVar[tuple[str, ...]]
    alternatives: ClassVar[int] = 1
    images: ClassVar[int] = 1

    def __init__(self, spec: TaskSpec, config: Config, tokenizer: Tokenizer, options: DataOptions):
        from volta_switch.data.batches.collate import BatchLayout

        self.spec, self.config, self.tokenizer, self.options = spec, config, tokenizer, options
        self.layout = BatchLayout.of(config)

    # --- Files: nothing is opened ---------------------------------------------------------------------------------

    @classmethod
    @abstractmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """The files that hold a split's annotations; UserError for a split that the data set does not have."""

    @classmethod
    def training_files(cls, spec: TaskSpec) -> list[Choice]:
        """What training needs beside them."""
        return []

    @classmethod
    def labels(cls, spec: TaskSpec) -> list[str]:
        """What each row of the head stands for; [] where it scores boxes or pairs."""
        return []

    # --- Samples and their batches ----------------------------------------------------------------------------------

    @abstractmethod
    def dataset(self, split: str, training: bool) -> Any:
        """The samples of a split, a ``TaskDataset``."""

    @property
    def sizes(self) -> dict[str, Any]:
        """What every data set is told of the model and the task: location values, most word pieces, most regions."""
        return {
            "num_locs": self.config.num_locs,
            "max_seq_length": self.spec.max_seq_length,
            "max_regions": self.spec.max_region_num,
        }

    def store(self, split: str) -> FeatureStore:
        """The image features of a split (``tasks.features_path``).

        Raises:
            UserError: they cannot be read, or most of a sample of the images have boxes that cannot be theirs.
        """
        from volta_switch.data.feature_files import open_features
        from volta_switch.data.geometry import LOOKED_AT, refuse_strange_boxes
        from volta_switch.tasks import features_path

        path = features_path(self.spec, split, self.options.features, self.options.boxes)
        store = open_features(path, self.config.v_feature_size, in_memory=self.options.in_memory)
        refuse_strange_boxes(store.sample(LOOKED_AT), str(path))
        return store

    def loader(self, split: str, batch_size: int, training: bool, samples: int = 0, samples_seed: int = 0) -> Loader:
        """Batches of a split, shuffled for training, and then of the share of the samples that the options ask for.

        ``samples``: about so many, those of images drawn at random by ``samples_seed``; 0: all. Texts of a batch are of
        like length, so that some of the batches would be no fair share.
        """
        from volta_switch.data.batches.loader import make_loader
        from volta_switch.data.batches.sampling import BatchSampler, ChosenSamples, subset, whole_groups

        options = self.options
        dataset = self.dataset(split, training)
        collate = partial(dataset.collate, layout=self.layout)
        if 0 < samples < len(dataset):
            images = [image for _, image in dataset.sample_images]
            dataset = ChosenSamples(dataset, whole_groups(images, samples, samples_seed))
        if training and options.data_fraction < 1:
            places = subset(len(dataset), options.data_fraction, options.data_fraction_seed)
            dataset = ChosenSamples(dataset, places)
        sampler = BatchSampler(
            dataset.text_lengths,
            batch_size,
            options.seed,
            shuffle=training,
            rank=options.rank,
            ranks=options.ranks,
            parts=options.parts if training else 1,
        )
        return make_loader(
            dataset,
            sampler,
            collate,
            options.num_workers,
            options.pin_memory,
            max_bad_records=options.max_bad_records,
            timeout=options.worker_timeout,
        )

    # --- Losses, predictions and metrics ----------------------------------------------------------------------------

    def scores(self, model: BertForVLTasks, batch: Batch) -> Tensor:
        """The head's scores for a batch."""
        return model(self.spec.key, **batch.inputs).scores

    @abstractmethod
    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """A scalar: the mean over the samples of a batch of the head's scores."""

    @abstractmethod
    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) in [0, 1]: how right each sample is; a task may leave out samples that do not count."""

    def measures(self, scores: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        """What evaluation averages over all batches: values in [0, 1] of a batch's samples, or of some of them."""
        return {self.metric: self.hits(scores, batch)}

    def counted(self, batch: Batch) -> np.ndarray:
        """(B,) bool: which samples ``hits`` is about."""
        import numpy as np

        return np.ones(len(batch.ids), dtype=bool)

    @abstractmethod
    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """The batch's entries in the submission file."""

    def evaluate(
        self, model: BertForVLTasks, batches: Iterable[Batch], device: torch.device, gathered: Gathered = alone
    ) -> Evaluation:
        """Mean loss and measures over all samples, each counted once; results where the samples have ids.

        Splits without answers give results and a score of NaN.

        Args:
            model: in evaluation mode after this.
            batches: of the whole split, or of this process's share of it.
            device: the model's.
            gathered: gives what every process found, where several share a split; results stay this one's.
        """
        import numpy as np
        import torch

        losses, results, samples = 0.0, [], 0
        measured: dict[str, list[np.ndarray]] = {}
        model.eval()
        with torch.inference_mode():
            for batch in batches:
                if not batch.inputs:  # all its records were passed over
                    continue
                batch = batch.to(device)
                scores = self.scores(model, batch).float()  # of a stand-in, too: of a divided model all have a part
                if not len(batch):
                    continue
                results += self.results(scores, batch)
                samples += len(batch)
                if batch.target is not None:
                    losses += float(self.loss(scores, batch)) * len(batch)
                    for name, values in self.measures(scores, batch).items():
                        measured.setdefault(name, []).append(values)
        own = {name: np.concatenate(parts).tolist() for name, parts in measured.items()}
        everywhere = gathered([losses, samples, own])
        metrics = {self.metric: float("nan")}
        metrics["loss"] = sum(part[0] for part in everywhere) / max(sum(part[1] for part in everywhere), 1)
        for name in dict.fromkeys(name for _, _, found in everywhere for name in found):
            values = np.concatenate([np.asarray(found.get(name, []), np.float64) for _, _, found in everywhere])
            metrics[name] = 100.0 * float(values.mean())
        return self.completed(Evaluation(metrics[self.metric], metrics, results, self.notes(), measured=own), gathered)

    def completed(self, evaluation: Evaluation, gathered: Gathered) -> Evaluation:
        """What a task adds to an evaluation, or refuses in it; ``gathered`` as ``evaluate`` takes it."""
        return evaluation

    def notes(self) -> dict[str, str]:
        """See ``Evaluation``."""
        return {}

    def test(self, model: BertForVLTasks, split: str, batch_size: int, device: torch.device) -> Evaluation:
        """The task's exact metrics on a split."""
        return self.evaluate(model, self.loader(split, batch_size, training=False), device)

    # --- Data check, statistics and route reports ---------------------------------------------------------------------

    @classmethod
    def shown_images(cls, spec: TaskSpec, split: str) -> set[str] | None:
        """The images that a split is about, by their ids, for ``data check``; None: its annotations are known there."""
        return None

    @classmethod
    def grader(cls, spec: TaskSpec, split: str) -> Grader:
        """Reads the truth of a split; what it returns tells how right a run was on each test item.

        Items are what a ``headline`` metric is the mean of. Those of one group (most often one image) are not
        independent.

        Raises:
            UserError: the data are not there, have no answers, or (as here) the task does not tell its items.
        """
        raise UserError(f"{spec.key} ({spec.name}): {cls.__name__} does not tell its test items (Task.grader)")

    @classmethod
    def graded_file(cls, test: FinishedTest, metric: str) -> Path:
        """The file of a test that ``grader`` is given; UserError where the test has none."""
        return test.results

    def facts(self, split: str) -> dict[str, dict[str, Any]]:
        """What the annotations say of samples, to set routes against: a fact's name → sample → its value.

        A fact that is not known of every sample is left out of a report.
        """
        return {}
