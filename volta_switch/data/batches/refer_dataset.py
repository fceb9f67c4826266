"""Referring expressions: which of an image's regions is meant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from volta_switch.data.annotations.refer import ReferEntry
from volta_switch.data.batches.collate import Sample, collate_grounding
from volta_switch.data.batches.task_dataset import TaskDataset
from volta_switch.data.files.stores import FeatureStore, spread
from volta_switch.data.geometry import LOOKED_AT, Geometry
from volta_switch.data.regions import pairwise_iou
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.errors import BadRecord, UserError

LOWEST_CEILING = 0.02  # share of the expressions whose box some region overlaps: below, data do not belong together
FEWEST = 20  # expressions that say so


def no_overlap(annotations: str, features: str, found: int, total: int) -> str:
    """Say that regions and annotated boxes do not belong together."""
    return (
        f"{features}: a region overlaps the annotated box by more than half for {found} of {total} expressions, so "
        f"that no model could be right (oracle ceiling {found / total:.0%}); most likely boxes are of other images, "
        f"or not x1, y1, x2, y2 in pixels, or those of {annotations} not x, y, width, height: give both to "
        "`volta-switch data check`"
    )


class ReferDataset(TaskDataset):
    """Samples add `target`, each region's overlap with the box that is meant ((n,) float32), and `global_target`.

    Overlaps are `pairwise_iou`s; global_target is that of the whole image. A sample's id is its sentence's (VOLTA
    gives the image's, which several expressions share).
    """

    collate = staticmethod(collate_grounding)

    def __init__(
        self,
        entries: Sequence[ReferEntry],
        store: FeatureStore,
        tokenizer: Tokenizer,
        *,
        num_locs: int,
        max_seq_length: int = 20,
        max_regions: int | None = None,
    ) -> None:
        texts = [entry.caption for entry in entries]
        super().__init__(texts, store, tokenizer, num_locs, max_seq_length, max_regions)
        self.entries = entries

    def check_boxes(self, annotations: str, features: str) -> None:
        """Compare annotated boxes with images and regions, of some images spread over all.

        annotations, features: what errors name. Raises UserError where most annotated boxes cannot be what they are
        taken for, or hardly any region overlaps its expression's box.
        """
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
            **image.inputs,
        }
