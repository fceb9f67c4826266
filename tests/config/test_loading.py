"""Configurations are found, overridden and checked; what is wrong is named in one line."""

import dataclasses
import json

import pytest

from volta_switch import Config, SwitchConfig, UserError, load_config
from volta_switch.config import find_config, static_mode

LAYER = {
    "tt_attn_sublayers": [0], "tv_attn_sublayers": [0], "vt_attn_sublayers": [0], "vv_attn_sublayers": [0],
    "t_ff_sublayers": [1], "v_ff_sublayers": [1], "shared_sublayers": [0, 1], "single_ln_sublayers": [0, 1],
}  # fmt: skip
SMALL = {
    "hidden_size": 24, "v_hidden_size": 24, "num_attention_heads": 4, "v_num_attention_heads": 4,
    "intermediate_size": 40, "v_intermediate_size": 40, "pooler_size": 20, "v_pooler_size": 20,
    "image_embeddings": "uniter", **LAYER,
}  # fmt: skip


def refused(changes=None, overrides=(), **fields):
    """The message with which a small configuration is refused."""
    with pytest.raises(UserError) as caught:
        load_config({**SMALL, **(changes or {}), **fields}, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- Finding ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["switchbert", "switchbert.json", "demo/switchbert", "demo/switchbert.json"])
def test_a_name_is_a_file_under_config(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # names do not depend on the working directory
    config = load_config(name)
    assert config.switch is not None and (config.hidden_size == 768) == ("demo" not in name)


def test_a_path_is_read_with_or_without_its_suffix(tmp_path, monkeypatch):
    (tmp_path / "mine.json").write_text(json.dumps(SMALL))
    monkeypatch.chdir(tmp_path)
    for source in ("mine", "mine.json", tmp_path / "mine.json", str(tmp_path / "mine")):
        assert load_config(source).hidden_size == 24


def test_a_file_in_the_working_directory_goes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "switchbert.json").write_text(json.dumps(SMALL))
    monkeypatch.chdir(tmp_path)
    assert load_config("switchbert").switch is None


def test_a_dict_and_a_config_are_accepted_and_not_changed():
    values = {**SMALL, "switch": {"top_k": 2}}
    before = json.dumps(values)
    config = load_config(values, ["switch.top_k=1", "hidden_act=relu"])
    assert json.dumps(values) == before
    assert config.switch.top_k == 1 and config.hidden_act == "relu"
    assert load_config(config) == config
    assert load_config(config, ["switch.top_k=3"]).switch.top_k == 3 and config.switch.top_k == 1


def test_an_unknown_name_suggests_the_nearest_and_lists_the_known():
    with pytest.raises(UserError, match=r"switchbirt: .*did you mean switchbert\?.*ctrl_uniter_base") as caught:
        load_config("switchbirt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "/", "no/such/folder/x"])
def test_names_that_are_no_files_are_refused(name):
    with pytest.raises(UserError, match="no such file or name"):
        find_config(name)


@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b"", b"\xff\xfe\x00", b'"text"'])
def test_a_file_that_holds_no_json_object_is_named(content, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.json: expected a JSON object") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_the_file_is_named_in_every_complaint_about_it(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**SMALL, "hidden_sise": 3}))
    with pytest.raises(UserError, match=r"mine\.json: unknown key hidden_sise; did you mean hidden_size\?"):
        load_config(path)


# --- Overriding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("switch.top_k=2", lambda c: c.switch.top_k, 2),
        ("switch.modes=[SS, J]", lambda c: c.switch.modes, ("SS", "J")),
        ('switch.modes=["SC"]', lambda c: c.switch.modes, ("SC",)),
        ("switch.attention=false", lambda c: c.switch.attention, False),
        ("switch.anneal_rate=1e-6", lambda c: c.switch.anneal_rate, 1e-6),
        ("switch.anneal_rate=6E-4", lambda c: c.switch.anneal_rate, 6e-4),
        ("switch.temperature=3", lambda c: c.switch.temperature, 3),
        ("layer_norm_eps=1e-5", lambda c: c.layer_norm_eps, 1e-5),
        ("intermediate_size=48", lambda c: c.intermediate_size, 48),
        ("add_global_imgfeat=null", lambda c: c.add_global_imgfeat, None),
        ("add_global_imgfeat=last", lambda c: c.add_global_imgfeat, "last"),
        ("visual_target_weights.0=0.5", lambda c: c.visual_target_weights, {"0": 0.5}),
        ('visual_target_weights={"3": 2, "4": 1e-1}', lambda c: c.visual_target_weights, {"3": 2, "4": 0.1}),
        ("bert_model=some/folder=x", lambda c: c.bert_model, "some/folder=x"),
    ],
)  # fmt: skip
def test_overrides_set_any_field(override, read, value):
    base = {**SMALL, "intermediate_size": 48, "v_intermediate_size": 48, "add_global_imgfeat": "first", "switch": {}}
    found = read(load_config({**base, "visual_target_weights": {"0": 1.0}}, [override]))
    assert found == value and isinstance(found, type(value))


