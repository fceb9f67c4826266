"""A plan is checked whole before anything runs, and gives every model the same flags."""

import shutil
from pathlib import Path

import pytest
import yaml

from volta_switch import UserError, load_config
from volta_switch.routes.commands import route_flags
from volta_switch.study.cells import ROUTES_FILE, Plan, places
from volta_switch.study.finished import begun_cells, finished_cells, note_begun, note_finished, plan_of
from volta_switch.study.plan import KEYS, load_study
from volta_switch.train import evaluation, finetuning, pretraining
from volta_switch.world import write_world

DEMO = Path(__file__).parents[2] / "studies" / "demo.yaml"
MINIMAL = {"models": ["demo/ctrl_uniter"], "tasks": {"TASK10": None}, "world": {}}


@pytest.fixture
def demo(world, tmp_path):
    """The demo's cells, planned over a small world's task file."""
    study = load_study(DEMO)
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    return study, Plan(study, tmp_path).cells


def without_the_model(command, stem):
    """A cell's command with the model's name, and the paths made from it, blanked out."""
    entry, arguments = command
    return entry, [argument.replace(f"demo/{stem}", "MODEL").replace(stem, "MODEL") for argument in arguments]


def test_every_model_of_the_demo_gets_the_same_flags(demo):
    study, plan = demo
    stems, routes = list(study.arms), [cell for cell in plan if cell.name.endswith(" routes")]
    assert [cell.arm for cell in routes] == ["switchbert"] * 3
    plan = [cell for cell in plan if cell not in routes]
    assert stems == ["switchbert", "ctrl_uniter", "ctrl_vilbert", "ctrl_lxmert"] and len(plan) == 4 * 4
    for task in {cell.work for cell in plan}:
        rows = {cell.arm: cell for cell in plan if cell.work == task}
        assert list(rows) == stems
        commands = [[without_the_model(command, stem) for command in rows[stem].commands] for stem in stems]
        assert all(other == commands[0] for other in commands[1:]), task


def test_every_command_of_the_demo_is_one_that_its_entry_point_takes(demo):
    flags = {
        "train_concap": pretraining.flags(),
        "train_task": finetuning.flags(),
        "eval_task": evaluation.flags("", 1),
        "eval_retrieval": evaluation.flags("", 1),
        "routes": route_flags(),
    }
    for cell in demo[1]:
        for entry, arguments in cell.commands:
            args = flags[entry].parse_args(arguments)
            assert args.seed == cell.seed and args.config_file == f"demo/{cell.arm}"
    entries = {cell.work: [entry for entry, _ in cell.commands] for cell in demo[1]}
    assert entries == {
        "": ["train_concap"], "TASK1": ["train_task", "eval_task"], "TASK10": ["train_task", "eval_task"],
        "TASK8": ["train_task", "eval_retrieval"],
        **{f"routes of TASK{number}": ["routes"] for number in (1, 10, 8)},
    }  # fmt: skip


def test_fine_tuning_waits_for_its_own_models_pretraining_and_starts_from_it(demo):
    for cell in demo[1]:
        stem = cell.arm
        if cell.name.endswith(" routes"):
            assert cell.needs == cell.name.removesuffix(" routes")
            continue
        if not cell.work:
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
    plan = Plan(study, tmp_path).cells
    assert [(cell.seed, cell.name) for cell in plan] == [(n, f"ctrl_uniter/seed{n}/refcoco+") for n in (3, 5)]
    for cell in plan:
        train = finetuning.flags().parse_args(cell.commands[0][1])
        vocabulary = [f"bert_model={tmp_path / 'world' / 'bert-world'}", "vocab_size=53"]
        assert train.set == ["hidden_dropout_prob=0.2", *vocabulary]
        assert train.seed == cell.seed and train.from_pretrained == "" and not cell.needs  # no pre-training planned
        assert evaluation.flags("", 1).parse_args(cell.commands[1][1]).split == "val"  # the task file's


def test_ones_own_data_are_named_in_the_plan(world, study_of):
    data = dict(zip(("--annotations_path", "--features_path"), world.data_flags("train_concap")[1::2], strict=True))
    paths = {"tasks_config_file": str(world.tasks_file), **{key[2:]: value for key, value in data.items()}}
    study = study_of({"models": ["demo/ctrl_uniter"], "tasks": {"10": None}, "data": paths})
    where = places(study, study.arms["ctrl_uniter"], Path("out"))
    assert where.tasks_config_file == world.tasks_file and str(where.features_path) == paths["features_path"]
    assert [cell.work for cell in Plan(study, Path("out")).cells] == ["TASK10"]
    with pytest.raises(UserError, match="data lacks features_path, annotations_path"):
        Plan(study_of({**MINIMAL, "world": None, "data": {"tasks_config_file": "t.yml"}}), Path("out"))


