"""The merged attention equals the modes computed one by one, in float64, in outputs and in gradients.

Legend: B batch, H heads, T text tokens, R regions, S = T + R, M modes, d head width.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from volta_switch.model.attention import attend, attend_mixed

ALL_MODES = ("SS", "SC", "CS", "J")
# What a text row and what a vision row may attend to (paper table 1).
CONTEXT = {"SS": ("t", "v"), "SC": ("t", "t"), "CS": ("v", "v"), "J": ("tv", "tv")}


@dataclass
class Case:
    query: torch.Tensor  # (B, H, S, d) float32, as key and value
    key: torch.Tensor
    value: torch.Tensor
    text: torch.Tensor  # (B, T) bool
    vision: torch.Tensor  # (B, R) bool
    weights: torch.Tensor  # (B, M)
    modes: tuple[str, ...]

    @property
    def tensors(self):
        return self.query, self.key, self.value, self.weights


def make_case(seed=0, B=3, H=2, T=5, R=4, d=8, modes=ALL_MODES, kind="soft", padding="some", gap=0.0):
    """``gap``: about how far the scores on text keys lie above those on vision keys; half of the rows have it below."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = torch.randn(3, B, H, T + R, d, generator=generator)
    if gap:
        query[..., 0] = d**0.5 * (1 - 2 * (torch.arange(T + R) % 2))  # alternating rows: +gap, -gap
        key[..., 0] = (torch.arange(T + R) < T) * gap
    text, vision = torch.ones(B, T, dtype=torch.bool), torch.ones(B, R, dtype=torch.bool)
    if padding != "none":
        text = torch.arange(T) < torch.randint(1, T + 1, (B, 1), generator=generator)
        vision = torch.arange(R) < torch.randint(1, R + 1, (B, 1), generator=generator)
    if padding in ("no text", "nothing"):
        text[0] = False
    if padding in ("no vision", "nothing"):
        vision[0] = False
    raw = torch.randn(B, len(modes), generator=generator).softmax(-1)
    if kind == "hard":
        raw = F.one_hot(raw.argmax(-1), len(modes)).float()
    elif kind.startswith("top"):
        kept = min(int(kind[3:]), len(modes))
        raw = raw * torch.zeros_like(raw).scatter(-1, raw.topk(kept).indices, 1.0)
        raw = raw / raw.sum(-1, keepdim=True)
    return Case(query, key, value, text, vision, raw, modes)


def naive_mixture(query, key, value, weights, text, vision, modes, keep=None):
    """``sum_k p_k softmax_k(q k^T) v``, row block by row block over the real keys only, in float64.

    ``keep`` (B, H, S, S): one dropout mask, applied to the attention weights of every mode.
    """
    B, H, S, d = query.shape
    T = text.shape[1]
    out = []
    for b in range(B):
        real = {"t": text[b].nonzero().flatten(), "v": vision[b].nonzero().flatten() + T}
        mixed = query.new_zeros(H, S, d)
        for k, mode in enumerate(modes):
            blocks = []
            for rows, context in zip((slice(0, T), slice(T, S)), CONTEXT[mode], strict=True):
                columns = torch.cat([real[modality] for modality in context])
                scores = query[b, :, rows] @ key[b][:, columns].transpose(-1, -2) / d**0.5
                attention = scores.softmax(-1)  # no keys: no columns, and the product below is zero
                if keep is not None:
                    attention = attention * keep[b][:, rows][..., columns]
                blocks.append(attention @ value[b][:, columns])
            mixed = mixed + weights[b, k] * torch.cat(blocks, 1)
        out.append(mixed)
    return torch.stack(out)


