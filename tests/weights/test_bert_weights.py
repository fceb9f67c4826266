"""The text side starts from a Hugging Face BERT: every layer where the configuration sends it, nothing unexplained."""

import pytest
import torch

from golden_files import load_golden
from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.weights import load_bert, shared_names
from weights.layouts import hugging_face_state, with_heads

TYPES = "bert.embeddings.token_type_embeddings.weight"


def bert_model(name="ctrl_uniter"):
    config = load_config(load_golden(name).config)
    return BertForVLPreTraining(config), config


def refused(state, name="ctrl_uniter", **arguments):
    """The line with which a BERT is refused; the model is as it was."""
    model, config = bert_model(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_bert(model, config, state, "my-bert", **arguments)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert str(caught.value).startswith("my-bert: ") and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_interbert"])
def test_berts_layers_go_where_the_configuration_sends_them(name):
    model, config = bert_model(name)
    layers = len(config.bert_layer2attn_sublayer)
    state = hugging_face_state(layers)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    names = load_bert(model, config, state).names
    after = model.state_dict()
    for layer in range(layers):
        attention, ff = config.bert_layer2attn_sublayer[str(layer)], config.bert_layer2ff_sublayer[str(layer)]
        for theirs, mine in (
            (f"{layer}.attention.self.key.weight", f"{attention}.attention_self.key.weight"),
            (f"{layer}.attention.output.LayerNorm.bias", f"{attention}.attention_output.LayerNorm.bias"),
            (f"{layer}.intermediate.dense.weight", f"{ff}.intermediate.dense.weight"),
            (f"{layer}.output.dense.bias", f"{ff}.output.dense.bias"),
        ):
            assert f"bert.encoder.layer.{mine}" in names
            assert torch.equal(after[f"bert.encoder.layer.{mine}"], state[f"bert.encoder.layer.{theirs}"])
    shared = {other for group in shared_names(model) for other in group if set(group) & set(names)}
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved <= set(names) | shared and len(moved) >= 16 * layers


def test_vl_bert_keeps_its_third_token_type():
    model, config = bert_model("ctrl_vl-bert")
    third = model.bert.embeddings.token_type_embeddings.weight[2].clone()
    state = hugging_face_state()
    start = load_bert(model, config, state)
    table = model.bert.embeddings.token_type_embeddings.weight
    assert torch.equal(table[:2], state[TYPES]) and torch.equal(table[2], third)
    assert f"fresh: {TYPES} from row 2 on, cls.predictions" in start.described


def test_other_models_take_no_table_of_fewer_token_types():
    assert TYPES in refused({**hugging_face_state(), TYPES: torch.zeros(1, 24)})


# --- What is left out -----------------------------------------------------------------------------------------------


def test_all_that_a_bert_has_is_taken_or_told():
    model, config = bert_model()
    state = with_heads(hugging_face_state())
    start = load_bert(model, config, state)
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in start.left_out} == {
        "bert.pooler.dense", "cls.seq_relationship", "bert.embeddings.position_ids"
    }  # fmt: skip
    assert start.described == "; left out: bert.embeddings.position_ids, bert.pooler, cls.seq_relationship"
    after = model.state_dict()
    for name in ("cls.predictions.bias", "cls.predictions.transform.LayerNorm.bias", "cls.predictions.decoder.weight"):
        assert torch.equal(after[name], state[name])


def test_a_task_model_says_that_it_has_no_head_for_words():
    golden = load_golden("ctrl_uniter")
    config = load_config(golden.config)
    start = load_bert(BertForVLTasks(config, golden.tasks), config, with_heads(hugging_face_state()))
    assert start.described.endswith("; left out: bert.embeddings.position_ids, bert.pooler, cls.predictions, "
                                    "cls.seq_relationship")  # fmt: skip


def test_a_bert_without_a_head_leaves_the_models_fresh_and_says_so():
    model, config = bert_model()
    before = model.state_dict()["cls.predictions.transform.dense.weight"].clone()
    assert load_bert(model, config, hugging_face_state()).described == "; left out: bert.pooler; fresh: cls.predictions"
    assert torch.equal(model.state_dict()["cls.predictions.transform.dense.weight"], before)


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.image_embeddings.weight", "bert.embeddings.v_LayerNorm.weight", "bert.v_pooler.dense.weight",
        "bert.encoder.layer.0.attention.self.distance_embedding.weight", "bert.encoder.layer.0.output.lora.a.weight",
        "bert.encoder.layer.1.crossattention.self.key.bias", "bert.encoder.layer.٣.output.dense.weight",
        "bert.encoder.layer.00001.output.dense.bias", "cls.imagePredictions.dense.bias", "classifier.weight", "scale",
    ],
)  # fmt: skip
def test_what_is_not_berts_own_is_refused_by_name(name):
    state = with_heads(hugging_face_state())
    shape = bert_model()[0].state_dict().get(name, torch.zeros(1)).shape  # as this model may have it by the same name
    message = refused({**state, name: torch.zeros(shape)})
    assert name in message and "is no name of a BERT's weights" in message and "weights of a run" in message