def test_what_ones_own_task_file_says_decides_what_a_run_is(world, study_of, tmp_path):
    tasks = tmp_path / "tasks.yml"
    paths = {"tasks_config_file": str(tasks), "features_path": "f", "annotations_path": "a"}
    study, keys = study_of({"models": ["demo/ctrl_uniter"], "tasks": {"TASK10": None}, "data": paths}), []
    for change in ({}, {"lr": 0.5}, {"dataroot": "elsewhere"}, {"num_epoch": 1}, {}):
        entries = yaml.safe_load(world.tasks_file.read_text())
        tasks.write_text(yaml.safe_dump({**entries, "TASK10": {**entries["TASK10"], **change}}))
        keys.append(Plan(study, tmp_path).cell("ctrl_uniter", 0, "TASK10").key)
    assert keys[0] == keys[-1] and len(set(keys)) == 4


@pytest.mark.parametrize(
    ("claim", "told"),
    [
        ({"task": "TASK1", "metric": "vqa_score"}, "task TASK1 is none of TASK10"),
        ({"task": "refcoco+", "metric": "acuracy"}, "refcoco+ has no metric acuracy; it has accuracy"),
    ],
)
def test_a_claim_about_what_its_table_does_not_have_is_refused_before_anything_runs(
    study_of, world, tmp_path, claim, told
):
    claim = {"text": "Better", "better": "first", "worse": "second", **claim}
    study = study_of({**SHARED, "arms": ARMS, "tables": {"t": {"claims": [claim]}}})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    with pytest.raises(UserError) as caught:
        Plan(study, tmp_path)
    assert str(caught.value).endswith(f"tables.t.claims: Better: {told}")


def test_a_folder_that_another_run_holds_is_left_alone(study_of, world, tmp_path):
    shutil.copytree(world.tasks_file.parent, tmp_path / "world", ignore=shutil.ignore_patterns("*.lmdb", "scenes"))
    study = study_of({**SHARED, "seeds": [0], "arms": ARMS})
    before = Plan(study, tmp_path).cell("first", 0, "TASK10")
    before.folder.mkdir(parents=True)
    note_finished(tmp_path, before, 1.0)
    changed = study_of({**SHARED, "seeds": [0], "arms": ARMS, "tasks": {"TASK10": {"train": {"lr": 0.5}}}})
    now = plan_of(changed, tmp_path).cell("first", 0, "TASK10")
    assert now.key != before.key and now.folder.name == before.folder.name
    row = f"seed0-{now.training[:8]}"
    assert now.name == f"first/{row}/refcoco+" and now.folder.parent.name == row
    train = finetuning.flags().parse_args(now.commands[0][1])
    assert train.output_dir == str(now.folder.parent)
    task = {**SHARED["tasks"]["TASK10"], "test": {"split": "val"}}
    tested = study_of({**SHARED, "seeds": [0], "arms": ARMS, "tasks": {"TASK10": task}})
    again = plan_of(tested, tmp_path).cell("first", 0, "TASK10")
    assert again.key != before.key and again.folder == before.folder  # trained already, to be tested otherwise
    now.folder.mkdir(parents=True)
    for note in (lambda: note_begun(tmp_path, now), lambda: note_finished(tmp_path, now, 2.0)):
        note()
        again = plan_of(changed, tmp_path).cell("first", 0, "TASK10")
        assert (again.name, again.folder) == (now.name, now.folder)
        assert plan_of(study, tmp_path).cell("first", 0, "TASK10") == before
    assert {done.seconds for done in finished_cells(tmp_path).values()} == {1.0, 2.0} and not begun_cells(tmp_path)


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
            {"tables": {"t": {"seeds": [0, 1]}}},
            "tables.t.seeds: expected how many of the seeds, 1 or more, found [0, 1]",
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
            {"world": None, "data": {"a": "b"}, "arms": {"x": {"model": "demo/switchbert", "world": {"images": 9}}}},
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
        ({"routes": {"arms": ["ctrl_uniter"], "seeds": 0}}, "seeds: expected how many, from the first, found 0"),
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


ARMS = {"first": {"model": "demo/switchbert"}, "second": {"model": "demo/switchbert"}}
SHARED = {
    "models": None,
    "tasks": {"TASK10": {"train": {"lr": 1e-3, "batch_size": 8}}},
    "world": {"images": 20},
    "pretraining": {"learning_rate": 1e-3, "train_batch_size": 64},
    "seeds": [0, 1],
}


def of_arms(other, **table):
    arms = {**ARMS, "second": {**ARMS["second"], **other}}
    return {**SHARED, "arms": arms, "tables": {"t": table}}


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


def test_arms_share_the_work_that_is_the_same(study_of, world, tmp_path):
    study = study_of(of_arms({"tasks": {"TASK10": {"train": {"lr": 3e-3}}}}, varies=["tasks"]))
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = Plan(study, tmp_path)
    assert [cell.name for cell in plan.cells] == [
        "first/seed0/pretraining", "first/seed0/refcoco+", "second/seed0/refcoco+",
        "first/seed1/pretraining", "first/seed1/refcoco+", "second/seed1/refcoco+",
    ]  # fmt: skip
    assert plan.cell("second", 1) is plan.cell("first", 1)
    train = finetuning.flags().parse_args(plan.cell("second", 1, "TASK10").commands[0][1])
    assert train.from_pretrained == str(tmp_path / "first" / "seed1" / "switchbert" / "pytorch_model_best.bin")
    assert train.output_dir == str(tmp_path / "second" / "seed1") and train.lr == 3e-3


