"""The one attention of every encoder: a mode is *which (query, key) pairs are allowed*.

Legend: B batch, H heads, Q query rows, K key rows, T text tokens, R regions, S = T + R, M modes, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.model.dropout import drawn_rate, keep_mask

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
    context = _Attend.apply(query, key, value, real, None, None, dropout)
    return context * real.any(-1)[:, None, None, None]


def attend_mixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: KeyMask,
    weights: Tensor,
    modes: tuple[str, ...],
    dropout: float,
    text_queries: int | None = None,
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
        real: masks of the T text and the R vision keys.
        weights: (B, M) of each mode, float32.
        modes: the M names.
        dropout: as in ``attend``.
        text_queries: how many of the Q rows are text; T by default.

    Returns:
        (B, H, Q, d). An empty block (a modality that is all padding) contributes zero.
    """
    T = real.text.shape[1]
    of_text = T if text_queries is None else text_queries
    base_text, base_vision, joint = _coefficients(weights, modes, of_text, query.shape[2] - of_text)  # (B, 1, Q, 1)
    has_text, has_vision = (mask.any(-1)[:, None, None, None] for mask in (real.text, real.vision))
    # An empty block has no output: whatever the softmax makes of its masked scores is multiplied by zero.
    coefficients = torch.stack((base_text * has_text, joint * has_text, base_vision * has_vision, joint * has_vision))
    return _Attend.apply(query, key, value, real.joint, T, coefficients, dropout)


