"""States that several pairs of a text and an image have in common, computed once; inference only.

As long as a modality attends to itself alone, its states depend on the text or the image, not on the pair. Each
modality's states therefore lie in a bank of distinct items, to which the pairs point. A pair whose modality attends to
the other one gets an item of its own; items meet again where an input of an earlier layer is chosen.

Which pair has which item is planned on the host: a GPU is waited for only where routes are read.

Legend: P pairs, U items of a bank, n packed rows, N slots of the longest item, Q slots of the rows that are needed,
W width as given, H heads, d head width, D hidden, M modes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from volta_switch.config import ATTENTION_MODES
from volta_switch.model.attention import attend, attend_mixed
from volta_switch.model.rows import PackedRows, copy_to
from volta_switch.model.sublayers import AttentionSublayer, FeedForwardSublayer, Projections

Mixture = tuple[Tensor, tuple[str, ...]]  # weights (P, M) of modes, and their names
# What a modality attends to in a pair: nothing, itself, the other one, both in one softmax, or a mixture of these.
NOTHING, ALONE, CROSS, JOINT, MIXED = range(5)
KINDS = {(0, 0): NOTHING, (1, 0): ALONE, (0, 1): CROSS, (1, 1): JOINT}  # (itself, the other one)


@dataclass(frozen=True)
class Bank:
    """One modality's distinct items; each is some pair's.

    ``states`` (n, D) are their packed rows, laid out by ``rows``, ``item`` (P,) is each pair's, ``pooled`` (U,) the
    position that is pooled in the end; None: none. The latter two are on the CPU.
    """

    rows: PackedRows
    states: Tensor
    item: Tensor
    pooled: Tensor | None = None

    def of_items(self, source: Tensor, item: Tensor) -> Bank:
        """The bank whose items are copies of this one's ``source`` (U',); ``item`` (P,) points to the copies."""
        if _is_all(source, self.rows.B):
            return replace(self, item=item)
        numbers, device = self.rows.numbers[source], self.states.device  # (U', W)
        real = numbers >= 0
        states = self.states.index_select(0, copy_to(numbers[real], device))
        pooled = None if self.pooled is None else self.pooled[source]
        return Bank(PackedRows.of(real, device), states, item, pooled=pooled)

    def last_read(self) -> Bank:
        """Returns the bank of the pooled rows only."""
        wanted = torch.zeros_like(self.rows.numbers, dtype=torch.bool)
        if self.pooled is not None:
            wanted.scatter_(1, self.pooled[:, None], True)
        rows, numbers = self.rows.select(wanted)
        return replace(self, rows=rows, states=self.states.index_select(0, numbers))

    def means(self) -> Tensor:
        """The mean state of each pair, (P, D)."""
        return per_pair(self.rows.mean(self.states), self.item)


def per_pair(of_items: Tensor, item: Tensor) -> Tensor:
    """What items have, for those to which ``item`` (B,) points, (U, ...) to (B, ...)."""
    return of_items if _is_all(item, len(of_items)) else of_items.index_select(0, copy_to(item, of_items.device))


def choose_input(last: Bank, before: Bank, share: Tensor, *, on_host: Tensor) -> Bank:
    """Returns a layer's input, ``share`` (P,) of it from the layer below and the rest from the one before that.

    ``on_host``: the same numbers on the host. Pairs that take all of one item keep sharing it.
    """
    shares = on_host
    if bool((shares == 1).all()):
        return last
    both, pairs = last.rows.B + before.rows.B, torch.arange(len(shares))
    code = torch.where(shares == 1, last.item, last.rows.B + before.item)
    leaders, item = _distinct(torch.where((shares > 0) & (shares < 1), both + pairs, code), both + len(pairs))
    of_last, of_before = (bank.of_items(bank.item[leaders], item) for bank in (last, before))
    per_row = of_last.rows.per_row(per_pair(share, leaders)).to(of_last.states.dtype)[:, None]  # (n, 1)
    return replace(of_last, states=of_before.states.lerp(of_last.states, per_row))


def feed_forward(sublayer: FeedForwardSublayer, text: Bank, vision: Bank) -> tuple[Bank, Bank]:
    """Both banks after a feed-forward sublayer."""
    after = sublayer((text.states, vision.states))
    of_text, of_vision = after if len(after) == 2 else after[0].split((text.rows.count, vision.rows.count))
    return replace(text, states=of_text), replace(vision, states=of_vision)


def attention(
    sublayer: AttentionSublayer,
    text: Bank,
    vision: Bank,
    *,
    last_read: tuple[bool, bool],
    mixture: Mixture | None = None,
) -> tuple[Bank, Bank]:
    """Returns both banks after an attention sublayer.

    Args:
        sublayer: in evaluation; every item is projected once.
        text, vision: the states that come in.
        last_read: of text and of vision, whether nothing attends to it behind this sublayer: only pooled rows are
            computed.
        mixture: the weights (P, M) of modes and their names, in place of the static pairs.
    """
    own, out = sublayer.attention_self, sublayer.attention_output
    of_text, of_vision = _kinds(sublayer, len(text.item)) if mixture is None else _mode_kinds(*mixture)
    project = own.of_text if sublayer.has_text else None
    texts = _Side(text, of_text, project, last_read=last_read[0], heads=sublayer.heads)
    project = own.of_vision if sublayer.has_vision else None
    visions = _Side(vision, of_vision, project, last_read=last_read[1], heads=sublayer.v_heads)
    attending = _Attending(texts, visions, mixture)
    return attending.after(texts, visions, out.text), attending.after(visions, texts, out.vision)


class _Side:
    """One modality in one attention sublayer: what it attends to in each pair, and its items' projections."""

    def __init__(self, bank: Bank, kinds: Tensor, project: Projections | None, *, last_read: bool, heads: int):
        self.bank, self.kept = bank, bank.last_read() if last_read else bank
        self.kinds = kinds if self.kept.rows.count else torch.full_like(kinds, NOTHING)  # (P,)
        self.project, self.heads = project, heads
        self.query = None
        if project is not None and bool((self.kinds != NOTHING).any()):
            self.query = self.kept.rows.split_heads(project[0](self.kept.states), heads)  # (U, H, Q, d)

    def project_keys(self, other: _Side) -> None:
        """Keys and values of the items that are attended to in some pair, by their own modality or by the other."""
        attended = (self.kinds == ALONE) | (other.kinds == CROSS)
        attended |= (self.kinds >= JOINT) | (other.kinds >= JOINT)
        items = self.bank.item[attended].unique()
        if self.project is None or not len(items):
            return
        used = self.bank.of_items(items, self.bank.item)
        self.place = torch.zeros(self.bank.rows.B, dtype=torch.long).index_copy(0, items, torch.arange(len(items)))
        key, value = (used.rows.split_heads(project(used.states), self.heads) for project in self.project[1:])
        self.key_value_real = key, value, used.rows.real  # (U', H, N, d) twice, (U', N)

    def keys(self, pairs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Key and value (B, H, N, d) and which of them are real (B, N), of B pairs."""
        place = self.place[self.bank.item[pairs]]
        key, value, real = (per_pair(one, place) for one in self.key_value_real)
        return key, value, real

    def leaders(self) -> tuple[Tensor, Tensor]:
        """The first pair of each new item (U',), and each pair's new item (P,)."""
        items, pairs = self.bank.rows.B, torch.arange(len(self.kinds))
        return _distinct(torch.where(self.kinds == ALONE, self.bank.item, items + pairs), items + len(pairs))


class _Attending:
    """One attention sublayer over both banks."""

    def __init__(self, text: _Side, vision: _Side, mixture: Mixture | None):
        text.project_keys(vision)
        vision.project_keys(text)
        self.text, self.vision, self.mixture = text, vision, mixture
        self.joined: tuple[Tensor, tuple[Tensor, Tensor, tuple[Tensor, Tensor]]] | None = None

    def after(self, own: _Side, other: _Side, update: Callable[[Tensor, Tensor], Tensor]) -> Bank:
        """The bank of ``own`` behind the sublayer."""
        if own.query is None:
            return own.kept
        leaders, item = own.leaders()
        kinds, parts = own.kinds[leaders], []  # (U',)
        for kind in kinds.unique().tolist():
            chosen = (kinds == kind).nonzero().squeeze(1)
            query = per_pair(own.query, own.bank.item[leaders[chosen]])
            parts.append((chosen, self.context(query, own, other, kind=kind, pairs=leaders[chosen])))
        bank = own.kept.of_items(own.bank.item[leaders], item)
        context = bank.rows.merge_heads(_in_order(parts, len(leaders)))  # (n, H * d)
        return replace(bank, states=update(context, bank.states))

    def context(self, query: Tensor, own: _Side, other: _Side, *, kind: int, pairs: Tensor) -> Tensor:
        """What the queries (B, H, Q, d) of B pairs read, (B, H, Q, d)."""
        if kind in (ALONE, CROSS):
            key, value, real = (own if kind == ALONE else other).keys(pairs)
            return attend(query, key, value, real=real)
        key, value, masks = self.both_keys(pairs)
        if kind == JOINT:
            return attend(query, key, value, real=torch.cat(masks, 1))
        assert self.mixture is not None
        weights, modes = self.mixture
        from_text = query.shape[2] if own is self.text else 0
        of_pairs = per_pair(weights, pairs)
        return attend_mixed(query, key, value, real=masks, weights=of_pairs, modes=modes, text_queries=from_text)

    def both_keys(self, pairs: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Key and value (B, H, S, d) of both modalities, text first; kept, for both mostly ask for the same pairs'."""
        if self.joined is None or not torch.equal(self.joined[0], pairs):
            (key, value, real), (v_key, v_value, v_real) = self.text.keys(pairs), self.vision.keys(pairs)
            keys = torch.cat((key, v_key), 2), torch.cat((value, v_value), 2), (real, v_real)
            self.joined = pairs, keys
        return self.joined[1]


def _kinds(sublayer: AttentionSublayer, P: int) -> tuple[Tensor, Tensor]:
    """What text and vision attend to in a static sublayer, (P,) each."""
    return (
        torch.full((P,), KINDS[int(sublayer.tt), int(sublayer.tv)]),
        torch.full((P,), KINDS[int(sublayer.vv), int(sublayer.vt)]),
    )


def _mode_kinds(weights: Tensor, modes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """What text and vision attend to under the weights (P, M) of modes, (P,) each."""
    used = weights.cpu() != 0
    kinds = torch.zeros(2, len(weights), dtype=torch.long)
    for index, mode in enumerate(modes):
        tt, tv, vt, vv = ATTENTION_MODES[mode].pairs
        for kind_of, kind in zip(kinds, (KINDS[tt, tv], KINDS[vv, vt]), strict=True):
            new = torch.where((kind_of == NOTHING) | (kind_of == kind), kind, MIXED)
            kind_of.copy_(torch.where(used[:, index], new, kind_of))
    return kinds[0], kinds[1]


def _distinct(code: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """The first pair with each code in use, ascending (U',), and each pair's number among them (P,)."""
    pairs = torch.arange(len(code))
    first = torch.full((codes,), len(code)).scatter_reduce(0, code, pairs, "amin")
    leaders, item = first[code].unique(return_inverse=True)
    return leaders, item


def _in_order(parts: list[tuple[Tensor, Tensor]], items: int) -> Tensor:
    """Contexts of some items each, in the order of the items, (U', H, Q, d)."""
    if len(parts) == 1:
        return parts[0][1]
    context = parts[0][1].new_empty(items, *parts[0][1].shape[1:])
    for chosen, part in parts:
        context.index_copy_(0, copy_to(chosen, context.device), part)
    return context


def _is_all(index: Tensor, count: int) -> bool:
    """Whether the index (on the CPU) is 0, 1, ..., count - 1."""
    return len(index) == count and torch.equal(index, torch.arange(count))
