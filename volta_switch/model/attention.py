"""The one attention of every encoder: a mode is *which (query, key) pairs are allowed*.

Legend: B batch, H heads, Q query rows, K key rows, T text tokens, R regions, S = T + R, M modes, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    weights = _scores(query, key, real).softmax(-1, dtype=torch.float32)  # (B, H, Q, K)
    context = F.dropout(weights, dropout).to(value.dtype) @ value
    return context * real.any(-1)[:, None, None, None]


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
    scores = _scores(query, key, real.joint).float()  # (B, H, S, S)
    base_text, base_vision, joint = _coefficients(weights, modes, T, real.vision.shape[1])  # (B, 1, S, 1) each
    has_text, has_vision = (mask.any(-1)[:, None, None, None] for mask in (real.text, real.vision))
    # An empty block has no output: whatever the softmax makes of its masked scores is multiplied by zero.
    coefficients = (base_text * has_text, joint * has_text, base_vision * has_vision, joint * has_vision)
    merged = _MergeBlocks.apply(scores, T, *coefficients)
    return F.dropout(merged, dropout).to(value.dtype) @ value


class _MergeBlocks(torch.autograd.Function):
    """Scores (B, H, S, S) to merged attention weights: both blocks' softmaxes, scaled by their coefficients.

    With P the two softmaxes side by side and gap = lse_text - lse_vision, the weights are ``a P``, where
    ``a_T = base_T + joint_T w``, ``a_V = base_V + joint_V (1 - w)`` and ``w = sigmoid(gap)``. The backward pass is
    written by hand: it reads P once and stays finite at any gap.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        scores: Tensor,
        T: int,
        base_text: Tensor,
        joint_text: Tensor,
        base_vision: Tensor,
        joint_vision: Tensor,
    ) -> Tensor:
        """Merged weights, (B, H, S, S) float32."""
        largest = [block.amax(-1, keepdim=True) for block in (scores[..., :T], scores[..., T:])]
        P = scores - _both(largest, T, scores.shape[-1] - T)
        P.exp_()  # one pass of exponentials for both blocks
        sums = [block.sum(-1, keepdim=True) for block in (P[..., :T], P[..., T:])]
        gap = largest[0] - largest[1] + sums[0].log() - sums[1].log()  # (B, H, S, 1), difference of log-sum-exps
        P[..., :T] /= sums[0]
        P[..., T:] /= sums[1]
        on_text = base_text + joint_text * torch.sigmoid(gap)
        on_vision = base_vision + joint_vision * torch.sigmoid(-gap)
        ctx.T = T
        ctx.save_for_backward(P, gap, on_text, on_vision, joint_text, joint_vision)
        return P * _both([on_text, on_vision], T, scores.shape[-1] - T)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of the scores and of the four coefficients."""
        P, gap, on_text, on_vision, joint_text, joint_vision = ctx.saved_tensors
        T, R = ctx.T, P.shape[-1] - ctx.T
        w, rest = torch.sigmoid(gap), torch.sigmoid(-gap)
        product = grad * P
        of_text = product[..., :T].sum(-1, keepdim=True)  # d loss / d a_T, (B, H, S, 1)
        of_vision = product[..., T:].sum(-1, keepdim=True)
        of_gap = (joint_text * of_text - joint_vision * of_vision) * w * rest
        # P (a (grad - of) + of_gap) for text, with - of_gap for vision; one number per row and block is taken out.
        scores = product.mul_(_both([on_text, on_vision], T, R))
        scores += P * _both([of_gap - on_text * of_text, -of_gap - on_vision * of_vision], T, R)
        gates = (of_text, of_text * w, of_vision, of_vision * rest)
        return (scores, None, *(gate.sum(1, keepdim=True) for gate in gates))


def _both(per_block: list[Tensor], T: int, R: int) -> Tensor:
    """A number per row and block, (..., 1) each, repeated over the block's keys: (..., T + R)."""
    return torch.cat(
        (per_block[0].expand(*per_block[0].shape[:-1], T), per_block[1].expand(*per_block[1].shape[:-1], R)), -1
    )


def _scores(query: Tensor, key: Tensor, real: Tensor) -> Tensor:
    """(B, H, Q, K) scaled scores; far below any other at keys that are not real."""
    B, H, Q, d = query.shape
    # Finite, so that a row without any key gives neither NaN nor a NaN gradient.
    lowest = torch.finfo(query.dtype).min / 2
    masked = torch.zeros(real.shape, dtype=query.dtype, device=query.device).masked_fill(~real, lowest)
    bias = masked[:, None, None, :].expand(B, H, 1, -1).flatten(0, 1)  # (B * H, 1, K)
    product = torch.baddbmm(bias, query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=d**-0.5)
    return product.view(B, H, Q, -1)


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
