"""Attention weights, computed again beside the attention: they give its output, and their masses add up."""

import pytest
import torch

from golden_files import load_golden
from model.small_models import perturb_switchers, random_batch, switch_config
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.model.encoder import encoder_of
from volta_switch.model.sublayers import AttentionSublayer
from volta_switch.routes.measurements import SIDES, attention_weights, watched

MODELS = ("ctrl_uniter", "ctrl_visualbert", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_interbert", "switch")
INPUTS = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
PAIRS = [f"{query} to {key}" for query in SIDES for key in SIDES]


def model_of(name):
    torch.manual_seed(0)
    config = switch_config() if name == "switch" else load_config(load_golden(name).config)
    model = BertForVLTasks(config, {"TASK": {"type": "V-logit"}}).eval()
    perturb_switchers(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def batch_of(model):
    return {name: tensor for name, tensor in random_batch(model.config, B=3).items() if name in INPUTS}


@pytest.mark.parametrize(("name", "routing"), [*((name, "hard") for name in MODELS), ("switch", "soft")])
def test_the_weights_give_the_attentions_output(name, routing):
    model = model_of(name)
    encoder_of(model).routing = routing
    given, real = {}, {}
    for sublayer in encoder_of(model).layer:
        if isinstance(sublayer, AttentionSublayer):
            sublayer.register_forward_pre_hook(
                lambda module, args, mixture: given.__setitem__(module.number, (module, args, mixture)),
                with_kwargs=True,
            )
            for side, dense in zip(SIDES, ("dense", "v_dense"), strict=True):
                layer = getattr(sublayer.attention_output, dense, None)
                if layer is not None and not (sublayer.shared and side == "vision"):
                    key = (sublayer.number, side)
                    layer.register_forward_pre_hook(lambda module, args, key=key: real.__setitem__(key, args[0]))
    with torch.no_grad():
        model("TASK", **batch_of(model))
        checked = 0
        for number, (sublayer, (states, layout, kept), mixture) in given.items():
            contexts = []
            found = attention_weights(sublayer, states, layout, **mixture)
            for side, pair, rows, taken in zip(
                SIDES, found, (layout.text, layout.vision), (kept.kept_text, kept.kept_vision), strict=True
            ):
                if pair is None:
                    continue
                context = rows.merge_heads(pair[0] @ pair[1])  # (n, H * d)
                contexts.append(context if taken is None else context[taken])
                if not sublayer.shared:
                    torch.testing.assert_close(contexts[-1], real[number, side], rtol=1e-5, atol=1e-5)
                    checked += 1
            if sublayer.shared:
                torch.testing.assert_close(torch.cat(contexts), real[number, "text"], rtol=1e-5, atol=1e-5)
                checked += 1
    assert checked == len(real) >= 3


@pytest.mark.parametrize("name", ["ctrl_vilbert", "switch"])
def test_masses_are_shares_by_head(name):
    model = model_of(name)
    encoder = encoder_of(model)
    with torch.no_grad(), watched(encoder) as masses:
        for _ in range(2):
            model("TASK", **batch_of(model))
    report = masses.report()
    sublayers = [sublayer for sublayer in encoder.layer if isinstance(sublayer, AttentionSublayer)]
    assert [line["sublayer"] for line in report] == [sublayer.number for sublayer in sublayers]
    for line, sublayer in zip(report, sublayers, strict=True):
        for side, heads in (
            ("text", sublayer.heads),
            ("vision", sublayer.heads if sublayer.shared else sublayer.v_heads),
        ):
            if f"{side} to text" in line:
                both = torch.tensor([line[f"{side} to text"], line[f"{side} to vision"]])
                assert both.shape == (2, heads)
                torch.testing.assert_close(both.sum(0), torch.ones(heads))
    with torch.no_grad():
        model("TASK", **batch_of(model))
    assert masses.report() == report  # nothing is watched any more


@pytest.mark.parametrize(("mode", "expected"), [("SS", (1, 0, 0, 1)), ("SC", (1, 0, 1, 0)), ("CS", (0, 1, 0, 1))])
def test_a_forced_mode_shows_in_the_masses(mode, expected):
    model = model_of("switch")
    depth = encoder_of(model).depth
    with torch.no_grad(), watched(encoder_of(model)) as masses:
        model("TASK", **batch_of(model), modes=[mode] * depth, inputs=[0] * depth)
    for line in masses.report():
        for pair, share in zip(PAIRS, expected, strict=True):
            assert line[pair] == pytest.approx([share] * len(line[pair]), abs=1e-5)


def test_some_rows_may_be_left_out():
    model = model_of("switch")
    batch = batch_of(model)
    first = {name: tensor[:1] for name, tensor in batch.items()}
    reports = []
    for every, given in ((3, batch), (1, first)):
        with torch.no_grad(), watched(encoder_of(model), every) as masses:
            model("TASK", **given)
        reports.append(masses.report())
    for three, one in zip(*reports, strict=True):
        for pair in PAIRS:
            assert three[pair] == pytest.approx(one[pair], abs=1e-5)


def test_pretraining_models_can_be_watched_too():
    torch.manual_seed(0)
    config = switch_config()
    model = BertForVLPreTraining(config).eval()
    with torch.no_grad(), watched(model.bert.encoder) as masses:
        model(**random_batch(config))
    assert len(masses.report()) == model.bert.encoder.depth
