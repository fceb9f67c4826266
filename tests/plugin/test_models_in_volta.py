"""Inside VOLTA itself the switched encoder equals ours, and every other model is VOLTA's, bit for bit.

Set VOLTA_HOME to a checkout of github.com/e-bug/volta; without it these tests are skipped.
"""

import os
import subprocess
import sys

import pytest
import torch
import transformers
from torch.nn import functional as F

from golden_files import load_golden, relative_error
from model.small_models import perturb_switchers, switch_config
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.config.loading import CONFIG_FOLDERS
from volta_switch.plugin import VoltaSwitchEncoder, register, unregister
from volta_switch.weights import load_bert, load_volta, read_weights, to_volta

if not os.environ.get("VOLTA_HOME"):
    pytest.skip("VOLTA_HOME is not set to a checkout of VOLTA", allow_module_level=True)
try:
    register()
except UserError as error:
    pytest.skip(f"VOLTA is not usable here: {error}", allow_module_level=True)
finally:
    unregister()

from volta import encoders
from volta.config import BertConfig

TOLERANCE = 1e-5
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout_prob", "v_hidden_dropout_prob", "attention_probs_dropout_prob", "v_attention_probs_dropout_prob"),
    0.0,
)
TASKS = load_golden("ctrl_uniter").tasks
SHIPPED = sorted(path.stem for path in CONFIG_FOLDERS[0].glob("*.json"))


@pytest.fixture(autouse=True)
def registered():
    register()
    yield
    unregister()


def values(**switch):
    config = {**switch_config("ctrl_uniter").to_dict(), **NO_DROPOUT}
    return {**config, "switch": {**config["switch"], **switch}}


def theirs_and_ours(**switch):
    """VOLTA's pre-training model with the plug-in, and ours, with the same weights; switchers that decide."""
    torch.manual_seed(0)
    ours = BertForVLPreTraining(load_config(values(**switch)))
    load_volta(ours, load_golden("ctrl_uniter").part("state"), fresh=("switch",))
    perturb_switchers(ours)
    theirs = encoders.BertForVLPreTraining(BertConfig.from_dict(values(**switch)))
    theirs.load_state_dict(to_volta(ours))
    theirs.cls.dropout.p = ours.cls.dropout.p = 0.0  # fixed at 0.1 in both
    return theirs, ours


def assert_same_losses_and_gradients(theirs, ours, batch):
    """One training or evaluation pass of both, under one seed."""
    for model in (theirs, ours):
        model.zero_grad()
    torch.manual_seed(5)
    losses = theirs(**batch)
    sum(losses).sum().backward()
    torch.manual_seed(5)
    out = ours(**batch)
    out.loss.backward()
    for name, loss in zip(("loss_mlm", "loss_vision", "loss_itm"), losses, strict=True):
        assert relative_error(getattr(out, name), loss[0].detach()) < TOLERANCE, name
    assert torch.equal(theirs.bert.encoder.routes.modes.argmax(-1), out.routes.modes.argmax(-1))
    assert relative_error(theirs.bert.encoder.routes.inputs, out.routes.inputs.detach()) < TOLERANCE
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        mine = gradients[name].grad
        assert (parameter.grad is None) == (mine is None), name
        assert mine is None or relative_error(mine, parameter.grad) < TOLERANCE, name
    return out


def test_both_have_the_same_names_and_shapes():
    theirs, ours = theirs_and_ours()
    assert type(theirs.bert.encoder) is VoltaSwitchEncoder
    assert {name: t.shape for name, t in theirs.state_dict().items()} == {n: t.shape for n, t in to_volta(ours).items()}
    assert any(name.startswith("bert.encoder.attention_switch.0.") for name in theirs.state_dict())


def test_outputs_losses_and_gradients_are_equal_in_evaluation():
    theirs, ours = (model.eval() for model in theirs_and_ours())
    golden = load_golden("ctrl_uniter")
    with torch.no_grad():
        words, regions, match, _, masks, pooled, states_t, states_v = _all_scores(theirs, golden.inputs)
        out = ours(**golden.inputs)
    for found, expected in (
        (out.prediction_scores_t, words), (out.prediction_scores_v["0"], regions["0"]),
        (out.seq_relationship_score, match), (out.pooled_t * out.pooled_v, pooled), (out.sequence_t, states_t),
        (out.sequence_v, states_v),
    ):  # fmt: skip
        assert relative_error(found, expected) < TOLERANCE
    assert masks == ([None], [None])
    routes = assert_same_losses_and_gradients(theirs, ours, golden.part("input")).routes
    assert set(routes.modes.unique().tolist()) == {0.0, 1.0} and len(routes.modes.argmax(-1).unique()) > 1


