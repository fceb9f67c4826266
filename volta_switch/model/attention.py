"""The one attention of every encoder: a mode is *which (query, key) pairs are allowed*.

Legend: B batch, H heads, Q query rows, K key rows, T text tokens, R regions, S = T + R, M modes, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Who attends to whom: (text row to text, text row to vision, vision row to text, vision row to vision); paper table 1.
MODE_PAIRS = {"SS": (1, 0, 0, 1), "SC": (1, 0, 1, 0), "CS": (0, 1, 0, 1), "J": (1, 1, 1, 1)}


@dataclass(frozen=True)
class KeyMask:
    """Which keys are real, and the masks that follow from it; made once per forward pass.

    ``text`` (B, T) and ``vision`` (B, R) are True at real tokens and regions.
    """

    text: Tensor
    vision: Tensor

    @property
    def joint(self) -> Tensor:
        """(B, S) both modalities."""
        return torch.cat((self.text, self.vision), dim=1)


def attend(query: Tensor, key: Tensor, value: Tensor, real: Tensor, dropout: float) -> Tensor:
    """Softmax attention over the real keys; a sample without any real key gets zeros.

    Args:
        query: (B, H, Q, d).
        key, value: (B, H, K, d).
        real: (B, K) bool, True at the keys that may be attended to.
        dropout: probability of dropping an attention weight (0 outside training).

    Returns:
        (B, H, Q, d) in the dtype of ``value``; the softmax itself is taken in float32.
    """
    scores = _scores(query, key, real)  # (B, H, Q, K)
    weights = _block_softmax(scores, real)
    return F.dropout(weights, dropout).to(value.dtype) @ value


def attend_mixed(
    query: Tensor, key: Tensor, value: Tensor, real: KeyMask, weights: Tensor, modes: tuple[str, ...], dropout: float
) -> Tensor:
    """Mixture of attention modes, ``sum_k p_k o_k`` (paper eq. 8), at the price of one joint attention.

    A softmax over a joint context splits exactly: with the log-sum-exps of a row's scores against text and against
    vision, ``O_joint = w O_text + (1 - w) O_vision`` where ``w = sigmoid(lse_text - lse_vision)``. Every mode is
    therefore a pair of coefficients on the two blocks of one score matrix::

        out = a_T O_text + a_V O_vision,   a_T = base_T + p_J w,   a_V = base_V + p_J (1 - w)

    where ``base`` sums the weights of the modes in which the row attends to that block alone. One dropout mask acts on
    the merged weights: the naive sum with the same mask in all modes (differs from the paper: it does not say).

    Args:
        query, key, value: (B, H, S, d), text rows first.
        real: masks of the T text and the R vision rows.
        weights: (B, M) of each mode, float32.
        modes: the M names.
        dropout: as in ``attend``.

    Returns:
        (B, H, S, d). An empty block (a modality that is all padding) contributes zero.
    """
    T = real.text.shape[1]
    scores = _scores(query, key, real.joint)  # (B, H, S, S)
    text_scores, vision_scores = scores[..., :T], scores[..., T:]
    gap = text_scores.logsumexp(-1, keepdim=True) - vision_scores.logsumexp(-1, keepdim=True)  # (B, H, S, 1)
    base_text, base_vision, joint = _coefficients(weights, modes, T, real.vision.shape[1])  # (B, 1, S, 1) each
    on_text = base_text + joint * torch.sigmoid(gap)
    on_vision = base_vision + joint * torch.sigmoid(-gap)
    merged = torch.cat(
        (_block_softmax(text_scores, real.text) * on_text, _block_softmax(vision_scores, real.vision) * on_vision), -1
    )  # (B, H, S, S)
    return F.dropout(merged, dropout).to(value.dtype) @ value


def _scores(query: Tensor, key: Tensor, real: Tensor) -> Tensor:
    """(B, H, Q, K) scaled scores in float32; the lowest finite float at keys that are not real."""
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    # Finite, not -inf: a row without keys must give neither NaN nor a NaN gradient.
    return scores.masked_fill(~real[:, None, None, :], torch.finfo(torch.float32).min)


def _block_softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Softmax over the last axis; zero where a sample has no real key."""
    return scores.softmax(-1) * real.any(-1)[:, None, None, None]


def _coefficients(weights: Tensor, modes: tuple[str, ...], T: int, R: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per-row weights of 'text alone', 'vision alone' and 'both', (B, 1, S, 1) each."""
    rows = weights.new_zeros(3, 2, len(modes))  # (block, query modality, M)
    for index, mode in enumerate(modes):
        tt, tv, vt, vv = MODE_PAIRS[mode]
        for modality, (to_text, to_vision) in enumerate(((tt, tv), (vt, vv))):
            rows[2 if to_text and to_vision else (0 if to_text else 1), modality, index] = 1
    shares = torch.einsum("bm,kqm->kbq", weights, rows)  # (3, B, 2)
    per_row = shares.repeat_interleave(torch.tensor([T, R], device=weights.device), dim=2, output_size=T + R)
    base_text, base_vision, joint = per_row[:, :, None, :, None]  # (3, B, 1, S, 1)
    return base_text, base_vision, joint
