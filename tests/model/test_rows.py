"""Packed rows equal plain loops over samples and positions, for any mask; gradients by finite differences.

Legend: B batch, W width as given, N longest sample, n packed rows, H heads, d head width, P parts.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from volta_switch.model.rows import PackedRows

P, H, d = 3, 2, 2


def split_heads(rows, projected, parts, heads):
    """Each part of a projection by itself, (n, P * H * d) to (P, B, H, N, d)."""
    return torch.stack([rows.split_heads(part, heads) for part in projected.chunk(parts, 1)])


@st.composite
def masks(draw, B=None):
    """(B, W) with rows anywhere: holes, empty samples, no padding at all, one sample."""
    B, W = B or draw(st.integers(1, 4)), draw(st.integers(1, 6))
    kind = draw(st.sampled_from(["any", "whole", "one length", "empty"]))
    if kind == "whole":
        return torch.ones(B, W, dtype=torch.bool)
    if kind == "empty":
        return torch.zeros(B, W, dtype=torch.bool)
    if kind == "one length":  # at different places
        length = draw(st.integers(1, W))
        return torch.tensor([[w in draw(st.permutations(range(W)))[:length] for w in range(W)] for _ in range(B)])
    samples = st.lists(st.booleans(), min_size=W, max_size=W)
    return torch.tensor(draw(st.lists(samples, min_size=B, max_size=B)))


pairs_of_masks = st.integers(1, 4).flatmap(lambda B: st.tuples(masks(B), masks(B)))
some_masks = {
    "holes": [[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1]],
    "an empty sample": [[1, 1, 0], [0, 0, 0]],
    "whole": [[1, 1, 1], [1, 1, 1]],
    "one length": [[1, 1, 0], [0, 1, 1]],
    "one sample": [[0, 1, 1, 0]],
    "nothing": [[0, 0], [0, 0]],
}


def some_mask(name):
    return torch.tensor(some_masks[name], dtype=torch.bool)


def numbered(*shape):
    """Different values everywhere, none of them 0."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel(), dtype=torch.float64).view(shape)


def places(mask):
    """(sample, position, slot) of every row, in order."""
    return [(b, w, int(mask[b, :w].sum())) for b in range(len(mask)) for w in range(mask.shape[1]) if mask[b, w]]


def stacked(rows, *shape):
    """A list of rows as one tensor, (n, ...), also where it is empty."""
    return torch.stack(rows) if rows else torch.zeros(0, *shape, dtype=torch.float64)


@settings(deadline=None)
@given(mask=masks())
def test_rows_know_their_sample_position_and_slot(mask):
    rows, (B, W) = PackedRows.of(mask), mask.shape
    assert list(zip(rows.sample.tolist(), rows.position.tolist(), rows.slot.tolist(), strict=True)) == places(mask)
    lengths = mask.sum(1).tolist()
    assert (rows.B, rows.W, rows.N, rows.count) == (B, W, max(1, *lengths, 1), sum(lengths))
    assert rows.real.tolist() == [[slot < length for slot in range(rows.N)] for length in lengths]
    numbers = torch.full((B, W), -1)
    for number, (b, w, _) in enumerate(places(mask)):
        numbers[b, w] = number
    assert torch.equal(rows.numbers, numbers)


@settings(deadline=None)
@given(mask=masks())
def test_packing_takes_what_is_real_and_unpacking_puts_it_back(mask):
    rows, (B, W) = PackedRows.of(mask), mask.shape
    for shape in ((), (2,), (2, 3)):
        dense = numbered(B, W, *shape)
        packed = rows.pack(dense)
        assert torch.equal(packed, stacked([dense[b, w] for b, w, _ in places(mask)], *shape))
        assert torch.equal(rows.unpack(packed), dense * mask.view(B, W, *[1] * len(shape)))


