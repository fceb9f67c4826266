"""Generated depths are architectures of the same kind, and those of the shipped depth are the shipped ones."""

import pytest

from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.study.arms import with_layers, with_text_layers
from volta_switch.study.planned_runs import PRETRAINING, Work
from volta_switch.study.run_plan import RunPlan
from volta_switch.train.flags import finetuning_flags, pretraining_flags

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


# --- Depth and BERT ---------------------------------------------------------------------------------------------------

STARTS = {"from_pretrained": "bert-base-uncased"}


@pytest.fixture
def planned(world, study_of, tmp_path):
    """Cells of arms that are pre-trained from a BERT, each a table of its own, and then fine-tuned."""

    def plan(arms, **pretraining):
        data = {"tasks_config_file": str(world.tasks_file), "features_path": "f", "annotations_path": "a"}
        tables = {name: {"arms": [name]} for name in arms}
        shared = {"tasks": {"TASK10": None}, "data": data, "pretraining": {**STARTS, **pretraining}}
        return RunPlan(study_of({**shared, "arms": arms, "tables": tables}), tmp_path)

    return plan


def flags_of(plan, arm, task=""):
    """The training command's flags of an arm."""
    entry, arguments = plan.run_of(arm, 0, Work.fine_tuning(task) if task else PRETRAINING).commands[0]
    return {"train_concap": pretraining_flags, "train_task": finetuning_flags}[entry]().parse_args(arguments)


def test_a_deeper_bert_may_start_the_arms_whose_plan_gives_their_depth_and_no_others(planned):
    shallow = {"model": "demo/ctrl_uniter", "layers": 2}
    plan = planned({
        "shipped": {"model": "demo/ctrl_uniter"},
        "shallow": shallow,
        "vilbert": {"model": "demo/ctrl_vilbert", "text_layers": 0},
        "tuned": {**shallow, "pretraining": False, "tasks": {"TASK10": {"train": STARTS}}},
        "random": {**shallow, "pretraining": {"from_pretrained": ""}},
    })  # fmt: skip
    allowed = {name: flags_of(plan, name).allow_deeper_bert for name in ("shipped", "shallow", "vilbert", "random")}
    assert allowed == {"shipped": False, "shallow": True, "vilbert": True, "random": False}
    tuned = flags_of(plan, "tuned", "TASK10")
    assert tuned.allow_deeper_bert and tuned.from_pretrained == "bert-base-uncased"
    assert not flags_of(plan, "shallow", "TASK10").allow_deeper_bert  # it starts from its own pre-training


def test_a_plan_may_say_so_by_the_flag_itself(planned):
    plan = planned({"own": {"model": "demo/ctrl_uniter"}}, allow_deeper_bert=True)
    assert flags_of(plan, "own").allow_deeper_bert


def test_a_cell_is_known_by_its_depth_however_the_plan_says_it(planned):
    overrides = with_layers(load_config("demo/ctrl_uniter"), 2)
    plan = planned({
        "by-depth": {"model": "demo/ctrl_uniter", "layers": 2},
        "by-fields": {"model": "demo/ctrl_uniter", "set": list(overrides)},
    })  # fmt: skip
    assert plan.run_of("by-depth", 0) is plan.run_of("by-fields", 0)
