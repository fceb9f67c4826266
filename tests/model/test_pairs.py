"""Scores of a grid of texts and images equal the plain model's of every pair, with the work of each modality shared."""

from functools import lru_cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from golden_files import load_golden, relative_error
from model.small_models import encoder_of, perturb_switchers, random_batch, single_stream
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.errors import UserError
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.pairs import expand_pairs, score_pairs
from volta_switch.model.switch import Switcher

TOLERANCE = 1e-5
TASKS = {"TASK1": {"type": "VL-classifier", "num_labels": 13}, "TASK8": {"type": "VL-logit"}}
TEXT = ("input_ids", "token_type_ids", "attention_mask")
IMAGE = ("image_feat", "image_loc", "image_attention_mask")
ROUTE_MIXED = load_golden("route_mixed").config
STATIC = {
    name: load_golden(name).config
    for name in (
        *("ctrl_uniter", "ctrl_visualbert", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_interbert"),
        "route_mixed",
    )
}
FUSED = {  # one pooler, or a pooled word near the end of each text
    "lxmert, text pooled": {**STATIC["ctrl_lxmert"], "fusion_method": "text"},
    "uniter, text pooled": {**STATIC["ctrl_uniter"], "fusion_method": "text"},
    "vilbert, summed": {**STATIC["ctrl_vilbert"], "fusion_method": "sum"},
    "vl-bert, last word but one": {**STATIC["ctrl_vl-bert"], "fusion_method": "vl-bert_vqa"},
}
UNEVEN = {
    "never crosses": single_stream(ROUTE_MIXED, ["SS", "SS"]),
    "text alone throughout": single_stream(ROUTE_MIXED, ["SC", "SS", "SC"]),
    "vision alone throughout": single_stream(ROUTE_MIXED, ["SS", "CS", "CS"]),
    "last SC": single_stream(ROUTE_MIXED, ["SS", "J", "CS", "SC"]),
    "last CS": single_stream(ROUTE_MIXED, ["J", "SS", "SC", "CS"]),
}
SWITCH = {  # name: the switch section beside its width
    "hard": {},
    "hard, four candidates": {"input_candidates": 4},
    "hard, no joint mode, mul": {"modes": ["SS", "SC", "CS"], "alignment": "mul"},
    "hard, attention alone": {"input": False},
    "hard, inputs alone": {"attention": False},
    "soft": {},
    "soft, four candidates": {"input_candidates": 4},
    "soft, top 2": {"top_k": 2},
    "soft, top 1": {"top_k": 1},
    "hard, residual, normalised": {"older_input": "input", "input_candidates": 4, "alignment_norm": "batch"},
    "soft, residual": {"older_input": "input", "alignment_norm": "sample"},
}
MODELS = (*STATIC, *FUSED, *UNEVEN, *SWITCH)


def config_of(name):
    if name in SWITCH:
        return {**single_stream(ROUTE_MIXED, ["J"] * 5), "switch": {"hidden_size": 14, **SWITCH[name]}}
    return {**STATIC, **FUSED, **UNEVEN}[name]


@lru_cache
def model_of(name, tasks=False):
    """A model whose rows see much of each other, with switchers that decide."""
    torch.manual_seed(0)
    config = load_config(config_of(name))
    model = (BertForVLTasks(config, TASKS) if tasks else BertForVLPreTraining(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.8 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.2
            parameter.add_(scale * torch.randn_like(parameter))
    if name in SWITCH:
        perturb_switchers(model, 4)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, Switcher):  # so that pairs decide, not biases
                    module.hidden.bias.zero_()
                    module.options.bias.zero_()
        encoder_of(model).routing = "soft" if "soft" in name else "hard"
    return model


def grid(model, c, i, T=7, boxes=5, seed=0):
    """c texts and i images of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    texts, images = random_batch(model.config, c, T, boxes, seed), random_batch(model.config, i, T, boxes, seed + 1)
    lengths = torch.randint(3, T + 1, (c,), generator=generator)
    texts["attention_mask"] = (torch.arange(T) < lengths[:, None]).long()
    texts["input_ids"] = torch.randint(1, 97, (c, T), generator=generator) * texts["attention_mask"]
    R = images["image_feat"].shape[1]
    regions = torch.randint(1, R + 1, (i,), generator=generator)
    images["image_attention_mask"] = (torch.arange(R) < regions[:, None]).long()
    return {key: texts[key] for key in TEXT}, {key: images[key] for key in IMAGE}


def plain_scores(model, texts, images):
    inputs = expand_pairs(texts, images)
    with torch.inference_mode():
        if isinstance(model, BertForVLTasks):
            scores = model("TASK8", **inputs).scores[:, 0]
        else:
            scores = model(**inputs).seq_relationship_score.softmax(-1)[:, 0]
    return scores.float().view(len(texts["input_ids"]), -1)


def has_head(name, tasks):
    return tasks or config_of(name)["fusion_method"] != "vl-bert_vqa"


CASES = [(name, tasks) for name in MODELS for tasks in (False, True) if has_head(name, tasks)]


@pytest.mark.parametrize(("name", "tasks"), CASES)
@settings(max_examples=6, deadline=None)
@given(c=st.integers(1, 5), i=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_scores_equal_the_plain_models(name, tasks, c, i, seed):
    model = model_of(name, tasks)
    texts, images = grid(model, c, i, seed=seed)
    found = score_pairs(model, texts, images, "TASK8" if tasks else None)
    assert found.shape == (c, i) and found.dtype == torch.float32
    assert relative_error(found, plain_scores(model, texts, images)) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_scores_depend_on_the_text_and_on_the_image(name):
    model = model_of(name, tasks=True)
    scores = score_pairs(model, *grid(model, 4, 5), "TASK8")
    assert scores.std(0).max() > 1000 * TOLERANCE
    assert scores.std(1).max() > 1000 * TOLERANCE


def routes_taken(model, score):
    """The weights of every switcher, in order, while ``score()`` runs."""
    encoder, taken = encoder_of(model), []

    def recorded(*given):
        taken.append(SwitchEncoder.weigh(encoder, *given))
        return taken[-1]

    encoder.weigh = recorded
    try:
        score()
    finally:
        del encoder.weigh
    return taken


@pytest.mark.parametrize("name", SWITCH)
def test_the_same_routes_are_taken_as_by_the_plain_model(name):
    model = model_of(name)
    texts, images = grid(model, 5, 6)
    found = routes_taken(model, lambda: score_pairs(model, texts, images))
    expected = routes_taken(model, lambda: plain_scores(model, texts, images))
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < TOLERANCE


@pytest.mark.parametrize("name", ["hard", "hard, four candidates"])
def test_pairs_of_the_grid_take_different_modes_and_inputs(name):
    model = model_of(name)
    taken = routes_taken(model, lambda: score_pairs(model, *grid(model, 5, 6)))
    in_use = [one.sum(0).count_nonzero() for one in taken]  # mode, input, mode, input, mode ...
    assert in_use[0] > 1
    assert sum(count > 1 for count in in_use[1::2]) >= 2
    assert sum(count > 1 for count in in_use[2::2]) >= 2


def planted(routes):
    """Switch-BERT all of whose pairs take these routes, (mode, input) by layer."""
    torch.manual_seed(0)
    config = {**single_stream(ROUTE_MIXED, ["J"] * len(routes)), "switch": {"hidden_size": 14}}
    model = BertForVLPreTraining(load_config(config)).eval()
    encoder = encoder_of(model)
    with torch.no_grad():
        for layer, (mode, source) in enumerate(routes):
            encoder.attention_switch[layer].options.bias[encoder.switch.modes.index(mode)] = 9.0
            if layer > 0:
                encoder.input_switch[layer - 1].options.bias[source] = 9.0
    return model


def row_counts(states, layout=None):
    """Rows of text and of vision, which have a layout where they lie joined."""
    return tuple(map(len, states)) if layout is None else (layout.text.count, layout.vision.count)


def rows_fed_forward(model, score):
    """Rows of text and of vision behind each feed-forward sublayer, in order, while ``score()`` runs."""
    found = []
    hooks = [
        model.bert.encoder.layer[number].register_forward_hook(lambda _, given, __: found.append(row_counts(*given)))
        for number in model.config.ff_sublayers
    ]
    score()
    for hook in hooks:
        hook.remove()
    return found


TEXTS, IMAGES = 3, 4
PLANTED = {  # routes, and by layer whether text and vision are computed once per text and image
    "self-only first": ([("SS", 0)] * 2 + [("J", 0)] * 2, [(True, True)] * 2 + [(False, False)]),
    "text self-only": ([("SC", 0)] * 3 + [("J", 0)], [(True, False)] * 3),
    "vision self-only": ([("CS", 0)] * 3 + [("J", 0)], [(False, True)] * 3),
    "text meets again": ([("J", 0), ("SS", 1), ("SC", 0), ("J", 0)], [(False, False), (True, False), (True, False)]),
    "vision meets again": ([("J", 0), ("CS", 2), ("J", 0)], [(False, False), (False, True)]),
}


@pytest.mark.parametrize("pattern", PLANTED)
def test_what_depends_on_one_modality_is_computed_once(pattern):
    routes, shared = PLANTED[pattern]
    model = planted(routes)
    texts, images = grid(model, TEXTS, IMAGES)
    once = int(texts["attention_mask"].sum()), int(images["image_attention_mask"].sum())
    each = once[0] * IMAGES, once[1] * TEXTS
    expected = [tuple(once[m] if layer[m] else each[m] for m in (0, 1)) for layer in shared]
    pooled = TEXTS * IMAGES, TEXTS * IMAGES  # of the last layer
    assert rows_fed_forward(model, lambda: score_pairs(model, texts, images)) == [*expected, pooled]
    pairs = expand_pairs(texts, images)
    matched = torch.zeros(len(pairs["input_ids"]), dtype=torch.long)
    plain = rows_fed_forward(model, lambda: model(**pairs, next_sentence_label=matched))  # reads what is pooled
    assert plain == [each] * len(shared) + [pooled]
    assert relative_error(score_pairs(model, texts, images), plain_scores(model, texts, images)) < TOLERANCE


@pytest.mark.parametrize("name", ["ctrl_lxmert", "ctrl_vilbert"])
def test_layers_below_the_first_crossing_of_a_dual_encoder_are_computed_once(name):
    model = model_of(name)
    texts, images = grid(model, TEXTS, IMAGES)
    once = int(texts["attention_mask"].sum()), int(images["image_attention_mask"].sum())
    fed = rows_fed_forward(model, lambda: score_pairs(model, texts, images))
    below = sum(number < min(model.config.tv_attn_sublayers) for number in model.config.ff_sublayers)
    assert fed[:below] == [once] * below
    assert fed[below] == (once[0] * IMAGES, once[1] * TEXTS)


@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_lxmert", "soft"])
def test_scores_in_bfloat16_equal_the_plain_models_within_its_precision(name):
    model = model_of(name, tasks=True)
    texts, images = grid(model, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = score_pairs(model, texts, images, "TASK8"), plain_scores(model, texts, images)
    assert relative_error(found, expected) < 0.03


def test_a_model_that_cannot_score_pairs_is_refused():
    model = model_of("vl-bert, last word but one")
    with pytest.raises(UserError, match="matching head"):
        score_pairs(model, *grid(model, 2, 2))
    model = model_of("ctrl_uniter", tasks=True)
    with pytest.raises(UserError, match="TASK1"):
        score_pairs(model, *grid(model, 2, 2), "TASK1")
    with pytest.raises(UserError, match="TASK9"):
        score_pairs(model, *grid(model, 2, 2), "TASK9")


def test_a_model_in_training_is_refused():
    model = BertForVLPreTraining(load_config(config_of("ctrl_uniter")))
    with pytest.raises(ValueError, match="evaluation"):
        score_pairs(model, *grid(model, 2, 2))
