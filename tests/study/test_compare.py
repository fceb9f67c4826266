"""``volta-switch compare``: finished runs side by side, and what is refused; real runs on a tiny world."""

import csv
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from volta_switch import UserError, cli
from volta_switch.checksums import record_json
from volta_switch.statistics import estimate_difference
from volta_switch.study import compare
from volta_switch.study.compare import compare_runs
from volta_switch.study.row_differences import differing

QUICK = ("--batch_size", 16, "--num_epoch", 1, "--max_steps", 2, "--lr", 5e-3)
ARM = {"ctrl_uniter": {}, "switchbert": {}}


@pytest.fixture(scope="module")
def made(world, tmp_path_factory):
    """A folder as the examples leave it: pre-trainings, fine-tunings from them in two seeds, tests; read-only."""
    out = tmp_path_factory.mktemp("examples")
    runs, tests = out / "checkpoints" / "refcoco+", out / "results" / "refcoco+"
    for model in ARM:
        flags = ("--train_batch_size", 10, "--num_train_epochs", 1, "--max_steps", 1)
        start = world.run("train_concap", out / "checkpoints" / "concap", model, *flags)
        for seed in (0, 1):
            own = ("--seed", seed, "--save_name", f"seed{seed}")
            weights = ("--from_pretrained", start / "pytorch_model_best.bin")
            run = world.run("train_task", runs, model, *QUICK, *own, *weights, task="refer")
            tested = ("--from_pretrained", run / "pytorch_model_best.bin", "--split", "test", *own[2:])
            world.run("eval_task", tests, model, *tested, task="refer")
    return out


