"""Flags of a study's file are checked when it is planned, by the parsers of the commands that will read them."""

import argparse

import pytest
import yaml

from study.small_plans import ARMS, DEMO, MINIMAL, SHARED, of_arms
from synthetic_world import refusal
from volta_switch import UserError
from volta_switch.cli import _run
from volta_switch.study.command_lines import as_flags, planned_command
from volta_switch.study.plan import load_study
from volta_switch.study.run_commands import FLAGS, parser_of

ENTRIES = tuple(FLAGS)
SECTIONS = {
    "train_concap": lambda given: {"pretraining": given},
    "train_task": lambda given: {"tasks": {"TASK10": {"train": given}}},
    "eval_task": lambda given: {"tasks": {"TASK10": {"test": given}}},
    "routes": lambda given: {"routes": {"arms": ["switchbert"], **given}},
}


def refused(study_of, changes):
    with pytest.raises(UserError) as caught:
        study_of({**MINIMAL, "models": ["demo/switchbert"], **changes})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def planned_flags(entry):
    return [name.removeprefix("--") for name in planned_command(entry, pretrained=True) if name.startswith("--")]


@pytest.mark.parametrize("entry", SECTIONS)
def test_no_flag_that_the_study_says_itself_can_be_given(study_of, entry):
    """``train: {seed: 77}`` once gave "15.0 ± 0.0 over 2 seeds", all of seed 77."""
    values = {"seed": 77, "set": ["top_k=1"], "resume": True}
    assert {"seed", "set", "output_dir", "config_file"} <= set(planned_flags(entry))
    for flag in planned_flags(entry):
        said = refused(
            study_of, {"pretraining": {"learning_rate": 1e-3}, **SECTIONS[entry]({flag: values.get(flag, "x")})}
        )
        assert f".{flag}" in said and f"the study says --{flag} to its runs itself" in said


@pytest.mark.parametrize("entry", SECTIONS)
def test_nor_under_another_name_or_one_that_takes_a_run_out_of_the_studys_hands(study_of, entry):
    for flag, value in {"config": "demo/ctrl_uniter", "save_name": "x", "world": True}.items():
        assert f".{flag}" in refused(study_of, SECTIONS[entry]({flag: value}))


@pytest.mark.parametrize(
    ("entry", "given", "said"),
    [
        (
            "train_task",
            {"nosuch": 1},
            "tasks.TASK10.train.nosuch (arm switchbert): volta-switch finetune has no flag --nosuch",
        ),
        ("train_task", {"num_epochs": 1}, "has no flag --num_epochs; did you mean num_epoch?"),
        ("train_task", {"see": 77}, "has no flag --see"),  # no abbreviations
        ("train_task", {"seed=77 --lr": 1}, "has no flag --seed=77 --lr"),
        ("train_task", {"help": True}, "has no flag --help"),
        (
            "train_task",
            {"lr": "fast"},
            "tasks.TASK10.train.lr (arm switchbert): expected a number from 0 to 100, found 'fast'",
        ),
        ("train_task", {"num_epoch": 2.5}, "num_epoch (arm switchbert): "),
        ("train_task", {"lr": [1e-3, 1e-4]}, "lr (arm switchbert): expected one value, found [0.001, 0.0001]"),
        ("train_task", {"lr": True}, "expected a value, found True"),
        ("train_task", {"lr": False}, "expected a value, found False"),  # else it would be left out
        ("train_task", {"lr": []}, "found []"),
        ("train_task", {"lr": {"first": 1}}, "expected a value, found {'first': 1}"),
        ("train_task", {"save_best_only": "yes"}, "expected true or false, found 'yes'"),
        ("train_task", {"adam_betas": [0.9, 0.98, "--seed", 77]}, "found [0.9, 0.98, '--seed', 77]"),
        ("train_task", {"train_split": "--resume"}, "found '--resume'"),
        ("train_task", {"data_fraction": 2}, "expected a number above 0 to 1, found 2"),
        (
            "train_task",
            {"data_fraction": 0.5, "data-fraction": 0.25},
            "the same flag as data-fraction, which is given, too",
        ),
        ("train_task", {"precision": "fp8"}, "invalid choice: 'fp8'"),
        ("train_task", {"eval_steps": 5}, "leave it out; it has no effect: validation follows every epoch"),
        ("train_concap", {"lr": 1e-3}, "pretraining.lr (arm switchbert): volta-switch pretrain has no flag --lr"),
        ("train_concap", {"objective": 7}, "expected one of 0, 1, 2, found"),
        ("train_concap", {"resume_file": "x"}, "leave it out; the study goes on from its runs' own checkpoints"),
        ("eval_task", {"lr": 1}, "tasks.TASK10.test.lr (arm switchbert): volta-switch retrieve has no flag --lr"),
        ("eval_task", {"shard": "1/2"}, "leave it out; the study scores all pairs"),
        ("eval_task", {"zero_shot": True}, "leave it out; the study tests what it has fine-tuned"),
        ("routes", {"sample": 9}, "routes.sample: volta-switch routes has no flag --sample; did you mean samples?"),
        ("routes", {"samples": -1}, "routes.samples: expected a whole number from 0 to"),
    ],
)
def test_unknown_flags_and_values_that_the_parser_refuses_are_named(study_of, entry, given, said):
    assert said in refused(study_of, SECTIONS[entry](given))


