"""Regions for tests of files, and comparing what was read with what was written."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from volta_switch.data.regions import Regions

DETECTIONS = "resnet101_faster_rcnn_genome_imgfeats/volta"  # where VOLTA's data sets keep their features


def some_regions(image_id: str, seed: int = 0, count: int = 5, width: int = 6) -> Regions:
    """Regions with every field filled, of 7 classes (the background included) and 4 attributes."""
    rng = np.random.default_rng([seed, count])
    corner, size = rng.uniform(0, 60, (count, 2)), rng.uniform(5, 40, (count, 2))
    cls_prob = rng.dirichlet(np.ones(7), size=count).astype(np.float32)
    return Regions(
        image_id=image_id,
        features=rng.uniform(0.5, 1.5, (count, width)).astype(np.float32),
        boxes=np.concatenate([corner, corner + size], axis=1).astype(np.float32),
        image_w=120,
        image_h=100,
        objects_id=cls_prob[:, 1:].argmax(axis=1).astype(np.int64),
        objects_conf=cls_prob[:, 1:].max(axis=1),
        attrs_id=rng.integers(3, size=count),
        attrs_conf=rng.random(count, dtype=np.float32),
        cls_prob=cls_prob,
        attr_scores=rng.random((count, 4), dtype=np.float32),
    )


def same(left: Regions, right: Regions) -> bool:
    """Whether every field agrees, in values and types."""
    for field in fields(Regions):
        a, b = getattr(left, field.name), getattr(right, field.name)
        if isinstance(a, np.ndarray):
            if not (isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)):
                return False
        elif a != b:
            return False
    return True
