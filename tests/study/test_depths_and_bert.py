"""A BERT from which an arm starts may be deeper than the model where the plan gives the model's depth."""

import pytest

from volta_switch import load_config
from volta_switch.config.depths import with_layers
from volta_switch.study.planned_runs import PRETRAINING, Work
from volta_switch.study.run_plan import RunPlan
from volta_switch.train.flags import finetuning_flags, pretraining_flags

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
