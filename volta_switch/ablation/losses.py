"""The losses of masked words and of masked regions, row by row.

Legend: B rows of a batch, T word pieces, R regions with the global one, C object classes, K masked pieces of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.ablation.samples import Sample
from volta_switch.ablation.settings import CLASSES, DIVERGENCE, WORDS
from volta_switch.config import Config
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.model.embeddings import ModelInputs
from volta_switch.model.encoder import OutputPositions
from volta_switch.model.heads import OF_CLASSES


def region_target(config: Config) -> str | None:
    """Returns the visual target whose head predicts a region's class; None where the model has none."""
    weights = config.visual_target_weights
    return next((target for target in OF_CLASSES if weights.get(target, 0) > 0), None)


def word_losses(model: BertForVLPreTraining, inputs: dict[str, Tensor], samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Returns the mean cross-entropy of each row's masked pieces, (B,)."""
    named = torch.from_numpy(np.stack([sample.text.named for sample in samples]))  # (B, T)
    wanted = torch.from_numpy(np.stack([sample.text.ids for sample in samples]))[named]  # (K,)
    boxes = torch.zeros(inputs["image_feat"].shape[:2], dtype=torch.bool)
    with torch.inference_mode():
        encoded, _, table = model.bert(ModelInputs(**inputs), OutputPositions(named, boxes))
        states = encoded.layout.text.rows_at(encoded.states[0], named)  # (K, D)
        scores = model.cls.predictions(states, table).float().cpu()  # (K, V)
    of_piece = F.cross_entropy(scores, wanted, reduction="none").double()
    sums = torch.zeros(len(named), dtype=torch.double).index_add(0, named.nonzero()[:, 0], of_piece)
    return {WORDS: sums / named.sum(1)}


def region_losses(
    model: BertForVLPreTraining, inputs: dict[str, Tensor], samples: Sequence[Sample], source: str
) -> dict[str, Tensor]:
    """Returns the losses of each row's target region, (B,) each.

    Raises:
        UserError: the features of ``source`` lack what the detector saw, or have other classes than the model.
    """
    target = region_target(model.config)
    assert target is not None
    detected = [_detected(sample, target, model.config, source) for sample in samples]
    slots = torch.tensor([sample.target for sample in samples]) + BatchLayout.of(model.config).boxes_from
    boxes = torch.zeros(inputs["image_feat"].shape[:2], dtype=torch.bool)
    boxes[torch.arange(len(samples)), slots] = True
    words = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    with torch.inference_mode():
        encoded, _, _ = model.bert(ModelInputs(**inputs), OutputPositions(words, boxes))
        states = encoded.layout.vision.rows_at(encoded.states[1], boxes)  # (B, D_v)
        scores = model.cls.imagePredictions(states)[target].float().cpu()  # (B, C)
    return class_losses(scores, target, detected)


@dataclass(frozen=True, eq=False)
class Detected:
    """What the detector saw in a region.

    Attributes:
        object_id: its class, from 0 without the background.
        confidence: of that class.
        scores: (C,) of all classes, the background first; None where they are not needed.
    """

    object_id: int
    confidence: float
    scores: np.ndarray | None = None


def class_losses(scores: Tensor, target: str, detected: Sequence[Detected]) -> dict[str, Tensor]:
    """Returns what predictions (B, C) of a visual target lose, (B,) each.

    Labels are numbered as the target's training has them: target 0 has the background first, 3 has none, and 6 counts
    from 0 without it (VOLTA's numbering is kept). Target 3 weighs with the detector's confidence, as in training.
    """
    labels = torch.tensor([each.object_id for each in detected])
    if target != "0":
        losses = F.cross_entropy(scores, labels, reduction="none")
        return {CLASSES: losses * torch.tensor([each.confidence for each in detected]) if target == "3" else losses}
    wanted = torch.from_numpy(np.stack([each.scores for each in detected if each.scores is not None]))  # (B, C)
    divergence = F.kl_div(scores.log_softmax(-1), wanted, reduction="none").sum(-1)
    return {DIVERGENCE: divergence, CLASSES: F.cross_entropy(scores, labels + 1, reduction="none")}


def _detected(sample: Sample, target: str, config: Config, source: str) -> Detected:
    regions, place = sample.regions, sample.target
    assert place is not None
    needed = ("objects_id", *{"0": ("cls_prob",), "3": ("objects_conf",)}.get(target, ()))
    lacking = [name for name in needed if getattr(regions, name) is None]
    if lacking:
        raise UserError(
            f"{source}: image {regions.image_id} has no {' and no '.join(lacking)}, with which predicted classes are "
            "compared; give features that have it (--features), or take --direction vis4lang"
        )
    assert regions.objects_id is not None
    one = slice(place, place + 1)
    found = None if target != "0" or regions.cls_prob is None else regions.cls_prob[one]
    scores = None if found is None else (found if isinstance(found, np.ndarray) else found.dense())[0]
    label, most = int(regions.objects_id[place]), config.v_num_classes
    if label >= most - 1 or (scores is not None and len(scores) != most):
        said = f"class {label}" if scores is None else f"{len(scores)} classes"
        raise UserError(
            f"{source}: image {regions.image_id} has {said}, the model predicts {most}, the background among them; "
            "give features of the detector that it was trained with"
        )
    confidence = 1.0 if regions.objects_conf is None else float(regions.objects_conf[place])
    return Detected(label, confidence, None if scores is None else scores.astype(np.float32))
