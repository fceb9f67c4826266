"""NLVR2: is a sentence true of a pair of images? And MaRVL, whose statements are of the same form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.data.files.json_files import read_json_lines
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import (
    Choice,
    TaskDataset,
    check_split,
    chosen,
    id_field,
    read_entries,
    refuse_twice,
    text_field,
)
from volta_switch.tasks.task import Evaluation, Gathered, Grader, Item, Task
from volta_switch.tasks.task_file import TaskSpec

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from volta_switch.data.batches.collate import Batch, BatchLayout, Sample

TRUTH_VALUES = ("false", "true")  # the rows of the head
_TRUTH = {"True": 1, "False": 0, "1": 1, "0": 0}  # as NLVR2 and as MaRVL writes it


@dataclass(frozen=True)
class Nlvr2Entry:
    """One statement about one pair: the names of the left and the right image; label 1 true, 0 false."""

    identifier: str
    image_ids: tuple[str, str]
    sentence: str
    label: int

    @property
    def set_of_pairs(self) -> str:
        """``dev-850`` of ``dev-850-2-0``, whose last numbers are those of the pair in its set and of the sentence.

        Of pairs that are named otherwise the two images.
        """
        pair = self.identifier.rpartition("-")[0]
        return pair.rpartition("-")[0] if self.image_ids[0] == f"{pair}-img0" else " ".join(self.image_ids)


def nlvr2_files(dataroot: Path, split: str, given: Path | None = None) -> list[Choice]:
    """Returns the file of NLVR2's statements; ``given``: another file, for any split."""
    if given is not None:
        return [(given,)]
    check_split(dataroot, "NLVR2", split, ("train", "dev", "test"))
    return [(dataroot / f"{split}.jsonl", dataroot / f"{split}.json")]


def load_nlvr2(dataroot: str | Path, split: str, path: Path | None = None) -> list[Nlvr2Entry]:
    """Reads train, dev or test from ``<split>.jsonl`` or ``<split>.json``, in the file's order.

    Args:
        dataroot: the folder of the files.
        split: which of them.
        path: another file, for any split; its lines may also have MaRVL's form (left_img, right_img, caption, label),
            whose statements are called by their id or, without one, the number of their line from 0.

    Raises:
        UserError: a missing file, an empty one, a line of another form, or an identifier that stands twice.
    """
    (choice,) = nlvr2_files(Path(dataroot), split, path)
    path = chosen(choice)
    expected = "identifier, sentence and label, or MaRVL's left_img, right_img, caption and label"
    entries = read_entries(path, read_json_lines(path), nlvr2_entry, expected)
    if not entries:
        raise UserError(f"{path}: the split is empty; expected a line of JSON for each statement")
    refuse_twice(path, (entry.identifier for entry in entries), "statement")
    return entries


def nlvr2_entry(line: Any, number: int) -> Nlvr2Entry:
    """Reads one line of either form; raises one of ``dataset.WRONG``.

    The pair's name is the identifier without its last part, which counts the statements about the pair.
    """
    if "left_img" in line:
        return _marvl_entry(line, number)
    identifier = id_field(line, "identifier")
    pair, dash, _ = identifier.rpartition("-")
    if not dash:
        raise ValueError(f"identifier {identifier!r} has no parts")
    return Nlvr2Entry(identifier, (f"{pair}-img0", f"{pair}-img1"), text_field(line, "sentence"), _label(line))


def _marvl_entry(line: Mapping[str, Any], number: int) -> Nlvr2Entry:
    left, right = (Path(text_field(line, side)).name.split(".")[0] for side in ("left_img", "right_img"))
    name = id_field(line, "id") if "id" in line else str(number)
    return Nlvr2Entry(name, (left, right), text_field(line, "caption"), _label(line))


def _label(line: Mapping[str, Any]) -> int:
    label = str(line["label"]).capitalize()
    if label not in _TRUTH:
        raise ValueError(f"label is {line['label']!r:.60}, expected True or False")
    return _TRUTH[label]


