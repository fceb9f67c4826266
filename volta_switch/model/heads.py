"""Poolers, pre-training heads and task heads, under VOLTA's names.

Legend: B batch, T text tokens, R regions, D hidden, P pooler width, V vocabulary, N rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.model.noise import dropout
from volta_switch.model.rows import copy_to
from volta_switch.model.sublayers import ACTIVATIONS

# Visual targets, by what of the detector's they predict.
OF_CLASSES, OF_ATTRIBUTES, OF_FEATURES = ("0", "3", "6"), ("4",), ("1", "2", "5")
TASK_TYPES = (
    "VL-classifier",
    "VL-classifier-GQA",
    "VL-logit",
    "V-logit",
    "VL-binary-classifier",
    "VL-tri-classifier",
)


class Pooler(nn.Module):
    """One state through a linear layer and an activation (VOLTA's ``t_pooler`` and ``v_pooler``)."""

    def __init__(self, hidden_size: int, pooler_size: int, activation: str):
        super().__init__()
        self.dense = nn.Linear(hidden_size, pooler_size)
        self.activation = nn.ReLU() if activation == "relu" else nn.Tanh()

    def forward(self, state: Tensor) -> Tensor:
        """(B, D) to (B, P)."""
        return self.activation(self.dense(state))


class HeadTransform(nn.Module):
    """Linear, activation and (optionally) LayerNorm before a prediction layer."""

    def __init__(self, width: int, activation: str, eps: float, layer_norm: bool = True):
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = ACTIVATIONS[activation]
        self.LayerNorm = nn.LayerNorm(width, eps=eps) if layer_norm else None

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) to (..., D)."""
        states = self.activation(self.dense(states))
        return states if self.LayerNorm is None else self.LayerNorm(states)


class WordPredictions(nn.Module):
    """Masked language modelling head; its decoder is the word embedding table."""

    def __init__(self, config: Config, word_embeddings: nn.Embedding):
        super().__init__()
        self.transform = HeadTransform(config.hidden_size, config.hidden_act, config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.decoder.weight = word_embeddings.weight
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor, word_table: Tensor) -> Tensor:
        """(..., D) to (..., V); ``word_table`` (V, D) is the decoder's weight, as the embeddings have given it out."""
        return F.linear(self.transform(states), word_table, self.bias)


class RegionPredictions(nn.Module):
    """One decoder per visual target with a positive weight."""

    def __init__(self, config: Config):
        super().__init__()
        self.transform = HeadTransform(
            config.v_hidden_size, config.hidden_act, config.layer_norm_eps, config.image_head_ln
        )
        widths = target_widths(config)
        self.decoder_dict = nn.ModuleDict(
            {
                target: nn.Linear(config.v_hidden_size, width)
                for target, width in widths.items()
                if config.visual_target_weights.get(target, 0) > 0
            }
        )

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """(..., D_v) to target -> (..., width)."""
        states = self.transform(states)
        return {target: decoder(states) for target, decoder in self.decoder_dict.items()}


class PreTrainingHeads(nn.Module):
    """Words, regions and image-text matching (VOLTA's ``cls``)."""

    def __init__(self, config: Config, word_embeddings: nn.Embedding):
        super().__init__()
        self.predictions = WordPredictions(config, word_embeddings)
        self.bi_seq_relationship = nn.Linear(config.pooler_size, config.itm_dim) if config.fusion.matches else None
        self.imagePredictions = RegionPredictions(config)
        self.dropout = nn.Dropout(0.1)

    def match(self, pooled: Tensor | None, keys: Tensor | None = None) -> Tensor | None:
        """Fused vector (B, P) to the two scores of matching (B, 2), 0 aligned; None without a head; ``keys`` (B,)."""
        if pooled is None or self.bi_seq_relationship is None:
            return None
        drop = self.dropout
        return self.bi_seq_relationship(
            drop(pooled) if keys is None else dropout(pooled, drop.p, self.training, keys=keys)
        )


class SimpleClassifier(nn.Module):
    """Two linear layers with GELU and LayerNorm between them."""

    def __init__(self, width: int, hidden: int, labels: int, eps: float):
        super().__init__()
        self.logit_fc = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=eps), nn.Linear(hidden, labels)
        )

    def forward(self, states: Tensor) -> Tensor:
        """(B, width) to (B, labels)."""
        return self.logit_fc(states)


def task_head(config: Config, name: str, task: Mapping[str, Any]) -> nn.Module:
    """The head of one task in VOLTA's task-file format.

    Raises:
        UserError: an unknown ``type``, or a classifier without ``num_labels``.
    """
    kind = task.get("type")
    P = config.pooler_size
    if kind in ("VL-classifier", "VL-classifier-GQA"):
        if not isinstance(task.get("num_labels"), int):
            raise UserError(f"{name}: a {kind} needs num_labels, the number of answers")
        return _classifier(config, P, task["num_labels"])
    if kind == "VL-binary-classifier":  # two images per text: the fused vectors of their rows side by side
        return _classifier(config, config.fusion.rows_of_pair * P, 2)
    if kind == "VL-tri-classifier":
        return nn.Linear(P, 3)
    if kind == "VL-logit":
        return nn.Linear(P, 1)
    if kind == "V-logit":
        D = config.v_hidden_size
        if task.get("num_clf_layers", 1) == 2:
            dropout = nn.Dropout(config.v_attention_probs_dropout_prob)
            return nn.Sequential(nn.Linear(D, D), nn.GELU(), dropout, nn.Linear(D, 1))
        return nn.Linear(D, 1)
    raise UserError(f"{name}: type must be one of {', '.join(TASK_TYPES)}, found {kind!r}")


def _classifier(config: Config, width: int, labels: int) -> nn.Module:
    if config.clf_hidden_size is None:
        return nn.Linear(width, labels)
    return SimpleClassifier(width, config.clf_hidden_size, labels, config.layer_norm_eps)


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
