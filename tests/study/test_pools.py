"""A study whose retrieval is tested in pools: planned, run, known by them, and set in tables."""

import shutil
from dataclasses import replace

import pytest
import yaml

from study.small_plans import MINIMAL
from synthetic_world import json_of
from volta_switch import UserError
from volta_switch.study.planned_runs import Work
from volta_switch.study.records import ReportedColumn
from volta_switch.study.report.intervals import _column_title
from volta_switch.study.run import run_study
from volta_switch.study.run_plan import RunPlan, plan_of
from volta_switch.study.study_data import blind_guesses
from volta_switch.study.table import make_tables
from volta_switch.study.written_tables import tables_text
from volta_switch.tasks.graded_items import ITEMS_TOLERANCE

POOL, TEST_IMAGES = 20, 40
FLICKR = Work.fine_tuning("TASK8")


@pytest.fixture
def planned(world, study_of, tmp_path):
    """The run of retrieval over a small world: planned(flags of its test, settings of the entry in the task file)."""
    shutil.copytree(world.path, tmp_path / "world", ignore=shutil.ignore_patterns("*.lmdb", "*.sums"))
    before = world.tasks_file.read_text()

    def plan(test, task="TASK8", **entry):
        entries = yaml.safe_load(before)
        entries[task] |= entry
        (tmp_path / "world" / "tasks.yml").write_text(yaml.safe_dump(entries))
        study = study_of({**MINIMAL, "tasks": {task: {"test": test}}})
        return RunPlan(study, tmp_path).run_of("ctrl_uniter", 0, Work.fine_tuning(task))

    return plan


def test_a_tests_pools_are_part_of_what_it_is_and_not_of_its_training(planned):
    runs = [planned({"split": "test", **pools}) for pools in ({}, {"pool_images": 5}, {"pool_images": 2})]
    runs += [planned({"split": "test"}, pool_images=5)]  # the entry of the task file says it
    assert len({run.key for run in runs}) == 4 and len({run.training for run in runs}) == 1
    assert planned({"split": "test"}).key == runs[0].key
    entry, arguments = runs[1].commands[1]
    assert entry == "eval_retrieval" and arguments[arguments.index("--pool_images") + 1] == "5"


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ({"split": "test", "pool_images": 4}, "test_ann.jsonl: 10 images are no whole number of pools of 4; give a"),
        ({"split": "test", "pool_images": [3]}, "test_ann.jsonl: 10 images are no whole number of pools of 3; give a"),
        (
            {"split": "test", "pool_images": 1},
            "tasks.TASK8.test.pool_images (arm ctrl_uniter): expected",
        ),
        ({"split": "test", "pool_images": True}, "expected a value, found True"),
    ],
)
def test_pools_that_cannot_be_are_refused_when_planned(planned, test, told):
    with pytest.raises(UserError) as raised:
        planned(test)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_pools_of_another_task_are_refused_when_planned(planned):
    with pytest.raises(UserError, match=r"refcoco\+: test: volta-switch evaluate has no flag --pool_images"):
        planned({"split": "test", "pool_images": 5}, "TASK10")


@pytest.fixture(scope="module")
def finished(plan, tmp_path_factory):
    """A study of retrieval in two pools of twenty images, of two seeds, and its folder; read-only."""
    from study.conftest import InThisProcess
    from volta_switch.study.plan import load_study

    folder = tmp_path_factory.mktemp("pools")
    tasks = {
        "TASK8": {
            "train": {"num_epoch": 1, "batch_size": 32, "lr": 5e-3},
            "test": {"split": "test", "pool_images": POOL},
        }
    }
    world = {**plan["world"], "test_images": TEST_IMAGES, "data_sets": ["concap", "retrieval"]}
    changes = {"models": ["demo/ctrl_uniter"], "routes": {}, "seeds": [0, 1], "pretraining": {}}
    values = {**plan, **changes, "world": world, "tasks": tasks}
    (folder / "plan.yaml").write_text(yaml.safe_dump({key: value for key, value in values.items() if value != {}}))
    study = load_study(folder / "plan.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("volta_switch.study.run.ProcessPoolExecutor", InThisProcess)
        run_study(study, folder / "out", jobs=1)
    return study, folder / "out"


def test_a_study_tests_within_pools_and_takes_captions_and_images_as_items(finished):
    study, folder = finished
    (table,) = make_tables(plan_of(study, folder)).tables
    of_columns = [(column.metric, column.split, column.pool_images) for column in table.columns]
    assert of_columns == [("ir_r1", "test", POOL), ("tr_r1", "test", POOL)]
    assert table.chance == (100 / POOL, 100 / POOL)
    run = plan_of(study, folder).run_of("ctrl_uniter", 0, FLICKR).folder
    metrics = json_of(run / "test_metrics.json")
    assert metrics["of"]["pool_images"] == POOL and metrics["ir_mean_rank"] <= POOL
    ranks = json_of(run / "test_ranks.json")
    assert [len(ranks[name]) for name in ("ir", "tr")] == [5 * TEST_IMAGES, TEST_IMAGES]
    for score, name in zip(table.rows[0].scores, ("ir_r1", "tr_r1"), strict=True):
        assert score.values[0] == metrics[name] and score.estimate.items == TEST_IMAGES
        assert abs(score.estimate.value - score.mean) < ITEMS_TOLERANCE
    assert "are about new seeds and new items" in table.intervals
    read = json_of(folder / "table.json")["tables"][0]["columns"]
    assert [column["pool_images"] for column in read] == [POOL, POOL]
    printed = tables_text(make_tables(plan_of(study, folder)))
    assert "5.0" in printed.splitlines()[3]  # the row of chance
    assert f"\n\nTested: retrieval (synthetic) on test, in pools of {POOL} images.\n\n" in printed


def test_finished_runs_are_known_and_those_of_other_pools_are_not(finished):
    study, folder = finished
    plan = plan_of(study, folder)
    arm = study.arms["ctrl_uniter"]
    flags = arm.tasks["TASK8"]
    written = {**flags.written, "test": {"split": "test", "pool_images": 10}}
    other = replace(study, arms={arm.name: replace(arm, tasks={"TASK8": replace(flags, written=written)})})
    done, changed = (each.run_of(arm.name, 0, FLICKR) for each in (plan, plan_of(other, folder)))
    assert done.folder == changed.folder and done.training == changed.training and done.key != changed.key


def test_a_blind_guess_is_one_image_of_a_pool(tmp_path):
    (tmp_path / "world.json").write_text('{"balance": {"retrieval": {"test": {"chance_r1": 0.001}}}}')
    columns = [ReportedColumn("RetrievalFlickr30k", "ir_r1", "h", "TASK8", "test", size) for size in (None, 100)]
    assert blind_guesses(tmp_path, columns) == (0.1, 1.0)


def test_a_reader_is_told_of_the_pools_beside_the_split():
    columns = [ReportedColumn("t", "m", "h", split="test", pool_images=size) for size in (None, 100)]
    assert [_column_title(column) for column in columns] == ["h (test)", "h (test, in pools of 100 images)"]
    assert [ReportedColumn.from_dict(column.to_dict()) for column in columns] == columns
    assert "pool_images" not in columns[0].to_dict()