def _all_scores(model, inputs):
    """VOLTA's six values without labels, and the last states."""
    scores = model(**inputs)
    states = model(**inputs, output_all_encoded_layers=True)[-2:]
    assert len(states[0]) == len(states[1]) == 1 + 6
    return *scores, states[0][-1], states[1][-1]


@pytest.mark.parametrize("K", [1, 2, 4])
def test_losses_and_gradients_are_equal_in_training(K):
    theirs, ours = (model.train() for model in theirs_and_ours(top_k=K))
    out = assert_same_losses_and_gradients(theirs, ours, load_golden("ctrl_uniter").part("input"))
    assert ((out.routes.modes > 0).sum(-1) == K).all()
    switchers = [parameter for name, parameter in theirs.named_parameters() if "switch" in name]
    assert switchers and all(parameter.grad.abs().max() > 1e-9 for parameter in switchers)


def test_training_steps_stay_equal_while_the_temperature_falls():
    theirs, ours = (model.train() for model in theirs_and_ours(anneal_rate=0.2))
    batch = load_golden("ctrl_uniter").part("input")
    optimisers = [torch.optim.SGD(model.parameters(), lr=0.05) for model in (theirs, ours)]
    temperatures = []
    for _ in range(3):
        temperatures.append(float(theirs.bert.encoder.temperature))
        assert_same_losses_and_gradients(theirs, ours, batch)
        ours.bert.encoder.switch_samples += 4  # our trainer's part; the plug-in counts by itself
        for optimiser in optimisers:
            optimiser.step()
    assert temperatures == pytest.approx([5.0, 5 * 0.449329, 5 * 0.201897], rel=1e-5)
    for name, tensor in to_volta(ours).items():
        assert relative_error(theirs.state_dict()[name].float(), tensor.float()) < TOLERANCE, name


def test_a_checkpoint_crosses_over_and_fine_tuning_starts_the_temperature_anew(tmp_path):
    theirs = theirs_and_ours()[0]
    theirs.bert.encoder.switch_samples += 10**9
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model_9.bin")
    golden = load_golden("ctrl_uniter")
    config = BertConfig.from_dict(values())
    torch.manual_seed(0)
    there = encoders.BertForVLTasks.from_pretrained(
        str(tmp_path / "pytorch_model_9.bin"), config=config, task_cfg=TASKS, task_ids=list(TASKS)
    )
    assert float(there.bert.encoder.temperature) == 1.0
    assert torch.equal(
        there.bert.encoder.input_switch[0].options.weight, theirs.bert.encoder.input_switch[0].options.weight
    )
    here = BertForVLTasks(load_config(values()), TASKS).eval()
    load_volta(here, read_weights(tmp_path / "pytorch_model_9.bin"), fresh=("clfs_dict",), unused=("cls.",))
    load_volta(here, there.state_dict())
    names = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
    text, features, places, *masks = (golden.inputs[name] for name in names)
    for task in TASKS:
        with torch.no_grad():
            expected = there.eval()(text, features, places, task, *masks)[0]
            assert relative_error(here(task, **golden.inputs).scores, expected) < TOLERANCE, task


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("training", [False, True])
def test_losses_and_gradients_of_tasks_are_equal(task, training):
    """A loss over all scores, since VOLTA's own are made outside the model."""
    golden = load_golden("ctrl_uniter")
    torch.manual_seed(0)
    ours = BertForVLTasks(load_config(values()), TASKS)
    perturb_switchers(ours)
    theirs = encoders.BertForVLTasks(BertConfig.from_dict(values()), task_cfg=TASKS, task_ids=list(TASKS))
    theirs.load_state_dict(to_volta(ours))
    theirs.dropout.p = ours.dropout.p = 0.0  # fixed at 0.1 in both
    names = ("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask")
    text, features, places, *masks = (golden.inputs[name] for name in names)
    torch.manual_seed(5)
    expected = theirs.train(training)(text, features, places, task, *masks)[0]
    torch.manual_seed(5)
    scores = ours.train(training)(task, **golden.inputs).scores
    assert relative_error(scores, expected.detach()) < TOLERANCE
    target = torch.linspace(0, 1, expected.numel()).view_as(expected)
    if TASKS[task]["type"] == "V-logit":  # padding is never the answer; its scores are constant in ours
        target = target * golden.inputs["image_attention_mask"][..., None]
    losses = [F.binary_cross_entropy_with_logits(given, target) for given in (expected, scores)]
    for loss in losses:
        loss.backward()
    assert relative_error(losses[1], losses[0].detach()) < TOLERANCE
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        mine = gradients[name].grad
        assert (parameter.grad is None) == (mine is None), name
        assert mine is None or relative_error(mine, parameter.grad) < TOLERANCE, name


