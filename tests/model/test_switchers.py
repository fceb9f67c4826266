"""The switchers decide per sample: hard in evaluation, soft with noise in training, with gradient; the variants run."""

import pytest
import torch

from golden_files import load_golden, relative_error
from model.small_models import embedded, encoder_of, switch_config, switch_model
from volta_switch import BertForVLPreTraining
from volta_switch.weights import to_volta

TOLERANCE = 1e-5
OUTPUTS = ("sequence_t", "sequence_v", "pooled_t", "pooled_v", "prediction_scores_t", "seq_relationship_score")


def test_forcing_the_routes_that_were_taken_gives_the_same_output():
    golden, model = switch_model()
    for routing in ("hard", "soft"):
        encoder_of(model).routing = routing
        with torch.no_grad():
            free = model(**golden.inputs)
            again = model(**golden.inputs, modes=free.routes.modes, inputs=free.routes.inputs)
        for key in OUTPUTS:
            assert torch.equal(getattr(free, key), getattr(again, key)), (routing, key)


@pytest.mark.parametrize("candidates", [3, 4])
def test_routes_have_one_row_per_layer_that_sums_to_one(candidates):
    golden, model = switch_model(overrides=(f"switch.input_candidates={candidates}",))
    model.train()
    routes = model(**golden.inputs).routes
    assert routes.modes.shape == (4, 4, 4) and routes.inputs.shape == (4, 4, candidates)
    for weights in (routes.modes, routes.inputs):
        assert weights.dtype is torch.float32
        assert (weights >= 0).all() and (weights.sum(-1) - 1).abs().max() < 1e-6
    first = torch.eye(candidates)[0].expand(4, candidates)
    assert torch.equal(routes.inputs[:, 0], first)
    assert not torch.equal(routes.inputs[:, 1], first)


def is_one_hot(weights):
    return bool(((weights == 0) | (weights == 1)).all())


def test_routes_are_hard_in_evaluation_and_soft_in_training():
    golden, model = switch_model()
    hard = model(**golden.inputs).routes
    assert is_one_hot(hard.modes) and is_one_hot(hard.inputs)
    assert len(hard.modes.argmax(-1).unique()) > 1  # and not one constant choice
    model.train()
    soft = model(**golden.inputs).routes
    assert ((soft.modes > 0) & (soft.modes < 1)).all() and ((soft.inputs[:, 1:] > 0) & (soft.inputs[:, 1:] < 1)).all()


def test_routes_are_repeatable_under_a_seed_and_differ_under_another():
    golden, model = switch_model()
    model.train()
    for module in model.modules():  # leave the Gumbel noise as the only chance
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "v_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(model(**golden.inputs))
    assert torch.equal(outs[0].routes.modes, outs[1].routes.modes)
    assert torch.equal(outs[0].sequence_t, outs[1].sequence_t)
    assert not torch.equal(outs[0].routes.modes, outs[2].routes.modes)
    assert not torch.equal(outs[0].routes.inputs, outs[2].routes.inputs)


def test_soft_and_hard_routing_can_be_asked_for_in_any_mode():
    golden, model = switch_model()
    encoder = encoder_of(model)
    states, layout = embedded(model, golden.inputs)
    log_pi = encoder.attention_switch[0](*layout.means(states))  # (B, M), of the first layer
    for temperature in (5.0, 0.5):
        encoder.start_annealing(temperature)
        encoder.routing = "soft"
        soft = model(**golden.inputs).routes
        assert torch.allclose(soft.modes[:, 0], (log_pi / temperature).softmax(-1), atol=1e-6)
    encoder.routing = "hard"
    for training in (False, True):
        model.train(training)
        hard = model(**golden.inputs).routes
        assert is_one_hot(hard.modes) and is_one_hot(hard.inputs)
        if not training:
            assert torch.equal(hard.modes[:, 0].argmax(-1), log_pi.argmax(-1))
    encoder.routing = "auto"
    model.train()
    assert not is_one_hot(model(**golden.inputs).routes.modes)


def test_the_switcher_averages_real_rows_only():
    golden, model = switch_model()
    switcher = encoder_of(model).attention_switch[0]
    states, layout = embedded(model, golden.inputs)
    text, vision = layout.text.unpack(states[0]), layout.vision.unpack(states[1])  # (B, T, D) and (B, R, D)
    masks = [golden.inputs[f"{kind}attention_mask"] == 1 for kind in ("", "image_")]
    assert not masks[0].all() and not masks[1].all()
    rows = [torch.cat((text[b][masks[0][b]].mean(0), vision[b][masks[1][b]].mean(0))) for b in range(4)]
    hidden = torch.nn.functional.gelu(switcher.hidden(torch.stack(rows)))
    expected = switcher.options(hidden).log_softmax(-1)
    assert relative_error(switcher(*layout.means(states)), expected.detach()) < TOLERANCE