def test_only_what_a_table_needs_is_run(study_of, world, tmp_path):
    tasks = {"TASK10": {}, "TASK1": {}}
    tables = {"a": {"arms": ["first"]}, "b": {"arms": ["second"], "tasks": ["TASK1"]}}
    arms = {**ARMS, "second": {**ARMS["second"], "set": ["switch.top_k=1"]}, "third": {"model": "demo/ctrl_lxmert"}}
    study = study_of({**SHARED, "tasks": tasks, "seeds": [0], "arms": arms, "tables": tables})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = Plan(study, tmp_path)
    assert [cell.name for cell in plan.cells] == [
        "first/seed0/pretraining", "second/seed0/pretraining", "first/seed0/VQA", "second/seed0/VQA",
        "first/seed0/refcoco+",
    ]  # fmt: skip
    assert plan.has("first", 0) and not plan.has("second", 0, "TASK10") and not plan.has("third", 0)
    of_one = Plan(study.only(["b"]), tmp_path)
    assert [cell.name for cell in of_one.cells] == ["second/seed0/pretraining", "second/seed0/VQA"]
    with pytest.raises(UserError, match="no table c; it has a, b"):
        study.only(["b", "c"])


def test_a_table_may_take_the_first_seeds_alone(study_of, world, tmp_path):
    tables = {"a": {"arms": ["first"], "tasks": ["TASK10"]}, "b": {"arms": ["first"], "tasks": ["TASK1"], "seeds": 1}}
    study = study_of({**SHARED, "tasks": {"TASK10": {}, "TASK1": {}}, "seeds": [5, 6], "arms": ARMS, "tables": tables})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    assert [cell.name for cell in Plan(study, tmp_path).cells] == [
        "first/seed5/pretraining", "first/seed5/VQA", "first/seed5/refcoco+",
        "first/seed6/pretraining", "first/seed6/refcoco+",
    ]  # fmt: skip
    assert [cell.seed for cell in Plan(study.only(["b"]), tmp_path).cells] == [5, 5]


def test_routes_are_reported_of_as_many_seeds_as_are_asked_for_and_of_what_a_table_needs(study_of, world, tmp_path):
    tasks = {"TASK10": {"test": {"split": "test", "batch_size": 9}}, "TASK8": {}, "TASK1": {}}
    tables = {"a": {"arms": ["first"], "tasks": ["TASK10", "TASK8"]}}
    routes = {"arms": ["first", "second"], "interventions": True, "samples": 40}
    study = study_of({**SHARED, "tasks": tasks, "arms": ARMS, "tables": tables, "routes": routes})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = Plan(study, tmp_path)
    _, _, _, refer, retrieval, *_ = plan.cells  # before the next seed's
    assert [refer.name, retrieval.name] == ["first/seed0/refcoco+ routes", "first/seed0/RetrievalFlickr30k routes"]
    assert refer.needs == "first/seed0/refcoco+" and plan.cell("first", 0, "routes of TASK10") is refer
    [(entry, arguments)] = refer.commands
    flags = route_flags().parse_args(arguments)
    assert entry == "routes" and (flags.split, flags.batch_size) == ("test", 9)
    assert (flags.interventions, flags.attention, flags.samples) == (True, False, 40)
    assert flags.from_pretrained == str(tmp_path / "first" / "seed0" / "refcoco+_switchbert" / "pytorch_model_best.bin")
    assert {place: cell.folder / ROUTES_FILE for place, cell in plan.route_cells().items()} == {
        ("first", 0, "TASK10"): Path(flags.out),
        ("first", 0, "TASK8"): tmp_path / "first" / "seed0" / "RetrievalFlickr30k_routes" / "routes.json",
    }
    more = study_of({**SHARED, "tasks": tasks, "arms": ARMS, "tables": tables, "routes": {**routes, "seeds": 2}})
    assert [place[1] for place in Plan(more, tmp_path).route_cells()] == [0, 0, 1, 1]


def test_each_world_has_a_folder_that_says_how_it_differs(study_of, world, tmp_path):
    study = study_of(of_arms({"world": {"text_depth": 2}}, varies=["world"]))
    for name in ("world", "world-text_depth-2"):
        (tmp_path / name).mkdir()
        shutil.copy(world.tasks_file, tmp_path / name)
    plan = Plan(study, tmp_path)
    assert len(plan.cells) == 8
    flags = pretraining.flags().parse_args(plan.cell("second", 0).commands[0][1])
    assert flags.annotations_path.startswith(str(tmp_path / "world-text_depth-2"))
    config = load_config(flags.config_file, flags.set)  # words spelt in three pieces need fewer of them
    write_world(tmp_path / "written", text_depth=2, images=20, eval_images=10, render=False, data_sets=["refer"])
    vocabulary = (tmp_path / "written" / "bert-world" / "vocab.txt").read_text().splitlines()
    assert config.vocab_size == len(vocabulary) != load_config(flags.config_file).vocab_size
