"""The first command that somebody types: the real scripts, in a fresh checkout without data, network or PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import HubServer
from synthetic_world import write_config
from volta_switch.train.entry_points import ENTRY_POINTS

ROOT = Path(__file__).parents[1]
TRAINVAL = ("--tasks_config_file", "config_tasks/ctrl_trainval_tasks.yml")
HEAVY = ("torch", "numpy", "scipy")
CPU_SECONDS = 2.0
# Run by every process at its start: writes down at its end what it imported, and how long it computed.
WATCH = f"""
import atexit, json, os, sys, time

def say():
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    with open(os.environ["WATCHED"], "a") as file:
        file.write(json.dumps([sys.argv[0], heavy, time.process_time()]) + "\\n")

atexit.register(say)
"""


@pytest.fixture
def hub(tmp_path):
    """A hub that never answers: whoever waits for it fails."""
    made = HubServer(tmp_path)
    made.fault = "silent"
    yield made
    made.stop()


@pytest.fixture
def checkout(tmp_path):
    """What a clone holds beside the package."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ENTRY_POINTS:
        shutil.copy(ROOT / f"{name}.py", folder)
    for name in ("config", "config_tasks", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    return folder


@pytest.fixture
def typed(checkout, hub):
    """typed(words) -> the finished command; checks what it imported, how long it computed, and who was asked."""

    def run(*words, asks=False, **environment):
        watched = checkout.parent / "watched.jsonl"
        watched.write_text("")
        own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        own |= {"PYTHONPATH": os.pathsep.join([str(checkout.parent / "watch"), str(ROOT)]), "WATCHED": str(watched)}
        own |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(checkout.parent / "hf"), "HF_HUB_ETAG_TIMEOUT": "1"}
        own |= {"PYTHON": sys.executable, "NO_PROXY": "127.0.0.1", **environment}
        command = [sys.executable, *words] if words[0].endswith(".py") else words
        done = subprocess.run(
            [str(word) for word in command], cwd=checkout, env=own, capture_output=True, text=True, timeout=120
        )
        for _, heavy, seconds in map(json.loads, watched.read_text().splitlines()):
            assert heavy == [] and seconds < CPU_SECONDS
        assert watched.read_text() and "Traceback" not in done.stderr and bool(hub.asked) == asks
        return done

    return run


def refused(done):
    """The lines of a command that was refused."""
    assert done.returncode == 2 and done.stdout == "", done.stderr
    first, *others = done.stderr.splitlines()
    assert first.startswith("error: ") and all(line.startswith("  ") for line in others)
    return [first.removeprefix("error: "), *(line.strip() for line in others)]


def test_pretraining_in_a_fresh_checkout(typed):
    lines = refused(typed("train_concap.py", "--config", "switchbert.json"))
    assert lines[0].startswith("datasets/conceptual_captions/annotations/caption_train.json: no such file or folder")
    assert "https://sid.erda.dk/sharelink/hPGl0eTED3" in lines[0] and "e-bug/volta/tree/main/data" in lines[0]
    assert [line.rsplit("/", 1)[-1] for line in lines[1:4]] == [
        "caption_valid.json", "training_feat_all.lmdb", "validation_feat_all.lmdb"
    ]  # fmt: skip
    assert lines[4].startswith("then BERT's vocabulary and weights: bert-base-uncased is neither a folder here nor in")
    assert lines[5].startswith("--world tries the command") and len(lines) == 6


def test_the_example_of_refcoco_in_a_fresh_checkout(typed):
    lines = refused(typed("bash", "examples/refcoco+/train.sh"))
    assert lines[0].startswith("datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p: no such file")
    assert "https://sid.erda.dk/sharelink/eEqyrN1IVs" in lines[0]
    assert lines[1].endswith("instances.json") and lines[2].endswith("refcoco+_unc_dets36_feat.lmdb")
    assert lines[3].startswith("then the vocabulary: bert-base-uncased")
    assert lines[4].startswith("then weights: checkpoints/concap/switchbert: no such model's folder")
    assert "bash examples/concap/train.sh" in lines[4] and lines[5].startswith("--world") and len(lines) == 6


def test_the_command_that_makes_weights_is_that_of_the_model(typed):
    lines = refused(typed("bash", "examples/vqa/test.sh", MODEL="ctrl_uniter_base"))
    assert "MODEL=ctrl_uniter_base bash examples/vqa/train.sh" in lines[-2]
    assert lines[0].startswith("datasets/vqa/annotations/trainval_ans2label.pkl")


@pytest.mark.parametrize("entry", ENTRY_POINTS)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--config", "switchbrt"), "config switchbrt: no such file or name; did you mean switchbert?"),
        (("--set", "hidden_sise=3"), "unknown key hidden_sise; did you mean hidden_size?"),
    ],
)
def test_an_unknown_configuration_is_told_at_once(typed, entry, flags, said):
    task = () if entry == "train_concap" else ("--task", "8")
    (line,) = refused(typed(f"{entry}.py", *task, *flags))
    assert said in line


