"""A plan is checked whole before anything runs."""

import pytest

from study.small_plans import DEMO, MINIMAL, of_arms
from volta_switch import UserError
from volta_switch.study.plan import KEYS, load_study


def test_a_task_may_be_a_number_in_the_file(study_of):
    assert list(study_of({**MINIMAL, "tasks": {10: {"train": {"lr": 1e-3}}}}).tasks) == ["10"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ["x"]}, f"unknown key model; a study has {', '.join(KEYS)}"),
        ({"models": []}, "models is missing or empty; give models, or arms"),
        ({"arms": ["x"]}, "arms: expected a section of arms, found ['x']"),
        ({"arms": {"x": {"set": []}}}, "arms.x: expected a section with a model"),
        ({"arms": {"x/y": {"model": "demo/switchbert"}}}, "arms.x/y: a name is made of letters, digits"),
        ({"arms": {"ctrl_uniter": {"model": "demo/switchbert"}}}, "arms.ctrl_uniter has the name of a model"),
        ({"arms": {"x": {"model": "demo/switchbert", "lr": 1}}}, "arms.x: unknown key lr; an arm has model, layers"),
        ({"arms": {"x": {"model": "demo/switchbert", "set": ["a.b=1"]}}}, "a"),
        ({"arms": {"x": {"model": "demo/switchbert", "layers": "two"}}}, "arm x: layers: expected a number of layers"),
        ({"arms": {"x": {"model": "demo/switchbert", "seeds": [0.5]}}}, "arms.x: seeds: expected a list of int"),
        ({"tables": ["t"]}, "tables: expected a section of tables, found ['t']"),
        ({"tables": {"t": {"rows": []}}}, "tables.t: unknown key rows; a table has title, arms, tasks, varies"),
        ({"tables": {"t": {"arms": ["none"]}}}, "tables.t.arms: none is none of ctrl_uniter"),
        ({"tables": {"t": {"tasks": ["TASK1"]}}}, "tables.t.tasks: TASK1 is none of TASK10"),
        (
            {"tables": {"t": {"claims": [dict(text="t", better="a", worse="b", task="TASK10", metric="accuracy")]}}},
            "tables.t.claims: a is none of ctrl_uniter",
        ),
        (
            {"tables": {"t": {"seeds": "0, 1"}}},
            "tables.t.seeds: expected how many of the seeds, 1 or more, or a list of them, found '0, 1'",
        ),
        ({"routes": ["a"]}, "routes: expected a section of settings, found ['a']"),
        ({"routes": {"samples": 9}}, "routes: expected arms, a list of those whose routes are reported, found []"),
        ({"routes": {"arms": ["none"]}}, "routes: none is none of ctrl_uniter"),
        (
            {"routes": {"arms": ["ctrl_uniter"]}},
            "routes: ctrl_uniter switches nothing (demo/ctrl_uniter has no switch section)",
        ),
        ({"tables": {"t": {"varies": "model"}}}, "tables.t.varies: expected a list, found 'model'"),
        ({"tasks": None}, "tasks is missing or empty"),
        ({"models": "demo/ctrl_uniter"}, "models: expected a list of str, found 'demo/ctrl_uniter'"),
        ({"models": [1]}, "models: expected a list of str"),
        ({"seeds": [0, 1, 1]}, "seeds: one stands there twice in [0, 1, 1]; a seed is one run"),
        ({"arms": {"figures": {"model": "demo/switchbert"}}}, "arms.figures: the study keeps its own figures under"),
        ({"arms": {"world-2": {"model": "demo/switchbert"}}}, "arms.world-2: the study keeps its own world-2 under"),
        (
            {"arms": {"x": {"model": "demo/switchbert", "data": {"features_path": "f"}}}},
            "arms.x.data: the study has world, and so have its arms; leave data out",
        ),
        (
            {
                "world": None,
                "data": {"features_path": "b"},
                "arms": {"x": {"model": "demo/switchbert", "world": {"images": 9}}},
            },
            "arms.x.world: the study has data, and so have its arms; leave world out",
        ),
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
        ({"tables": {"t": {"flops": "paths"}}}, "tables.t.flops: expected true or false, found 'paths'"),
        (
            {"routes": {"arms": ["ctrl_uniter"], "seeds": 0}},
            "seeds: expected how many of the seeds, 1 or more, or a list of them, found 0",
        ),
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
        assert load_study(path).arms


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"pretraining": {"learning_rate": 2e-3}}, "pretraining.learning_rate is 0.001 for first and 0.002 for second"),
        ({"tasks": {"TASK10": {"train": {"batch_size": 16}}}}, "tasks.TASK10.train.batch_size is 8 for first and 16"),
        ({"world": {"images": 30}}, "world.images is 20 for first and 30 for second"),
        ({"pretraining": False}, "pretraining.learning_rate is 0.001 for first and None for second"),
    ],
)
def test_a_table_whose_arms_differ_in_what_it_does_not_vary_is_refused(study_of, other, named):
    with pytest.raises(UserError) as caught:
        study_of(of_arms(other))
    message = str(caught.value)
    assert "table t is confounded: " in message and named in message and "or name it under varies" in message
    key = named.split(" ")[0]
    assert study_of(of_arms(other, varies=[key.split(".")[0]])).tables[0].arms == ("first", "second")


