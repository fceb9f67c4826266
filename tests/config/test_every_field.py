"""Every field of a configuration has a range, and what lies outside is refused before anything is written."""

import dataclasses
import json

import pytest

from synthetic_world import ENTRY_POINTS, refusal
from volta_switch import Config, SwitchConfig, UserError, load_config
from volta_switch.config.checks import check_region_loss
from volta_switch.ranges import Range, Unread, range_of

NAN, INF, HUGE = float("nan"), float("inf"), 10**30
NUMBERS = [NAN, INF, -INF, -1, 1e30, HUGE, "", "text", "3", [], [3], True, {"0": 3}, 10**5000]
BAD = {  # by the field's type, whatever its bounds
    "int": [*NUMBERS, 0.5, 3.0],
    "float": NUMBERS,
    "bool": [NAN, 0, 1, -1, "", "text", "true", [], {}, None],
    "str": [NAN, 0, HUGE, "", [], ["gelu"], True, {"0": 3}, "nosuch\0"],
    "tuple": [NAN, 0, "", "text", "0", [NAN], [-1], [HUGE], [True], [None], [[0]], {"0": 0}, None, True],
    "Mapping": [
        *([], "", "text", 3, None, True, {"0": NAN}, {"0": INF}, {"0": -1}, {"0": HUGE}, {"0": True}),
        *({"0": "3"}, {"0": None}, {"0": [3]}, {"x": 1}, {"": 1}, {"-1": 1}, {"1.5": 1}, {"1e30": 1}),
    ],
    "SwitchConfig": [NAN, 0, "text", [], True],
}
FIELDS = {field.name: field for field in dataclasses.fields(Config)}
SWITCH = {f"switch.{field.name}": field for field in dataclasses.fields(SwitchConfig)}


def bad_values(field):
    """None is bad unless the type says so; a label of modes is a list like any other."""
    kind = str(field.type)
    found = BAD[kind.partition("[")[0].partition(" |")[0]]
    return found if "None" in kind else [*found, None]


def configured(name, value):
    """A shipped configuration with one field set, as its file would have it."""
    values = json.loads(json.dumps(load_config("demo/switchbert").to_dict()))
    target = values["switch"] if name.startswith("switch.") else values
    target[name.rpartition(".")[2]] = value
    return values


def test_every_field_has_a_range():
    for cls in (Config, SwitchConfig):
        assert all(isinstance(range_of(cls, field.name), Range) for field in dataclasses.fields(cls))


@pytest.mark.parametrize(("name", "field"), [*FIELDS.items(), *SWITCH.items()])
def test_values_outside_are_named(name, field):
    for value in bad_values(field):
        values = configured(name, None)
        (values["switch"] if name in SWITCH else values)[field.name] = value
        with pytest.raises(UserError) as caught:
            load_config(values)
        assert str(caught.value).startswith(f"config: {name}: ") and "found " in str(caught.value)
        assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*FIELDS, *SWITCH])
