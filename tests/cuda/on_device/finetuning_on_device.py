"""Fine-tuning, evaluation and routes of every task, and stops that are gone on from."""

import math
import os
import signal
import threading
import time
from collections import Counter

import pretended
import pytest
from pretended import Event
from steps import copies, of_steps, slow

from synthetic_world import equal_weights, json_of, log_of, weights_of
from volta_switch.cli import main as volta_switch
from volta_switch.errors import Stopped

# A task's number, and what is fine-tuned on it in which precision: every task, architecture and precision.
RUNS = (
    (1, "switchbert", "bf16"),
    (1, "ctrl_vl-bert", "fp32"),
    (7, "ctrl_uniter", "fp16"),
    (8, "switchbert", "fp32"),
    (9, "ctrl_vilbert", "bf16"),
    (10, "switchbert", "fp16"),
    (11, "ctrl_lxmert", "fp32"),
    (12, "ctrl_visualbert", "bf16"),
    (13, "ctrl_interbert", "fp16"),
    (15, "switchbert", "bf16"),
)
RETRIEVAL = (7, 8)
SHORT = ("--num_epoch", 1, "--batch_size", 8, "--data_fraction", 0.2, "--max_skipped_steps", 100)


def changes_of(model, number):
    """VL-BERT's own way of summing up a text, which reads where it ends."""
    return {"fusion_method": "vl-bert_vqa"} if model == "ctrl_vl-bert" and number == 1 else {}


def finetune(world, out, number, model, precision, *flags):
    """A run's folder and what happened."""
    given = ("--task", number, "--precision", precision, *SHORT, *flags)
    with pretended.watched() as events:
        run = world.run("train_task", out, model, *given, task="refer", **changes_of(model, number))
    return run, events


def by_function(events: list[Event], name: str) -> list[Event]:
    return [event for event in events if any(call.endswith(f":{name}") for call in event.calls)]


@pytest.mark.parametrize(("number", "model", "precision"), RUNS)
def test_every_task_trains_and_is_evaluated(world, tmp_path, number, model, precision):
    run, events = finetune(world, tmp_path, number, model, precision)
    steps = of_steps(events)
    assert not slow(steps), "\n".join(slow(steps))
    assert copies(steps)
    assert math.isfinite(log_of(run, "train")[-1]["loss"])
    if precision != "fp16":
        assert not log_of(run, "skipped")
    validated = json_of(run / "metrics.json")["last_validation"]

    weights = ("--from_pretrained", run / "pytorch_model_best.bin", "--precision", precision, "--task", number)
    entry = "eval_retrieval" if number in RETRIEVAL else "eval_task"
    with pretended.watched() as events:
        evaluation = world.run(entry, tmp_path, model, *weights, task="refer", **changes_of(model, number))
    assert not [str(event) for event in by_function(events, "evaluate") if event.kind == "pageable"]
    assert all(math.isfinite(value) for value in evaluation.metrics.values())
    if number not in RETRIEVAL:  # whose validation is the accuracy among four
        shared = validated.keys() & evaluation.metrics.keys()
        assert {"loss"} < shared  # and the task's score
        for name in shared:
            assert validated[name] == evaluation.metrics[name], name  # validation computes in training's precision


@pytest.mark.parametrize("model", ["switchbert", "ctrl_lxmert", "ctrl_vl-bert"])
def test_a_grid_of_pairs_copies_from_pinned_memory_and_reads_routes_once_a_layer(world, tmp_path, model):
    run, _ = finetune(world, tmp_path, 8, model, "bf16")
    weights = ("--from_pretrained", run / "pytorch_model_best.bin", "--task", 8, "--batch_size", 64)
    with pretended.watched() as events:
        world.run("eval_retrieval", tmp_path, model, *weights, task="refer")
    scored = by_function(events, "part")
    assert not [str(event) for event in scored if event.kind == "pageable"]
    waits = [event for event in by_function(scored, "score_pairs") if event.kind == "wait"]
    if model != "switchbert":
        assert not waits, "\n".join(map(str, waits))
        return
    layers = len(world.config("switchbert").tt_attn_sublayers)
    read = Counter(event.calls[0] for event in waits)
    modes, inputs = read.pop("model/banks.py:_mode_kinds"), read.pop("model/pairs.py:run_layer")
    assert inputs * layers == modes * (layers - 1) > 0  # a mode in each layer, an input from the second on
    assert not read  # and nothing else is waited for


def test_zero_shot_retrieval_and_routes_run_on_the_device(world, tmp_path):
    pretrained = world.run(*("train_concap", tmp_path, "switchbert", "--train_batch_size", 10, "--num_train_epochs", 1))
    weights = ("--from_pretrained", pretrained / "pytorch_model_best.bin", "--task", 8)
    found = world.run("eval_retrieval", tmp_path, "switchbert", *weights, "--zero_shot", task="refer")
    assert 0 <= found.metrics["ir_r1"] <= 100

    run, _ = finetune(world, tmp_path, 10, "switchbert", "bf16")
    argv = ["routes", *world.flags("eval_task", tmp_path, "switchbert", "refer")]
    argv += ["--from_pretrained", run / "pytorch_model_best.bin", "--out", tmp_path / "routes.json"]
    volta_switch([*map(str, argv), "--interventions", "--attention", "--samples", "8"])
    assert json_of(tmp_path / "routes.json")["samples"] == 8


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_that_gets_sigterm_goes_on_to_the_same_weights(world, tmp_path, precision):
    flags = ("--train_batch_size", 2, "--num_train_epochs", 2, "--log_every", 1, "--precision", precision)
    flags = (*flags, "--max_skipped_steps", 100)
    whole = world.run("train_concap", tmp_path / "whole", "switchbert", *flags)
    log = tmp_path / "stopped" / "switchbert" / "log.jsonl"

    def stop():
        while not log.exists() or log.read_text().count("\n") < 7:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Stopped):
        world.run("train_concap", tmp_path / "stopped", "switchbert", *flags)
    resumed = world.run("train_concap", tmp_path / "stopped", "switchbert", *flags, "--resume")
    assert equal_weights(weights_of(whole), weights_of(resumed))
    losses = [[line["loss"] for line in log_of(run, "train")] for run in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 20
