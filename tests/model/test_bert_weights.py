"""The text side starts from a Hugging Face BERT: every layer where the configuration sends it, nothing unexplained."""

import pytest
import torch
from safetensors.torch import save_file

from golden_files import load_golden
from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.weights import load_bert, shared_names


def hugging_face_state(layers=3, vocabulary=97, width=24):
    """Names and shapes of a Hugging Face BERT, with a masked language modelling head."""
    shapes = {
        "embeddings.word_embeddings.weight": (vocabulary, width),
        "embeddings.position_embeddings.weight": (40, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,), "embeddings.LayerNorm.bias": (width,),
        "pooler.dense.weight": (width, width), "pooler.dense.bias": (width,),
    }  # fmt: skip
    for layer in range(layers):
        for part, (rows, columns) in {
            "attention.self.query": (width, width), "attention.self.key": (width, width),
            "attention.self.value": (width, width), "attention.output.dense": (width, width),
            "intermediate.dense": (40, width), "output.dense": (width, 40),
        }.items():  # fmt: skip
            shapes[f"encoder.layer.{layer}.{part}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{layer}.{part}.bias"] = (rows,)
        for part in ("attention.output", "output"):
            shapes[f"encoder.layer.{layer}.{part}.LayerNorm.weight"] = (width,)
            shapes[f"encoder.layer.{layer}.{part}.LayerNorm.bias"] = (width,)
    generator = torch.Generator().manual_seed(0)
    return {f"bert.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def bert_folder(folder, state):
    save_file(state, folder / "model.safetensors")
    return folder


def bert_model(name="ctrl_uniter"):
    config = load_config(load_golden(name).config)
    return BertForVLPreTraining(config), config


@pytest.mark.parametrize("name", ["ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert", "ctrl_vl-bert", "ctrl_interbert"])
def test_berts_layers_go_where_the_configuration_sends_them(name, tmp_path):
    model, config = bert_model(name)
    layers = len(config.bert_layer2attn_sublayer)
    state = hugging_face_state(layers)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    names = load_bert(model, config, bert_folder(tmp_path, state))
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


def test_old_names_of_layer_norms_and_bare_encoders_are_read(tmp_path):
    old = {}
    for name, tensor in hugging_face_state().items():
        name = name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma")
        old[name.replace("LayerNorm.bias", "LayerNorm.beta")] = tensor
    model, config = bert_model()
    load_bert(model, config, bert_folder(tmp_path, old))
    found = model.state_dict()["bert.encoder.layer.1.output.LayerNorm.bias"]
    assert torch.equal(found, old["encoder.layer.0.output.LayerNorm.beta"])


def test_vl_bert_keeps_its_third_token_type(tmp_path):
    model, config = bert_model("ctrl_vl-bert")
    third = model.bert.embeddings.token_type_embeddings.weight[2].clone()
    state = hugging_face_state()
    load_bert(model, config, bert_folder(tmp_path, state))
    table = model.bert.embeddings.token_type_embeddings.weight
    assert torch.equal(table[:2], state["bert.embeddings.token_type_embeddings.weight"]) and torch.equal(
        table[2], third
    )


def bert_refused(state, folder, name="ctrl_uniter"):
    model, config = bert_model(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_bert(model, config, bert_folder(folder, state))
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_bert_with_too_few_layers_is_refused(tmp_path):
    message = bert_refused(hugging_face_state(layers=2), tmp_path)
    assert "bert.encoder.layer.4.attention_self" in message and "BERT with 3 layers" in message


def test_a_bert_with_another_vocabulary_or_width_is_refused(tmp_path):
    message = bert_refused(hugging_face_state(vocabulary=98), tmp_path)
    assert "word_embeddings.weight has shape [98, 24]" in message and "[97, 24]" in message
    for name in ("ctrl_uniter", "ctrl_vl-bert"):
        assert "has shape" in bert_refused(hugging_face_state(width=20), tmp_path, name)


@pytest.mark.parametrize("name", ["embeddings.LayerNorm.weight", "embeddings.position_embeddings.weight",
                                  "encoder.layer.1.output.LayerNorm.bias"])  # fmt: skip
def test_a_bert_that_lacks_a_tensor_is_refused(name, tmp_path):
    state = hugging_face_state()
    del state[f"bert.{name}"]
    assert name.split(".")[-2] in bert_refused(state, tmp_path)
