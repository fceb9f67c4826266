"""Poolers, pre-training heads and task heads, under VOLTA's names.

Legend: B batch, T text tokens, R regions, D hidden, P pooler width, V vocabulary, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.model.noise import dropout
from volta_switch.model.sublayers import ACTIVATIONS
from volta_switch.model.visual_targets import target_widths

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
    P, eps = config.pooler_size, config.layer_norm_eps
    if kind in ("VL-classifier", "VL-classifier-GQA"):
        if not isinstance(task.get("num_labels"), int):
            raise UserError(f"{name}: a {kind} needs num_labels, the number of answers")
        return SimpleClassifier(P, config.clf_hidden_size, task["num_labels"], eps)
    if kind == "VL-binary-classifier":  # two images per text: their fused vectors side by side
        return SimpleClassifier(2 * P, config.clf_hidden_size, 2, eps)
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