def test_later_overrides_win():
    assert load_config({**SMALL, "switch": {}}, ["switch.top_k=1", "switch.top_k=3"]).switch.top_k == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hidden_size", "expected key=value"),
        ("=3", "expected key=value"),
        ("hidden_act=[1, ", "not valid JSON or YAML"),
        ("hidden_size.x=3", "hidden_size is not a section"),
        ("switch.topk=2", r"unknown key switch\.topk; did you mean switch\.top_k\?"),
        ("hiden_size=3", r"unknown key hiden_size; did you mean hidden_size\?"),
        ("hidden_size=wide", "hidden_size: expected a whole number from 1 to 65536, found 'wide'"),
        ("hidden_size=1e3", r"hidden_size: expected a whole number from 1 to 65536, found 1000\.0"),
    ],
)  # fmt: skip
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(UserError, match=message):
        load_config({**SMALL, "switch": {}}, [override])


# --- Checking -----------------------------------------------------------------------------------------------------


def test_unknown_keys_suggest_the_nearest_known_one():
    assert "unknown key tt_attn_sublayer; did you mean tt_attn_sublayers?" in refused(tt_attn_sublayer=[0])
    assert "did you mean switch.temperature?" in refused(switch={"temprature": 1.0})
    assert "did you mean" not in refused(xyzzy=1) and "unknown key xyzzy" in refused(xyzzy=1)