@pytest.fixture
def copied(made, tmp_path):
    """The same, moved to where its records do not know of; to be changed."""
    shutil.copytree(made, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.json"):
        if str(made) in path.read_text():
            record_json(path, json.loads(path.read_text().replace(str(made), "/before/out")))
    return tmp_path / "out"


def run_of(out, model, seed=0):
    return out / "checkpoints" / "refcoco+" / f"refcoco+_{model}-seed{seed}"


def results_of(out, model, seed=0):
    return out / "results" / "refcoco+" / f"refcoco+_{model}-seed{seed}"


def all_runs(out):
    return [run_of(out, model, seed) for model in ARM for seed in (0, 1)]


def json_of(path):
    return json.loads(Path(path).read_text())


def change(path, *keys, **values):
    """Writes other values into a section of a JSON file, as a run would have written them."""
    content = json_of(path)
    section = content
    for key in keys:
        section = section[key]
    section.update(values)
    record_json(path, content)


def compared(*folders, **how):
    return compare_runs([str(folder) for folder in folders], **how)


def refused(*folders, **how):
    with pytest.raises(UserError) as caught:
        compared(*folders, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Rows, columns and numbers --------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_one_row_with_the_mean_of_their_tests(made):
    found = compared(*all_runs(made))
    table = found.table
    assert [row.arm for row in table.rows] == ["ctrl_uniter", "switchbert"] and table.varies == ("the model",)
    assert [row.seeds for row in table.rows] == [(0, 1), (0, 1)]
    for row in table.rows:
        own = [json_of(results_of(made, row.arm, seed) / "test_metrics.json")["accuracy"] for seed in (0, 1)]
        assert row.scores[0].values == tuple(own)
        assert row.scores[0].mean == pytest.approx(np.mean(own)) and row.scores[0].std == pytest.approx(
            np.std(own, ddof=1)
        )
    (column,) = table.columns
    assert (column.task, column.metric, column.split, column.synthetic) == ("refcoco+", "accuracy", "test", True)
    assert table.notes == ("The rows differ in one thing: the model (switch).",) and not found.remarks


def test_differences_are_paired_by_seed_and_take_test_items_as_a_sample(made):
    (found,) = compared(*all_runs(made)).table.comparisons
    scores = [
        np.array([json_of(results_of(made, model, seed) / "test_metrics.json")["accuracy"] for seed in (0, 1)])
        for model in ARM
    ]
    assert found.estimate.value == pytest.approx(float((scores[1] - scores[0]).mean()), abs=0.01)
    assert (found.row, found.less) == ("switchbert", "ctrl_uniter")
    assert found.estimate.unit == "pair of seeds" and found.estimate.items == 10  # images


def test_without_the_data_differences_are_about_these_items_alone(copied):
    for model in ARM:
        for seed in (0, 1):
            change(run_of(copied, model, seed) / "run.json", "data", tasks_config_file="nowhere.yml")
    (found,) = compared(*all_runs(copied)).table.comparisons
    scores = [
        np.array([json_of(results_of(copied, model, seed) / "test_metrics.json")["accuracy"] for seed in (0, 1)])
        for model in ARM
    ]
    expected = estimate_difference(scores[1], scores[0])
    assert found.estimate.items == 0 and found.estimate.value == pytest.approx(expected.value)
    if not expected.problem:
        assert found.estimate.interval == pytest.approx(expected.interval())


def test_rows_of_other_seeds_are_compared_unpaired_and_that_is_said(made):
    found = compared(run_of(made, "ctrl_uniter", 0), run_of(made, "switchbert", 1))
    assert [row.seeds for row in found.table.rows] == [(0,), (1,)] and not found.table.comparisons
    assert any("other seeds, so that differences are not paired" in remark for remark in found.remarks)


def test_pretrainings_have_their_losses(made):
    folders = [made / "checkpoints" / "concap" / model for model in ARM]
    table = compared(*folders).table
    assert [column.metric for column in table.columns] == ["loss", "itm", "mlm", "vision"]
    for row, folder in zip(table.rows, folders, strict=True):
        last = json_of(folder / "metrics.json")["last_validation"]
        assert [score.mean for score in row.scores] == pytest.approx([last[c.metric] for c in table.columns])


def test_a_zero_shot_test_stands_beside_the_losses_of_its_pretraining(world, copied):
    start = copied / "checkpoints" / "concap" / "ctrl_uniter"
    flags = ("--from_pretrained", start / "pytorch_model_best.bin", "--split", "test", "--zero_shot")
    world.run("eval_retrieval", copied / "results" / "concap", "ctrl_uniter", *flags, task="retrieval")
    (tested,) = (copied / "results" / "concap").iterdir()
    table = compared(start).table
    metrics = json_of(tested / "test_metrics.json")
    found = {c.metric: score.mean for c, score in zip(table.columns, table.rows[0].scores, strict=True) if c.split}
    assert found == pytest.approx({name: metrics[name] for name in ("ir_r1", "tr_r1")})


# --- Where tests are found ------------------------------------------------------------------------------------------


def test_tests_are_found_below_the_working_directory_and_by_their_weights_wherever_they_lie(
    copied, tmp_path, monkeypatch
):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(copied / "results", tmp_path / "elsewhere" / "results")
    runs = all_runs(copied)
    assert compared(*runs).table.columns[0].split == ""
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert compared(*runs).table.columns[0].split == "test"
    monkeypatch.chdir(tmp_path)
    renamed = [
        path.rename(path.with_name(f"t{number}"))
        for number, path in enumerate(sorted((tmp_path / "elsewhere/results/refcoco+").iterdir()))
    ]
    assert compared(*runs, results=[str(path) for path in renamed]).table.columns[0].split == "test"
    assert "expected one of them" in refused(*runs[:3], results=[str(path) for path in renamed])


def test_a_folder_of_tests_stands_for_its_run_which_counts_once(made):
    run, test = run_of(made, "ctrl_uniter"), results_of(made, "ctrl_uniter")
    expected = compared(run).table
    assert replace(compared(test, run, run).table, rows=()) == replace(expected, rows=())
    assert [row.scores for row in compared(test, run, run).table.rows] == [row.scores for row in expected.rows]


def test_weights_without_a_training_are_compared_with_others_only_anyway(copied, tmp_path):
    for model in ARM:
        shutil.rmtree(run_of(copied, model))
    tests = [results_of(copied, model) for model in ARM]
    assert "nothing is known of its training" in compared(tests[0]).remarks[0]
    message = refused(*tests)
    assert "differ in 2 things: the training (not recorded, of weights" in message and "the model (switch)" in message
    assert [row.scores[0].mean for row in compared(*tests, anyway=True).table.rows] == [
        json_of(test / "test_metrics.json")["accuracy"] for test in tests
    ]


def test_without_a_test_there_is_validation_and_every_format_says_so(copied):
    shutil.rmtree(results_of(copied, "switchbert"))
    runs = [run_of(copied, model) for model in ARM]
    found = compared(*runs)
    assert [row.scores[0].mean for row in found.table.rows] == [
        json_of(run / "metrics.json")["best_validation"]["accuracy"] for run in runs
    ]
    assert found.table.columns[0].title.endswith("validation accuracy")
    assert any("its tests on test are left out" in remark for remark in found.remarks)
    for style in ("text", "md", "csv", "tex", "json"):
        text = found.text(style)
        assert "Validation only" in text and "switchbert-seed0" in text, style


def test_tests_of_other_weights_are_refused(copied):
    run = run_of(copied, "switchbert")
    shutil.copy(run_of(copied, "switchbert", 1) / "pytorch_model_best.bin", run / "other.bin")
    os.replace(run / "other.bin", run / "pytorch_model_best.bin")
    assert "not what was written" in refused(run)
    (run / "volta_switch.sums").unlink()  # as of a run that was made anew after its test
    message = refused(run)
    assert "test_metrics.json: results of other weights than" in message and "evaluate again" in message


def test_a_run_whose_weights_are_gone_keeps_the_tests_in_its_own_folder(copied):
    run = run_of(copied, "ctrl_uniter")
    (run / "pytorch_model_best.bin").unlink()
    assert "gone" in refused(run)
    (run / "volta_switch.sums").unlink()
    assert "results of other weights" in refused(run)
    for file in results_of(copied, "ctrl_uniter").glob("test_*"):
        shutil.move(file, run / file.name)
    found = compared(run)
    assert found.table.columns[0].split == "test" and "is gone, so that its tests" in found.remarks[0]


# --- One thing, two things ------------------------------------------------------------------------------------------


@pytest.fixture
def pair(copied):
    """Two runs of one model with equal settings and other seeds: (first, second), to be changed."""
    return [run_of(copied, "ctrl_uniter", seed) for seed in (0, 1)]


def things(*runs):
    return list(compared(*runs, anyway=True).table.varies)


@pytest.mark.parametrize(
    ("section", "value", "thing"),
    [
        (("hyperparameters",), {"learning_rate": 1.0}, "learning_rate"),
        (("hyperparameters",), {"weight_decay": 0.5}, "weight_decay"),
        (("settings",), {"deterministic": True}, "deterministic"),
        (("settings",), {"data_fraction": 0.5, "data_fraction_seed": 0}, "data_fraction"),
        (("settings", "entry"), {"max_seq_length": 9}, "max_seq_length"),
        (("data", "fingerprints", "vocabulary"), {"sha256": "0", "bytes": 1}, "the vocabulary"),
        (("data", "fingerprints", "train: features"), {"fingerprint": "0"}, "the data"),  # at the same path
        ((), {"precision": "bfloat16"}, "precision"),
        ((), {"results_version": 99}, "results_version"),
        ((), {"start": "random initial weights"}, "the start"),
    ],
)
def test_each_setting_is_one_thing(pair, section, value, thing):
    change(pair[1] / "run.json", *section, **value)
    assert things(*pair) == [thing]
    assert compared(*pair).table.varies == (thing,)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        (("settings",), {"data_fraction_seed": 7}),  # of a share that is all samples
        (("settings",), {"task": "TASK11"}),
        (("data",), {"dataroot": "elsewhere"}),
        ((), {"processes": 4, "parameters": 1}),
    ],
)
def test_what_decides_nothing_is_no_difference(pair, section, value):
    change(pair[1] / "run.json", *section, **value)
    assert things(*pair) == [] and len(compared(*pair).table.rows) == 1


