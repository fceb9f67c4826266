"""Switch-BERT with its routes forced equals the static encoders and layers wired by hand."""

import pytest
import torch

from golden_files import load_golden, relative_error
from model.small_models import embedded, encoder_of, real_part, static_model, switch_model
from volta_switch import UserError
from volta_switch.model.rows import join
from volta_switch.weights import to_volta

TOLERANCE = 1e-5
MODES = ("SS", "SC", "CS", "J")
ROUTE = ["J", "SS", "SC", "CS"]
FIXED = [0, 0, 0, 0]
STATES = ("sequence_t", "sequence_v", "pooled_t", "pooled_v")
LOSSES = ("loss_mlm", "loss_vision", "loss_itm")
SCORES = ("prediction_scores_t", "seq_relationship_score")


def route_spellings():
    """The golden route of four samples, in every form that is accepted."""
    indices = torch.tensor([MODES.index(mode) for mode in ROUTE])
    return {
        "names": ROUTE,
        "tuple": tuple(ROUTE),
        "indices": indices.tolist(),
        "index tensor": indices,
        "nested names": [ROUTE] * 4,
        "nested indices": [indices.tolist()] * 4,
        "index tensor per sample": indices.repeat(4, 1),
        "weights": torch.eye(4)[indices].repeat(4, 1, 1),
    }


# --- Forced modes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", route_spellings())
def test_golden_route_is_reproduced_from_forced_modes(spelling):
    golden, model = switch_model()
    expected = golden.part("output")
    with torch.no_grad():
        out = model(**golden.inputs, modes=route_spellings()[spelling], inputs=FIXED)
    for key in (*STATES, *SCORES):
        found, reference = (real_part(golden.inputs, key, tensor) for tensor in (getattr(out, key), expected[key]))
        assert relative_error(found, reference) < TOLERANCE, key
    real = golden.inputs["image_attention_mask"] == 1
    found, reference = out.prediction_scores_v["0"][real][:, :64], expected["prediction_scores_v/0"][real]
    assert relative_error(found, reference) < TOLERANCE
    assert not real.all() and not out.sequence_v[~real].any()
    assert not out.sequence_t[golden.inputs["attention_mask"] == 0].any()
    assert torch.equal(out.routes.modes, route_spellings()["weights"])


def test_golden_routes_losses_and_gradients_are_reproduced_from_forced_modes():
    golden, model = switch_model()
    out = model(**golden.part("input"), modes=ROUTE, inputs=FIXED)
    for key in ("loss_mlm", "loss_vision", "loss_itm"):
        assert relative_error(getattr(out, key), golden.tensors[f"output/{key}"]) < TOLERANCE, key
    out.loss.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for key, expected in golden.part("grad").items():
        found = torch.zeros_like(expected) if parameters[key].grad is None else parameters[key].grad
        assert relative_error(found, expected) < TOLERANCE, key
    assert all(parameter.grad is None for name, parameter in parameters.items() if "switch" in name)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_forced_equals_the_static_encoder_of_that_mode(mode):
    golden, model = switch_model()
    found = model(**golden.part("input"), modes=[mode] * 4, inputs=FIXED)
    static = static_model([mode] * 4)
    expected = static(**golden.part("input"))
    for key in ("pooled_t", "pooled_v", *LOSSES, "loss"):
        assert relative_error(getattr(found, key), getattr(expected, key).detach()) < TOLERANCE, key
    with torch.no_grad():  # all positions are computed without labels only
        whole, reference = model(**golden.inputs, modes=[mode] * 4, inputs=FIXED), static(**golden.inputs)
    for key in (*STATES, *SCORES):
        assert relative_error(getattr(whole, key), getattr(reference, key)) < TOLERANCE, key
    found.loss.backward()
    expected.loss.backward()
    gradients = dict(model.named_parameters())
    for name, parameter in static.named_parameters():
        if parameter.grad is None:  # a head or a mode that reads nothing of it
            assert gradients[name].grad is None or not gradients[name].grad.any(), name
        else:
            assert relative_error(gradients[name].grad, parameter.grad) < TOLERANCE, name