def test_what_an_arm_adds_is_checked_with_what_it_is_given(study_of):
    with pytest.raises(UserError, match=r"tasks.TASK10.train.seed \(arm second\): the study says --seed .*under seeds"):
        study_of(of_arms({"tasks": {"TASK10": {"train": {"seed": 3}}}}))
    elsewhere = {"TASK10": {"train": {"from_pretrained": "bert-base-uncased"}}}
    with pytest.raises(UserError, match=r"from_pretrained \(arm second\): the study says .*pretraining: false"):
        study_of(of_arms({"tasks": elsewhere}))
    varies = ["pretraining", "tasks.TASK10.train.from_pretrained"]
    study = study_of(of_arms({"tasks": elsewhere, "pretraining": False}, varies=varies))
    assert study.arms["second"].tasks["TASK10"].train["from_pretrained"] == "bert-base-uncased"
    with pytest.raises(UserError, match=r"arms.second.tasks: 10 is none of the study's tasks"):  # it would do nothing
        study_of(of_arms({"tasks": {10: {"train": {"lr": 5.0}}}}))


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_flag_of_the_shipped_studies_and_of_the_study_itself_is_known(entry):
    assert isinstance(parser_of(entry).ask(planned_command(entry, pretrained=True)), argparse.Namespace)


@pytest.mark.parametrize(
    "content",
    [
        "arms: {a: {model: demo/switchbert}, b: {model: demo/ctrl_uniter}, a: {model: demo/ctrl_vilbert}}",
        "arms:\n  a: {model: demo/switchbert}\n  'a': {model: demo/ctrl_vilbert}",
        "tasks: {TASK10: {train: {lr: 1}}, TASK1: {}, TASK10: {train: {lr: 2}}}",
        "tasks: {TASK10: {train: {lr: 1, num_epoch: 1, lr: 2}}}",
        "tasks: {10: {}, '10': {}}",
        "name: a\nname: b",
        "world: {images: 20, images: 30}",
    ],
)
def test_a_key_that_stands_there_twice_is_refused(tmp_path, content):
    (tmp_path / "study.yaml").write_text(content)
    with pytest.raises(UserError, match=r"study.yaml: .* stands there twice, in lines \d and \d, leave one out"):
        load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"seeds": 99}, "tables.t.seeds: 99, but first has 2 (0, 1); add seeds or take fewer"),
        ({"arms": ["first", "second", "first"]}, "tables.t.arms: first stands there twice; keep one of them"),
        ({"tasks": ["TASK10", "TASK10"]}, "tables.t.tasks: TASK10 stands there twice"),
        ({"varies": ["model", "model"]}, "tables.t.varies: model stands there twice"),
        ({"published": {"frist": {"refcoco+ accuracy": 1}}}, "tables.t.published: frist is none of first, second"),
    ],
)
def test_a_table_has_nothing_twice_and_no_more_than_there_is(study_of, table, said):
    with pytest.raises(UserError) as caught:
        study_of(of_arms({}, **table))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"set": ["switch.top_k=2", "switch.top_k=1"]}, "set: switch.top_k stands there twice"),
        ({"tasks": {"TASK10": {}, 10: {}}}, "tasks: 10 stands there twice"),
        ({"routes": {"arms": ["first", "first"]}}, "routes: arms: first stands there twice"),
        ({"routes": {"arms": ["first"], "seeds": 3}}, "routes: seeds: 3, but first has 2"),
        *(
            ({"routes": {"arms": ["first"], "seeds": wrong}}, "routes: seeds: expected how many of the seeds, 1 or")
            for wrong in (None, 0, True, [], "2", 1.5)
        ),
        ({"routes": {"arms": ["first"]}, "tables": {"t": {"arms": ["second"]}}}, "routes: first is in no table"),
        ({"world": None, "data": {"feature_path": "x"}}, "data: unknown key feature_path; it has tasks_config_file"),
    ],
)
def test_nor_has_the_rest_of_the_file(study_of, changes, said):
    with pytest.raises(UserError) as caught:
        study_of({**SHARED, "arms": ARMS, **changes})
    assert said in str(caught.value)