@pytest.mark.parametrize("entry", ["train_task", "eval_task", "eval_retrieval"])
def test_an_unknown_task_is_told_at_once(typed, entry):
    (line,) = refused(typed(f"{entry}.py", "--task", "refcoko"))
    assert "no task 'refcoko'; did you mean refcoco?" in line


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_help_and_bad_flags_need_no_pytorch(typed, entry):
    done = typed(f"{entry}.py", "--help")
    assert done.returncode == 0 and "--world" in done.stdout and not done.stderr
    done = typed(f"{entry}.py", "--bad-flag")
    assert done.returncode == 2 and done.stderr.startswith("error: unknown flag --bad-flag")


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("train_concap.py", "--features_path", "https://nowhere.example/shards"), "caption_train.json"),
        (("train_task.py", "--task", "8", "--train_annotations_jsonpath", "mine.jsonl"), "mine.jsonl"),
        (("train_task.py", "--task", "GQA", "--train_features_lmdbpath", "mine.lmdb"), "trainval_ans2label.pkl"),
        (("eval_retrieval.py", "--task", "7", "--split", "test1k"), "datasets/mscoco/annotations/test1k_ann.jsonl"),
        (("eval_task.py", "--task", "12", "--split", "test"), "datasets/nlvr2/annotations/test.jsonl"),
        (
            ("eval_task.py", "--task", "13", "--val_features_lmdbpath", "v.lmdb"),
            "datasets/snli_ve/annotations/dev.jsonl",
        ),
    ],
)
def test_what_flags_override_is_looked_for_in_its_place(typed, words, missing):
    done = refused(typed(*words))
    assert done[0].split(": ")[0].endswith(missing)
    if words[-1].startswith("https"):
        assert "feat_all" not in "".join(done)
    if words[-1].endswith(".lmdb"):
        assert f"not there, either: {words[-1]}" in done


@pytest.fixture
def data(checkout, world):
    """The synthetic world's data where the shipped task file looks for them."""
    (checkout / "datasets").symlink_to(world.path / "datasets")
    return checkout


def test_a_bert_that_cannot_be_had_is_one_line_after_a_bounded_wait(typed, hub, data):
    (line,) = refused(typed("train_task.py", "--task", "refcoco+", asks=True))
    assert line.startswith(
        "bert-base-uncased: neither a folder with vocab.txt nor a model that the hub could deliver ("
    )
    assert "did not answer within 1 seconds" in line and "--set bert_model=FOLDER" in line
    assert "--from_pretrained FOLDER" in line
    assert hub.asked == {"HEAD vocab.txt": 1}


def test_weights_come_after_the_vocabulary(typed, hub, data, world):
    bert = ("--set", f"bert_model={world.path / 'bert-world'}")
    (line,) = refused(typed("train_task.py", "--task", "refcoco+", *bert, asks=True))
    assert "neither a folder with model.safetensors" in line and hub.asked == {"HEAD model.safetensors": 1}


@pytest.mark.parametrize("start", ["none.bin", "empty"])
def test_weights_that_are_not_there_are_told_at_once(typed, data, world, start):
    (data / "empty").mkdir()
    bert = ("--set", f"bert_model={world.path / 'bert-world'}")
    (line,) = refused(typed("train_task.py", "--task", "refcoco+", *bert, "--from_pretrained", start))
    assert line.startswith(f"{start}: ") and ("no such weight file" in line or "holds neither" in line)


def test_a_command_with_all_its_files_goes_on_to_pytorch(checkout, world, tmp_path):
    """The rule that finds what is missing refuses nothing that runs."""
    config = write_config(tmp_path / "tiny.json", world.config("switchbert"))
    (checkout / "datasets").symlink_to(world.path / "datasets")
    command = [sys.executable, "train_concap.py", "--config", config, "--from_pretrained", "", "--max_steps", "1"]
    command += ["--train_batch_size", "4", "--output_dir", tmp_path / "out", "--logdir", tmp_path / "logs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(map(str, command), cwd=checkout, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "validation after epoch 1" in done.stderr, done.stderr


def processes(checkout, hub, *flags, **environment):
    own = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, *flags]
    return subprocess.run(command, cwd=checkout, env=own, capture_output=True, text=True, timeout=120)


def test_under_torchrun_the_first_process_says_it(checkout, hub):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = processes(checkout, hub, *launcher, "train_concap.py")
    assert done.returncode != 0 and done.stderr.count("caption_train.json: no such file") == 1, done.stderr


@pytest.mark.parametrize("flags", [("--task", "10"), ("--bad-flag",)])
def test_every_process_exits_with_2(checkout, hub, flags):
    for rank in ("0", "1"):
        done = processes(checkout, hub, "eval_task.py", *flags, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2")
        assert done.returncode == 2 and ("error: " in done.stderr)
