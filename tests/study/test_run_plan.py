"""A plan gives every model the same flags, runs each cell once, and knows it by what decides its outcome."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from study.small_plans import ARMS, DEMO, MINIMAL, SHARED, of_arms
from volta_switch import UserError, load_config
from volta_switch.routes import route_flags
from volta_switch.study import run_plan
from volta_switch.study.forecast import dry_run
from volta_switch.study.plan import load_study
from volta_switch.study.planned_runs import (
    PRETRAINING,
    ROUTES_FILE,
    Work,
    begun_runs,
    finished_runs,
    note_begun,
    note_finished,
)
from volta_switch.study.run_plan import RunPlan, plan_of
from volta_switch.study.study_data import places
from volta_switch.train.flags import evaluation_flags, finetuning_flags, pretraining_flags
from volta_switch.world import write_world


@pytest.fixture
def demo(world, tmp_path):
    """The demo's cells, planned over a small world's task file."""
    study = load_study(DEMO)
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    return study, RunPlan(study, tmp_path).runs


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
        "train_concap": pretraining_flags(),
        "train_task": finetuning_flags(),
        "eval_task": evaluation_flags(),
        "eval_retrieval": evaluation_flags(),
        "routes": route_flags(),
    }
    for cell in demo[1]:
        for entry, arguments in cell.commands:
            args = flags[entry].parse_args(arguments)
            assert args.seed == cell.seed
            model = args.config_file if entry == "train_concap" else args.from_pretrained
            assert model.endswith(cell.arm) and (entry == "train_concap") == (args.config_file is not None)
    entries = {cell.work: [entry for entry, _ in cell.commands] for cell in demo[1]}
    assert entries == {
        PRETRAINING: ["train_concap"],
        **{Work.fine_tuning(task): ["train_task", "eval_task"] for task in ("TASK1", "TASK10")},
        Work.fine_tuning("TASK8"): ["train_task", "eval_retrieval"],
        **{Work.routes(f"TASK{number}"): ["routes"] for number in (1, 10, 8)},
    }  # fmt: skip


def test_fine_tuning_waits_for_its_own_models_pretraining_and_starts_from_it(demo):
    for cell in demo[1]:
        stem = cell.arm
        if cell.name.endswith(" routes"):
            assert cell.needs == cell.name.removesuffix(" routes")
            continue
        if cell.work == PRETRAINING:
            assert cell.name == f"{stem}/seed0/pretraining" and not cell.needs
            continue
        assert cell.needs == f"{stem}/seed0/pretraining" and cell.name.startswith(f"{stem}/seed0/")
        train = finetuning_flags().parse_args(cell.commands[0][1])
        assert train.from_pretrained.endswith(f"{stem}/seed0/{stem}") and train.resume
        test = evaluation_flags().parse_args(cell.commands[1][1])
        assert test.from_pretrained == str(cell.folder) and test.split == "test"


def test_seeds_and_overrides_reach_every_command(world, study_of, tmp_path):
    study = study_of({**MINIMAL, "seeds": [3, 5], "set": ["hidden_dropout_prob=0.2"], "tasks": {"refcoco+": {}}})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = RunPlan(study, tmp_path).runs
    assert [(cell.seed, cell.name) for cell in plan] == [(n, f"ctrl_uniter/seed{n}/refcoco+") for n in (3, 5)]
    for cell in plan:
        train = finetuning_flags().parse_args(cell.commands[0][1])
        vocabulary = [f"bert_model={tmp_path / 'world' / 'bert-world'}", "vocab_size=53"]
        assert train.set == ["hidden_dropout_prob=0.2", *vocabulary]
        assert train.seed == cell.seed and train.from_pretrained == "" and not cell.needs  # no pre-training planned
        test = evaluation_flags().parse_args(cell.commands[1][1])
        assert test.split == "val" and test.set == vocabulary and test.config_file is None  # the folder says the rest


def test_an_arm_of_another_name_that_shares_a_pretraining_names_its_model(study_of, world, tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(load_config("demo/switchbert").to_dict()))
    arms = {"first": ARMS["first"], "second": {"model": str(tmp_path / "mine.json"), "set": [], "tasks": {}}}
    arms["second"]["tasks"] = {"TASK10": {"train": {"lr": 3e-3}}}
    study = study_of({**SHARED, "arms": arms, "tables": {"t": {"arms": [*arms], "varies": ["model", "tasks"]}}})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan, work = RunPlan(study, tmp_path), Work.fine_tuning("TASK10")
    assert plan.run_of("second", 0) is plan.run_of("first", 0)
    trained = {arm: finetuning_flags().parse_args(plan.run_of(arm, 0, work).commands[0][1]) for arm in arms}
    assert trained["first"].config_file is None and trained["second"].config_file == str(tmp_path / "mine.json")
    assert plan.run_of("second", 0, work).folder == tmp_path / "second" / "seed0" / "refcoco+_mine"


def test_ones_own_data_are_named_in_the_plan(world, study_of):
    data = dict(zip(("--annotations_path", "--features_path"), world.data_flags("train_concap")[1::2], strict=True))
    paths = {"tasks_config_file": str(world.tasks_file), **{key[2:]: value for key, value in data.items()}}
    study = study_of({"models": ["demo/ctrl_uniter"], "tasks": {"10": None}, "data": paths})
    where = places(study, study.arms["ctrl_uniter"], Path("out"))
    assert where.tasks_config_file == world.tasks_file and str(where.features_path) == paths["features_path"]
    assert [cell.work for cell in RunPlan(study, Path("out")).runs] == [Work.fine_tuning("TASK10")]
    with pytest.raises(UserError, match="data lacks features_path, annotations_path"):
        RunPlan(study_of({**MINIMAL, "world": None, "data": {"tasks_config_file": "t.yml"}}), Path("out"))


def test_what_ones_own_task_file_says_decides_what_a_run_is(world, study_of, tmp_path):
    tasks = tmp_path / "tasks.yml"
    paths = {"tasks_config_file": str(tasks), "features_path": "f", "annotations_path": "a"}
    study, keys = study_of({"models": ["demo/ctrl_uniter"], "tasks": {"TASK10": None}, "data": paths}), []
    for change in ({}, {"lr": 0.5}, {"dataroot": "elsewhere"}, {"num_epoch": 1}, {}):
        entries = yaml.safe_load(world.tasks_file.read_text())
        tasks.write_text(yaml.safe_dump({**entries, "TASK10": {**entries["TASK10"], **change}}))
        keys.append(RunPlan(study, tmp_path).run_of("ctrl_uniter", 0, Work.fine_tuning("TASK10")).key)
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
        RunPlan(study, tmp_path)
    assert str(caught.value).endswith(f"tables.t.claims: Better: {told}")


def refusal_by_dry_run(study, folder):
    with pytest.raises(UserError) as caught:
        dry_run(study, folder)
    assert not folder.exists()
    return str(caught.value)


@pytest.mark.parametrize("names", [("TASK10", "refcoco+"), ("10", "refcoco+"), ("1", "VQA")])
def test_a_task_under_two_names_is_refused_when_planned(study_of, tmp_path, names):
    study = study_of({**SHARED, "arms": ARMS, "tasks": {name: {} for name in names}})
    said = refusal_by_dry_run(study, tmp_path / "out")
    assert f"tasks: {names[0]} and {names[1]} are one task (TASK" in said


def test_a_claim_that_stands_there_twice_is_refused_when_planned(study_of, tmp_path):
    claim = {"text": "Better", "better": "first", "worse": "second", "task": "TASK10", "metric": "accuracy"}
    again = {**claim, "text": "Better by another name", "task": "refcoco+"}
    study = study_of({**SHARED, "arms": ARMS, "tables": {"t": {"claims": [claim, again]}}})
    assert "the table claims this twice (first minus second, refcoco+ accuracy)" in refusal_by_dry_run(
        study, tmp_path / "out"
    )


def test_a_flag_of_retrieval_alone_is_refused_for_other_tasks_and_kept_from_routes(study_of, world, tmp_path):
    kept = {"test": {"keep_scores": True}}
    routes = {"arms": ["first"]}
    study = study_of({**SHARED, "arms": ARMS, "tasks": {"TASK10": kept}})
    assert refusal_by_dry_run(study, tmp_path / "out").endswith("volta-switch evaluate has no flag --keep_scores")
    study = study_of({**SHARED, "arms": ARMS, "tasks": {"TASK8": kept}, "routes": routes})
    shutil.copytree(world.tasks_file.parent, tmp_path / "world", ignore=shutil.ignore_patterns("*.lmdb", "scenes"))
    plan = RunPlan(study, tmp_path)
    assert "--keep_scores" in plan.run_of("first", 0, Work.fine_tuning("TASK8")).commands[1][1]
    [routes_cell] = plan.route_runs().values()
    assert "--keep_scores" not in routes_cell.commands[0][1]


def test_a_folder_that_another_run_holds_is_left_alone(study_of, world, tmp_path):
    shutil.copytree(world.tasks_file.parent, tmp_path / "world", ignore=shutil.ignore_patterns("*.lmdb", "scenes"))
    study = study_of({**SHARED, "seeds": [0], "arms": ARMS})
    before = RunPlan(study, tmp_path).run_of("first", 0, Work.fine_tuning("TASK10"))
    before.folder.mkdir(parents=True)
    note_finished(tmp_path, before, 1.0)
    changed = study_of({**SHARED, "seeds": [0], "arms": ARMS, "tasks": {"TASK10": {"train": {"lr": 0.5}}}})
    now = plan_of(changed, tmp_path).run_of("first", 0, Work.fine_tuning("TASK10"))
    assert now.key != before.key and now.folder.name == before.folder.name
    row = f"seed0-{now.training[:8]}"
    assert now.name == f"first/{row}/refcoco+" and now.folder.parent.name == row
    train = finetuning_flags().parse_args(now.commands[0][1])
    assert train.output_dir == str(now.folder.parent)
    task = {**SHARED["tasks"]["TASK10"], "test": {"split": "val"}}
    tested = study_of({**SHARED, "seeds": [0], "arms": ARMS, "tasks": {"TASK10": task}})
    again = plan_of(tested, tmp_path).run_of("first", 0, Work.fine_tuning("TASK10"))
    assert again.key != before.key and again.folder == before.folder  # trained already, to be tested otherwise
    now.folder.mkdir(parents=True)
    for note in (lambda: note_begun(tmp_path, now), lambda: note_finished(tmp_path, now, 2.0)):
        note()
        again = plan_of(changed, tmp_path).run_of("first", 0, Work.fine_tuning("TASK10"))
        assert (again.name, again.folder) == (now.name, now.folder)
        assert plan_of(study, tmp_path).run_of("first", 0, Work.fine_tuning("TASK10")) == before
    assert {done.seconds for done in finished_runs(tmp_path).values()} == {1.0, 2.0} and not begun_runs(tmp_path)


def test_arms_share_the_work_that_is_the_same(study_of, world, tmp_path):
    study = study_of(of_arms({"tasks": {"TASK10": {"train": {"lr": 3e-3}}}}, varies=["tasks"]))
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = RunPlan(study, tmp_path)
    assert [cell.name for cell in plan.runs] == [
        "first/seed0/pretraining", "first/seed0/refcoco+", "second/seed0/refcoco+",
        "first/seed1/pretraining", "first/seed1/refcoco+", "second/seed1/refcoco+",
    ]  # fmt: skip
    assert plan.run_of("second", 1) is plan.run_of("first", 1)
    train = finetuning_flags().parse_args(plan.run_of("second", 1, Work.fine_tuning("TASK10")).commands[0][1])
    assert train.from_pretrained == str(tmp_path / "first" / "seed1" / "switchbert")
    assert train.output_dir == str(tmp_path / "second" / "seed1") and train.lr == 3e-3


def test_only_what_a_table_needs_is_run(study_of, world, tmp_path):
    tasks = {"TASK10": {}, "TASK1": {}}
    tables = {"a": {"arms": ["first"]}, "b": {"arms": ["second"], "tasks": ["TASK1"]}}
    arms = {**ARMS, "second": {**ARMS["second"], "set": ["switch.top_k=1"]}, "third": {"model": "demo/ctrl_lxmert"}}
    study = study_of({**SHARED, "tasks": tasks, "seeds": [0], "arms": arms, "tables": tables})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = RunPlan(study, tmp_path)
    assert [cell.name for cell in plan.runs] == [
        "first/seed0/pretraining", "second/seed0/pretraining", "first/seed0/VQA", "second/seed0/VQA",
        "first/seed0/refcoco+",
    ]  # fmt: skip
    assert plan.has("first", 0) and not plan.has("second", 0, Work.fine_tuning("TASK10")) and not plan.has("third", 0)
    of_one = RunPlan(study.only(["b"]), tmp_path)
    assert [cell.name for cell in of_one.runs] == ["second/seed0/pretraining", "second/seed0/VQA"]
    with pytest.raises(UserError, match="no table c; it has a, b"):
        study.only(["b", "c"])


def test_a_table_may_take_the_first_seeds_alone(study_of, world, tmp_path):
    tables = {"a": {"arms": ["first"], "tasks": ["TASK10"]}, "b": {"arms": ["first"], "tasks": ["TASK1"], "seeds": 1}}
    study = study_of({**SHARED, "tasks": {"TASK10": {}, "TASK1": {}}, "seeds": [5, 6], "arms": ARMS, "tables": tables})
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    assert [cell.name for cell in RunPlan(study, tmp_path).runs] == [
        "first/seed5/pretraining", "first/seed5/VQA", "first/seed5/refcoco+",
        "first/seed6/pretraining", "first/seed6/refcoco+",
    ]  # fmt: skip
    assert [cell.seed for cell in RunPlan(study.only(["b"]), tmp_path).runs] == [5, 5]


def test_routes_are_reported_of_as_many_seeds_as_are_asked_for_and_of_what_a_table_needs(study_of, world, tmp_path):
    tasks = {"TASK10": {"test": {"split": "test", "batch_size": 9}}, "TASK8": {}, "TASK1": {}}
    tables = {"a": {"arms": ["first"], "tasks": ["TASK10", "TASK8"]}, "b": {"arms": ["second"]}}
    routes = {"arms": ["first", "second"], "interventions": True, "samples": 40}
    study = study_of({**SHARED, "tasks": tasks, "arms": ARMS, "tables": tables, "routes": routes}).only(["a"])
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plan = RunPlan(study, tmp_path)
    _, _, _, refer, retrieval, *_ = plan.runs  # before the next seed's
    assert [refer.name, retrieval.name] == ["first/seed0/refcoco+ routes", "first/seed0/RetrievalFlickr30k routes"]
    assert refer.needs == "first/seed0/refcoco+" and plan.run_of("first", 0, Work.routes("TASK10")) is refer
    [(entry, arguments)] = refer.commands
    flags = route_flags().parse_args(arguments)
    assert entry == "routes" and (flags.split, flags.batch_size) == ("test", 9)
    assert (flags.interventions, flags.attention, flags.samples) == (True, False, 40)
    assert flags.from_pretrained == str(tmp_path / "first" / "seed0" / "refcoco+_switchbert")
    assert {place: cell.folder / ROUTES_FILE for place, cell in plan.route_runs().items()} == {
        ("first", 0, "TASK10"): Path(flags.out),
        ("first", 0, "TASK8"): tmp_path / "first" / "seed0" / "RetrievalFlickr30k_routes" / "routes.json",
    }
    more = {**SHARED, "tasks": tasks, "arms": ARMS, "tables": tables, "routes": {**routes, "seeds": 2}}
    more = study_of(more).only(["a"])
    assert [place[1] for place in RunPlan(more, tmp_path).route_runs()] == [0, 0, 1, 1]


def test_each_world_has_a_folder_that_says_how_it_differs(study_of, world, tmp_path):
    study = study_of(of_arms({"world": {"text_depth": 2}}, varies=["world"]))
    for name in ("world", "world-text_depth-2"):
        (tmp_path / name).mkdir()
        shutil.copy(world.tasks_file, tmp_path / name)
    plan = RunPlan(study, tmp_path)
    assert len(plan.runs) == 8
    flags = pretraining_flags().parse_args(plan.run_of("second", 0).commands[0][1])
    assert flags.annotations_path.startswith(str(tmp_path / "world-text_depth-2"))
    config = load_config(flags.config_file, flags.set)  # words spelt in three pieces need fewer of them
    write_world(tmp_path / "written", text_depth=2, images=20, eval_images=10, render=False, data_sets=["refer"])
    vocabulary = (tmp_path / "written" / "bert-world" / "vocab.txt").read_text().splitlines()
    assert config.vocab_size == len(vocabulary) != load_config(flags.config_file).vocab_size


def test_raising_the_results_version_makes_every_cell_another_one(study_of, world, tmp_path, monkeypatch):
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    study = study_of({**SHARED, "arms": ARMS, "routes": {"arms": ["first"]}})
    before = {cell.name: cell for cell in RunPlan(study, tmp_path).runs}
    monkeypatch.setattr(run_plan, "RESULTS_VERSION", 2)
    after = {cell.name: cell for cell in RunPlan(study, tmp_path).runs}
    assert before.keys() == after.keys() and {"first/seed0/pretraining", "first/seed0/refcoco+ routes"} <= after.keys()
    for name, cell in after.items():
        assert cell.key != before[name].key and cell.training != before[name].training


def test_cells_of_before_there_was_a_results_version_are_those_of_version_1(monkeypatch):
    parts = ["train_concap", {"hidden_size": 16}, {"learning_rate": 1e-3}, 0, {"seed": 0}]
    known = "d63540e7cedb4c7ef963def0525af793c762a5977a0becb1c51ceb7d2994adef"  # by the code of that time
    monkeypatch.setattr(run_plan, "RESULTS_VERSION", 1)
    assert run_plan._key(parts) == known
