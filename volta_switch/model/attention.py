"""The one attention of every encoder: a mode is *which (query, key) pairs are allowed*.

Legend: B batch, H heads, Q query rows, K key rows, T text tokens, R regions, S = T + R, M modes, d head width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.config import ATTENTION_MODES
from volta_switch.model.noise import drawn_rate, keep_mask


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, real: Tensor, dropout: float = 0.0, noise_keys: Tensor | None = None
) -> Tensor:
    """Softmax attention, (B, H, Q, d), over the real keys; a sample without any real key gets zeros.

    Args:
        query, key, value: (B, H, Q, d), and (B, H, K, d) twice; the softmax itself is taken in float32.
        real: (B, K) bool, True at the keys that may be attended to.
        dropout: probability of dropping an attention weight (0 outside training).
        noise_keys: (B, K, Q) what is dropped follows from these; None: it is drawn from PyTorch's generator.
    """
    any_key = real.any(-1)[:, None, None, None].to(torch.promote_types(query.dtype, torch.float32))  # (B, 1, 1, 1)
    return _Attend.apply(query, key, value, real, None, any_key, dropout, noise_keys)


def attend_mixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    real: tuple[Tensor, Tensor],
    weights: Tensor,
    modes: tuple[str, ...],
    dropout: float = 0.0,
    text_queries: int | None = None,
    noise_keys: Tensor | None = None,
) -> Tensor:
    """Mixture of attention modes, ``sum_k p_k o_k`` (paper eq. 8), at the price of one joint attention.

    A softmax over a joint context splits exactly: with the log-sum-exps of a row's scores against text and against
    vision, ``O_joint = w O_text + (1 - w) O_vision`` where ``w = sigmoid(lse_text - lse_vision)``. Every mode is
    therefore a pair of coefficients on the two blocks of one score matrix::

        out = a_T O_text + a_V O_vision,   a_T = base_T + p_J w,   a_V = base_V + p_J (1 - w)

    where ``base`` sums the weights of the modes in which the row attends to that block alone. One dropout mask acts on
    the merged weights: the naive sum with the same mask in all modes (differs from the paper: it does not say).

    Args:
        query: (B, H, Q, d), text rows first.
        key, value: (B, H, S, d), text rows first.
        real: (B, T) and (B, R) bool, as in ``attend``, of text and of vision keys.
        weights: (B, M) of each mode, float32.
        modes: the M names.
        dropout: as in ``attend``.
        text_queries: how many of the Q rows are text; T by default.
        noise_keys: as in ``attend``.

    Returns:
        (B, H, Q, d). An empty block (a modality that is all padding) contributes zero.
    """
    text, vision = real
    of_text = text.shape[1] if text_queries is None else text_queries
    base_text, base_vision, joint = _coefficients(weights, modes, T=of_text, R=query.shape[2] - of_text)  # (B, 1, 1, Q)
    has_text, has_vision = (mask.any(-1)[:, None, None, None] for mask in real)
    # An empty block has no output: whatever the softmax makes of its masked scores is multiplied by zero.
    coefficients = torch.stack((base_text * has_text, joint * has_text, base_vision * has_vision, joint * has_vision))
    return _Attend.apply(query, key, value, text, vision, coefficients, dropout, noise_keys)


class _Attend(torch.autograd.Function):
    """Attention over all keys, or over text and over vision apart, mixed row by row.

    Of each block of keys, with scores S: ``lse = log sum exp S``, ``P = exp(S - lse)``, ``O = P V``. Over all keys,
    the output is ``a O`` with a given ``a``. Mixed, it is ``a_T O_T + a_V O_V`` with ``a_T = base_T + joint_T w``,
    ``a_V = base_V + joint_V (1 - w)`` and ``w = sigmoid(lse_T - lse_V)``. The weights of both blocks stand in one
    matrix, so that each product with Q, K or V is one; the backward pass is written by hand and stays finite at any
    scores. A column holds the weights of a query: a block is then a run of rows, contiguous in memory. P is kept
    without its denominator, ``share`` is one over it. Softmaxes and coefficients are float32.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        real: Tensor,
        vision: Tensor | None,
        coefficients: Tensor,
        dropout: float,
        noise_keys: Tensor | None,
    ) -> Tensor:
        """(B, H, Q, d) and (B, H, K, d) to (B, H, Q, d).

        ``real`` (B, K) and ``coefficients`` (B, 1, 1, 1); of a mixture, ``real`` (B, T) and ``vision`` (B, R) with
        K = T + R, and ``coefficients`` (4, B, 1, 1, Q).
        """
        wide = torch.promote_types(query.dtype, torch.float32)
        masks = (real,) if vision is None else (real, vision)
        raised = _scores(query, key, torch.cat(masks, 1)).to(wide)  # (B, H, K, Q)
        highest = [block.amax(2, keepdim=True) for block in _blocks(raised, masks)]  # (B, H, 1, Q) each
        for block, high in zip(_blocks(raised, masks), highest, strict=True):
            block.sub_(high)
        # A weight of 1e-30 beside one of 1 is nothing; on a CPU, what underflows is slow to make and to multiply.
        raised = F.threshold(raised.clamp_(min=-70).exp_(), 1e-30, 0.0, inplace=True)
        totals = [block.sum(2, keepdim=True) for block in _blocks(raised, masks)]
        shares = torch.stack(totals).reciprocal_()  # (blocks, B, H, 1, Q)
        scaled = shares / (1 - drawn_rate(dropout, query.device, noise_keys is not None))  # with dropout's scale
        gap: Tensor | None = None
        on: tuple[Tensor, ...] = (coefficients,)
        if vision is not None:
            gap = highest[0] - highest[1] + (totals[0] / totals[1]).log()  # of the log-sum-exps, (B, H, 1, Q)
            base_text, joint_text, base_vision, joint_vision = coefficients
            on = (base_text + joint_text * torch.sigmoid(gap), base_vision + joint_vision * torch.sigmoid(-gap))
        kept = keep_mask(raised.shape, dropout, raised.device, keys=noise_keys, along=1)
        weights = _dropped(raised, kept) if any(ctx.needs_input_grad) or kept is not None else raised
        for block, a, share in zip(_blocks(weights, masks), on, scaled, strict=True):
            block.mul_(a * share)
        ctx.save_for_backward(query, key, value, real, vision, raised, kept, shares, scaled, coefficients, gap, *on)
        return weights.to(value.dtype).transpose(-1, -2) @ value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key, value and the mixture's coefficients."""
        query, key, value, real, vision, raised, kept, shares, scaled, coefficients, gap, *on = ctx.saved_tensors
        masks = (real,) if vision is None else (real, vision)
        grad = grad.contiguous()
        weights = _dropped(raised, kept)
        of_scores = (value @ grad.transpose(-1, -2)).to(raised.dtype).mul_(weights)  # (B, H, K, Q)
        sums = [  # d loss / d a, (B, H, 1, Q)
            block.sum(2, keepdim=True) * share for block, share in zip(_blocks(of_scores, masks), scaled, strict=True)
        ]
        of_lse: list[Tensor | float] = [0.0]
        of_coefficients = None
        if gap is not None:
            w, other = torch.sigmoid(gap), torch.sigmoid(-gap)
            of_gap = (coefficients[1] * sums[0] - coefficients[3] * sums[1]) * w * other
            of_lse = [of_gap, -of_gap]
            each = (sums[0], sums[0] * w, sums[1], sums[1] * other)
            of_coefficients = torch.stack([one.sum(1, keepdim=True) for one in each])
        scale = query.shape[-1] ** -0.5
        blocks = zip(*(_blocks(matrix, masks) for matrix in (weights, of_scores, raised)), strict=True)
        for index, (weight, of_score, exponentials) in enumerate(blocks):
            a = on[index]
            weight.mul_(a * scaled[index])
            of_score.mul_(a * scaled[index] * scale)
            of_score.addcmul_(exponentials, (of_lse[index] - a * sums[index]) * shares[index] * scale)
        of_scores = of_scores.to(query.dtype)
        of_value = weights.to(value.dtype) @ grad
        return of_scores.transpose(-1, -2) @ key, of_scores @ query, of_value, None, None, of_coefficients, None, None