def test_arms_with_other_seeds_are_compared_on_those_that_the_table_names(study_of):
    tables = {"t": {"arms": ["first", "second"], "seeds": [3, 1]}, "all": {"arms": ["first", "second"], "seeds": 1}}
    arms = {"first": {"model": "demo/ctrl_uniter"}, "second": {"model": "demo/switchbert", "seeds": [0, 1, 3]}}
    study = study_of({**MINIMAL, "models": None, "seeds": [0, 1, 2, 3], "arms": arms, "tables": tables})
    taken = {table.name: [table.seeds_of(arm) for arm in study.arms.values()] for table in study.tables}
    assert taken == {"t": [(3, 1)] * 2, "all": [(0,)] * 2}


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ([0, 7], "tables.t.seeds: first has no seed 7 (0, 1); add it to arms.first.seeds"),
        ([1, 1], "tables.t.seeds: 1 stands there twice; keep one of them"),
        ([], "or a list of them, found []"),
        ([True], "or a list of them, found [True]"),
        ([0.0], "or a list of them, found [0.0]"),
        (0, "1 or more, or a list of them, found 0"),
    ],
)
def test_seeds_that_a_table_cannot_take_are_refused(study_of, seeds, message):
    arms = {"first": {"model": "demo/ctrl_uniter"}}
    with pytest.raises(UserError) as caught:
        study_of({**MINIMAL, "models": None, "seeds": [0, 1], "arms": arms, "tables": {"t": {"seeds": seeds}}})
    assert message in str(caught.value)


def test_a_pilot_takes_the_place_of_a_tables_seeds_where_it_has_one(study_of):
    tables = {"t": {"arms": ["first"], "seeds": [3], "pilot": 2}, "other": {"arms": ["first"], "seeds": 1}}
    arms = {"first": {"model": "demo/ctrl_uniter"}}
    study = study_of({**MINIMAL, "models": None, "seeds": [0, 1, 3], "arms": arms, "tables": tables})
    for each, taken in ((study, {"t": (3,), "other": (0,)}), (study.pilot(), {"t": (0, 1), "other": (0,)})):
        assert {table.name: table.seeds_of(each.arms["first"]) for table in each.tables} == taken
    with pytest.raises(
        UserError, match=r"tables\.t\.pilot: first has no seed 9 \(0, 1\); add it to arms\.first\.seeds"
    ):
        study_of({**MINIMAL, "models": None, "seeds": [0, 1], "arms": arms, "tables": {"t": {"pilot": [9]}}})


def test_arms_of_a_table_have_the_same_seeds(study_of):
    with pytest.raises(UserError, match=r"table t is confounded: seeds is \[0, 1\] for first and \[0, 2\] for second"):
        study_of(of_arms({"seeds": [0, 2]}))
    with pytest.raises(UserError, match=r"tables.t.varies: arms are compared seed by seed, so that seeds cannot"):
        study_of(of_arms({"seeds": [0, 2]}, varies=["seeds"]))


def test_a_table_varies_one_field_of_the_model_and_no_other(study_of):
    varied = {"set": ["switch.input=false"]}
    assert study_of(of_arms(varied, varies=["model.switch.input"]))
    with pytest.raises(UserError, match=r"model.switch.attention is True for first and False for second"):
        study_of(of_arms({"set": ["switch.input=false", "switch.attention=false"]}, varies=["model.switch.input"]))


def test_an_arm_adds_to_what_the_study_says(study_of):
    arm = study_of(of_arms({"pretraining": {"learning_rate": 5.0}, "set": ["hidden_dropout_prob=0.3"]}, varies=[
        "pretraining", "model"
    ])).arms["second"]  # fmt: skip
    assert dict(arm.pretraining) == {"learning_rate": 5.0, "train_batch_size": 64}
    assert arm.overrides == ("hidden_dropout_prob=0.3",) and arm.seeds == (0, 1) and arm.world == {"images": 20}
