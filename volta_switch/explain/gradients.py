"""Gradient times input: the first-order guess at what each word and region is worth, one backward pass for all.

The input is what enters the encoder: the embeddings of words, and of regions with their places. A part's value is the
sum of gradient times embedding over its pieces, signed: above 0 it speaks for the answer. Layers are not linear, so
that this is a guess; pages set it beside what is measured. A switcher's hard choice has no gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.explain.subject import WHOLE, Subject
from volta_switch.model.encoder import encoder_of


def gradient_times_input(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of all positions, (B, T) of tokens and (B, R) of region slots."""
    subject.answer  # noqa: B018  found now: the model is asked for it
    leaves: list[Tensor] = []
    layouts: list[Any] = []

    def separate(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states, layout, *rest = args
        leaves.extend(state.detach().requires_grad_() for state in states)
        layouts.append(layout)
        return (tuple(leaves), layout, *rest), kwargs

    handle = encoder_of(subject.model).register_forward_pre_hook(separate, with_kwargs=True)
    try:
        with torch.enable_grad():
            scores = subject.model.scorer(subject.task)(subject.inputs([WHOLE]))
            gradients = torch.autograd.grad(subject.answer_score(scores.float()), leaves, allow_unused=True)
    finally:
        handle.remove()
    layout, found = layouts[0], []
    for leaf, gradient, rows in zip(leaves, gradients, (layout.text, layout.vision), strict=True):
        values = torch.zeros(len(leaf)) if gradient is None else (gradient * leaf).sum(-1).detach()
        found.append(rows.unpack(values.float()[:, None].to(leaf.device))[..., 0].cpu().numpy())
    return found[0], found[1]
