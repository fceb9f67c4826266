"""Referring expressions: which region is meant (RefCOCO, RefCOCO+, RefCOCOg), as the REFER tool stores them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.checksums import is_there
from volta_switch.data.image_ids import id_number, id_text, plain_id
from volta_switch.errors import BadRecord, UserError
from volta_switch.tasks.dataset import (
    Box,
    Choice,
    TaskDataset,
    boxes_of_images,
    coco_test_ids,
    id_field,
    load_boxes,
    load_coco_test_ids,
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

LOWEST_CEILING = 0.02  # share of the expressions whose box some region overlaps: below, data do not belong together
FEWEST = 20  # expressions that say so


def refer_references(dataroot: Path, task: str) -> Path:
    """Returns the file of the expressions as REFER stores them."""
    return dataroot / task / f"refs({'umd' if task == 'refcocog' else 'unc'}).p"


def refer_boxes(dataroot: Path, task: str) -> Path:
    """Returns the file of COCO's annotations of the images of a task."""
    return dataroot / task / "instances.json"


def other_splits(path: Path) -> str:
    """Names, in brackets for a message, the references with other splits that lie beside a file of them."""
    beside = sorted(other.name for other in path.parent.glob("refs(*).p")) if path.name.startswith("refs(") else []
    return (
        f" (beside it {', '.join(beside)}, with other splits than those that results are reported by)" if beside else ""
    )


@dataclass(frozen=True)
class ReferEntry:
    """One expression and the box it names: x1, y1, x2, y2 in pixels; ``split``: the file's name of it ("testA")."""

    caption: str
    sent_id: str
    ref_id: str
    image_id: str
    box: Box
    split: str = ""


def load_refer(dataroot: str | Path, task: str, split: str) -> list[ReferEntry]:
    """Reads the expressions of one split, in VOLTA's order. The text is the sentence's ``raw``, as in VOLTA.

    Args:
        dataroot: the folder that holds ``<task>/refs(<unc|umd>).p`` and ``<task>/instances.json``.
        task: refcoco, refcoco+ or refcocog.
        split: train, val, testA, testB, test for every split whose name contains "test", or mteval for the training
            expressions of the images that ``cache/coco_test_ids.npy`` lists (other tasks' test images).

    Raises:
        UserError: missing or contradictory files, or a split without expressions.
    """
    refs_path, boxes_path = refer_references(Path(dataroot), task), refer_boxes(Path(dataroot), task)
    refs = _load_references(refs_path)
    boxes = load_boxes(boxes_path)
    chosen_images = load_coco_test_ids(dataroot) if split == "mteval" else None
    stored = "train" if split == "mteval" else split

    def expressions(ref: Any, _: int) -> list[ReferEntry]:
        if not (ref["split"] == stored or (split == "test" and "test" in ref["split"])):
            return []
        if chosen_images is not None and plain_id(id_field(ref, "image_id")) not in chosen_images:
            return []
        name = id_field(ref, "ann_id")
        if name not in boxes:
            raise UserError(
                f"{boxes_path}: no annotation {name}, which {refs_path.name} names in "
                f"ref {ref['ref_id']}; take both files from one release"
            )
        return _expressions(ref, boxes[name])

    expected = "ref_id, ann_id, image_id, split, and as many sent_ids as sentences with their raw texts"
    entries = list(chain.from_iterable(read_entries(refs_path, refs, expressions, expected, "reference")))
    refuse_twice(refs_path, (entry.sent_id for entry in entries), "sentence")
    if not entries:
        found = ", ".join(sorted({str(ref["split"]) for ref in refs})) or "none"
        raise UserError(f"{refs_path}: split {split!r} is empty; splits in the file: {found}")
    return entries


def _load_references(path: Path) -> list[Any]:
    """Reads REFER's list; UserError where it is none, which names other sets of splits that lie beside it."""
    from volta_switch.data.files import safe_pickle

    if not is_there(path):
        raise UserError(f"{path}: no such file{other_splits(path)}; take it from REFER's release")
    refs = safe_pickle.load(path)
    if not isinstance(refs, list):
        raise UserError(f"{path}: a {type(refs).__name__}, expected REFER's list of references; take its release again")
    return refs


def _expressions(ref: Mapping[str, Any], box: Box) -> list[ReferEntry]:
    names = id_field(ref, "ref_id"), id_field(ref, "image_id")
    return [
        ReferEntry(text_field(sentence, "raw"), id_text(sent_id), *names, box, ref["split"])
        for sentence, sent_id in zip(ref["sentences"], ref["sent_ids"], strict=True)
    ]


def no_overlap(annotations: str, features: str, found: int, total: int) -> str:
    """Says that regions and annotated boxes do not belong together."""
    return (
        f"{features}: a region overlaps the annotated box by more than half for {found} of {total} expressions, so "
        f"that no model could be right (oracle ceiling {found / total:.0%}); most likely boxes are of other images, "
        f"or not x1, y1, x2, y2 in pixels, or those of {annotations} not x, y, width, height: give both to "
        "`volta-switch data check`"
    )


