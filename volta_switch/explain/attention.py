"""Where attention goes in one pass: of each layer and head, and rolled out over the layers.

Rolled out (Abnar and Zuidema 2020): a layer passes on half of its input and half of what it attends to, averaged over
heads; the product over layers says how much of each input reaches each output. Where a switched layer takes an older
input, its product begins with the older one. Attention is no measure of worth: pages set it beside what is measured.

Legend: B rows, T tokens, R region slots, K = T + R, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.explain.subject import WHOLE, Subject
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import encoder_of
from volta_switch.model.predictions import BOXES
from volta_switch.model.rows import PackedLayout
from volta_switch.model.sublayers import AttentionSublayer
from volta_switch.model.switch import Routes, newest_shares
from volta_switch.routes.measurements import attention_weights


@dataclass(frozen=True, eq=False)
class SublayerAttention:
    """What one attention sublayer attends to.

    Attributes:
        number: the sublayer's.
        text: (B, H, T, K) weights of the text's queries; None where it attends to nothing.
        vision: (B, H, R, K) of the regions'. Rows sum to 1; those of padding, and that are not computed, are 0.
    """

    number: int
    text: np.ndarray | None
    vision: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention of a pass.

    Attributes:
        sublayers: in their order.
        rolled: (B, K, K) how much of each input reaches each position.
        T: tokens.
        answer_rows: (row of the batch, position) of what the answer is read from.
    """

    sublayers: list[SublayerAttention]
    rolled: np.ndarray
    T: int
    answer_rows: list[tuple[int, int]]

    def to_answer(self) -> np.ndarray:
        """Returns how much of each input reaches what the answer is read from, (B, K)."""
        found = np.zeros(self.rolled.shape[:2])
        for row, position in self.answer_rows:
            found[row] += self.rolled[row, position] / len(self.answer_rows)
        return found

    def heads_to_answer(self) -> list[np.ndarray]:
        """Returns the same of each sublayer and head, (H, B, K), without what was before; 0 without attention."""
        return [self._of_sublayer(each) for each in self.sublayers]

    def _of_sublayer(self, sublayer: SublayerAttention) -> np.ndarray:
        parts = []
        for row, position in self.answer_rows:
            side, query = (sublayer.text, position) if position < self.T else (sublayer.vision, position - self.T)
            parts.append(None if side is None else (row, side[row, :, query]))
        there = [part for part in parts if part is not None]
        heads = len(there[0][1]) if there else 1
        found = np.zeros((heads, *self.rolled.shape[:2]))
        for row, weights in there:
            found[:, row] += weights / len(there)
        return found


def attention_of(subject: Subject) -> Attention:
    """Asks the subject once and returns where attention goes."""
    model, given = subject.model, subject.inputs([WHOLE])
    encoder = encoder_of(model)
    noted: list[SublayerAttention] = []

    def note(sublayer: AttentionSublayer, args: tuple[Any, ...], mixture: dict[str, Any]) -> None:
        states, layout, _ = args
        found = attention_weights(sublayer, states, layout, **mixture)
        text, vision = (None if side is None else _as_given(side[0], layout, of) for of, side in enumerate(found))
        noted.append(SublayerAttention(sublayer.number, text, vision))

    routes: list[Routes] = []
    handles = [
        sublayer.register_forward_pre_hook(note, with_kwargs=True)
        for sublayer in encoder.layer
        if isinstance(sublayer, AttentionSublayer)
    ]
    handles.append(encoder.register_forward_hook(lambda _, __, out: routes.append(out.routes)))
    try:
        with torch.inference_mode():
            subject.model.scorer(subject.task)(given)
    finally:
        for handle in handles:
            handle.remove()
    T, R = given["input_ids"].shape[1], given["image_feat"].shape[1]
    switched = switch_encoder(model)
    older = None if switched is None else switched.switch.older_input
    rolled = _rolled_out(noted, routes[0], older, (len(given["input_ids"]), T, R))
    return Attention(noted, rolled, T, _answer_rows(subject, given))


def _as_given(weights: Tensor, layout: PackedLayout, side: int) -> np.ndarray:
    """Puts weights (B, H, slots, slots) of one side's queries where rows stood in the batch: (B, H, T or R, K)."""
    rows = (layout.text, layout.vision)
    B, H = weights.shape[:2]
    queries, start = rows[side], 0
    found = np.zeros((B, H, queries.W, sum(each.W for each in rows)), np.float32)
    values = (weights * queries.real[:, None, :, None]).cpu().numpy()
    offset = 0
    for keys in rows:
        for row in range(B):
            of, to = (_positions(each, row) for each in (queries, keys))
            block = values[row, :, : len(of), start : start + len(to)]  # (H, real queries, real keys)
            found[row][:, of[:, None], offset + to[None]] = block
        start += keys.N
        offset += keys.W
    return found


def _positions(rows: Any, row: int) -> np.ndarray:
    """Returns the positions at which a row of the batch has packed rows, in the order of their slots."""
    sample, position, _ = rows.host
    return position[sample == row].numpy()  # type: ignore[no-any-return]


def _rolled_out(
    sublayers: list[SublayerAttention], routes: Routes | None, older: str | None, shape: tuple[int, int, int]
) -> np.ndarray:
    """Returns how much of each input reaches each position, (B, K, K)."""
    B, T, R = shape
    whole = np.broadcast_to(np.eye(T + R), (B, T + R, T + R))
    last = before = whole
    for layer, sublayer in enumerate(sublayers):
        given = last
        if routes is not None and layer > 0:
            newest = newest_shares(routes.inputs[:, layer]).cpu().numpy()  # (2, B)
            share = np.repeat(newest.T, [T, R], axis=1)[..., None]  # (B, K, 1)
            given = share * last + (1 - share) * before
        step = np.zeros((B, T + R, T + R))
        for weights, part in ((sublayer.text, slice(0, T)), (sublayer.vision, slice(T, T + R))):
            if weights is not None:
                step[:, part] = weights.mean(1)
        attends = step.sum(2, keepdims=True) > 0
        after = np.where(attends, 0.5 * (given + step @ given), given)
        before, last = (given if older == "input" else last), after
    return last


def _answer_rows(subject: Subject, given: dict[str, Tensor]) -> list[tuple[int, int]]:
    """Returns the rows and positions from which the head reads."""
    T = given["input_ids"].shape[1]
    if subject.question.kind == BOXES:
        return [(0, T + subject.layout.boxes_from + subject.answer)]
    text, vision = subject.model.bert.pooled_positions(given["attention_mask"])
    found = [] if text is None else list(enumerate(text.tolist()))
    return found + ([] if vision is None else [(row, T + place) for row, place in enumerate(vision.tolist())])