def test_the_papers_model_has_the_papers_parameters_in_volta_too():
    with torch.device("meta"):
        theirs = encoders.BertForVLPreTraining(BertConfig.from_json_file(CONFIG_FOLDERS[0] / "switchbert.json"))
    assert round(sum(parameter.numel() for parameter in theirs.parameters()) / 1e6, 1) == 130.6


def test_bert_initialises_the_plug_in_as_it_does_our_model(tmp_path):
    config = load_config(values())
    sizes = ("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings")
    torch.manual_seed(3)
    bert = transformers.BertForPreTraining(
        transformers.BertConfig(
            num_hidden_layers=len(config.bert_layer2attn_sublayer),
            type_vocab_size=config.type_vocab_size,
            **{name: getattr(config, name) for name in sizes},
        )
    )
    torch.save(bert.state_dict(), tmp_path / "pytorch_model.bin")
    ours = BertForVLPreTraining(config)
    taken = load_bert(ours, config, read_weights(tmp_path / "pytorch_model.bin")).names
    theirs = encoders.BertForVLPreTraining.from_pretrained(
        str(tmp_path), config=BertConfig.from_dict(values()), from_hf=True
    )
    assert len([name for name in taken if ".layer." in name]) == 16 * len(config.bert_layer2attn_sublayer)
    assert all(torch.equal(theirs.state_dict()[name], ours.state_dict()[name]) for name in taken)
    assert theirs.cls.predictions.decoder.weight is theirs.bert.embeddings.word_embeddings.weight
    assert not any(p.any() for name, p in theirs.named_parameters() if ".options." in name)


def test_voltas_own_grouping_gives_the_switchers_their_rate_and_decay():
    theirs, _ = theirs_and_ours()
    names = [name for name, _ in theirs.named_parameters() if "switch" in name]
    assert len(names) == 4 * (3 + 2) and all(name.startswith("bert.encoder.") for name in names)
    for name in names:  # what VOLTA's scripts and its loading look for in names
        assert not any(part in name for part in ("vil_", "LayerNorm", "gamma", "beta", ".layer."))
        assert ("bias" in name) == name.endswith(".bias")


# VisualBERT's forward pass in VOLTA needs CUDA: its model is built here, and its outputs are among the golden files.
@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_visualbert"])
def test_other_models_are_voltas_bit_for_bit(name):
    golden = load_golden(name)
    results = []
    for plugged in (True, False):
        if not plugged:
            unregister()
        torch.manual_seed(0)
        model = encoders.BertForVLPreTraining(BertConfig.from_dict(golden.config)).train()
        assert type(model.bert.encoder) is encoders.BertEncoder
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        losses = []
        if name != "ctrl_visualbert":
            losses = list(model(**golden.part("input")))
            sum(losses).sum().backward()
            losses += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        results.append((state, losses))
    assert results[0][0].keys() == results[1][0].keys()
    assert all(torch.equal(tensor, results[1][0][key]) for key, tensor in results[0][0].items())
    assert len(results[0][1]) == len(results[1][1])
    assert all(torch.equal(one, other) for one, other in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.parametrize("name", SHIPPED)
def test_volta_builds_the_same_model_from_every_shipped_configuration(name):
    path = CONFIG_FOLDERS[0] / f"{name}.json"
    with torch.device("meta"):
        theirs = encoders.BertForVLPreTraining(BertConfig.from_json_file(path))
        ours = BertForVLPreTraining(load_config(path))
    assert {key: t.shape for key, t in theirs.state_dict().items()} == {k: t.shape for k, t in to_volta(ours).items()}
    counts = [sum(parameter.numel() for parameter in model.parameters()) for model in (theirs, ours)]
    assert counts[0] == counts[1]


def test_two_lines_put_the_switched_encoder_into_voltas_models(volta_world):
    code = """
import sys
import volta_switch.plugin; volta_switch.plugin.register()
from volta.config import BertConfig
from volta.encoders import BertForVLPreTraining
for path in sys.argv[1:]:
    print(type(BertForVLPreTraining(BertConfig.from_json_file(path)).bert.encoder).__name__)
"""
    configs = [volta_world.config(model) for model in ("switchbert", "ctrl_uniter")]
    command = [sys.executable, "-c", code, *configs]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    assert [line for line in shown.splitlines() if line.endswith("Encoder")] == ["VoltaSwitchEncoder", "BertEncoder"]
