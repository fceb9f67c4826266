"""The models equal the specification: every shipped architecture at a small size, with every loss, head and routing.

Outputs, losses and every gradient, in float32 against the specification in float64, on batches with padding.
"""

import ast
import copy
import json
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from golden_files import EVERY, load_golden, relative_error
from model.small_models import encoder_of, perturb_switchers, random_batch
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.config.variants import ATTENTION_MODES, FUSIONS
from volta_switch.model import reference as specification
from volta_switch.model.noise import Site, exponential, fold_in, sample_keys
from volta_switch.model.reference import Reference
from volta_switch.model.switch import batch_statistics
from volta_switch.weights import load_volta

TOLERANCE = 1e-5
CONFIGS = Path(__file__).parents[2] / "config"
SHIPPED = sorted(path.relative_to(CONFIGS).as_posix().removesuffix(".json") for path in CONFIGS.rglob("*.json"))
WIDTHS = (
    "hidden_size", "intermediate_size", "pooler_size", "v_hidden_size", "v_intermediate_size", "v_pooler_size",
    "v_feature_size", "v_coordinate_embeddings_dim", "clf_hidden_size",
)  # fmt: skip
SIZES = {"vocab_size": 97, "max_position_embeddings": 40, "v_num_classes": 31, "v_num_attributes": 11}
ALL_TARGETS = {"0": 1.0, "1": 0.5, "2": 0.3, "3": 0.8, "4": 0.7, "5": 0.6, "6": 0.25}
NO_DROPOUT = {
    f"{side}{part}_dropout_prob": 0.0 for side in ("", "v_") for part in ("hidden", "attention_probs")
}  # fmt: skip
TASKS = {
    "TASK1": {"type": "VL-classifier", "num_labels": 13},
    "TASK8": {"type": "VL-logit"},
    "TASK9": {"type": "V-logit", "num_clf_layers": 2},
    "TASK10": {"type": "V-logit"},
    "TASK12": {"type": "VL-binary-classifier"},
    "TASK13": {"type": "VL-tri-classifier"},
    "TASK15": {"type": "VL-classifier-GQA", "num_labels": 7},
}
ROUTINGS = {  # the switch section beside its sizes, and how unforced switchers choose
    "hard": ({}, "hard"),
    "soft": ({}, "soft"),
    "soft, top 2": ({"top_k": 2}, "soft"),
    "soft, top 1": ({"top_k": 1}, "soft"),
    "soft, four candidates": ({"input_candidates": 4}, "soft"),
    "soft, product": ({"alignment": "mul"}, "soft"),
    "soft, product, normalised by batches": ({"alignment": "mul", "alignment_norm": "batch"}, "soft"),
    "soft, normalised by samples": ({"alignment_norm": "sample"}, "soft"),
    "soft, residual": ({"older_input": "input", "input_candidates": 4}, "soft"),
    "hard, residual": ({"older_input": "input"}, "hard"),
    "soft, without joint": ({"modes": ["SS", "SC", "CS"]}, "soft"),
    "soft, SAB only": ({"input": False}, "soft"),
    "soft, SIB only": ({"attention": False}, "soft"),
    "noise": ({}, "auto"),
    "noise, top 2": ({"top_k": 2, "input_candidates": 4}, "auto"),
    "noise, top 1": ({"top_k": 1}, "auto"),
    "noise, residual, normalised by batches": ({"older_input": "input", "alignment_norm": "batch"}, "auto"),
}
LABELS = {"masked_lm_labels", "image_label", "image_cls", "obj_labels", "obj_confs", "attr_labels", "attr_confs"}
LABELS |= {"next_sentence_label"}


