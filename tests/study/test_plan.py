"""A plan is checked whole before anything runs, and gives every model the same flags."""

import shutil
from pathlib import Path

import pytest

from volta_switch import UserError
from volta_switch.study.plan import KEYS, cells, load_study, places
from volta_switch.train import evaluation, finetuning, pretraining

DEMO = Path(__file__).parents[2] / "studies" / "demo.yaml"
MINIMAL = {"models": ["demo/ctrl_uniter"], "tasks": {"TASK10": None}, "world": {}}


@pytest.fixture
def demo(world, tmp_path):
    """The demo's cells, planned over a small world's task file."""
    study = load_study(DEMO)
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    return study, cells(study, places(study, tmp_path))


def without_the_model(command, stem):
    """A cell's command with the model's name, and the paths made from it, blanked out."""
    entry, arguments = command
    return entry, [argument.replace(f"demo/{stem}", "MODEL").replace(stem, "MODEL") for argument in arguments]


def test_every_model_of_the_demo_gets_the_same_flags(demo):
    study, plan = demo
    stems = [model.removeprefix("demo/") for model in study.models]
    assert stems == ["switchbert", "ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert"] and len(plan) == 4 * 4
    for task in {cell.task for cell in plan}:
        rows = {cell.model: cell for cell in plan if cell.task == task}
        assert list(rows) == list(study.models)
        commands = [[without_the_model(command, stem) for command in rows[f"demo/{stem}"].commands] for stem in stems]
        assert all(other == commands[0] for other in commands[1:]), task


def test_every_command_of_the_demo_is_one_that_its_entry_point_takes(demo):
    flags = {
        "train_concap": pretraining.flags(),
        "train_task": finetuning.flags(),
        "eval_task": evaluation.flags("", 1),
        "eval_retrieval": evaluation.flags("", 1),
    }
    for cell in demo[1]:
        for entry, arguments in cell.commands:
            args = flags[entry].parse_args(arguments)
            assert args.seed == cell.seed and args.config_file == cell.model
    entries = {cell.task: [entry for entry, _ in cell.commands] for cell in demo[1]}
    assert entries == {
        "": ["train_concap"], "TASK1": ["train_task", "eval_task"], "TASK10": ["train_task", "eval_task"],
        "TASK8": ["train_task", "eval_retrieval"],
    }  # fmt: skip


def test_fine_tuning_waits_for_its_own_models_pretraining_and_starts_from_it(demo):
    for cell in demo[1]:
        stem = cell.model.removeprefix("demo/")
        if not cell.task:
            assert cell.name == f"{stem}/seed0/pretraining" and not cell.needs
            continue
        assert cell.needs == f"{stem}/seed0/pretraining" and cell.name.startswith(f"{stem}/seed0/")
        train = finetuning.flags().parse_args(cell.commands[0][1])
        assert train.from_pretrained.endswith(f"{stem}/seed0/{stem}/pytorch_model_best.bin") and train.resume
        test = evaluation.flags("", 1).parse_args(cell.commands[1][1])
        assert test.from_pretrained.startswith(train.output_dir) and test.split == "test"


def test_seeds_and_overrides_reach_every_command(world, study_of, tmp_path):
    study = study_of({**MINIMAL, "seeds": [3, 5], "set": ["hidden_dropout_prob=0.2"], "tasks": {"refcoco+": {}}})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = cells(study, places(study, tmp_path))
    assert [(cell.seed, cell.name) for cell in plan] == [(n, f"ctrl_uniter/seed{n}/refcoco+") for n in (3, 5)]
    for cell in plan:
        train = finetuning.flags().parse_args(cell.commands[0][1])
        assert train.set == ["hidden_dropout_prob=0.2", f"bert_model={tmp_path / 'world' / 'bert-world'}"]
        assert train.seed == cell.seed and train.from_pretrained == "" and not cell.needs  # no pre-training planned
        assert evaluation.flags("", 1).parse_args(cell.commands[1][1]).split == "val"  # the task file's


def test_ones_own_data_are_named_in_the_plan(world, study_of):
    data = dict(zip(("--annotations_path", "--features_path"), world.data_flags("train_concap")[1::2], strict=True))
    paths = {"tasks_config_file": str(world.tasks_file), **{key[2:]: value for key, value in data.items()}}
    study = study_of({"models": ["demo/ctrl_uniter"], "tasks": {"10": None}, "data": paths})
    where = places(study, Path("out"))
    assert where.tasks_config_file == world.tasks_file and str(where.features_path) == paths["features_path"]
    assert [cell.task for cell in cells(study, where)] == ["TASK10"]
    with pytest.raises(UserError, match="data lacks features_path, annotations_path"):
        places(study_of({**MINIMAL, "world": None, "data": {"tasks_config_file": "t.yml"}}), Path("out"))


def test_a_task_may_be_a_number_in_the_file(study_of):
    assert list(study_of({**MINIMAL, "tasks": {10: {"train": {"lr": 1e-3}}}}).tasks) == ["10"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ["x"]}, f"unknown key model; a study has {', '.join(KEYS)}"),
        ({"models": []}, "models is missing or empty"),
        ({"tasks": None}, "tasks is missing or empty"),
        ({"models": "demo/ctrl_uniter"}, "models: expected a list of str, found 'demo/ctrl_uniter'"),
        ({"models": [1]}, "models: expected a list of str"),
        ({"seeds": 3}, "seeds: expected a list of int, found 3"),
        ({"set": "top_k=2"}, "set: expected a list of str"),
        ({"tasks": ["TASK10"]}, "tasks: expected a section of settings, found ['TASK10']"),
        ({"tasks": {"TASK10": ["lr"]}}, "tasks.TASK10: expected a section of settings"),
        ({"tasks": {"TASK10": {"train": "fast"}}}, "tasks.TASK10.train: expected a section of settings"),
        ({"tasks": {"TASK10": {"lr": 1}}}, "tasks.TASK10 has lr; expected train and test, each with flags"),
        ({"pretraining": 5}, "pretraining: expected a section of settings"),
        ({"world": {"picture": 1}}, "world has no picture; its parameters are seed, images"),
        ({"world": None}, "give either world (to write one) or data (where yours lie)"),
        ({"data": {"tasks_config_file": "t.yml"}}, "give either world (to write one) or data"),
        ({"models": ["demo/ctrl_unitor"]}, "did you mean demo/ctrl_uniter?"),
        ({"set": ["hidden_sice=3"]}, "did you mean hidden_size?"),
        ({"models": ["demo/ctrl_lxmert", "ctrl_lxmert"]}, "models has ctrl_lxmert twice"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(study_of, changes, message):
    with pytest.raises(UserError) as caught:
        study_of({**MINIMAL, **changes})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "not a YAML file"), (b"\xff\xfe\x01", "not a YAML file"), (b"- a", "expected keys name")],
)
def test_a_file_that_is_no_plan_is_named(tmp_path, content, message):
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(UserError, match=f"study.yaml: {message}") as caught:
        load_study(tmp_path / "study.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_plan_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml: no such study; shipped ones are in studies/"):
        load_study(tmp_path / "none.yaml")


def test_every_shipped_plan_loads():
    shipped = sorted(DEMO.parent.glob("*.yaml"))
    assert DEMO in shipped
    for path in shipped:
        assert load_study(path).models
