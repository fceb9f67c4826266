"""Every example script runs as it is written, in a process of its own, on the synthetic world and a small model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from synthetic_world import json_of, write_config
from train.run_ends import close_numbers
from volta_switch import load_config
from volta_switch.tasks import load_task

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.relative_to(ROOT / "examples").as_posix() for path in (ROOT / "examples").glob("*/*.sh"))
SHIPPED = sorted(path.relative_to(ROOT / "config").as_posix() for path in (ROOT / "config").rglob("*.json"))
RUNS = {
    "vqa": "VQA_tiny",
    "coco": "RetrievalCOCO_tiny",
    "flickr30k": "RetrievalFlickr30k_tiny",
    "refcoco": "refcoco_tiny",
    "refcoco+": "refcoco+_tiny",
    "refcocog": "refcocog_tiny",
    "nlvr2": "NLVR2_tiny",
    "snli_ve": "VisualEntailment_tiny",
    "gqa": "GQA_tiny",
}
KINDS = ("vqa", "flickr30k", "refcoco+")
OTHERS = [pytest.param(name, marks=pytest.mark.long) for name in RUNS if name not in KINDS]  # the same code again
TEST_FEATURES = "datasets/mscoco/resnet101_faster_rcnn_genome_imgfeats/volta/test_feat.lmdb"


def outputs_in_the_repository():
    """Where the scripts write unless told otherwise."""
    folders = [ROOT / name for name in ("checkpoints", "logs", "results")]
    return {folder: sorted(path.name for path in folder.iterdir()) for folder in folders if folder.exists()}


BEFORE = outputs_in_the_repository()


def shell(command, **environment):
    """Runs a command line from another folder than the repository; returns the finished process."""
    own = {"PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd="/", env={**os.environ, **own, **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def example(world, tmp_path_factory):
    """Runs an example script with small sizes: example("vqa/train", more flags) -> the folder of all outputs."""
    out = tmp_path_factory.mktemp("examples")
    places = {
        "MODEL": str(write_config(out / "tiny.json", world.config("switchbert"))),
        "OUT": str(out / "checkpoints"),
        "DATA": str(world.captions),
        "TASKS": str(world.tasks_file),
        "BERT": "",
    }

    def run(script, *flags, **changes):
        name, _, kind = script.partition("/")
        own = ["--logdir", out / "logs"] if kind == "train" else ["--output_dir", out / "results" / name]
        command = ["bash", ROOT / "examples" / f"{script}.sh", *own, *flags]
        done = shell([str(part) for part in command], **places | changes)
        assert done.returncode == 0, done.stderr
        return out

    return run


@pytest.fixture(scope="module")
def pretrained(example):
    """What concap/train.sh leaves: every other script starts from it."""
    out = example("concap/train", "--train_batch_size", "10", "--num_train_epochs", "1")
    run = out / "checkpoints" / "concap" / "tiny"
    assert (run / "pytorch_model_best.bin").is_file()
    return run


def test_concap_trains_and_is_tested_zero_shot(pretrained, example):
    record = json_of(pretrained / "run.json")
    assert record["start"] == "random initial weights" and record["hyperparameters"]["clip_grad_norm"] == 5.0
    out = example("concap/test")
    assert "ir_r1" in json_of(out / "results" / "concap" / "RetrievalFlickr30k_tiny" / "test_metrics.json")


@pytest.mark.parametrize("name", [*KINDS, *OTHERS])
def test_a_task_trains_from_concap_and_is_tested(pretrained, example, name):
    out = example(f"{name}/train", "--num_epoch", "1", "--batch_size", "20")
    record = json_of(out / "checkpoints" / name / RUNS[name] / "run.json")
    assert str(pretrained) in record["command"] and "--config_file" not in record["command"]  # which the folder says
    assert record["start"] == f"weights from {pretrained / 'pytorch_model_best.bin'}; left out: cls; fresh: clfs_dict"
    assert record["hyperparameters"]["weight_decay"] == 1e-4 and record["hyperparameters"]["clip_grad_norm"] == 1.0
    flags = ["--val_features_lmdbpath", TEST_FEATURES] if name == "vqa" else []
    assert example(f"{name}/test", *flags) == out
    metrics = json_of(out / "results" / name / RUNS[name] / "test_metrics.json")
    assert metrics["weights"] == str(out / "checkpoints" / name / RUNS[name] / "pytorch_model_best.bin")
    assert json_of(out / "results" / name / RUNS[name] / "test_result.json")
    assert outputs_in_the_repository() == BEFORE


def test_two_processes_fine_tune_to_the_metrics_of_one(pretrained, example):
    name = "nlvr2"  # whose consistency is over statements that lie on both
    flags = ("--num_epoch", "1", "--batch_size", "16", "--eval_batch_size", "9", "--deterministic")
    found = []
    for processes in (1, 2):
        out = example(f"{name}/train", *flags, "--save_name", f"of{processes}", PROCESSES=str(processes))
        run = out / "checkpoints" / name / f"{RUNS[name]}-of{processes}"
        assert json_of(run / "run.json")["processes"] == processes
        found.append(json_of(run / "metrics.json")["last_validation"])
    switchers = [metrics.pop("switchers") for metrics in found]
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    assert close_numbers(switchers[1], switchers[0], 1e-5)


def test_no_script_is_left_out():
    assert sorted(f"{name}/{kind}.sh" for name in ("concap", *RUNS) for kind in ("train", "test")) == SCRIPTS


@pytest.mark.parametrize("tasks", ["ctrl_trainval_tasks.yml", "ctrl_test_tasks.yml"])
def test_every_scripts_task_is_a_shipped_one(tasks):
    names = [run.removesuffix("_tiny") for run in RUNS.values()]
    assert [load_task(ROOT / "config_tasks" / tasks, name).name for name in names] == names


def test_a_model_is_chosen_by_its_name():
    done = shell(["bash", str(ROOT / "examples" / "refcoco+" / "train.sh"), "--help"], MODEL="ctrl_uniter_base")
    assert done.returncode == 0 and "--tasks_config_file" in done.stdout and not done.stderr


def test_config_is_another_name_of_config_file():
    done = shell([sys.executable, str(ROOT / "train_concap.py"), "--config", "switchbert.json", "--help"])
    assert done.returncode == 0 and "--config_file, --config PATH" in done.stdout


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_configuration_is_found_by_its_name(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    spellings = (name, name.removesuffix(".json"), ROOT / "config" / name)
    first, *others = (load_config(spelling) for spelling in spellings)
    assert all(other == first for other in others) and first.attention_sublayers


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_stop_at_the_first_error_and_name_their_usage(script):
    lines = (ROOT / "examples" / script).read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash" and "set -euo pipefail" in lines
    assert any(line.startswith("# Usage:") and script in line for line in lines)
    assert os.access(ROOT / "examples" / script, os.X_OK)