# --- Depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "absent"), [(2, "layer 2"), (1, "layers 1-2"), (0, "")])
def test_a_bert_with_too_few_layers_is_refused(layers, absent):
    for allowed in (False, True):
        message = refused(hugging_face_state(layers), allow_deeper=allowed)
        assert f"a BERT with {layers} layers, where this model starts from a BERT with 3 layers" in message
        assert (f"without {absent}, counted from 0" if layers else "it has none") in message


def test_a_bert_that_lacks_a_layer_in_the_middle_is_refused():
    state = {name: tensor for name, tensor in hugging_face_state(4).items() if ".layer.1." not in name}
    assert "without layer 1, counted from 0" in refused(state, allow_deeper=True)


@pytest.mark.parametrize("more", [1, 9])
@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_vilbert"])
def test_a_deeper_bert_is_refused_unless_that_is_meant(more, name):
    model, config = bert_model(name)
    taken = len(config.bert_layer2attn_sublayer)
    state = hugging_face_state(taken + more)
    message = refused(state, name)
    assert f"a BERT with {taken + more} layers, where this model starts from a BERT with {taken} layers" in message
    assert "--allow_deeper_bert" in message and "text_layers" in message
    start = load_bert(model, config, state, allow_deeper=True)
    above = f"layer {taken}" if more == 1 else f"layers {taken}-{taken + more - 1}"
    assert f"; left out: {above} of BERT's {taken + more}, bert.pooler" in start.described
    assert len([left for left in start.left_out if ".layer." in left]) == 16 * more
    other, _ = bert_model(name)
    deep = tuple(f"bert.encoder.layer.{layer}." for layer in range(taken, taken + more))
    load_bert(other, config, {own: tensor for own, tensor in state.items() if not own.startswith(deep)})
    assert all(torch.equal(model.state_dict()[own], other.state_dict()[own]) for own in start.names)


def test_layers_that_the_configuration_takes_in_part_are_left_out_only_where_that_is_meant():
    golden = load_golden("ctrl_uniter").config
    config = load_config({**golden, "bert_layer2ff_sublayer": {"0": 1, "1": 3}})
    model = BertForVLPreTraining(config)
    with pytest.raises(UserError, match=r"layer 2, counted from 0, would be left out"):
        load_bert(model, config, hugging_face_state())
    assert (
        "left out: layer 2 of BERT's 3" in load_bert(model, config, hugging_face_state(), allow_deeper=True).described
    )


def test_a_layer_of_bert_cannot_go_where_there_is_no_text():
    golden = load_golden("ctrl_uniter").config
    text = {f"{pair}_attn_sublayers": [0, 2] for pair in ("tt", "tv", "vt")}
    shared = {name: [0, 1, 2, 3] for name in ("shared_sublayers", "single_ln_sublayers")}
    config = load_config({**golden, **text, **shared, "t_ff_sublayers": [1, 3]})
    with pytest.raises(UserError, match=r"^bert_layer2attn_sublayer, .*: this model has no bert\.encoder\.layer\.4\."):
        load_bert(BertForVLPreTraining(config), config, hugging_face_state())


def test_two_layers_of_bert_cannot_go_to_one_sublayer():
    golden = load_golden("ctrl_uniter").config
    config = load_config({**golden, "bert_layer2attn_sublayer": {"0": 0, "1": 2, "2": 2}})
    with pytest.raises(UserError, match="are one weight in this model but hold different values"):
        load_bert(BertForVLPreTraining(config), config, hugging_face_state())


# --- What contradicts the model or itself -----------------------------------------------------------------------------


def test_a_bert_with_another_vocabulary_or_width_is_refused():
    message = refused(hugging_face_state(vocabulary=98))
    assert "word_embeddings.weight has shape [98, 24]" in message and "[97, 24]" in message
    for name in ("ctrl_uniter", "ctrl_vl-bert"):
        assert "has shape" in refused(hugging_face_state(width=20), name)


@pytest.mark.parametrize("name", ["embeddings.LayerNorm.weight", "embeddings.position_embeddings.weight",
                                  "encoder.layer.1.output.LayerNorm.bias"])  # fmt: skip
def test_a_bert_that_lacks_a_tensor_is_refused(name):
    state = hugging_face_state()
    del state[f"bert.{name}"]
    assert f"bert.{name} missing" in refused(state)


@pytest.mark.parametrize("lost", ["bias", "transform.dense.weight", "transform.LayerNorm.bias"])
def test_half_a_head_is_refused(lost):
    state = with_heads(hugging_face_state())
    del state[f"cls.predictions.{lost}"]
    if lost == "bias":  # which some files have under its other name alone
        model, config = bert_model()
        load_bert(model, config, state)
        assert torch.equal(model.state_dict()["cls.predictions.bias"], state.pop("cls.predictions.decoder.bias"))
    assert f"cls.predictions.{lost} missing" in refused(state)


@pytest.mark.parametrize("name", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"])
def test_a_head_whose_ties_are_broken_is_refused(name):
    state = with_heads(hugging_face_state())
    message = refused({**state, name: state[name] + 1e-3})
    assert "hold different values" in message and "one" in message and "weight in this model" in message
