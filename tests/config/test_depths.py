"""Generated depths are architectures of the same kind, and those of the shipped depth are the shipped ones."""

import pytest

from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.config.depths import lxmert_layers, vilbert_layers, with_layers, with_text_layers

SINGLE = ("ctrl_uniter_base", "switchbert", "demo/ctrl_uniter", "demo/switchbert", "ctrl_visualbert_base")


@pytest.mark.parametrize("name", SINGLE)
def test_the_shipped_number_of_layers_gives_the_shipped_architecture(name):
    config = load_config(name)
    layers = len(config.attention_sublayers)
    assert load_config(name, with_layers(config, layers)) == config


@pytest.mark.parametrize("name", ["ctrl_vilbert_base", "vilbert_base", "demo/ctrl_vilbert"])
def test_the_shipped_number_of_text_layers_gives_the_shipped_architecture(name):
    config = load_config(name)
    assert load_config(name, with_text_layers(config, min(config.tv_attn_sublayers) // 2)) == config


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("lxmert", lxmert_layers(9, 5, 5)),
        ("demo/ctrl_lxmert", lxmert_layers(2, 1, 2)),
        ("vilbert_base", vilbert_layers(12, 6)),
    ],
)
def test_the_shipped_numbers_of_layers_of_two_streams_give_the_shipped_architecture(name, overrides):
    assert load_config(name, overrides) == load_config(name)


@pytest.mark.parametrize("overrides", [lxmert_layers(1, 3, 1), lxmert_layers(0, 0, 2), vilbert_layers(3, 3)])
def test_other_numbers_of_layers_of_two_streams_build_models(overrides):
    wide = ["hidden_size=24", "v_hidden_size=24", "num_attention_heads=2", "v_num_attention_heads=2", "vocab_size=30"]
    per_sublayer = ["sublayer2attn_hidden_size={}", "sublayer2num_attention_heads={}"]
    name = "lxmert" if "shared_sublayers=[]" not in overrides else "vilbert_base"
    BertForVLPreTraining(load_config(name, [*overrides, *wide, *per_sublayer, "intermediate_size=8"]))


@pytest.mark.parametrize("layers", [1, 3, 6])
@pytest.mark.parametrize("name", ["demo/ctrl_uniter", "demo/switchbert"])
def test_other_numbers_of_layers_build_models(name, layers):
    model = BertForVLPreTraining(load_config(name, with_layers(load_config(name), layers)))
    assert len(model.bert.encoder.layer) == 2 * layers


@pytest.mark.parametrize("layers", range(0, 13, 3))
def test_text_layers_stand_before_the_first_co_attention_and_nothing_else_changes(layers):
    shipped = load_config("ctrl_vilbert_base")
    config = load_config("ctrl_vilbert_base", with_text_layers(shipped, layers))
    first = min(config.tv_attn_sublayers)
    assert first == 2 * layers == min(config.vt_attn_sublayers)
    assert [n for n in config.tt_attn_sublayers if n < first] == list(range(0, first, 2))
    for name in ("tv_attn_sublayers", "vt_attn_sublayers", "vv_attn_sublayers", "v_ff_sublayers"):
        assert [n - first for n in getattr(config, name)] == [n - 12 for n in getattr(shipped, name)]
    text = len(config.tt_attn_sublayers)
    assert text == layers + 6 and len(config.bert_layer2attn_sublayer) == min(text, 12)


def test_a_vilbert_without_text_layers_of_its_own_is_a_model():
    config = load_config("demo/ctrl_vilbert")
    BertForVLPreTraining(load_config("demo/ctrl_vilbert", with_text_layers(config, 0)))


@pytest.mark.parametrize(
    ("change", "name", "layers"),
    [
        (with_layers, "demo/ctrl_vilbert", 4), (with_layers, "demo/ctrl_uniter", 0),
        (with_text_layers, "demo/ctrl_uniter", 2), (with_text_layers, "demo/ctrl_vilbert", -1),
        (with_text_layers, "demo/ctrl_lxmert", 2),
    ],
)  # fmt: skip
def test_an_architecture_of_another_kind_is_refused(change, name, layers):
    with pytest.raises(UserError, match=f"layers: expected .*, found {layers}"):
        change(load_config(name), layers)