def test_voltas_keys_of_models_not_built_here_are_read_at_their_defaults_only():
    config = load_config({**SMALL, "qa_task_weight": 0.0, "fixed_layers": [], "visualization": False})
    assert config == load_config(SMALL)
    assert "qa_task_weight: only 0.0 is supported, found 1.0" in refused(qa_task_weight=1.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "24"), ("hidden_size", 24.0), ("hidden_size", True), ("hidden_size", None),
        ("hidden_dropout_prob", "0.1"), ("hidden_act", 3), ("do_lower_case", 1), ("tt_attn_sublayers", "0"),
        ("tt_attn_sublayers", [0.0]), ("tt_attn_sublayers", 0), ("visual_target_weights", [1.0]),
        ("visual_target_weights", {"0": "1"}), ("sublayer2attn_hidden_size", {"0": 2.5}), ("switch", 3),
        ("switch", {"modes": "J"}), ("switch", {"top_k": 2.0}), ("switch", {"attention": "yes"}),
    ],
)  # fmt: skip
def test_wrong_types_are_named(key, value):
    name = f"switch.{next(iter(value))}" if isinstance(value, dict) and key == "switch" else key
    assert f"{name}: expected" in refused({key: value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t_ff_sublayers": [0, 1]}, "[0] are named both as attention and as feed-forward"),
        ({"t_ff_sublayers": [2], "v_ff_sublayers": [2]}, "from 0 to 1 without gaps: [1] are missing"),
        ({"tt_attn_sublayers": [0, -1]}, "tt_attn_sublayers: expected a list, each a whole number from 0"),
        ({key: [] for key in LAYER}, "no sublayers"),
        ({"vt_attn_sublayers": [], "vv_attn_sublayers": []}, "tv_attn_sublayers: in sublayers [0] the vision side"),
        ({"tt_attn_sublayers": [], "tv_attn_sublayers": []}, "vt_attn_sublayers: in sublayers [0] the text side"),
        ({"shared_sublayers": [0, 1, 2], "single_ln_sublayers": []}, "shared_sublayers: sublayers [2] do not exist"),
        ({"v_ff_sublayers": []}, "shared_sublayers: sublayers [1] do not exist for both"),
        ({"shared_sublayers": [0]}, "single_ln_sublayers: sublayers [1] are not shared"),
        ({"bert_layer2attn_sublayer": {"0": 1}}, "bert_layer2attn_sublayer: [1] are no such sublayers"),
        ({"bert_layer2ff_sublayer": {"0": 7}}, "bert_layer2ff_sublayer: [7] are no such sublayers"),
        ({"num_attention_heads": 5, "v_num_attention_heads": 5}, "width 24 is not a multiple of 5 heads"),
        ({"sublayer2attn_hidden_size": {"0": 48}}, "attention sublayer 0 joins text (48 wide"),
        ({"sublayer2v_num_attention_heads": {"0": 8}}, "attention sublayer 0 joins text (24 wide, 4 heads)"),
        ({"v_intermediate_size": 41}, "feed-forward sublayer 1 is shared"),
        ({"v_hidden_size": 28, "shared_sublayers": [], "single_ln_sublayers": [], "tv_attn_sublayers": [],
          "vt_attn_sublayers": []}, "must be equal where sublayers or embeddings are shared"),
        ({"fusion_method": "visualbert_nlvr2"}, "visualbert_nlvr2: image_embeddings: expected visualbert, found"),
        ({"fusion_method": "visualbert_nlvr2", "image_embeddings": "visualbert", "add_global_imgfeat": "first"},
         "add_global_imgfeat: expected null (VisualBERT has none), found 'first'"),
        ({"v_pooler_size": 21}, "pooler_size (20) and v_pooler_size (21) must be equal"),
        ({"route": ["SS"]}, "route: the sublayer lists spell ['J'], found ['SS']"),
        ({"route": ["J", "J"]}, "route: the sublayer lists spell ['J']"),
        ({"tv_attn_sublayers": [], "switch": {}}, "switch: a switched encoder needs VOLTA's single stream"),
        ({"shared_sublayers": [], "single_ln_sublayers": [], "switch": {}}, "switch: a switched encoder needs"),
    ],
)  # fmt: skip
def test_contradictory_sublayers_are_named(changes, message):
    assert message in refused(changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", "roberta"), ("image_embeddings", "vit"), ("fusion_method", "max"), ("hidden_act", "tanh"),
        ("v_hidden_act", "tanh"), ("num_locs", 6), ("add_global_imgfeat", "middle"),
        ("visual_target_weights", {"7": 1}),
    ],
)  # fmt: skip
def test_values_outside_their_choices_are_named(key, value):
    message = refused({key: value})
    assert f"{key}: expected" in message and message.endswith(f"found {value!r}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("modes", []), ("modes", ["J", "J"]), ("modes", ["X"]), ("input_candidates", 2), ("top_k", 0),
        ("alignment", "add"), ("hidden_size", 0), ("temperature", 0.0), ("min_temperature", -1.0),
        ("finetune_temperature", 0.0), ("anneal_rate", -1e-6),
    ],
)  # fmt: skip
def test_impossible_switch_settings_are_named(key, value):
    assert f"switch.{key}: expected" in refused(switch={key: value})


def test_a_block_that_is_switched_off_needs_the_joint_mode():
    assert "must hold J" in refused(switch={"attention": False, "modes": ["SS"]})


def test_vl_bert_needs_its_coordinates_and_a_third_type():
    fields = {"image_embeddings": "vl-bert", "v_feature_size": 16, "type_vocab_size": 3}
    assert "v_coordinate_embeddings_dim: expected v_feature_size / 8 = 2" in refused(fields)
    assert "type_vocab_size: expected 3 or more" in refused(fields, v_coordinate_embeddings_dim=2, type_vocab_size=2)
    assert load_config({**SMALL, **fields, "v_coordinate_embeddings_dim": 2}).v_coordinate_embeddings_dim == 2


def test_top_k_above_the_number_of_modes_means_all_of_them():
    assert SwitchConfig(modes=("SS", "J"), top_k=4).active_modes == 2


def test_the_mode_that_the_lists_spell_is_told():
    for mode, without in (("J", ()), ("SS", ("tv", "vt")), ("SC", ("tv", "vv")), ("CS", ("tt", "vt")), (None, ("tt",))):
        config = load_config({**SMALL, **{f"{pair}_attn_sublayers": [] for pair in without}})
        assert static_mode(config, 0) == mode


def test_configurations_are_frozen():
    config = load_config({**SMALL, "switch": {}})
    for target, name in ((config, "hidden_size"), (config.switch, "top_k")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(target, name, 1)
    assert isinstance(config.tt_attn_sublayers, tuple) and isinstance(config.switch.modes, tuple)


def test_defaults_are_voltas():
    values = {field.name: field.default for field in dataclasses.fields(Config)}
    assert values["hidden_size"] == 768 and values["v_pooler_size"] == 1024 and values["v_initializer_range"] == 0.2