def test_false_and_null_leave_a_flag_out():
    given = {"lr": None, "save_best_only": False, "deterministic": True, "adam_betas": [0.9, 0.98]}
    assert as_flags(given) == ["--deterministic", "--adam_betas", "0.9", "0.98"]


def test_every_shipped_study_gives_flags_that_its_commands_take():
    for path in DEMO.parent.glob("*.yaml"):
        assert load_study(path).arms and yaml.safe_load(path.read_text())


@pytest.mark.parametrize(
    "content",
    [
        "world: {}\nmodels: [demo/ctrl_uniter]\nseeds: [0, 1]\ntasks: {TASK10: {train: {seed: 77}}}",
        "world: {}\nmodels: [demo/ctrl_uniter]\ntasks: {TASK10: {train: {nosuch: 1}}}",
        "world: {}\nmodels: [demo/ctrl_uniter]\ntasks: {TASK10: {}, refcoco+: {}}",
        "world: {}\nmodels: [demo/ctrl_uniter]\ntasks: {TASK10: {}}\ntables: {t: {seeds: 99}}",
        "world: {}\nmodels: [demo/ctrl_uniter]\ntasks: {TASK10: {}}\ntables: {t: {arms: [ctrl_uniter, ctrl_uniter]}}",
        "world: {}\narms: {a: {model: demo/ctrl_uniter}, a: {model: demo/switchbert}}\ntasks: {TASK10: {}}",
        "world: {}\nmodels: [demo/ctrl_uniter]\ntasks: {TASK10: {train: {lr: 1.0e-3, lr: 1.0e-4}}}",
    ],
)
@pytest.mark.parametrize("command", [["run", "--dry-run"], ["run"], ["table"], ["power"], ["export"]])
def test_every_command_refuses_a_wrong_plan_in_one_line_and_writes_nothing(tmp_path, capsys, content, command):
    (tmp_path / "study.yaml").write_text(content)
    refusal(_run, ["study", *command, tmp_path / "study.yaml", "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"set": ["bert_model=elsewhere"]}, "set: bert_model: the vocabulary is the world's; leave it out"),
        ({"set": ["vocab_size=99"]}, "set: vocab_size: the vocabulary is the world's; leave it out"),
        ({"seeds": [0, -1]}, "seeds: expected a whole number from 0 to 4294967295, found -1"),
        ({"seeds": [2**40]}, f"found {2**40}"),
        ({"minimum_effect": float("inf")}, "minimum_effect: expected points"),
    ],
)
def test_what_could_not_be_or_would_do_nothing_is_refused_when_planned(study_of, changes, said):
    assert said in refused(study_of, changes)


@pytest.mark.parametrize("name", ["../evil", "", "/tmp/x", " x", ".", "a\0b"])
def test_a_name_that_is_no_folders_needs_an_out(tmp_path, name, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**MINIMAL, "name": name}))
    assert "is no name of a folder below runs/" in refusal(_run, ["study", "run", "plan.yaml", "--dry-run"], capsys)
    _run(["study", "run", "plan.yaml", "--dry-run", "--out", "out"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.yaml"]
