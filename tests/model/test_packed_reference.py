"""Packed and pruned models equal the plain padded reference, with any padding and in any order of the batch.

VL-BERT is left out: its positions depend on the other samples of the batch, as in VOLTA (``test_reference`` has it).
"""

import copy
from dataclasses import dataclass
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_files import load_golden, relative_error
from model.small_models import encoder_of, random_batch, single_stream
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.model.reference import Reference

TOLERANCE = 1e-5
STATIC = ("ctrl_uniter", "ctrl_visualbert", "ctrl_vilbert", "ctrl_lxmert", "ctrl_interbert", "route_mixed")
SWITCH = {  # name: the switch section beside its width
    "switch hard": {},
    "switch soft": {},
    "switch soft top 2": {"top_k": 2},
    "switch soft four candidates, mul": {"input_candidates": 4, "alignment": "mul"},
    "switch forced": {"input_candidates": 4},
    "switch forced mixtures": {},
}
CROSS = {key: [0, 2] for key in ("tt_attn_sublayers", "vv_attn_sublayers")}
UNEVEN = {  # modalities of which nothing is read any more at different sublayers
    "last SC": single_stream(load_golden("route_mixed").config, ["J", "CS", "SS", "SC"]),
    "last CS": single_stream(load_golden("route_mixed").config, ["J", "SS", "CS", "CS"]),
    "cross last": {**load_golden("ctrl_uniter").config, **CROSS},
    "cross last, dual": {
        **load_golden("ctrl_vilbert").config,
        "tt_attn_sublayers": [0, 2, 4, 6, 8, 10, 14],
        "tv_attn_sublayers": [12, 16, 18],
        "vt_attn_sublayers": [12, 16, 18],
        "vv_attn_sublayers": [14],
    },
}
MODELS = (*STATIC, *UNEVEN, *SWITCH)
TASKS = {
    "TASK1": {"type": "VL-classifier", "num_labels": 13},
    "TASK8": {"type": "VL-logit"},
    "TASK10": {"type": "V-logit"},
    "TASK12": {"type": "VL-binary-classifier"},
}
TARGETS = {"0": 1.0, "1": 0.5, "6": 0.25}
INPUTS = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
TEXT = ("input_ids", "token_type_ids", "attention_mask", "masked_lm_labels")
SAMPLE = ("next_sentence_label",)
LABELS = {  # which labels a batch carries
    "all": ("masked_lm_labels", "image_label", "next_sentence_label"),
    "words": ("masked_lm_labels",),
    "regions": ("image_label",),
    "match": ("next_sentence_label",),
}
LOSSES = ("loss_mlm", "loss_vision", "loss_itm")
BESIDE = ("image_cls", "obj_labels")  # read where image_label is given