class ReferDataset(TaskDataset):
    """Samples add ``target``, each region's overlap with the box that is meant ((n,) float32), and ``global_target``.

    Overlaps are ``pairwise_iou``s; global_target is that of the whole image. A sample's id is its sentence's (VOLTA
    gives the image's, which several expressions share).
    """

    longest_text = 20

    def text(self, entry: ReferEntry) -> str:
        """The expression."""
        return entry.caption

    def check_boxes(self, annotations: str, features: str) -> None:
        """Compares annotated boxes with images and regions, of some images spread over all.

        ``annotations`` and ``features``: the files that errors name.

        Raises:
            UserError: most annotated boxes cannot be what they are taken for, or hardly any region overlaps its
                expression's box.
        """
        import numpy as np

        from volta_switch.data.files.stores import spread
        from volta_switch.data.geometry import LOOKED_AT, Geometry
        from volta_switch.data.regions import pairwise_iou

        boxes: dict[str, set[tuple[float, ...]]] = {}  # of each image: one box alone may fit exchanged, too
        for entry in self.entries:
            boxes.setdefault(entry.image_id, set()).add(tuple(entry.box))
        images = list(boxes)
        geometry, found = Geometry(), np.zeros(0, dtype=bool)
        for place in spread(len(images), LOOKED_AT):
            try:
                regions = self._images[images[place]].regions
            except BadRecord:  # passed over, or told, where a batch needs it
                continue
            meant = np.array(sorted(boxes[images[place]]), dtype=np.float32)
            geometry.add(meant, regions.image_w, regions.image_h, annotated=True)
            found = np.append(found, (pairwise_iou(regions.boxes, meant) > 0.5).any(axis=0))
        problem = geometry.problem()
        if problem is not None:
            raise UserError(f"{annotations}: of the annotated boxes, {problem}")
        if len(found) >= FEWEST and np.mean(found) < LOWEST_CEILING:
            raise UserError(no_overlap(annotations, features, int(found.sum()), len(found)))

    @property
    def sample_images(self) -> list[tuple[str, str]]:
        """As of every task."""
        return [(str(entry.sent_id), str(entry.image_id)) for entry in self.entries]

    def __getitem__(self, index: int) -> Sample:
        import numpy as np

        from volta_switch.data.regions import pairwise_iou

        entry = self.entries[index]
        image = self._images[entry.image_id]
        regions = image.regions
        whole = np.array([[0, 0, regions.image_w, regions.image_h]], dtype=np.float32)
        meant = np.array([entry.box], dtype=np.float32)
        overlap = pairwise_iou(np.concatenate([regions.boxes, whole]), meant)[:, 0]  # (n + 1,)
        return {
            "id": str(entry.sent_id),
            "input_ids": self._tokens[index],
            "target": overlap[:-1],
            "global_target": overlap[-1],
            "entry": entry,
            **image.inputs,
        }

    @staticmethod
    def collate(samples: Sequence[Sample], layout: BatchLayout) -> Batch:
        """As ``collate.collate_grounding``."""
        from volta_switch.data.batches.collate import collate_grounding

        return replace(collate_grounding(samples, layout), entries=[sample["entry"] for sample in samples])