class Nlvr2Dataset(TaskDataset):
    """Samples have ``images``, a left and a right one with the image's inputs, and ``target``, (2,) float32, one-hot.

    A sample's id is its statement's identifier.

    Attributes:
        joins_images: both images stand in one row of a batch.
    """

    joins_images = False

    def text(self, entry: Nlvr2Entry) -> str:
        """The statement."""
        return entry.sentence

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task; what a statement shows is its set of pairs."""
        return [(entry.identifier, entry.set_of_pairs) for entry in self.entries]

    @property
    def sample_rows(self) -> dict[str, list[tuple[str, str]]]:
        """As of every task: two rows, one for each image, or one whose image is called by both names."""
        found = {}
        for entry in self.entries:
            rows = (" ".join(entry.image_ids),) if self.joins_images else entry.image_ids
            found[entry.identifier] = [(image, entry.sentence) for image in rows]
        return found

    def __getitem__(self, index: int) -> Sample:
        import numpy as np

        entry = self.entries[index]
        images = [self._images[image_id].inputs for image_id in entry.image_ids]
        target = np.eye(2, dtype=np.float32)[entry.label]
        sample = {"id": entry.identifier, "input_ids": self._tokens[index], "images": images, "target": target}
        return {**sample, "entry": entry}

    @staticmethod
    def collate(samples: Sequence[Sample], layout: BatchLayout) -> Batch:
        """Lays the two images of each sample one after the other, each with the text: inputs have 2 B rows.

        Where the layout joins them, inputs have B rows, and image_token_type_ids, 0 and 1 (``image_pairs``).
        The target is (B, 2) float32. VOLTA lays both images into one row and cuts it in two before the model; the model
        sees the same rows.
        """
        import numpy as np
        import torch

        from volta_switch.data.batches.collate import Batch
        from volta_switch.data.batches.image_pairs import pair_inputs

        texts, images = ([sample[name] for sample in samples] for name in ("input_ids", "images"))
        inputs = pair_inputs(texts, images, layout)
        target = torch.from_numpy(np.stack([sample["target"] for sample in samples]))
        entries = [sample["entry"] for sample in samples]
        return Batch(inputs, target, [sample["id"] for sample in samples], entries=entries)


class Nlvr2Task(Task):
    """Binary cross-entropy of "false" and of "true", averaged over the two, as in VOLTA.

    The score is the accuracy; ``consistency`` is the share of sentences that are judged rightly for all their pairs.
    Where both score alike, neither is predicted.
    """

    data_sets = ("NLVR2",)
    heads = ("VL-binary-classifier",)
    named_annotations = True
    second_features = "validation"
    metric = "accuracy"
    headline = ("accuracy", "consistency")
    images = 2

    @classmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """As ``nlvr2_files``, or the file that the entry names."""
        return nlvr2_files(spec.path(spec.dataroot), split, spec.given_annotations(split))

    @classmethod
    def labels(cls, spec: TaskSpec) -> list[str]:
        """Of a statement about two images."""
        return list(TRUTH_VALUES)

    @classmethod
    def statements(cls, spec: TaskSpec, split: str) -> list[Nlvr2Entry]:
        """Reads the statements of a split."""
        return load_nlvr2(spec.path(spec.dataroot), split, spec.given_annotations(split))

    def dataset(self, split: str, training: bool) -> Nlvr2Dataset:
        """Statements of a split."""
        found = Nlvr2Dataset(self.statements(self.spec, split), self.store(split), self.tokenizer, **self.sizes)
        found.joins_images = self.config.fusion.joins_images
        return found

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over statements and the two labels of the binary cross-entropies."""
        import torch.nn.functional as F

        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target)

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) whether the right label scores strictly highest."""
        from volta_switch.tasks.metrics import clear_choices

        assert batch.target is not None
        return clear_choices(scores.cpu().numpy()) == batch.target.cpu().numpy().argmax(1)

    def results(self, scores: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Per statement: identifier, sentence, prediction (1 true, 0 false, -1 where both score alike) and label."""
        from volta_switch.tasks.metrics import clear_choices

        choices = clear_choices(scores.cpu().numpy()).tolist()
        return [
            {"identifier": entry.identifier, "sentence": entry.sentence, "prediction": choice, "label": entry.label}
            for entry, choice in zip(batch.entries, choices, strict=True)
        ]

    def completed(self, evaluation: Evaluation, gathered: Gathered) -> Evaluation:
        """Adds the consistency."""
        import numpy as np

        from volta_switch.tasks.metrics import consistency

        own = [(result["sentence"], result["prediction"] == result["label"]) for result in evaluation.results]
        everywhere = [pair for part in gathered(own) for pair in part]  # a sentence's statements may lie anywhere
        hits = np.array([hit for _, hit in everywhere])
        evaluation.metrics["consistency"] = consistency([sentence for sentence, _ in everywhere], hits)
        return replace(evaluation, submission=submission(evaluation.results))

    @classmethod
    def grader(cls, spec: TaskSpec, split: str) -> Grader:
        """Statements, or for consistency sentences; those of one set of pairs are a group."""
        sets = {entry.identifier: entry.set_of_pairs for entry in cls.statements(spec, split)}

        def grade(results: Any, metric: str) -> Iterable[Item]:
            return _sentences(sets, results) if metric == "consistency" else _statements(sets, results)

        return grade


def _statements(sets: Mapping[str, str], results: Iterable[Mapping[str, Any]]) -> Iterable[Item]:
    for result in results:
        name = result["identifier"]
        yield name, sets[name], float(result["prediction"] == result["label"])


def _sentences(sets: Mapping[str, str], results: Iterable[Mapping[str, Any]]) -> Iterable[Item]:
    """Sentences that are judged rightly for all their pairs; each belongs to the set of its first statement."""
    sentences: dict[str, Item] = {}
    for result in sorted(results, key=lambda result: result["identifier"]):
        right = float(result["prediction"] == result["label"])
        sentence, own = result["sentence"], sets[result["identifier"]]
        _, group, before = sentences.get(sentence, ("", own, 1.0))
        sentences[sentence] = sentence, group, min(before, right)
    return sentences.values()


def submission(results: Iterable[dict[str, Any]]) -> str:
    """Returns the official evaluator's CSV of an evaluation: ``identifier,true`` or ``identifier,false`` a line."""
    return "".join(f"{result['identifier']},{str(result['prediction'] == 1).lower()}\n" for result in results)