def test_soft_weights_mix_the_modes_outputs_before_the_residual():
    golden, model = switch_model()
    weights = torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0)).softmax(-1)  # (B, L, M)
    layer, encoder = encoder_of(model).layer[0], encoder_of(model)
    states, layout = embedded(model, golden.inputs)
    modes = encoder.switch.modes
    found = join(layer(states, layout, layout, weights=weights[:, 0], modes=modes))  # (n, D)
    # The projection is linear: undoing LayerNorm is not needed if the mixture is taken on its input.
    before_norm = []
    layer.attention_output.LayerNorm.register_forward_hook(lambda module, given, out: before_norm.append(given[0]))
    for index in range(4):
        one_hot = torch.eye(4)[index].expand(4, 4)
        layer(states, layout, layout, weights=one_hot, modes=modes)
    share = weights[layout.joined.sample, 0]  # (n, M)
    mixed = sum(share[:, k, None] * before_norm[k] for k in range(4))
    assert relative_error(found, layer.attention_output.LayerNorm(mixed).detach()) < TOLERANCE


@pytest.mark.parametrize("training", [False, True])
def test_switching_off_both_blocks_is_uniter_exactly(training):
    golden, model = switch_model("ctrl_uniter", ("switch.attention=false", "switch.input=false"))
    static = static_model(["J"] * 3, "ctrl_uniter")
    outs, whole = [], []
    for each in (model, static):
        each.train(training)
        torch.manual_seed(3)  # dropout
        outs.append(each(**golden.part("input")))
        outs[-1].loss.backward()
        whole.append(each(**golden.inputs))  # without labels: all positions
    for key in ("pooled_t", "pooled_v", *LOSSES):
        assert torch.equal(getattr(outs[0], key), getattr(outs[1], key)), key
    for key in (*STATES, *SCORES):
        assert torch.equal(getattr(whole[0], key), getattr(whole[1], key)), key
    assert to_volta(static).keys() == {name for name in to_volta(model) if "switch" not in name}
    gradients = dict(model.named_parameters())
    for name, parameter in static.named_parameters():
        assert (parameter.grad is None) == (gradients[name].grad is None), name
        assert parameter.grad is None or torch.equal(gradients[name].grad, parameter.grad), name
    if not training:
        for key in STATES:
            tensors = (getattr(whole[0], key), golden.tensors[f"output/{key}"])
            assert relative_error(*(real_part(golden.inputs, key, tensor) for tensor in tensors)) < TOLERANCE, key


def test_samples_forced_apart_equal_samples_run_apart():
    golden, model = switch_model(overrides=("switch.input_candidates=4",))
    modes = [["J", "SS", "SC", "CS"], ["SS", "J", "J", "SC"], ["CS", "CS", "SS", "J"], ["SC", "J", "CS", "SS"]]
    inputs = [[0, 0, 1, 2], [0, 3, 0, 1], [0, 2, 2, 3], [0, 1, 3, 0]]
    with torch.no_grad():
        together = model(**golden.inputs, modes=modes, inputs=inputs)
        for index in range(4):
            one = {name: tensor[index : index + 1] for name, tensor in golden.inputs.items()}
            alone = model(**one, modes=modes[index], inputs=inputs[index])
            for key in (*STATES, *SCORES):
                assert relative_error(getattr(together, key)[index], getattr(alone, key)[0]) < 1e-6, key
    assert relative_error(together.sequence_t[0], together.sequence_t[0].roll(1, 0)) > 0.1  # and they are not trivial


@pytest.mark.parametrize(
    ("modes", "inputs"),
    [
        (["J", "SS", "XX", "J"], None),
        (["J", "SS", "J"], None),
        ([["J"] * 4] * 3, None),
        ([0, 1, 2, 4], None),
        (torch.zeros(4, 4, 3), None),
        (None, [0, 0, 0, 3]),
        (None, [0, 0, 0, -1]),
        (None, torch.zeros(4, 3, dtype=torch.long)),
    ],
    ids=["name", "layers", "samples", "index", "width", "candidate", "negative", "layers of inputs"],
)
def test_impossible_routes_are_refused(modes, inputs):
    golden, model = switch_model()
    with pytest.raises(UserError, match=r"modes|inputs"):
        model(**golden.inputs, modes=modes, inputs=inputs)


def test_routes_cannot_be_forced_on_a_static_encoder():
    with pytest.raises(UserError, match="switch section"):
        static_model(ROUTE)(**load_golden("route_mixed").inputs, modes=ROUTE)


# --- Forced inputs ------------------------------------------------------------------------------------------------