def test_an_entry_point_refuses_one_before_anything_is_written(world, tmp_path, capsys, name):
    field = {**FIELDS, **SWITCH}[name]
    text = '{"x": .nan}' if str(field.type).startswith("Mapping") else ".nan"
    argv = [*world.flags("train_concap", tmp_path / "out", "switchbert"), "--set", f"{name}={text}"]
    message = refusal(ENTRY_POINTS["train_concap"], argv, capsys)
    assert f"{name}" in message and ("found nan" in message or "found {'x': nan}" in message or "never read" in message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"hidden_dropout_prob": 2.0}', "hidden_dropout_prob: expected a number from 0 to below 1, found 2.0"),
        ('{"layer_norm_eps": -1}', "layer_norm_eps: expected a number above 0 to 1, found -1"),
        ('{"initializer_range": Infinity}', "initializer_range: expected a number above 0 to 10, found inf"),
        ('{"initializer_range": NaN}', "found nan"), ('{"layer_norm_eps": 0}', "above 0"),
        ('{"num_attention_heads": 0}', "num_attention_heads: expected a whole number from 1 to 4096, found 0"),
        ('{"vocab_size": 1e400}', "found inf"), ('{"hidden_size": ' + 5000 * "9" + "}", "5000 digits"),
        ('{"visual_target_weights": {"0": -1.0}}', "values a number from 0 to 1000000, found {'0': -1.0}"),
        ('{"fusion_act": "gelu"}', "fusion_act: expected one of relu, tanh, found 'gelu'"),  # VOLTA would take tanh
        ('{"itm_dim": 1}', "itm_dim: expected 2, found 1"), ('{"bert_model": ""}', "text that is not empty"),
        ('{"hidden_size": 24, "hidden_act": "gelu", "hidden_size": 48}', "hidden_size stands there twice"),
        ('{"switch": {"top_k": 1, "top_k": 2}}', "top_k stands there twice"),
        ('{"switch": ' + 10**5 * "[" + 10**5 * "]" + "}", "nested too deeply"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_are_one_line(tmp_path, text, said):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ") and said in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("hidden_act=2024-13-45", "month must be in 1..12"), ("hidden_size=" + 5000 * "9", "5000 digits"),
        ("hidden_act=" + 500 * "[" + 500 * "]", "nested too deeply"), ("switch={top_k: 1, top_k: 2}", "there twice"),
        ("visual_target_weights=[&a [*a]]", "inside what it stands for"), ("hidden_size=.nan", "found nan"),
    ],
)  # fmt: skip
def test_overrides_that_cannot_be_are_one_line(override, said):
    with pytest.raises(UserError, match=said) as caught:
        load_config("demo/switchbert", [override])
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


# --- Settings that nothing reads ----------------------------------------------------------------------------------


UNREAD = {
    "max_boxes": (100, "max_region_num"), "v_initializer_range": (0.5, "initializer_range"),
    "objective": (2, "--objective 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_what_nothing_reads_is_refused_unless_it_says_what_happens_anyway(name):
    value, instead = UNREAD[name]
    assert isinstance(range_of(Config, name), Unread)
    with pytest.raises(UserError, match=rf"{name}: is never read \(.*{instead}.*leave it out, found {value}"):
        load_config(configured(name, value))
    default = FIELDS[name].default
    assert getattr(load_config(configured(name, default)), name) == default
    for said in (value, default):  # who writes it expects something of it
        other = instead.replace(str(value), str(said))
        with pytest.raises(UserError, match=rf"--set {name}={said}: {name} is never read \(.*{other}.*leave it out"):
            load_config("demo/switchbert", [f"{name}={said}"])


def test_sizes_of_sublayers_that_have_none_are_refused():
    for key, number in (("attn_hidden_size", 99), ("num_attention_heads", 1), ("intermediate_size", 0)):
        for modality in ("", "v_"):
            values = configured(f"sublayer2{modality}{key}", {str(number): 4})
            with pytest.raises(UserError, match=rf"sublayer2{modality}{key}: \[{number}\] are no sublayers that have"):
                load_config(values)


def test_values_that_depend_on_others_are_checked():
    for name, value, said in (
        ("type_vocab_size", 1, "type_vocab_size: expected 2 or more for uniter, found 1"),
        ("pad_token_id", 10**6, "pad_token_id: expected below vocab_size"),
        ("v_coordinate_embeddings_dim", 8, "expected null for uniter, which has none, found 8"),
    ):
        with pytest.raises(UserError, match=said):
            load_config(configured(name, value))


@pytest.mark.parametrize("weights", [{}, {"0": 0.0}, {"0": 0, "6": 0}])
def test_pretraining_needs_a_visual_target_and_nothing_else_does(world, tmp_path, capsys, weights):
    changes = ["--set", f"visual_target_weights={json.dumps(weights)}"]
    argv = [*world.flags("train_concap", tmp_path / "out", "ctrl_uniter"), *changes]
    message = refusal(ENTRY_POINTS["train_concap"], argv, capsys)
    assert f"at least one target with a weight above 0 for pre-training, found {weights}" in message
    assert not list(tmp_path.iterdir())
    config = load_config("demo/ctrl_uniter", changes[1:])
    with pytest.raises(UserError, match="visual_target_weights"):
        check_region_loss(config)
    assert world.flags("train_task", tmp_path, "ctrl_uniter", "refer") and dict(config.visual_target_weights) == weights
