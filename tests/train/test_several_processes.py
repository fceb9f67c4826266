"""N processes times M accumulation steps train the model of one process, and go on with any other number."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from synthetic_world import equal_weights, json_of, log_of, weights_of
from train.run_ends import close_numbers, logged, newest, samples_by_step
from volta_switch import BertForVLPreTraining
from volta_switch.command import run_command
from volta_switch.train import pretraining
from volta_switch.train.run_folder import CHECKPOINTS
from volta_switch.weights import load_volta, read_weights

ROOT = Path(__file__).parents[2]
# 20 pairs in batches of 6: 3 whole ones and one of 2 samples an epoch, so that with four parts some are empty.
EXACT = ("--train_batch_size", 6, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--clip_grad_norm", 0.5)
EXACT += ("--deterministic", "--log_ids", "--log_every", 1, "--save_every", 1, "--keep_checkpoints", 100)
NAMES = ("itm", "mlm", "vision", "loss")
NO_DROPOUT = {f"{name}_dropout_prob": 0.0 for name in ("hidden", "v_hidden", "attention_probs", "v_attention_probs")}
DROPOUT = dict.fromkeys(NO_DROPOUT, 0.1)


def torchrun(processes, script, argv, *torchruns_flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes]
    command = list(map(str, [*command, *torchruns_flags, script, *argv]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=environment)


def together(processes, argv, logs):
    """The command in several processes as torchrun would start them, but forked, so that they start quickly.

    Each writes to a file of its own, ``RANK.txt``: on one they would cut each other's lines. Gives the exit codes.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(rank):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
        with (logs / f"{rank}.txt").open("a", buffering=1) as sys.stdout:
            sys.stderr = sys.stdout
            run_command(pretraining.main, argv)

    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=run, args=(rank,)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(200)
    return [process.exitcode for process in started]


def said(logs):
    """What each process wrote, by its rank."""
    return [file.read_text() for file in sorted(logs.glob("*.txt"))]


def divided(world, out, processes, parts, *flags, **changes):
    """A pre-training run of Switch-BERT, divided."""
    flags = (*EXACT, "--gradient_accumulation_steps", parts, *flags)
    if processes == 1:
        return world.run("train_concap", out, "switchbert", *flags, **changes)
    argv = [*world.flags("train_concap", out, "switchbert", **changes), *map(str, flags)]
    assert together(processes, argv, out / "said") == [0] * processes, said(out / "said")
    return out / "switchbert"


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    return divided(world, tmp_path_factory.mktemp("whole"), 1, 1, **NO_DROPOUT)


@pytest.fixture(scope="module")
def of_two(world, tmp_path_factory):
    return divided(world, tmp_path_factory.mktemp("two"), 2, 1, **NO_DROPOUT)


def same_training(run, whole):
    """Whether two runs had the same losses in every step, and ended with the same weights, to 1e-5."""
    losses, expected = (
        torch.tensor([[line[name] for name in NAMES] for line in logged(folder) if line["kind"] == "train"])
        for folder in (run, whole)
    )
    assert len(losses) == 8
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
    for line, wanted in zip(logged(run), logged(whole), strict=True):
        assert line.keys() == wanted.keys()
        # Attention is paid by the slots of a part's longest sample, so that operations depend on the division.
        values = [
            name for name in line if name not in ("kind", "routes", "switchers") and not name.endswith("flops_per_pair")
        ]
        assert all(line[name] == pytest.approx(wanted[name], abs=1e-5, rel=0) for name in values)
        for name, routes in wanted.get("routes", {}).items():
            found, expected = torch.tensor(line["routes"][name]), torch.tensor(routes)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5, msg=f"{name} at step {line['step']}")
        assert close_numbers(line.get("switchers"), wanted.get("switchers"), 1e-4)
    left, right = weights_of(run, "pytorch_model_1.bin"), weights_of(whole, "pytorch_model_1.bin")
    for name, tensor in right.items():
        torch.testing.assert_close(left[name], tensor, rtol=0, atol=1e-5, msg=name)
    return True


def test_two_processes_train_the_model_of_one(world, whole, of_two):
    assert same_training(of_two, whole)
    assert json_of(of_two / "run.json")["processes"] == 2
    watched = [line["switchers"] for line in logged(of_two) if line["kind"] == "valid"]
    captions = json_of(world.captions / "annotations" / "caption_valid.json")
    assert [each["pairs"] for each in watched] == [len(captions)] * 2