def small(name, **changes):
    """A shipped configuration with its lists, lengths and choices, and a sixteenth of its widths."""
    values = json.loads((CONFIGS / f"{name}.json").read_text())
    share = 16 if not name.startswith("demo/") else 2
    for key in WIDTHS:
        if values.get(key) is not None:
            values[key] //= share
        elif key != "v_coordinate_embeddings_dim":
            values[key] = load_config(name).to_dict()[key] // share
    for key in ("attn_hidden_size", "intermediate_size"):
        for side in ("sublayer2", "sublayer2v_"):
            values[side + key] = {number: width // share for number, width in values.get(side + key, {}).items()}
    if "switch" in values:
        values["switch"] = {**values["switch"], "hidden_size": 14, **changes.pop("switch", {})}
    return load_config({**values, **SIZES, **changes})


def moved(model):
    """The model in evaluation, every weight moved off its start, so that all of them matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 / parameter.shape[-1] ** 0.5 if parameter.dim() == 2 else 0.2
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
        for one in batch_statistics(model):
            one.mean.copy_(0.3 * torch.randn(one.mean.shape, generator=generator))
            one.variance.copy_(0.5 + torch.rand(one.variance.shape, generator=generator))
    perturb_switchers(model)
    return model.eval()


@lru_cache
def pretraining_model(name, targets="shipped"):
    torch.manual_seed(0)
    changes = {} if targets == "shipped" else {"visual_target_weights": ALL_TARGETS}
    return moved(BertForVLPreTraining(small(name, **changes)))


@lru_cache
def switching_between(name, *modes):
    torch.manual_seed(0)
    return moved(BertForVLPreTraining(small(name, switch={"modes": modes})))


def exact(model, *arguments):
    """The specification in float64, over weights and gradients of its own."""
    return Reference(copy.deepcopy(model).double(), *arguments)


def same(found, expected, what):
    assert (found is None) == (expected is None), what
    if found is not None:
        assert relative_error(found, expected.detach()) < TOLERANCE, what


def same_outputs(found, expected):
    for key in ("sequence_t", "sequence_v", "pooled_t", "pooled_v", "prediction_scores_t", "scores"):
        same(getattr(found, key), getattr(expected, key), key)
    for key in ("seq_relationship_score", "loss_mlm", "loss_vision", "loss_itm"):
        same(getattr(found, key), getattr(expected, key), key)
    assert found.prediction_scores_v.keys() == expected.prediction_scores_v.keys()
    for target, scores in expected.prediction_scores_v.items():
        same(found.prediction_scores_v[target], scores, target)
    assert (found.routes is None) == (expected.routes is None)
    if found.routes is not None:
        same(found.routes.modes, expected.routes.modes, "modes")
        same(found.routes.inputs, expected.routes.inputs, "inputs")


def same_gradients(model, reference):
    expected = dict(reference.model.named_parameters(remove_duplicate=False))
    reached = 0
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found, wanted = (torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, expected[name]))
        assert relative_error(found, wanted) < TOLERANCE, name
        reached += bool(wanted.any())
    return reached


def same_losses_and_gradients(model, reference, batch, **more):
    model.zero_grad()
    torch.manual_seed(5)  # visual target 2 draws its negatives
    expected = reference(**batch, **{key: more[key] for key in ("modes", "inputs") if key in more})
    torch.manual_seed(5)
    found = model(**batch, **more)
    same_outputs(found, expected)
    found.loss.backward()
    expected.loss.backward()
    return same_gradients(model, reference)


def inputs_of(batch):
    return {key: value for key, value in batch.items() if key not in LABELS}


@pytest.mark.parametrize("targets", ["shipped", "all"])
@pytest.mark.parametrize("name", SHIPPED)
def test_losses_and_gradients_of_every_architecture(name, targets):
    model = pretraining_model(name, targets)
    batch = random_batch(model.config, 4, 7, 5, seed=2)
    reached = same_losses_and_gradients(model, exact(model), batch)
    assert reached > 0.7 * len(list(model.parameters()))


@pytest.mark.parametrize("name", SHIPPED)
def test_states_and_scores_of_every_architecture(name):
    model = pretraining_model(name, "all")
    batch = inputs_of(random_batch(model.config, 4, 7, 5, seed=3))
    with torch.no_grad():
        same_outputs(model(**batch), exact(model)(**batch))


@pytest.mark.parametrize("name", SHIPPED)
def test_scores_and_gradients_of_every_task_head(name):
    changes = {"fusion_method": "vl-bert_vqa"} if name == "vl-bert_base" else {}  # it pre-trains without any
    same_heads(small(name, **changes))


def test_scores_and_gradients_of_one_linear_layer_on_an_unpooled_state():
    config = small("ctrl_visualbert_base", fusion_method="visualbert_vqa", pooler_size=48, clf_hidden_size=None)
    names = same_heads(config)
    assert "clfs_dict.TASK1.weight" in names and not any("pooler" in name for name in names)
    with pytest.raises(UserError, match=r"heads read a state without a pooler, so that pooler_size \(64\) must be"):
        small("ctrl_visualbert_base", fusion_method="visualbert_vqa")


@pytest.mark.parametrize("classifier", [96, None])
def test_scores_and_gradients_where_two_images_stand_in_one_row(classifier):
    joined = {"fusion_method": "visualbert_nlvr2", "add_global_imgfeat": None, "clf_hidden_size": classifier}
    config = small("ctrl_visualbert_base", **joined)
    types = torch.tensor([[0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]])
    same_heads(config, image_token_type_ids=types)
    model = BertForVLTasks(config, {"TASK12": TASKS["TASK12"]}).eval()
    batch = inputs_of(random_batch(config, 4, 7, 5, seed=4))
    assert model("TASK12", image_token_type_ids=types, **batch).scores.shape == (4, 2)
    with pytest.raises(UserError, match="TASK12: image_token_type_ids missing"):
        model("TASK12", **batch)


def test_types_of_regions_are_one_unless_given_and_of_visual_bert_alone():
    model = BertForVLTasks(small("ctrl_visualbert_base"), TASKS).eval()
    batch = inputs_of(random_batch(model.config, 4, 7, 5, seed=4))
    types = torch.ones(batch["image_feat"].shape[:2], dtype=torch.long)
    one, other = (model("TASK8", image_token_type_ids=given, **batch).scores for given in (types, 0 * types))
    assert torch.equal(model("TASK8", **batch).scores, one) and (one - other).abs().max() > 1e-4
    model = BertForVLTasks(small("ctrl_uniter_base"), TASKS)
    with pytest.raises(UserError, match="image_token_type_ids: regions have them with image_embeddings visualbert"):
        model("TASK8", image_token_type_ids=types, **batch)


def same_heads(config, **more):
    """Compares scores and gradients of all heads; returns the names of the weights."""
    torch.manual_seed(0)
    model = moved(BertForVLTasks(config, TASKS))
    batch = inputs_of(random_batch(model.config, 4, 7, 5, seed=4)) | more
    reference = exact(model)
    for task in TASKS:
        found, expected = model(task, **batch), reference(task, **batch)
        same_outputs(found, expected)
        real = (expected.scores > -1e3).double()  # the score of a padded region is a constant
        direction = torch.randn(expected.scores.shape, generator=torch.Generator().manual_seed(0)).double() * real
        (found.scores * direction.float()).sum().backward()
        (expected.scores * direction).sum().backward()
    assert same_gradients(model, reference)
    return list(model.state_dict())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_fusion(fusion):
    changes = {} if FUSIONS[fusion].through_pooler else {"pooler_size": 48}
    name = "ctrl_uniter_base"
    if FUSIONS[fusion].joins_images:
        name, changes = "ctrl_visualbert_base", {"add_global_imgfeat": None}
    model = moved(BertForVLPreTraining(small(name, fusion_method=fusion, **changes)))
    batch = random_batch(model.config, 3, 6, 4)
    same_losses_and_gradients(model, exact(model), batch)


@pytest.mark.parametrize("mode", ATTENTION_MODES)
@pytest.mark.parametrize("name", ["switchbert", "demo/switchbert"])
def test_forced_routes_of_every_mode(name, mode):
    model = switching_between(name, *ATTENTION_MODES)
    batch, L = random_batch(model.config, 3, 6, 4), len(model.config.attention_sublayers)
    inputs = [layer % model.config.switch.input_candidates for layer in range(L)]
    same_losses_and_gradients(model, exact(model), batch, modes=[mode] * L, inputs=inputs)


@pytest.mark.parametrize("kind", ["an option for each sample", "mixtures", "modes alone", "inputs alone"])
def test_forced_routes_of_every_form(kind):
    model = pretraining_model("demo/switchbert")
    B, L = 3, len(model.config.attention_sublayers)
    generator = torch.Generator().manual_seed(0)
    modes, inputs = ((3 * torch.randn(B, L, options, generator=generator)).softmax(-1) for options in (4, 3))
    if kind == "an option for each sample":
        modes, inputs = modes.argmax(-1), inputs.argmax(-1).tolist()
    routes = {"modes": modes, "inputs": inputs}
    routes = {key: route for key, route in routes.items() if not kind.endswith("alone") or kind.startswith(key)}
    same_losses_and_gradients(model, exact(model), random_batch(model.config, B, 6, 4), **routes)


@pytest.mark.parametrize("samples", [0, 1500, 10**6])
@pytest.mark.parametrize("kind", ROUTINGS)
def test_every_routing_at_any_temperature(kind, samples):
    """With noise, in training: the specification takes the draws that the model hashes from the samples' keys."""
    switch, routing = ROUTINGS[kind]
    model = moved(BertForVLPreTraining(small("demo/switchbert", switch=switch, **NO_DROPOUT)))
    encoder = encoder_of(model)
    encoder.routing = routing
    encoder.start_annealing(5.0, samples)
    model.train(routing == "auto")
    model.cls.dropout.p = 0.0
    keys = sample_keys(0, 0, ["a", "b", "c", "d"], 4)

    def gumbel(block, layer, log_pi):
        site = Site.MODE if block == "attention" else Site.INPUT
        draws = exponential(log_pi.float(), fold_in(keys, site, layer)).double()
        return -draws.clamp(min=1e-30).log()

    batch = random_batch(model.config, 4, 6, 4, seed=6)
    same_losses_and_gradients(model, exact(model, routing, gumbel), batch, noise_keys=keys)


def test_noise_of_its_own_is_gumbels():
    torch.manual_seed(0)
    draws = specification.draw_gumbel("attention", 0, torch.zeros(200_000, 4, dtype=torch.float64))
    assert draws.mean() == pytest.approx(0.5772, abs=0.01) and draws.var() == pytest.approx(1.6449, abs=0.02)
    model = pretraining_model("demo/switchbert")
    batch = random_batch(model.config, 3, 6, 4)
    reference = Reference(copy.deepcopy(model).train())
    assert not torch.equal(*(reference(**batch).routes.modes for _ in range(2)))


@pytest.mark.parametrize("name", EVERY)
def test_the_specification_equals_volta(name):
    golden = load_golden(name)
    model = BertForVLPreTraining(load_config(golden.config)).eval()
    load_volta(model, golden.part("state"))
    out = Reference(model)(**golden.part("input"))
    for key in ("loss_mlm", "loss_vision", "loss_itm"):
        assert relative_error(getattr(out, key), golden.tensors[f"output/{key}"]) < TOLERANCE, key
    out.loss.backward()  # into the model's own parameters
    gradients = dict(model.named_parameters(remove_duplicate=False))
    for key, expected in golden.part("grad").items():
        found = torch.zeros_like(expected) if gradients[key].grad is None else gradients[key].grad
        assert relative_error(found, expected) < TOLERANCE, key


def test_masks_and_token_types_may_be_missing():
    model = pretraining_model("ctrl_uniter_base")
    batch = {key: random_batch(model.config)[key] for key in ("input_ids", "image_feat", "image_loc")}
    same_outputs(model(**batch), exact(model)(**batch))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["vl-bert_base", "lxmert", "ctrl_visualbert_base", "demo/switchbert"])