def _blocks(matrix: Tensor, masks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows of each mask's keys, out of (B, H, K, Q)."""
    T = masks[0].shape[1]
    return (matrix,) if len(masks) == 1 else (matrix[:, :, :T], matrix[:, :, T:])


def _dropped(weights: Tensor, kept: Tensor | None) -> Tensor:
    """The weights that are kept, in a tensor of their own."""
    return weights.clone() if kept is None else weights * kept.view(torch.uint8)


def _scores(query: Tensor, key: Tensor, real: Tensor) -> Tensor:
    """(B, H, K, Q) scaled scores; far below any other at keys that are not real."""
    B, H, Q, d = query.shape
    # Finite, so that a row without any key gives neither NaN nor a NaN gradient.
    lowest = torch.finfo(query.dtype).min / 2
    masked = torch.zeros(real.shape, dtype=query.dtype, device=query.device).masked_fill(~real, lowest)
    bias = masked[:, None, :, None].expand(B, H, -1, 1).flatten(0, 1)  # (B * H, K, 1)
    product = torch.baddbmm(bias, key.flatten(0, 1), query.flatten(0, 1).transpose(1, 2), alpha=d**-0.5)
    return product.view(B, H, -1, Q)


def _coefficients(weights: Tensor, modes: tuple[str, ...], *, T: int, R: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of 'text alone', 'vision alone' and 'both' for T text and R vision queries, (B, 1, 1, T + R) each."""
    of_modes = list(zip(modes, weights.unbind(1), strict=True))
    per_query = []
    for seen in ((1, 0), (0, 1), (1, 1)):  # text alone, vision alone, both
        parts = []
        for first, length in ((0, T), (2, R)):  # text queries, vision queries
            chosen = [weight for mode, weight in of_modes if ATTENTION_MODES[mode].pairs[first : first + 2] == seen]
            share = torch.stack(chosen).sum(0) if chosen else torch.zeros_like(weights[:, 0])  # (B,)
            parts.append(share[:, None].expand(-1, length))
        per_query.append(torch.cat(parts, 1)[:, None, None])
    return per_query[0], per_query[1], per_query[2]