@settings(deadline=None)
@given(pair=pairs_of_masks)
def test_rows_beside_each_other_stand_behind_the_longest_of_the_first(pair):
    first, second = (PackedRows.of(mask) for mask in pair)
    joined = PackedRows.joined(first, second)
    (B, T), (_, R) = pair[0].shape, pair[1].shape
    expected = places(pair[0]) + [(b, w + T, slot + first.N) for b, w, slot in places(pair[1])]
    assert list(zip(*(t.tolist() for t in (joined.sample, joined.position, joined.slot)), strict=True)) == expected
    assert (joined.B, joined.W, joined.N, joined.count) == (B, T + R, first.N + second.N, first.count + second.count)
    assert torch.equal(joined.real, torch.cat((first.real, second.real), 1))
    text, vision = numbered(B, T, 2), -numbered(B, R, 2)
    packed = joined.pack(torch.cat((text, vision), 1))
    assert torch.equal(packed, torch.cat((first.pack(text), second.pack(vision))))
    apart = torch.cat((first.unpack(first.pack(text)), second.unpack(second.pack(vision))), 1)
    assert torch.equal(joined.unpack(packed), apart)


@settings(deadline=None)
@given(pair=pairs_of_masks)
def test_a_selection_names_its_rows_among_the_present_ones(pair):
    mask, wanted = pair[0], torch.zeros_like(pair[0])
    shared = min(mask.shape[1], pair[1].shape[1])
    wanted[:, :shared] = pair[1][:, :shared]  # also where there are no rows
    rows = PackedRows.of(mask)
    chosen, numbers = rows.select(wanted)
    dense = numbered(*mask.shape, 2)
    assert torch.equal(rows.pack(dense)[numbers], chosen.pack(dense))
    assert torch.equal(chosen.numbers >= 0, wanted & mask)
    there = wanted & mask
    expected = stacked([dense[b, w] for b, w, _ in places(there)], 2)
    assert torch.equal(rows.rows_at(rows.pack(dense), there), expected)


@settings(deadline=None)
@given(mask=masks(), data=st.data())
def test_the_row_at_a_position_is_zero_where_there_is_none(mask, data):
    (B, W), rows = mask.shape, PackedRows.of(mask)
    positions = torch.tensor(data.draw(st.lists(st.integers(0, W - 1), min_size=B, max_size=B)))
    dense = numbered(B, W, 2)
    expected = torch.stack([dense[b, positions[b]] * mask[b, positions[b]] for b in range(B)])
    assert torch.equal(rows.row_of_each(rows.pack(dense), positions), expected)


@settings(deadline=None)
@given(pair=pairs_of_masks)
def test_means_are_over_each_samples_own_rows(pair):
    first, second = (PackedRows.of(mask) for mask in pair)
    for mask, rows in ((pair[0], first), (torch.cat(pair, 1), PackedRows.joined(first, second))):
        dense = numbered(*mask.shape, 2)
        expected = [dense[b][mask[b]].mean(0) if mask[b].any() else torch.zeros(2).double() for b in range(len(mask))]
        assert torch.allclose(rows.mean(rows.pack(dense)), torch.stack(expected), rtol=1e-12)


@settings(deadline=None)
@given(pair=pairs_of_masks)
def test_every_row_gets_what_its_sample_has(pair):
    first, second = (PackedRows.of(mask) for mask in pair)
    values = numbered(len(pair[0]), 3)
    expected = [stacked([values[b] for b, _, _ in places(mask)], 3) for mask in pair]
    assert torch.equal(first.per_row(values), expected[0])
    assert torch.equal(PackedRows.joined(first, second).per_row(values), torch.cat(expected))