def test_other_code_is_told(pair):
    change(pair[1] / "run.json", "environment", commit="another")
    found = compared(*pair)
    assert len(found.table.rows) == 1 and any("differ in commit" in remark for remark in found.remarks)


def test_two_things_are_refused_with_their_values_and_marked_anyway_in_every_format(pair):
    change(pair[1] / "run.json", "hyperparameters", learning_rate=0.25, weight_decay=0.5)
    message = refused(*pair)
    assert "differ in 2 things: learning_rate (0.005 for ctrl_uniter-seed0, 0.25 for ctrl_uniter-seed1)" in message
    assert "--anyway" in message
    found = compared(*pair, anyway=True)
    assert found.table.title == "Not a controlled comparison"
    for style in ("text", "md", "csv", "tex", "json"):
        text = found.text(style).replace("\\_", "_")
        assert all(word in text for word in ("Not a controlled", "learning_rate (0.005", "weight_decay (", "0.25")), (
            style
        )
    rows = list(csv.DictReader(io.StringIO(found.text("csv"))))
    assert len(rows) == 2 and all("learning_rate" in row["notes"] for row in rows)


def test_rows_that_differ_in_one_thing_each_and_not_in_the_same_are_refused(copied):
    runs = [run_of(copied, "ctrl_uniter", 0), run_of(copied, "ctrl_uniter", 1), run_of(copied, "switchbert", 0)]
    change(runs[1] / "run.json", "hyperparameters", learning_rate=0.25)
    assert compared(*runs[:2]).table.varies == ("learning_rate",)
    assert compared(runs[0], runs[2]).table.varies == ("the model",)
    assert "2 things" in refused(*runs)