def both(case, keep=None, dropout=0.0):
    """Output and gradients (w.r.t. query, key, value, weights) of the merged form and of the naive sum."""
    merged_leaves = [tensor.clone().requires_grad_() for tensor in case.tensors]
    naive_leaves = [tensor.double().requires_grad_() for tensor in case.tensors]
    query, key, value, weights = merged_leaves
    merged = attend_mixed(
        query, key, value, real=(case.text, case.vision), weights=weights, modes=case.modes, dropout=dropout
    )
    naive = naive_mixture(*naive_leaves, case.text, case.vision, case.modes, keep)
    direction = torch.randn(naive.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (merged * direction.float()).sum().backward()
    (naive * direction).sum().backward()
    zero = torch.zeros_like
    found = [merged.detach(), *(zero(leaf) if leaf.grad is None else leaf.grad for leaf in merged_leaves)]
    expected = [naive.detach(), *(zero(leaf) if leaf.grad is None else leaf.grad for leaf in naive_leaves)]
    return found, expected


def assert_equal(found, expected, tolerance):
    names = ("output", "d query", "d key", "d value", "d weights")
    for name, mine, reference in zip(names, found, expected, strict=True):
        assert torch.isfinite(mine).all(), name
        error = float((mine.double() - reference).abs().max() / (1 + reference.abs().max()))
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.mark.parametrize("kind", ["soft", "hard", "top1", "top2"])
@pytest.mark.parametrize("padding", ["none", "some", "no text", "no vision", "nothing"])
def test_merged_attention_equals_four_paths(kind, padding):
    for seed in range(3):
        assert_equal(*both(make_case(seed, kind=kind, padding=padding)), tolerance=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard", "top2"])
@pytest.mark.parametrize("padding", ["none", "some", "no text", "no vision"])
@pytest.mark.parametrize("gap", [60.0, -60.0])
def test_merged_attention_equals_four_paths_where_modalities_score_60_apart(kind, padding, gap):
    case = make_case(4, kind=kind, padding=padding, gap=gap)
    scores = case.query @ case.key.transpose(-1, -2) / 8**0.5
    spread = scores[..., :5].mean(-1) - scores[..., 5:].mean(-1)  # (B, H, S)
    assert spread.max() > 55 and spread.min() < -55  # the case is what it says
    assert_equal(*both(case), tolerance=1e-4)


@pytest.mark.parametrize(
    "modes", [("J",), ("SS",), ("SC", "CS"), ("J", "SS"), ("CS", "J", "SC"), ("SS", "SC", "CS")], ids="+".join
)
def test_any_subset_of_modes_in_any_order_equals_its_paths(modes):
    assert_equal(*both(make_case(5, modes=modes)), tolerance=1e-5)
    assert_equal(*both(make_case(6, modes=modes, padding="no vision")), tolerance=1e-5)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    modes=st.permutations(ALL_MODES).flatmap(lambda order: st.integers(1, 4).map(lambda n: tuple(order[:n]))),
    kind=st.sampled_from(["soft", "hard", "top1", "top2", "top3"]),
    padding=st.sampled_from(["none", "some", "no text", "no vision", "nothing"]),
)
def test_merged_attention_equals_its_paths_at_any_shape(seed, sizes, modes, kind, padding):
    B, H, T, R = sizes
    assert_equal(*both(make_case(seed, B, H, T, R, 4, modes, kind, padding)), tolerance=1e-5)


@pytest.mark.parametrize("kind", ["soft", "hard", "top2"])
def test_one_dropout_mask_acts_on_every_mode(monkeypatch, kind):
    case = make_case(7, kind=kind)
    kept = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(2)) > 0.25  # (B, H, queries, keys)
    drawn = [kept.transpose(2, 3).contiguous()]
    monkeypatch.setattr("volta_switch.model.attention.keep_mask", lambda *_, **__: drawn.pop(0))
    assert_equal(*both(case, kept.double() / 0.75, dropout=0.25), tolerance=1e-5)
    assert not drawn


def test_dropout_drops_the_share_that_is_asked_for():
    case = make_case(8, B=4, H=4, T=20, R=20, padding="none")
    case.value = torch.eye(40).expand(4, 4, 40, 40)  # the output is the attention matrix
    torch.manual_seed(0)
    real = (case.text, case.vision)
    out = attend_mixed(
        case.query, case.key, case.value, real=real, weights=case.weights, modes=case.modes, dropout=0.25
    )
    assert abs((out == 0).float().mean() - 0.25) < 0.01
    whole = attend_mixed(
        case.query, case.key, case.value, real=real, weights=case.weights, modes=case.modes, dropout=0.0
    )
    assert torch.allclose(out[out != 0], whole[out != 0] / 0.75)


@pytest.mark.parametrize(("gap", "tolerance"), [(0.0, 0.02), (60.0, 0.15)])
@pytest.mark.parametrize("padding", ["some", "no text", "no vision", "nothing"])
def test_bfloat16_is_finite_and_near_float32(padding, gap, tolerance):
    """Relative to 1 + the largest value. bfloat16 has 8 bits: scores near 60 lie 1/4 apart, so weights move by 13 %."""
    case = make_case(9, padding=padding, gap=gap)
    half = [tensor.bfloat16().requires_grad_() for tensor in case.tensors[:3]]
    weights = case.weights.clone().requires_grad_()
    real = (case.text, case.vision)
    found = attend_mixed(*half, real=real, weights=weights, modes=case.modes)
    assert found.dtype is torch.bfloat16
    found.float().square().sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in (*half, weights))
    expected = attend_mixed(
        *(tensor.detach().float() for tensor in half), real=real, weights=case.weights, modes=case.modes
    )
    difference = (found.detach().float() - expected).abs().max()
    assert float(difference / (1 + expected.abs().max())) < tolerance


def test_attention_without_keys_is_zero_and_has_no_gradient_but_zero():
    query, key, value = (torch.randn(2, 1, 3, 4, requires_grad=True) for _ in range(3))
    real = torch.tensor([[True, True, False], [False, False, False]])
    out = attend(query, key, value, real=real)
    assert torch.equal(out[1], torch.zeros(1, 3, 4)) and out[0].abs().min() > 0
    out.sum().backward()
    for leaf in (query, key, value):
        assert torch.isfinite(leaf.grad).all() and torch.equal(leaf.grad[1], torch.zeros(1, 3, 4))


def test_attention_is_softmax_over_the_real_keys():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 4)
    real = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    found = attend(query, key, value, real=real)
    for b in range(2):
        columns = real[b].nonzero().flatten()
        weights = (query[b] @ key[b][:, columns].transpose(-1, -2) / 2).softmax(-1)
        assert torch.allclose(found[b], weights @ value[b][:, columns], atol=1e-6)