class ReferTask(Task):
    """Binary cross-entropy of every region's score against its IoU with the referent, summed over the regions.

    The score is the share of expressions whose best region overlaps the referent by more than 0.5; ``oracle_ceiling``
    is what a perfect model would reach with these boxes. Split "test" is testA and testB together, and both are also
    reported by themselves. The global region is trained on, as in VOLTA, but is no answer. With ``volta_compat`` it is
    one, and results call an expression by its image and count all slots, as VOLTA's do.
    """

    data_sets = ("refcoco", "refcoco+", "refcocog")
    heads = ("V-logit",)
    second_features = "annotated boxes"
    metric = "accuracy"
    headline = ("accuracy",)

    @classmethod
    def annotation_files(cls, spec: TaskSpec, split: str) -> list[Choice]:
        """The references, of all splits, and COCO's boxes."""
        root = spec.path(spec.dataroot)
        needed: list[Choice] = [(refer_references(root, spec.name),), (refer_boxes(root, spec.name),)]
        return [*needed, (coco_test_ids(root),)] if split == "mteval" else needed

    @classmethod
    def expressions(cls, spec: TaskSpec, split: str) -> list[ReferEntry]:
        """Reads the expressions of a split."""
        return load_refer(spec.path(spec.dataroot), spec.name, split)

    def dataset(self, split: str, training: bool) -> ReferDataset:
        """Expressions of a split."""
        dataset = ReferDataset(self.expressions(self.spec, split), self.store(split), self.tokenizer, **self.sizes)
        dataset.check_boxes(*self._files())
        return dataset

    def notes(self) -> dict[str, str]:
        """Whose boxes the candidates are."""
        return {"boxes": self.options.boxes}

    def loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """Mean over expressions of the summed binary cross-entropies; padding contributes nothing."""
        import torch.nn.functional as F

        assert batch.target is not None
        return F.binary_cross_entropy_with_logits(scores[..., 0], batch.target) * scores.shape[1]

    def hits(self, scores: Tensor, batch: Batch) -> np.ndarray:
        """(B,) whether the best candidate is right."""
        from volta_switch.tasks.metrics import grounding_hits

        assert batch.target is not None
        arrays = (scores[..., 0], batch.target, self._candidates(batch))
        return grounding_hits(*(array.cpu().numpy() for array in arrays), volta_ties=self.options.volta_compat)

    def measures(self, scores: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        """Accuracy, its ceiling, and the accuracy on each part of the split."""
        import numpy as np

        from volta_switch.tasks.metrics import grounding_ceiling

        assert batch.target is not None
        hits = self.hits(scores, batch)
        ceiling = grounding_ceiling(batch.target.cpu().numpy(), self._candidates(batch).cpu().numpy())
        part_of = np.array([entry.split for entry in batch.entries])
        by_part = {f"accuracy_{part}": hits[part_of == part] for part in np.unique(part_of).tolist()}
        return {"accuracy": hits, "oracle_ceiling": ceiling, **by_part}

    def completed(self, evaluation: Evaluation, gathered: Gathered) -> Evaluation:
        """The evaluation with its parts in order; a split that is all there is needs no second number.

        Raises:
            UserError: the ceiling is next to 0: regions and annotated boxes do not belong together.
        """
        ceiling = evaluation.metrics.get("oracle_ceiling", 100.0) / 100
        if ceiling < LOWEST_CEILING:
            total = sum(gathered(len(evaluation.results)))
            if total >= FEWEST:
                raise UserError(no_overlap(*self._files(), round(ceiling * total), total))
        parts = sorted(name for name in evaluation.metrics if name.startswith("accuracy_"))

        def in_order(values: dict[str, Any]) -> dict[str, Any]:
            whole = {name: value for name, value in values.items() if name not in parts}
            return whole | {name: values[name] for name in parts if len(parts) > 1 and name in values}

        return replace(evaluation, metrics=in_order(evaluation.metrics), measured=in_order(evaluation.measured))

    def results(self, scores: Tensor, batch: Batch) -> list[Any]:
        """Per expression: its id, the chosen box's index (from 0, the global region not counted), and the IoU.

        ``"tied": true`` where another box scores as high and does not overlap enough, so that this is no hit.
        """
        assert batch.target is not None
        compat = self.options.volta_compat
        best = scores[..., 0].masked_fill(~self._candidates(batch), float("-inf")).argmax(1, keepdim=True)
        overlaps = batch.target.gather(1, best)[:, 0].tolist()
        boxes = (best[:, 0] - (0 if compat else self.layout.boxes_from)).tolist()
        names = [id_number(entry.image_id) for entry in batch.entries] if compat else batch.ids
        return [
            {"id": name, "target": box, "IOU": overlap, **({"tied": True} if overlap > 0.5 and not hit else {})}
            for name, box, overlap, hit in zip(names, boxes, overlaps, self.hits(scores, batch).tolist(), strict=True)
        ]

    @classmethod
    def grader(cls, spec: TaskSpec, split: str) -> Grader:
        """An expression is an item, those about one image are a group."""
        images = {str(entry.sent_id): str(entry.image_id) for entry in cls.expressions(spec, split)}

        def grade(results: Any, metric: str) -> Iterable[Item]:
            for result in results:
                yield result["id"], images[result["id"]], float(result["IOU"] > 0.5 and not result.get("tied"))

        return grade

    def facts(self, split: str) -> dict[str, dict[str, Any]]:
        """``objects``, the annotated ones of the expression's image."""
        objects = boxes_of_images(refer_boxes(self.spec.path(self.spec.dataroot), self.spec.name))
        entries = self.expressions(self.spec, split)
        return {"objects": {str(entry.sent_id): objects[plain_id(entry.image_id)] for entry in entries}}

    def _files(self) -> tuple[str, str]:
        """The files of the annotated boxes and of the regions, which are those of all splits."""
        from volta_switch.tasks import features_path

        spec = self.spec
        regions = features_path(spec, spec.val_split, self.options.features, self.options.boxes)
        return str(refer_boxes(spec.path(spec.dataroot), spec.name)), str(regions)

    def _candidates(self, batch: Batch) -> Tensor:
        """(B, R) the slots that may be answered."""
        assert batch.candidates is not None
        if self.options.volta_compat:
            return batch.inputs["image_attention_mask"].to(batch.candidates.device).bool()
        return batch.candidates