def test_another_split_is_one_thing_with_its_data(pair):
    record = json_of(pair[1] / "run.json")
    record["settings"]["train_split"] = "trainval"
    prints = record["data"]["fingerprints"]
    record["data"]["fingerprints"] = {
        name.replace("train: ", "trainval: "): {**of, "bytes": 1} if name.startswith("train: ") else of
        for name, of in prints.items()
    }
    record_json(pair[1] / "run.json", record)
    assert things(*pair) == ["train_split"]


def test_a_setting_of_training_and_test_is_one_thing_and_one_of_the_test_alone_another(copied, pair):
    test = results_of(copied, "ctrl_uniter", 1) / "test_metrics.json"
    change(test, "of", volta_compat=True)
    assert things(*pair) == ["volta_compat of the test"]
    change(pair[1] / "run.json", "settings", volta_compat=True)
    assert things(*pair) == ["volta_compat"]
    change(test, "of", routing="soft")
    assert things(*pair) == ["volta_compat", "routing of the test"]


def test_a_test_with_another_configuration_is_a_thing_and_dropout_in_it_none(copied, pair):
    test = results_of(copied, "ctrl_uniter", 1) / "test_metrics.json"
    change(test, "of", "config", hidden_dropout_prob=0.9)
    assert things(*pair) == []
    change(test, "of", "config", num_locs=4)
    assert things(*pair) == ["the model of the test"]


def test_other_test_data_are_a_thing_unless_the_training_had_other_data_too(copied, pair):
    test = results_of(copied, "ctrl_uniter", 1) / "test_metrics.json"
    change(test, "of", "data", "test: features", fingerprint="0")
    assert things(*pair) == ["the data of the test"]
    change(pair[1] / "run.json", "data", "fingerprints", "train: features", fingerprint="0")
    assert things(*pair) == ["the data"]
    change(pair[1] / "config.json", v_feature_size=7)  # which follows from the features
    assert things(*pair) == ["the data"]


def test_the_pretraining_is_compared_and_another_start_follows_from_the_model(copied):
    runs = [run_of(copied, model) for model in ARM]
    assert things(*runs) == ["the model"]
    change(copied / "checkpoints" / "concap" / "switchbert" / "run.json", "hyperparameters", learning_rate=1.0)
    assert things(*runs) == ["the model", "learning_rate of pre-training"]
    assert "learning_rate of pre-training (0.0001" in refused(*runs)


def test_a_pretraining_that_was_made_anew_or_is_gone_is_not_compared_and_that_is_told(copied):
    runs = [run_of(copied, model) for model in ARM]
    starts = [copied / "checkpoints" / "concap" / model for model in ARM]
    change(starts[1] / "run.json", "hyperparameters", learning_rate=1.0)
    record = starts[1] / "pytorch_model_best.bin"
    shutil.copy(starts[0] / "pytorch_model_best.bin", record)
    sums = (starts[1] / "volta_switch.sums").read_text().splitlines()
    (starts[1] / "volta_switch.sums").write_text("\n".join(line for line in sums if "best.bin" not in line) + "\n")
    assert things(*runs) == ["the model", "the start"]  # one is known, one is not
    assert any("no longer what it started from" in remark for remark in compared(*runs, anyway=True).remarks)
    for start in starts:
        shutil.rmtree(start)
    assert things(*runs) == ["the model"]  # of another architecture: weights of its own
    assert any("where no run's record lies" in remark for remark in compared(*runs).remarks)
    first, second = (run_of(copied, "ctrl_uniter", seed) for seed in (0, 1))
    assert things(first, second) == []
    change(second / "run.json", origin={"kind": "file", "sha256": "0"}, start="weights from other.bin")
    assert things(first, second) == ["the start"]