@lru_cache
def model_of(name, tasks=False):
    """A model whose rows see much of each other: every weight is moved off its start."""
    switched = name in SWITCH
    golden = UNEVEN.get(name) or load_golden("route_mixed" if switched else name).config
    config = {**golden, "visual_target_weights": TARGETS}
    if switched:
        config = {**single_stream(config, ["J"] * 4), "switch": {"hidden_size": 14, **SWITCH[name]}}
    torch.manual_seed(0)
    loaded = load_config(config)
    model = (BertForVLTasks(loaded, TASKS) if tasks else BertForVLPreTraining(loaded)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.8 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.2
            parameter.add_(scale * torch.randn_like(parameter))
    if switched:
        encoder_of(model).routing = "soft" if "soft" in name else "hard"
    return model


@dataclass
class Case:
    """A batch, and the order and the further padding in which the model is given it."""

    name: str
    batch: dict[str, torch.Tensor]
    order: list[int]
    tokens: int
    regions: int
    seed: int

    @property
    def given(self):
        """The batch rearranged; more padding at its end, full of words, features and labels."""
        generator = torch.Generator().manual_seed(self.seed)
        out = {}
        for key, tensor in self.batch.items():
            tensor = tensor[self.order]
            if key not in SAMPLE:
                shape = (len(tensor), self.tokens if key in TEXT else self.regions, *tensor.shape[2:])
                extra = 9 * torch.rand(shape, generator=generator) + 1
                extra = extra * 0 if key.endswith("attention_mask") else extra
                extra = torch.ones(shape) if key in ("image_label", "token_type_ids") else extra
                tensor = torch.cat((tensor, extra.to(tensor.dtype)), 1)
            out[key] = tensor
        return out

    @property
    def routes(self):
        """Forced modes and inputs, (B, L, M) and (B, L, C); none where the switchers decide."""
        if "forced" not in self.name:
            return {}
        generator = torch.Generator().manual_seed(self.seed)
        B, candidates = len(self.order), SWITCH[self.name].get("input_candidates", 3)
        out = {
            key: (3 * torch.randn(B, 4, options, generator=generator)).softmax(-1)
            for key, options in (("modes", 4), ("inputs", candidates))
        }
        if "mixtures" not in self.name:
            out = {key: F.one_hot(weights.argmax(-1), weights.shape[-1]).float() for key, weights in out.items()}
        return out

    def expected(self, reference, *task):
        return reference(*task, **self.batch, **self.routes)

    def found(self, model, *task):
        return model(*task, **self.given, **{key: weights[self.order] for key, weights in self.routes.items()})


@st.composite
def cases(draw, name, labels, pairs=False):
    """Samples of any length; regions may be padded anywhere, all but one or altogether, and texts have holes."""
    B = draw(st.sampled_from([2, 4])) if pairs else draw(st.integers(1, 4))
    T, boxes, seed = draw(st.integers(2, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 10**6))
    batch = random_batch(model_of(name).config, B, T, boxes, seed)
    generator = torch.Generator().manual_seed(seed)
    batch["input_ids"] = torch.randint(1, 97, (B, T), generator=generator)
    batch["token_type_ids"] = torch.randint(0, 2, (B, T), generator=generator)
    for key, width, shortest in (("attention_mask", T, 1), ("image_attention_mask", boxes + 1, 0)):
        kind = draw(st.sampled_from(["none", "at the end", "holes", "all but one"]))
        mask = torch.ones(B, width, dtype=torch.long)
        for row in mask:
            if kind == "at the end":
                row[draw(st.integers(shortest, width)) :] = 0
            elif kind == "holes":
                row[shortest:] = torch.tensor(draw(st.lists(st.booleans(), min_size=width, max_size=width)))[shortest:]
            elif kind == "all but one":
                row[1:] = 0
        batch[key] = mask
    wanted = LABELS[draw(st.sampled_from(sorted(LABELS)))] if labels else ()
    kept = (*INPUTS, *wanted, *(BESIDE if "image_label" in wanted else ()))
    order = draw(st.permutations(range(0, B, 2) if pairs else range(B)))
    order = [sample for first in order for sample in (first, first + 1)] if pairs else order
    more = st.integers(0, 3)
    return Case(name, {key: batch[key] for key in kept}, order, draw(more), draw(more), seed)


def reference_of(model, name):
    """The plain forward pass in float64, over weights and gradients of its own."""
    return Reference(copy.deepcopy(model).double(), "soft" if "soft" in name else "hard")


def gradient(parameter):
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def assert_same_gradients(model, reference):
    expected_gradients = dict(reference.model.named_parameters(remove_duplicate=False))
    for name, parameter in model.named_parameters(remove_duplicate=False):
        expected, found = gradient(expected_gradients[name]), gradient(parameter)
        assert relative_error(found, expected) < TOLERANCE, name


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=7, deadline=None)
@given(data=st.data())
def test_losses_and_gradients_equal_the_padded_reference(name, data):
    case = data.draw(cases(name, labels=True))
    model = model_of(name)
    model.zero_grad()
    reference = reference_of(model, name)
    expected = case.expected(reference)
    found = case.found(model)
    for key in LOSSES:
        assert (getattr(found, key) is None) == (getattr(expected, key) is None), key
        if getattr(expected, key) is not None:
            assert relative_error(getattr(found, key), getattr(expected, key).detach()) < TOLERANCE, key
    expected.loss.backward()
    found.loss.backward()
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_states_and_scores_equal_the_padded_references_and_padding_is_zero(name, data):
    case = data.draw(cases(name, labels=False))
    model = model_of(name)
    reference = reference_of(model, name)
    with torch.no_grad():
        found, expected = case.found(model), case.expected(reference)
    words, boxes = expected.prediction_scores_t, expected.prediction_scores_v["0"][:, 1:]
    order, T, R = case.order, expected.sequence_t.shape[1], expected.sequence_v.shape[1]
    assert relative_error(found.sequence_t[:, :T], expected.sequence_t[order]) < TOLERANCE  # zero at padding, both
    assert relative_error(found.sequence_v[:, :R], expected.sequence_v[order]) < TOLERANCE
    for mask, sequence in (("attention_mask", found.sequence_t), ("image_attention_mask", found.sequence_v)):
        assert not sequence[case.given[mask] == 0].any()
    assert relative_error(found.prediction_scores_t[:, :T], words[order]) < TOLERANCE
    assert relative_error(found.prediction_scores_v["0"][:, 1:R], boxes[order]) < TOLERANCE


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_task_scores_and_gradients_equal_the_padded_reference(name, task, data):
    kind = TASKS[task]["type"]
    case = data.draw(cases(name, labels=False, pairs=kind == "VL-binary-classifier"))
    model = model_of(name, tasks=True)
    model.zero_grad()
    reference = reference_of(model, name)
    expected = case.expected(reference, task).scores
    found = case.found(model, task).scores
    order = torch.tensor(case.order)
    if kind == "VL-binary-classifier":
        order = order[::2] // 2
    direction = torch.randn(expected.shape, generator=torch.Generator().manual_seed(case.seed)).double()
    if kind == "V-logit":
        real, R = case.batch["image_attention_mask"] == 1, expected.shape[1]
        assert (found[case.given["image_attention_mask"] == 0] == -10000).all()
        found, expected = found[:, :R] * real[order][..., None], expected * real[..., None]
    assert relative_error(found, expected[order].detach()) < TOLERANCE
    (found * direction[order].float()).sum().backward()
    (expected * direction).sum().backward()
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("name", MODELS)
def test_the_reference_tells_a_hidden_region_and_a_swapped_sample(name):
    model = model_of(name)
    whole = random_batch(model.config, 3, 5, 4)
    whole["input_ids"] = torch.randint(1, 97, (3, 5), generator=torch.Generator().manual_seed(0))
    batch = {key: whole[key] for key in (*INPUTS, *LABELS["all"], *BESIDE)}
    case = Case(name, batch, [0, 1, 2], 0, 0, 0)
    reference = reference_of(model, name)
    before = case.expected(reference)
    hidden = {**batch, "image_attention_mask": batch["image_attention_mask"].clone()}
    hidden["image_attention_mask"][0, 2] = 0
    swapped = {**batch, "image_feat": batch["image_feat"][[1, 0, 2]]}
    for other in (hidden, swapped):
        case.batch = other
        after = case.expected(reference)
        for key in LOSSES:
            assert relative_error(getattr(after, key), getattr(before, key).detach()) > 10 * TOLERANCE, key


@pytest.mark.parametrize("name", MODELS)
def test_padding_that_holds_no_numbers_is_never_read(name):
    model = model_of(name)
    batch = random_batch(model.config, 3, 5, 4)
    batch = {key: batch[key] for key in (*INPUTS, *LABELS["all"], *BESIDE)}
    case = Case(name, batch, [0, 1, 2], 0, 0, 0)
    outs = []
    for value in (0.0, torch.nan):
        for key in ("image_feat", "image_loc"):
            batch[key][batch["image_attention_mask"] == 0] = value
        model.zero_grad()
        outs.append(case.found(model).loss)
        outs[-1].backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.equal(outs[0], outs[1]) and torch.isfinite(outs[1])
