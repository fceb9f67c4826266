"""``--world``: the same commands on a small world that they write by themselves, below runs/world and nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic_world import ENTRY_POINTS, json_of, log_of, refusal
from volta_switch import load_config
from volta_switch.command import run_command
from volta_switch.train import entry_points, world_runs
from volta_switch.train.needed_files import DATA_SETS
from volta_switch.train.world_runs import DATA, FOLDER, LOGS, RESULTS, RUNS

ROOT = Path(__file__).parents[2]
SMALL = ("--world", "--config", "demo/switchbert")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The world, written once: a folder that holds runs/world/data."""
    folder = tmp_path_factory.mktemp("world")
    before = Path.cwd()
    os.chdir(folder)
    try:
        world_runs._write_world()
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(written, tmp_path, monkeypatch):
    """A working directory of its own that has the world already."""
    shutil.copytree(written / DATA, tmp_path / DATA)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(entry, *flags):
    return ENTRY_POINTS[entry]([*SMALL, *map(str, flags)])


def outside(folder):
    """What a working directory holds beside the world's folder."""
    return [path.relative_to(folder) for path in folder.iterdir() if path.name != "runs"] + [
        path for path in (folder / "runs").iterdir() if path.name != "world"
    ]


def test_pretraining_takes_two_steps_from_random_weights(here, capsys):
    assert run("train_concap") == RUNS / "switchbert"
    said = capsys.readouterr().err
    assert said.startswith("--world: a small synthetic world (runs/world/data) in place of real data, random initial")
    assert "2 steps with batches of 8" in said and "all is written below runs/world" in said
    record = json_of(RUNS / "switchbert" / "run.json")
    assert record["start"] == "random initial weights" and record["hyperparameters"]["batch_size"] == 8
    assert [line["samples"] for line in log_of(RUNS / "switchbert", "train")] == [16]
    assert list((LOGS / "switchbert").iterdir()) and not outside(here)


@pytest.mark.parametrize("task", sorted(DATA_SETS))
def test_every_task_trains_and_is_tested_on_what_it_left(here, capsys, task):
    folder = run("train_task", "--task", task)
    assert folder == RUNS / f"{task}_switchbert" and log_of(folder, "train")[-1]["step"] == 2
    entry = "eval_retrieval" if task.startswith("Retrieval") else "eval_task"
    run(entry, "--task", task, "--split", "test")
    metrics = json_of(RESULTS / f"{task}_switchbert" / "test_metrics.json")
    assert metrics["weights"] == str(folder / "pytorch_model_best.bin") and not outside(here)
    assert capsys.readouterr().err.count("--world: ") == 2


def test_what_was_pretrained_is_fine_tuned_and_tested_zero_shot(here):
    start = run("train_concap") / "pytorch_model_best.bin"
    folder = run("train_task", "--task", "refcoco+", "--from_pretrained", start)
    assert json_of(folder / "run.json")["start"] == f"weights from {start}; left out: cls; fresh: clfs_dict"
    run("eval_retrieval", "--task", "8", "--zero_shot")
    assert json_of(RESULTS / "RetrievalFlickr30k_switchbert" / "val_metrics.json")["weights"] == str(start)


def test_flags_that_are_given_win(here):
    flags = ("--train_batch_size", 4, "--save_name", "mine", "--seed", 5)
    folder = run("train_concap", *flags, "--max_steps", 3)
    record = json_of(folder / "run.json")
    assert folder == RUNS / "switchbert-mine" and record["hyperparameters"]["seed"] == 5
    assert record["hyperparameters"]["batch_size"] == 4 and record["steps"] == 3
    folder = run(
        "train_concap", "--max_steps", 4, "--save_name", "mine", "--train_batch_size", 4, "--seed", 5, "--resume"
    )
    assert log_of(folder, "train")[-1]["step"] == 4


MODELS = sorted(path.stem for path in (ROOT / "config").glob("*.json"))


@pytest.mark.parametrize("model", MODELS)
def test_layers_and_widths_stay_the_configurations(here, model):
    args = world_runs.on_world(
        "train_concap", entry_points.ENTRY_POINTS["train_concap"].parser, ["--world", "--config", model]
    )
    own, found = load_config(model).to_dict(), load_config(model, args.set).to_dict()
    changed = {name for name in own if own[name] != found[name]}
    assert (
        changed <= {*world_runs.FIELDS, "v_coordinate_embeddings_dim"} and {"vocab_size", "v_feature_size"} <= changed
    )
    assert Path(found["bert_model"], "vocab.txt").read_text().count("\n") == found["vocab_size"]