def test_another_pretraining_seed_makes_another_seed_of_the_row(copied):
    first, second = (run_of(copied, "ctrl_uniter", seed) for seed in (0, 1))
    shutil.copytree(copied / "checkpoints" / "concap" / "ctrl_uniter", copied / "checkpoints" / "concap" / "again")
    again = copied / "checkpoints" / "concap" / "again"
    change(again / "run.json", "hyperparameters", seed=5)
    change(second / "run.json", start=f"weights from {again / 'pytorch_model_best.bin'}; left out: cls", origin=None)
    table = compared(first, second).table
    assert len(table.rows) == 1 and table.rows[0].seeds == (0, 1)
    change(second / "run.json", "hyperparameters", seed=0)
    assert len(compared(first, second).table.rows[0].seeds) == 2  # 0 after 0, and 0 after 5


# --- What is no finished run ----------------------------------------------------------------------------------------


def test_the_same_run_in_two_folders_is_refused(copied, tmp_path):
    run = run_of(copied, "ctrl_uniter")
    shutil.copytree(run, run.with_name("copy"))
    assert "the same run twice by all that they recorded (seed 0)" in refused(run, run.with_name("copy"))


def test_an_unfinished_run_is_refused(copied):
    run = run_of(copied, "ctrl_uniter")
    metrics = json_of(run / "metrics.json")
    record_json(run / "metrics.json", {**metrics, "finished": 1})  # taken up again for more steps
    assert "its training has not ended" in refused(run)
    record_json(run / "metrics.json", {name: of for name, of in metrics.items() if name != "finished"})
    assert "its training has not ended; finish it (the same command with --resume)" in refused(run, anyway=True)


def test_runs_of_other_tasks_are_no_table(made):
    runs = [run_of(made, "ctrl_uniter"), made / "checkpoints" / "concap" / "ctrl_uniter"]
    assert "is of refcoco+" in refused(*runs) and "ctrl_uniter of pre-training" in refused(*runs, anyway=True)


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "config.json"])
@pytest.mark.parametrize("content", ["{", "[]", '{"hyperparameters": 3}'])
def test_damaged_files_are_named(copied, name, content):
    run = run_of(copied, "ctrl_uniter")
    (run / name).write_text(content)
    assert name in refused(run)  # by its checksum
    (run / "volta_switch.sums").unlink()
    assert str(run) in refused(run)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"accuracy": "much", "of": {}}'])
def test_damaged_tests_are_named(copied, content):
    test = results_of(copied, "ctrl_uniter") / "test_metrics.json"
    (test.parent / "volta_switch.sums").unlink()
    test.write_text(content)
    assert "test_metrics.json" in refused(run_of(copied, "ctrl_uniter"))


def test_a_folder_above_runs_names_them(made, tmp_path):
    assert "give the runs in it" in refused(made / "checkpoints" / "refcoco+")
    assert "holds neither run.json" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "none")
    assert "--results names folders" in refused(run_of(made, "ctrl_uniter"), results=[str(tmp_path)])


def test_equal_runs_differ_in_nothing(made):
    run = compare.find_runs([str(run_of(made, "switchbert"))])[0]
    assert differing(run, run) == {}


# --- The command ----------------------------------------------------------------------------------------------------


def test_standard_output_has_the_table_alone(made, capsys):
    runs = [str(run_of(made, "ctrl_uniter", 0)), str(run_of(made, "switchbert", 1))]
    cli._run(["compare", *runs, "--format", "json"])
    out, err = capsys.readouterr()
    assert [row["arm"] for row in json.loads(out)["rows"]] == ["ctrl_uniter-seed0", "switchbert-seed1"]
    assert err and all(line.startswith("note: ") for line in err.splitlines())
