"""Whatever program wrote a file of weights: it is read by all loaders alike, or refused by what it is."""

from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from golden_files import load_golden
from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.train.start import initial_weights
from volta_switch.weights import load_bert, load_volta, read_weights, write_weights
from weights.layouts import OTHERS, SPELLINGS, hugging_face_state, with_heads


def golden_model(name="ctrl_uniter"):
    golden = load_golden(name)
    torch.manual_seed(1)
    return BertForVLPreTraining(load_config(golden.config)), load_config(golden.config)


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def unread(path):
    """The line with which a file is refused by the reader."""
    with pytest.raises(UserError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 600
    return str(caught.value)


# --- One spelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_bert_is_the_same_in_every_spelling(spelling, tmp_path):
    model, config = golden_model()
    plain = with_heads(hugging_face_state())
    torch.save(SPELLINGS[spelling](plain), tmp_path / "pytorch_model.bin")
    told = initial_weights(model, config, str(tmp_path))
    expected, _ = golden_model()
    write_weights(tmp_path / "plain.safetensors", plain)
    initial_weights(expected, config, str(tmp_path / "plain.safetensors"))
    assert same(state_of(model), state_of(expected)) and not same(state_of(model), state_of(golden_model()[0]))
    assert told == (
        f"text side from {tmp_path}; left out: bert.embeddings.position_ids, bert.pooler, cls.seq_relationship"
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_runs_weights_are_the_same_in_every_spelling(spelling, tmp_path):
    state = load_golden("ctrl_uniter").part("state")
    torch.save(SPELLINGS[spelling](state), tmp_path / "run.pth")
    for load in (
        lambda model, config: initial_weights(model, config, str(tmp_path / "run.pth")),
        lambda model, config: load_volta(model, read_weights(tmp_path / "run.pth")),
    ):
        model, config = golden_model()
        load(model, config)
        assert same(state_of(model), state)


def test_safetensors_are_spelt_as_freely(tmp_path):
    model, config = golden_model()
    save_file(SPELLINGS["encoder alone in a module"](hugging_face_state()), tmp_path / "model.safetensors")
    assert "fresh: cls.predictions" in initial_weights(model, config, str(tmp_path))


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("bert.embeddings.LayerNorm.weight", "module.bert.embeddings.LayerNorm.weight"),
        ("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma"),
        ("bert.embeddings.LayerNorm.bias", "_orig_mod.module.bert.embeddings.LayerNorm.beta"),
        ("bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight"),
    ],
)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_two_names_of_one_weight_in_a_file_are_refused(name, twin, suffix, tmp_path):
    state = hugging_face_state()
    for added in (torch.zeros(1), state[name].clone()):  # even where they agree: nobody wrote such a file on purpose
        path = tmp_path / f"both{suffix}"
        write_weights(path, {**state, twin: added})
        message = unread(path)
        assert "are two names of one weight" in message and name in message and twin in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({7: torch.zeros(1)}, "the key 7, which is no text"),
        ({"model": {7: torch.zeros(1)}}, "the key 7, which is no text"),
        ({("a", 1): torch.zeros(1), "b.c": torch.zeros(1)}, "which is no text"),
        ({b"bert.x": torch.zeros(1)}, "which is no text"),
        ([torch.zeros(1)], "found a list"), (torch.zeros(1), "found a single tensor"), (None, "found NoneType"),
        ({}, "found no tensor"), ({"state_dict": {}}, "found no tensor"), ({"model": 3}, "found int under model"),
        ({"bert.a": torch.zeros(1), "epoch": 3}, "found int under epoch"),
        ({"layers": {"bert.a": torch.zeros(1)}}, "found a dictionary under layers"),
        ({"x" * 5000: "y"}, "found str under xxx"),
        ({"model": {"bert.a": torch.zeros(1)}, "model_ema": {"bert.a": torch.ones(1)}}, "(model, model_ema)"),
        ({"model": {"bert.a": torch.zeros(1)}, "state_dict": {"bert.a": torch.ones(1)}}, "(model, state_dict)"),
        ({"state_dict": {"bert.a": torch.zeros(1)}, "head.weight": torch.ones(1)}, "(state_dict, head.weight)"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_set_of_weights_or_several_is_refused(content, told, tmp_path):
    torch.save(content, tmp_path / "other.bin")
    message = unread(tmp_path / "other.bin")
    assert told in message
    assert "expected a dictionary of tensors" in message or "several sets of weights" in message


def test_a_dictionary_that_holds_itself_is_refused(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "round.bin")
    assert "expected a dictionary of tensors" in unread(tmp_path / "round.bin")


# --- Other projects' ------------------------------------------------------------------------------------------------


IMPORTED = ("UNITER", "LXMERT", "ViLBERT", "12-in-1", "VisualBERT")


@pytest.mark.parametrize("layout", OTHERS)
def test_another_projects_weights_are_refused_by_what_they_are(layout, tmp_path):
    project, made = OTHERS[layout]
    path = tmp_path / "other.th"
    torch.save({"state_dict": made(), "epoch": 3} if layout == "VL-BERT" else made(), path)
    for load in (
        lambda model, config: initial_weights(model, config, str(path)),
        lambda model, config: load_volta(model, read_weights(path), unused=("cls.", "clfs_dict"), source=str(path)),
    ):
        for name in ("ctrl_uniter", "ctrl_vilbert"):
            model, config = golden_model(name)
            before = state_of(model)
            with pytest.raises(UserError) as caught:
                load(model, config)
            message = str(caught.value)
            assert message.startswith(f"{path}: these are weights of {project}")
            told = f"import them first (volta-switch weights import {path} FOLDER), or give"
            told = told if layout.startswith(IMPORTED) else "importing them is not supported: give"
            assert told in message and "weights of a run" in message
            assert same(before, state_of(model))


def test_what_voltas_checkpoints_have_is_not_taken_for_another_projects():
    for name in ("ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert", "ctrl_visualbert", "ctrl_vl-bert", "ctrl_interbert"):
        model, _ = golden_model(name)
        state = {**load_golden(name).part("state"), "qaPredictions.logit_fc.0.weight": torch.zeros(1)}
        with pytest.raises(UserError, match=r"^it\.bin: qaPredictions\.logit_fc\.0\.weight unexpected"):
            load_volta(model, state, source="it.bin")


def test_a_bert_where_a_runs_weights_are_wanted_is_said_to_be_one():
    model, _ = golden_model()
    with pytest.raises(UserError, match=r"^it\.bin: these are a BERT's weights, .* give weights of a run"):
        load_volta(model, hugging_face_state(), source="it.bin")


# --- Every name -----------------------------------------------------------------------------------------------------


def refused(load, state):
    with pytest.raises(UserError) as caught:
        load(state)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["run", "BERT"])
def test_no_name_can_be_changed_or_be_missing_unseen(kind):
    model, config = golden_model()
    before = state_of(model)
    if kind == "run":
        state = load_golden("ctrl_uniter").part("state")
        load = partial(load_volta, model)
    else:
        state = with_heads(hugging_face_state())
        del state["cls.predictions.decoder.bias"]  # which may stand for the other name
        load = partial(load_bert, model, config)
    free = ("bert.pooler", "cls.seq_relationship", "bert.embeddings.position_ids", "cls.predictions.decoder.weight")
    for name, tensor in state.items():
        left = {other: tensor for other, tensor in state.items() if other != name}
        changed = name.replace("e", "3", 1)
        message = refused(load, {**left, changed: tensor})
        assert changed in message or name in message
        if kind == "run" or not name.startswith(free):
            assert name in refused(load, left)
    assert same(before, state_of(model))