@pytest.mark.parametrize(("processes", "parts"), [(1, 2), (2, 2)])
def test_accumulation_changes_nothing_either(world, whole, tmp_path, processes, parts):
    assert same_training(divided(world, tmp_path, processes, parts, **NO_DROPOUT), whole)


def test_dropout_is_drawn_by_sample_too(world, tmp_path):
    runs = [divided(world, tmp_path / str(parts), 1, parts, **DROPOUT) for parts in (1, 3)]
    assert same_training(runs[1], runs[0])


def test_every_step_has_the_samples_of_one_process_however_it_is_divided(whole, of_two):
    expected = {step: sorted(ids) for step, ids in samples_by_step(whole).items()}
    assert {step: sorted(ids) for step, ids in samples_by_step(of_two).items()} == expected
    assert len({name for (epoch, _), ids in expected.items() if epoch == 0 for name in ids}) == 20


def from_step(run, step, folder):
    """A copy of a run as it was after a step."""
    copy = shutil.copytree(run, folder / "switchbert")
    for path in (copy / CHECKPOINTS).iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    return copy


@pytest.mark.parametrize("processes", [1, 2])
def test_going_on_with_another_number_of_processes(world, whole, of_two, tmp_path, processes):
    """Stopped in the middle of the first epoch, after the second step."""
    from_step(of_two if processes == 1 else whole, 2, tmp_path)
    run = divided(world, tmp_path, processes, 1, "--resume", **NO_DROPOUT)
    assert [line["step"] for line in log_of(run, "start")] == [0, 2]
    assert same_end_weights(run, whole)
    seen = Counter()
    for (epoch, step), ids in samples_by_step(run).items():
        seen.update((epoch, name) for name in ids)
        assert sorted(ids) == sorted(samples_by_step(whole)[epoch, step])
    assert len(seen) == 40 and set(seen.values()) == {1}


def same_end_weights(run, whole):
    for name, tensor in newest(whole).model.items():
        torch.testing.assert_close(newest(run).model[name], tensor, rtol=0, atol=1e-5, msg=name)
    return True


@pytest.mark.long
def test_fsdp_goes_on_from_a_checkpoint_of_ddp_and_one_process_from_its_own(world, whole, of_two, tmp_path):
    run = from_step(of_two, 2, tmp_path)
    divided(world, tmp_path, 2, 2, "--fsdp", "--resume", **NO_DROPOUT)
    assert same_training(run, whole)
    sizes = [(each / CHECKPOINTS / "step-00000008" / "model.safetensors").stat().st_size for each in (run, whole)]
    assert sizes[0] == sizes[1]  # what is shared is stored once
    config = world.config("switchbert", **NO_DROPOUT)
    for weights in (run / "pytorch_model_best.bin", run / CHECKPOINTS / "step-00000008" / "model.safetensors"):
        assert load_volta(BertForVLPreTraining(config), read_weights(weights)) == []  # VOLTA's names, all of them
    shutil.rmtree(run / CHECKPOINTS / "step-00000008")
    assert same_end_weights(divided(world, tmp_path, 1, 1, "--resume", **NO_DROPOUT), whole)


def test_a_killed_process_is_started_again_and_the_run_finishes(world, tmp_path, of_two):
    argv = [*world.flags("train_concap", tmp_path, "switchbert", **NO_DROPOUT), *EXACT]
    script = Path(__file__).with_name("dying.py")
    done = torchrun(2, script, ["train_concap", 1, 5, *argv], "--max-restarts", 1)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "switchbert"
    starts = [(line["step"], line["resumed"]) for line in log_of(run, "start")]
    assert starts == [(0, False), (5, True)]
    assert equal_weights(weights_of(run), weights_of(of_two))


def test_a_process_that_fails_says_why_in_one_line(world, tmp_path):
    argv = [*world.flags("train_concap", tmp_path, "ctrl_uniter"), *map(str, EXACT), "--train_batch_size", "1"]
    assert together(2, argv, tmp_path / "said") == [2, 2]
    for lines in map(str.splitlines, said(tmp_path / "said")):
        assert len(lines) == 1 and lines[0].startswith("error: a batch of 1 cannot be divided into 2 parts"), lines