def stack_by_hand(model, batch, candidates):
    """Joint layers run one after the other; ``candidates[b][l]``: METHOD's index of the input of layer l."""
    states, layout = embedded(model, batch)
    layers = encoder_of(model).layer
    text, vision = [states[0]], [states[1]]  # t_0, t_1, ...
    for index in range(len(layers) // 2):
        t, v = text[-1].clone(), vision[-1].clone()
        for b, row in enumerate(candidates):
            if index > 0 and row[index] in (1, 3):
                t[layout.text.sample == b] = text[-2][layout.text.sample == b]
            if index > 0 and row[index] in (2, 3):
                v[layout.vision.sample == b] = vision[-2][layout.vision.sample == b]
        of_text, of_vision = layout.split(layers[2 * index + 1](layers[2 * index]((t, v), layout, layout), layout))
        text.append(of_text)
        vision.append(of_vision)
    return layout.text.unpack(text[-1]), layout.vision.unpack(vision[-1])


@pytest.mark.parametrize(
    "candidates",
    [
        [[0, 0, 0, 0]] * 4,
        [[0, 1, 1, 1]] * 4,
        [[0, 2, 2, 2]] * 4,
        [[0, 3, 3, 3]] * 4,
        [[0, 1, 2, 3], [0, 3, 2, 1], [0, 0, 1, 2], [0, 2, 0, 3]],
    ],
    ids=str,
)
def test_forced_inputs_equal_layers_wired_by_hand(candidates):
    golden, model = switch_model(overrides=("switch.input_candidates=4",))
    with torch.no_grad():
        found = model(**golden.inputs, modes=["J"] * 4, inputs=candidates)
        text, vision = stack_by_hand(model, golden.inputs, candidates)
    assert relative_error(found.sequence_t, text) < TOLERANCE
    assert relative_error(found.sequence_v, vision) < TOLERANCE
    assert torch.equal(found.routes.inputs.argmax(-1)[:, 1:], torch.tensor(candidates)[:, 1:])


def test_candidate_three_skips_a_layer_whole():
    golden, model = switch_model(overrides=("switch.input_candidates=4",))
    model(**golden.part("input"), modes=ROUTE, inputs=[0, 0, 3, 0]).loss.backward()
    skipped = model(**golden.inputs, modes=ROUTE, inputs=[0, 0, 3, 0])
    layer = encoder_of(model).layer
    assert not any(p.grad is not None and p.grad.any() for number in (2, 3) for p in layer[number].parameters())
    assert all(p.grad.any() for number in (0, 1, 4, 5, 6, 7) for name, p in layer[number].named_parameters()
               if not name.endswith("key.bias"))  # fmt: skip  # adding a constant to a row's scores changes nothing
    del layer[2:4]
    encoder_of(model).depth = 3
    shorter = model(**golden.inputs, modes=[ROUTE[0], *ROUTE[2:]], inputs=[0, 0, 0])
    assert relative_error(skipped.sequence_t, shorter.sequence_t.detach()) < TOLERANCE
    assert relative_error(skipped.sequence_v, shorter.sequence_v.detach()) < TOLERANCE


@pytest.mark.parametrize("candidates", [3, 4])
def test_soft_inputs_are_the_weighted_sum_of_the_candidates(candidates):
    golden, model = switch_model(overrides=(f"switch.input_candidates={candidates}",))
    weights = torch.rand(4, 4, candidates, generator=torch.Generator().manual_seed(1)).softmax(-1)  # (B, L, C)
    weights[:, 2:] = torch.eye(candidates)[0]  # the last two layers take the layer below
    pairs = ((1, 1), (0, 1), (1, 0), (0, 0))[:candidates]  # (text, vision): 1 layer l-1, 0 layer l-2
    with torch.no_grad():
        found = model(**golden.inputs, modes=["J"] * 4, inputs=weights)
        states, layout = embedded(model, golden.inputs)
        layers = encoder_of(model).layer
        first = layout.split(layers[1](layers[0](states, layout, layout), layout))
        of_text, of_vision = weights[layout.text.sample, 1], weights[layout.vision.sample, 1]  # (n_t, C), (n_v, C)
        text = sum(of_text[:, k, None] * (states[0], first[0])[t] for k, (t, _) in enumerate(pairs))
        vision = sum(of_vision[:, k, None] * (states[1], first[1])[v] for k, (_, v) in enumerate(pairs))
        out = (text, vision)
        for index in (1, 2, 3):
            out = layers[2 * index + 1](layers[2 * index](out, layout, layout), layout)
    text, vision = layout.split(out)
    assert relative_error(found.sequence_t, layout.text.unpack(text)) < TOLERANCE
    assert relative_error(found.sequence_v, layout.vision.unpack(vision)) < TOLERANCE


def test_the_first_layers_input_is_ignored():
    golden, model = switch_model()
    with torch.no_grad():
        outs = [model(**golden.inputs, modes=ROUTE, inputs=[first, 1, 2, 0]) for first in (0, 2)]
    assert torch.equal(outs[0].sequence_t, outs[1].sequence_t)
    assert torch.equal(outs[1].routes.inputs[:, 0], torch.tensor([[1.0, 0, 0]] * 4))