def test_switchers_start_with_equal_probabilities():
    golden, model = switch_model(perturbed=False)
    encoder_of(model).routing = "soft"
    routes = model(**golden.inputs).routes
    assert torch.allclose(routes.modes, torch.full_like(routes.modes, 1 / 4))
    assert torch.allclose(routes.inputs[:, 1:], torch.full_like(routes.inputs[:, 1:], 1 / 3))


@pytest.mark.parametrize("K", [1, 2, 4])
def test_every_switch_parameter_receives_gradient_at_every_top_k(K):
    golden, model = switch_model(overrides=(f"switch.top_k={K}",))
    model.train()
    torch.manual_seed(0)
    model(**golden.part("input")).loss.backward()
    names = [name for name, _ in model.named_parameters() if "switch" in name]
    assert len(names) == 4 * (4 + 3)  # hidden and options, weight and bias, of 4 SABs and 3 SIBs
    for name, parameter in model.named_parameters():
        if "switch" in name:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().max() > 1e-9, name


def test_switchers_receive_gradient_from_their_zero_start():
    golden, model = switch_model(perturbed=False)
    model.train()
    model(**golden.part("input")).loss.backward()
    for name, parameter in model.named_parameters():
        if "switch" in name and ".options." in name:
            assert parameter.grad.abs().max() > 1e-9, name


def test_switch_names_survive_voltas_loader():
    names = [name for name in to_volta(switch_model()[1]) if name not in load_golden("route_mixed").part("state")]
    assert names and all("switch" in name for name in names)
    assert not [name for name in names if any(part in name for part in ("gamma", "beta", "vil_", ".layer."))]


# --- Variants -----------------------------------------------------------------------------------------------------

SIX_TO_TWO = (
    "tt_attn_sublayers=[0, 2]", "tv_attn_sublayers=[0, 2]", "vt_attn_sublayers=[0, 2]", "vv_attn_sublayers=[0, 2]",
    "t_ff_sublayers=[1, 3]", "v_ff_sublayers=[1, 3]", "shared_sublayers=[0, 1, 2, 3]",
    "single_ln_sublayers=[0, 1, 2, 3]", "bert_layer2attn_sublayer={'0': 0, '1': 2}",
    "bert_layer2ff_sublayer={'0': 1, '1': 3}",
)  # fmt: skip
VARIANTS = {
    "SIB-ONLY": ("switch.attention=false",),
    "SAB-ONLY": ("switch.input=false",),
    "No-SIB-SAB": ("switch.attention=false", "switch.input=false"),
    "no joint": ("switch.modes=[SS, SC, CS]",),
    "no cross": ("switch.modes=[SS, J]",),
    "half the layers": SIX_TO_TWO,
    "mul": ("switch.alignment=mul",),
    "four candidates": ("switch.input_candidates=4",),
    "top 2": ("switch.top_k=2",),
    "top 1": ("switch.top_k=1",),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_papers_variants_run_by_overrides(variant):
    config = switch_config(overrides=VARIANTS[variant])
    torch.manual_seed(0)
    model = BertForVLPreTraining(config).train()
    out = model(**load_golden("route_mixed").part("input"))
    out.loss.backward()
    layers, modes = len(config.attention_sublayers), len(config.switch.modes)
    assert out.routes.modes.shape == (4, layers, modes)
    assert out.routes.inputs.shape == (4, layers, config.switch.input_candidates)
    names = {name.split(".")[2] for name, _ in model.named_parameters() if "switch" in name}
    expected = {"attention_switch"} if config.switch.attention else set()
    assert names == expected | ({"input_switch"} if config.switch.input else set())
    if not config.switch.attention:
        assert torch.equal(out.routes.modes.argmax(-1), torch.full((4, layers), 3)) and is_one_hot(out.routes.modes)
    if not config.switch.input:
        assert torch.equal(out.routes.inputs.argmax(-1), torch.zeros(4, layers, dtype=torch.long))
    active = (out.routes.modes > 0).sum(-1)
    assert (active == (min(config.switch.top_k, modes) if config.switch.attention else 1)).all()
    read = [name for name, p in model.named_parameters() if p.grad is not None and torch.isfinite(p.grad).all()]
    assert {name for name, _ in model.named_parameters()} == set(read)
