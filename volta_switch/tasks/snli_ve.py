"""SNLI-VE: does an image entail a sentence, contradict it, or neither?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.data.files.json_files import read_json_lines
from volta_switch.data.image_ids import plain_id
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import Choice, check_split, chosen, id_field, read_entries, refuse_twice, text_field
from volta_switch.tasks.task_file import TaskSpec
from volta_switch.tasks.vqa import AnswerTask, VqaAnnotations, VqaEntry

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from volta_switch.data.batches.collate import Batch

RELATIONS = ["contradiction", "neutral", "entailment"]  # by label, as VOLTA numbers them
IMAGE = ("Flikr30kID", "Flickr30kID", "Flickr30K_ID")  # the releases spell it in these ways
_NO_GOLD = "-"  # the annotators did not agree


def snli_ve_files(dataroot: Path, split: str, given: Path | None = None) -> list[Choice]:
    """Returns the file of SNLI-VE's pairs; ``given``: another file, for any split."""
    if given is not None:
        return [(given,)]
    check_split(dataroot, "SNLI-VE", split, ("train", "dev", "test"))
    return [(dataroot / f"{split}.jsonl", dataroot / f"snli_ve_{split}.jsonl")]


def load_snli_ve(dataroot: str | Path, split: str, path: Path | None = None) -> VqaAnnotations:
    """Reads train, dev or test from ``<split>.jsonl`` or ``snli_ve_<split>.jsonl``, in the file's order.

    An entry's question is the hypothesis; its id is pairID or, where the file has none, the number of its line from 0,
    which VOLTA uses. A pair without a gold label has no labels: () and ().

    Args:
        dataroot: the folder of the files.
        split: which of them.
        path: another file, for any split.

    Raises:
        UserError: a missing file, an empty one, a line of another form, or a pairID that stands twice.
    """
    (choice,) = snli_ve_files(Path(dataroot), split, path)
    path = chosen(choice)
    expected = f"{IMAGE[0]}, sentence2 and a gold_label of {', '.join(RELATIONS)} or {_NO_GOLD}"
    entries = read_entries(path, read_json_lines(path), snli_ve_entry, expected)
    if not entries:
        raise UserError(f"{path}: the split is empty; expected a line of JSON for each pair")
    refuse_twice(path, (entry.question_id for entry in entries), "pair")
    return VqaAnnotations(entries, RELATIONS)


def snli_ve_entry(line: Any, number: int) -> VqaEntry:
    """Reads one line; raises one of ``dataset.WRONG``.

    The image may be called by its file or by a caption's, "7.jpg#2".
    """
    gold = text_field(line, "gold_label")
    if gold not in (*RELATIONS, _NO_GOLD):
        raise ValueError(f"gold_label is {gold!r:.60}")
    labels = () if gold == _NO_GOLD else (RELATIONS.index(gold),)
    name = id_field(line, "pairID") if "pairID" in line else str(number)
    image_id = plain_id(id_field(line, *IMAGE).partition("#")[0])
    return VqaEntry(name, image_id, text_field(line, "sentence2"), labels, (1.0,) * len(labels))


class SnliVeTask(AnswerTask):
    """Binary cross-entropy per relation, averaged over the three, as in VOLTA.

    A pair without a gold label is trained on as none of the three, as in VOLTA, but does not count in the accuracy.
    With ``volta_compat`` it counts as wrong, as in VOLTA.
    """

    data_sets = ("VisualEntailment",)
    heads = ("VL-tri-classifier",)
    named_annotations = True
    second_features = "validation"
    metric = "accuracy"
    headline = ("accuracy",)
    result_keys = ("id", "prediction")
    unlabelled_count = False

    @classmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """As ``snli_ve_files``, or the file that the entry names."""
        return snli_ve_files(spec.path(spec.dataroot), split, spec.given_annotations(split))

    @classmethod
    def annotations(cls, spec: TaskSpec, split: str) -> VqaAnnotations:
        """Pairs of a split."""
        return load_snli_ve(spec.path(spec.dataroot), split, spec.given_annotations(split))

    @classmethod
    def labels(cls, spec: TaskSpec) -> list[str]:
        """The three relations."""
        return RELATIONS

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over pairs and relations of the binary cross-entropies."""
        import torch.nn.functional as F

        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores, batch.target)

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B',) whether the right relation scores strictly highest, of the pairs that count."""
        from volta_switch.tasks.metrics import clear_choices

        assert batch.target is not None
        target = batch.target.cpu().numpy()
        gold = target.any(1)
        right = gold & (clear_choices(scores.cpu().numpy()) == target.argmax(1))
        return right if self.options.volta_compat else right[gold]

    def counted(self, batch: Batch) -> np.ndarray:
        """(B,) bool: pairs with a relation."""
        import numpy as np

        assert batch.target is not None
        return np.ones(len(batch), bool) if self.options.volta_compat else batch.target.any(1).cpu().numpy()

    def results(self, scores: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Per pair: its id and the relation predicted; ``"tied": true`` where another scores as high: never right."""
        from volta_switch.tasks.metrics import clear_choices

        found = zip(super().results(scores, batch), clear_choices(scores.cpu().numpy()) < 0, strict=True)
        return [{**result, **({"tied": True} if tied else {})} for result, tied in found]