class _Attend(torch.autograd.Function):
    """Attention over all keys, or over text and over vision apart, mixed row by row.

    Of each block of keys, with scores S: ``lse = log sum exp S``, ``P = exp(S - lse)``, ``O = P V``. Over all keys,
    the output is O. Mixed, it is ``a_T O_T + a_V O_V`` with ``a_T = base_T + joint_T w``, ``a_V = base_V + joint_V
    (1 - w)`` and ``w = sigmoid(lse_T - lse_V)``. The backward pass is written by hand: the softmax's row sums are those
    of dO * O, so that P is read once; P is kept without its denominator, which goes to the rows of O and dO. It stays
    finite at any scores. Softmaxes and coefficients are float32.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        real: Tensor,
        T: int | None,
        coefficients: Tensor | None,
        dropout: float,
    ) -> Tensor:
        """(B, H, Q, d) and (B, H, K, d) to (B, H, Q, d); ``coefficients`` (4, B, 1, Q, 1) of a mixture split at T."""
        wide, dropout = torch.promote_types(query.dtype, torch.float32), drawn_rate(dropout, query.device)
        ctx.blocks = (slice(None),) if T is None else (slice(0, T), slice(T, None))
        raised, shares, kept, outputs, lse = [], [], [], [], []
        for block in ctx.blocks:
            scores = _scores(query, key[:, :, block], real[:, block]).to(wide)  # (B, H, Q, N)
            highest = scores.amax(-1, keepdim=True)
            # A weight of 1e-30 beside one of 1 is nothing; on a CPU, what underflows is slow to make and to multiply.
            raised.append(F.threshold(scores.sub_(highest).clamp_(min=-70).exp_(), 1e-30, 0.0, inplace=True))
            total = raised[-1].sum(-1, keepdim=True)  # (B, H, Q, 1)
            lse.append(highest + total.log())
            shares.append(total.mul_(1 - dropout).reciprocal_())
            kept.append(keep_mask(scores.shape, dropout, scores.device))
            weights = _dropped(raised[-1], kept[-1]).to(value.dtype)
            outputs.append((weights @ value[:, :, block]).to(wide).mul_(shares[-1]))  # (B, H, Q, d)
        ctx.dropout = dropout
        if coefficients is None:
            mixed, gates = outputs[0], []
        else:
            gap = lse[0] - lse[1]  # (B, H, Q, 1)
            base_text, joint_text, base_vision, joint_vision = coefficients
            on_text = base_text + joint_text * torch.sigmoid(gap)
            on_vision = base_vision + joint_vision * torch.sigmoid(-gap)
            mixed = torch.addcmul(on_text * outputs[0], on_vision, outputs[1])
            gates = [gap, on_text, on_vision, joint_text, joint_vision]
        masks = [mask for mask in kept if mask is not None]
        ctx.save_for_backward(query, key, value, *raised, *shares, *outputs, *gates, *masks)
        return mixed.to(query.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """Gradients of query, key, value and the coefficients."""
        query, key, value, *saved = ctx.saved_tensors
        n = len(ctx.blocks)
        raised, shares, outputs, rest = saved[:n], saved[n : 2 * n], saved[2 * n : 3 * n], saved[3 * n :]
        wide = grad.to(raised[0].dtype)
        sums = [(wide * output).sum(-1, keepdim=True) for output in outputs]  # d loss / d a, (B, H, Q, 1)
        of_coefficients, on, of_lse = None, [None], [torch.zeros_like(sums[0])]
        if n == 2:
            gap, *on, joint_text, joint_vision = rest[:5]
            rest = rest[5:]
            w, other = torch.sigmoid(gap), torch.sigmoid(-gap)
            of_gap = (joint_text * sums[0] - joint_vision * sums[1]) * w * other
            of_lse = [of_gap, -of_gap]
            each = (sums[0], sums[0] * w, sums[1], sums[1] * other)
            of_coefficients = torch.stack([one.sum(1, keepdim=True) for one in each])
        kept = rest or [None] * n
        of_query, of_key, of_value = None, torch.empty_like(key), torch.empty_like(value)
        for index, block in enumerate(ctx.blocks):
            into, row_sum = wide * shares[index], sums[index]  # of one row of raised V; d loss / d O . O
            if on[index] is not None:
                into, row_sum = into.mul_(on[index]), row_sum * on[index]
            into = into.to(value.dtype)
            weights = _dropped(raised[index], kept[index]).to(value.dtype)
            of_value[:, :, block] = weights.transpose(-1, -2) @ into
            of_raised = _dropped((into @ value[:, :, block].transpose(-1, -2)).to(wide.dtype), kept[index])
            # the share holds the dropout's scale as well, which the row sum has in it already
            less = (row_sum - of_lse[index]) * shares[index] * (1 - ctx.dropout)
            of_scores = of_raised.sub_(less).mul_(raised[index]).to(query.dtype)  # (B, H, Q, N)
            part = of_scores @ key[:, :, block]
            of_query = part if of_query is None else of_query.add_(part)
            of_key[:, :, block] = of_scores.transpose(-1, -2) @ query
        scale = query.shape[-1] ** -0.5
        assert of_query is not None
        return of_query.mul_(scale), of_key.mul_(scale), of_value, None, None, of_coefficients, None


def _dropped(weights: Tensor, kept: Tensor | None) -> Tensor:
    return weights if kept is None else weights * kept.view(torch.uint8)


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
    """Weights of 'text alone', 'vision alone' and 'both' for T text and R vision queries, (B, 1, T + R, 1) each."""
    rows = weights.new_zeros(3, 2, len(modes))  # (block, query modality, M)
    for index, mode in enumerate(modes):
        tt, tv, vt, vv = MODE_PAIRS[mode]
        for modality, (to_text, to_vision) in enumerate(((tt, tv), (vt, vv))):
            rows[2 if to_text and to_vision else (0 if to_text else 1), modality, index] = 1
    shares = torch.einsum("bm,kqm->kbq", weights, rows)  # (3, B, 2)
    per_row = torch.cat((shares[..., :1].expand(-1, -1, T), shares[..., 1:].expand(-1, -1, R)), 2)  # (3, B, T + R)
    base_text, base_vision, joint = per_row[:, :, None, :, None]  # (3, B, 1, T + R, 1)
    return base_text, base_vision, joint
