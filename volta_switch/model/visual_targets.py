"""The seven visual targets of VOLTA's ``visual_target_weights``, each a loss over masked regions.

| target | predicts | loss |
|---|---|---|
| 0 | the detector's class distribution | KL divergence (the paper's MRC-KL) |
| 1 | the feature | mean squared error |
| 2 | the feature | noise-contrastive, 128 negatives |
| 3 | the object label | cross-entropy weighted by the detector's confidence |
| 4 | the attribute label | cross-entropy weighted by the detector's confidence |
| 5 | the feature | smooth L1 |
| 6 | the object label among the classes of target 0 | cross-entropy |

Legend: B batch, N boxes (the global region excluded), K masked regions, F feature width, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.model.rows import copy_to

NEGATIVES = 128  # of target 2: 70 % from other images of the batch, 30 % from the same image


DETECTED = ("image_cls", "obj_labels", "obj_confs", "attr_labels", "attr_confs")  # by the detector: fields below


@dataclass(frozen=True)
class RegionLabels:
    """What is known of the boxes of a batch; a field may be missing if no active target reads it."""

    image_label: Tensor  # (B, N) 1 masked, -1 not; on the host
    image_feat: Tensor  # (B, N, F)
    _: KW_ONLY
    image_cls: Tensor | None = None  # (B, N, C), index 0 background; or (K, C), of the masked regions alone
    obj_labels: Tensor | None = None  # (B, N)
    obj_confs: Tensor | None = None
    attr_labels: Tensor | None = None
    attr_confs: Tensor | None = None

    def masked(self, name: str, target: str) -> Tensor:
        """The rows of the masked regions, (K, ...)."""
        values = getattr(self, name)
        if values is None:
            raise UserError(f"visual target {target} needs {name} in the batch")
        if name == "image_cls" and values.dim() == 2:
            return values
        chosen = (self.image_label == 1).flatten().nonzero().squeeze(1)  # (K,)
        return values.flatten(0, 1).index_select(0, copy_to(chosen, values.device))


def target_widths(config: Config) -> dict[str, int]:
    """Width of each target's prediction; 1601, 2048, 2048, 1600, 400, 2048, 1601 with VOLTA's detector."""
    classes, features = config.v_num_classes, config.v_feature_size
    attributes = config.v_num_attributes
    return {
        "0": classes,
        "1": features,
        "2": features,
        "3": classes - 1,
        "4": attributes - 1,
        "5": features,
        "6": classes,
    }


def visual_loss(scores: dict[str, Tensor], weights: Mapping[str, float], labels: RegionLabels) -> Tensor:
    """Returns the weighted sum of the targets' losses, each a mean over the batch's masked regions; 0 without any.

    ``scores``: target -> predictions at the masked regions only, (K, width), in the order of ``image_label == 1``;
    ``weights``: ``visual_target_weights``.
    """
    losses = [weights[target] * LOSSES[target](prediction.float(), labels) for target, prediction in scores.items()]
    if not losses:
        return torch.zeros((), device=labels.image_feat.device)
    return torch.stack(losses).sum()


def _class_divergence(scores: Tensor, labels: RegionLabels) -> Tensor:
    wanted = labels.masked("image_cls", "0").float()
    loss = F.kl_div(scores.log_softmax(-1), wanted, reduction="none")  # (K, C); 0 where wanted is 0
    return loss.sum() / max(len(scores), 1)


def _regression(scores: Tensor, labels: RegionLabels) -> Tensor:
    return F.mse_loss(scores, labels.masked("image_feat", "1"), reduction="sum") / max(scores.numel(), 1)


def _smooth_regression(scores: Tensor, labels: RegionLabels) -> Tensor:
    return F.smooth_l1_loss(scores, labels.masked("image_feat", "5"), reduction="sum") / max(scores.numel(), 1)


def _contrast(scores: Tensor, labels: RegionLabels) -> Tensor:
    positive = labels.masked("image_feat", "2")  # (K, F)
    B, N, _ = labels.image_feat.shape
    image, box = copy_to((labels.image_label == 1).nonzero().t(), scores.device)  # (K,) each
    across, inside = int(NEGATIVES * 0.7), NEGATIVES - int(NEGATIVES * 0.7)
    if B < 2 or N < 2 or len(image) == 0:
        return scores.sum() * 0  # no negatives to contrast with
    # An offset of 1..n-1 modulo n draws uniformly from everything but the positive itself.
    other = (image[:, None] + torch.randint(1, B, (len(image), across), device=image.device)) % B
    anywhere = torch.randint(0, N, (len(image), across), device=image.device)
    elsewhere = (box[:, None] + torch.randint(1, N, (len(image), inside), device=image.device)) % N
    rows = torch.cat((other * N + anywhere, image[:, None] * N + elsewhere), 1)  # (K, NEGATIVES)
    negatives = labels.image_feat.flatten(0, 1)[rows]  # (K, NEGATIVES, F)
    samples = torch.cat((positive.unsqueeze(1), negatives), 1)
    similarity = (samples @ scores.unsqueeze(-1)).squeeze(-1)  # (K, 1 + NEGATIVES)
    return F.cross_entropy(similarity, torch.zeros_like(image))


def _objects(scores: Tensor, labels: RegionLabels) -> Tensor:
    return _confident(scores, labels.masked("obj_labels", "3"), labels.masked("obj_confs", "3"))


def _attributes(scores: Tensor, labels: RegionLabels) -> Tensor:
    return _confident(scores, labels.masked("attr_labels", "4"), labels.masked("attr_confs", "4"))


def _confident(scores: Tensor, wanted: Tensor, confidence: Tensor) -> Tensor:
    return (F.cross_entropy(scores, wanted, reduction="none") * confidence).sum() / max(len(scores), 1)


def _object_classes(scores: Tensor, labels: RegionLabels) -> Tensor:
    # VOLTA's numbering is kept: labels count from 0 without the background, also over target 0's classes.
    return F.cross_entropy(scores, labels.masked("obj_labels", "6"), reduction="sum") / max(len(scores), 1)


LOSSES: dict[str, Callable[[Tensor, RegionLabels], Tensor]] = {
    "0": _class_divergence,
    "1": _regression,
    "2": _contrast,
    "3": _objects,
    "4": _attributes,
    "5": _smooth_regression,
    "6": _object_classes,
}