@settings(deadline=None)
@given(pair=pairs_of_masks, parts=st.integers(1, 3), heads=st.integers(1, 3))
def test_heads_are_split_by_sample_and_slot_and_merged_again(pair, parts, heads):
    first, second = (PackedRows.of(mask) for mask in pair)
    joined = PackedRows.joined(first, second)
    shifted = [(b, slot + first.N) for b, _, slot in places(pair[1])]
    for rows, slots in ((first, [(b, slot) for b, _, slot in places(pair[0])]), (joined, None)):
        slots = [(b, slot) for b, _, slot in places(pair[0])] + shifted if slots is None else slots
        projected = numbered(rows.count, parts * heads * d)
        cells = split_heads(rows, projected, parts, heads)
        assert cells.shape == (parts, rows.B, heads, rows.N, d)
        for number, (b, slot) in enumerate(slots):
            for p in range(parts):
                for h in range(heads):
                    start = (p * heads + h) * d
                    assert torch.equal(cells[p, b, h, slot], projected[number, start : start + d])
        for p in range(parts):
            width = heads * d
            assert torch.equal(rows.merge_heads(cells[p]), projected[:, p * width : (p + 1) * width])


def test_two_modalities_without_any_padding_are_not_mixed_up():
    text, vision = PackedRows.of(torch.ones(2, 2, dtype=torch.bool)), PackedRows.of(torch.ones(2, 1, dtype=torch.bool))
    samples = torch.tensor([0.0, 0, 1, 1, 0, 1])[:, None]  # of the rows: two words each, then a region each
    joined = PackedRows.joined(text, vision)
    assert torch.equal(split_heads(joined, samples, 1, 1)[0, :, 0, :, 0], torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert torch.equal(joined.merge_heads(split_heads(joined, samples, 1, 1)[0]), samples)
    assert torch.equal(joined.mean(samples), torch.tensor([[0.0], [1.0]]))


def test_no_rows_at_all_give_zeros_that_gradients_pass():
    rows = PackedRows.of(torch.zeros(2, 3, dtype=torch.bool))
    projected = torch.zeros(0, P * H * d, requires_grad=True)
    split = split_heads(rows, projected, P, H)
    at = rows.row_of_each(projected, torch.tensor([0, 1]))
    assert split.shape == (P, 2, H, 1, d) and at.shape == (2, P * H * d)
    assert not split.any() and not at.any() and rows.merge_heads(split[0]).shape == (0, H * d)
    (split.sum() + at.sum() + rows.mean(projected).sum()).backward()
    assert projected.grad.shape == projected.shape


@pytest.mark.parametrize("mask", some_masks)
@pytest.mark.parametrize(
    "what", ["pack", "unpack", "row_of_each", "rows_at", "mean", "per_row", "split_heads", "merge_heads"]
)
def test_gradients_are_those_of_finite_differences(what, mask):
    mask = some_mask(mask)
    rows, (B, W), width = PackedRows.of(mask), mask.shape, H * d
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "pack": (B, W, 2), "per_row": (B, 2), "split_heads": (rows.count, P * width),
        "merge_heads": (B, H, rows.N, d),
    }  # fmt: skip
    given = torch.randn(shapes.get(what, (rows.count, 2)), generator=generator, dtype=torch.float64)
    functions = {
        "row_of_each": lambda states: rows.row_of_each(states, torch.full((B,), W - 1)),
        "rows_at": lambda states: rows.rows_at(states, mask),
        # what stands in empty slots is never read
        "split_heads": lambda states: split_heads(rows, states, P, H) * rows.real[None, :, None, :, None],
    }
    assert torch.autograd.gradcheck(functions.get(what, getattr(rows, what)), given.requires_grad_())


@pytest.mark.parametrize("first", some_masks)
def test_gradients_of_joined_rows_are_those_of_finite_differences(first):
    mask = some_mask(first)
    joined = PackedRows.joined(PackedRows.of(mask), PackedRows.of(mask.flip(0)))
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(joined.count, P * H * d, generator=generator, dtype=torch.float64, requires_grad=True)

    def through(states):
        parts = split_heads(joined, states, P, H) * joined.real[None, :, None, :, None]
        return joined.merge_heads(parts[0] * parts[1].sum(2, keepdim=True) + parts[2])

    assert torch.autograd.gradcheck(through, given)
    assert torch.autograd.gradcheck(lambda states: joined.mean(states), given)