def test_the_specification_computes_on_the_models_device_and_in_its_dtype(name, dtype):
    model = copy.deepcopy(pretraining_model(name, "all")).to("meta", dtype)  # a device without numbers
    batch = inputs_of(random_batch(model.config))
    for routing in ("hard", "soft"):
        out = Reference(model, routing)(**batch)
        found = [out.sequence_t, out.sequence_v, out.prediction_scores_t, *out.prediction_scores_v.values()]
        assert {(tensor.device.type, tensor.dtype) for tensor in found} == {("meta", dtype)}


def test_a_changed_equation_would_be_seen(monkeypatch):
    model = pretraining_model("demo/switchbert")
    batch = random_batch(model.config, 3, 6, 4)
    other = {**ATTENTION_MODES, "SC": ATTENTION_MODES["SS"]}
    monkeypatch.setattr(specification, "ATTENTION_MODES", other)
    with pytest.raises(AssertionError):
        same_losses_and_gradients(model, exact(model, "soft"), batch, modes=["SC"] * 4)


def test_routes_cannot_be_forced_on_a_static_architecture():
    model = pretraining_model("ctrl_uniter_base")
    with pytest.raises(UserError, match="switch section"):
        Reference(model)(**random_batch(model.config), modes=["J"] * 12)


def test_the_specification_takes_records_and_no_computation_from_the_models():
    taken = set()
    for name in ("reference", "reference_heads"):
        tree = ast.parse((Path(specification.__file__).parent / f"{name}.py").read_text())
        found = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        taken |= {alias.name for node in found if "volta_switch.model" in node.module for alias in node.names}
    records = {"Output", "Routes", "Forced", "forced_weights"}  # what goes in and comes out
    assert taken == records | {"reference_heads", "Reference", "States"}