@pytest.mark.parametrize(
    ("entry", "flags", "said"),
    [
        ("train_concap", ("--annotations_path", "a"), "--annotations_path: --world brings its own data"),
        ("train_concap", ("--features_path", "datasets/x"), "--features_path: --world brings"),
        (
            "train_concap",
            ("--output_dir", "checkpoints"),
            "--output_dir: --world brings its own data and writes to",
        ),
        ("train_concap", ("--logdir", "logs"), "--logdir: --world"),
        (
            "train_concap",
            ("--from_pretrained", "bert-base-uncased"),
            "--from_pretrained bert-base-uncased: --world",
        ),
        ("train_task", ("--from_pretrained", "checkpoints/x.bin"), "or from those of another run on the world"),
        ("train_task", ("--from_pretrained", "runs/world/../x.bin"), "leave out one of the two"),
        ("train_task", ("--tasks_config_file", "config_tasks/ctrl_trainval_tasks.yml"), "--tasks_config_file: --world"),
        ("train_task", ("--val_features_lmdbpath", "v.lmdb"), "--val_features_lmdbpath: --world"),
        ("eval_task", ("--val_annotations_jsonpath", "v.jsonl"), "--val_annotations_jsonpath: --world"),
        ("train_concap", ("--set", "vocab_size=30522"), "--set vocab_size: with --world it is the world's"),
        ("train_concap", ("--set", "bert_model=x"), "--set bert_model: with --world"),
        ("train_concap", ("--set", "visual_target_weights={}"), "visual_target_weights: expected at least one target"),
        ("train_task", ("--set", "hidden_dropout_prob=2"), "hidden_dropout_prob: expected a number from 0 to below 1"),
        ("eval_task", ("--threads", "100000"), "--threads: expected a whole number from 0 to 1024, found 100000"),
    ],
)
def test_flags_that_contradict_the_world_are_refused(tmp_path, monkeypatch, capsys, entry, flags, said):
    monkeypatch.chdir(tmp_path)
    task = () if entry == "train_concap" else ("--task", "10")
    assert said in refusal(ENTRY_POINTS[entry], [*SMALL, *task, *flags], capsys)
    assert not list(tmp_path.iterdir())  # nothing is written for a command that is refused


def test_a_test_before_training_says_what_to_run(here, capsys):
    with pytest.raises(SystemExit):
        run_command(ENTRY_POINTS["eval_task"], [*SMALL, "--task", "refcoco+"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(
        f"error: {RUNS}/refcoco+_switchbert/pytorch_model_best.bin: no such weight file; give one that"
    )
    assert "bash examples/refcoco+/train.sh --world" in line


def test_a_world_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    assert "runs/world: a file stands where a folder is needed" in refusal(ENTRY_POINTS["train_concap"], SMALL, capsys)


# --- In processes of their own --------------------------------------------------------------------------------------


def shell(folder, *command, **environment):
    own = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run(
        [str(word) for word in command], cwd=folder, env=own, capture_output=True, text=True, timeout=300
    )


@pytest.fixture
def checkout(here):
    """A checkout beside the package, with the world."""
    for name in ENTRY_POINTS:
        shutil.copy(ROOT / f"{name}.py", here)
    for name in ("config", "config_tasks", "examples"):
        shutil.copytree(ROOT / name, here / name)
    return here


def test_example_scripts_train_and_test_on_the_world(checkout):
    names = sorted(path.name for path in checkout.iterdir())
    for script in ("concap/train", "concap/test", "refcoco+/train", "refcoco+/test"):
        done = shell("/", "bash", checkout / "examples" / f"{script}.sh", "--world", MODEL="demo/switchbert")
        assert done.returncode == 0 and "runs/world" in done.stderr, done.stderr
    assert json_of(checkout / RUNS / "switchbert" / "run.json")["hyperparameters"]["batch_size"] == 8
    assert (checkout / RESULTS / "RetrievalFlickr30k_switchbert" / "test_metrics.json").is_file()
    assert (checkout / RESULTS / "refcoco+_switchbert" / "test_metrics.json").is_file()
    assert sorted(path.name for path in checkout.iterdir()) == names


def test_without_world_example_scripts_keep_the_papers_batch(checkout):
    """What --world leaves out of a command is there without it."""
    for script, words in (
        (
            "concap/train",
            ("--train_batch_size 256", "--resume", "--output_dir checkpoints/concap", "bert-base-uncased"),
        ),
        (
            "refcoco+/train",
            ("--output_dir checkpoints/refcoco+", "--resume", "ctrl_trainval_tasks.yml", "concap/switch"),
        ),
        (
            "refcoco+/test",
            ("--output_dir results/refcoco+", "ctrl_test_tasks.yml", "checkpoints/refcoco+/refcoco+_switchbert"),
        ),
    ):
        done = shell("/", "bash", checkout / "examples" / f"{script}.sh", "--seed", "7", PYTHON="echo")
        assert all(word in done.stdout for word in (*words, "--seed 7")), done.stdout
        world = shell("/", "bash", checkout / "examples" / f"{script}.sh", "--world", PYTHON="echo")
        assert not any(word in world.stdout for word in words) and "--world" in world.stdout


def test_processes_of_torchrun_share_a_run(checkout):
    shutil.rmtree(checkout / FOLDER)  # both find no world
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = shell(checkout, *launcher, "train_task.py", *SMALL, "--task", "refcoco+")
    assert done.returncode == 0 and done.stderr.count("--world: ") == done.stderr.count("next: ") == 1, done.stderr
    run = checkout / RUNS / "refcoco+_switchbert"
    assert json_of(run / "run.json")["processes"] == 2 and log_of(run, "train")[-1]["samples"] == 16
