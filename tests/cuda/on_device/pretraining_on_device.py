"""Pre-training of all architectures, in any two settings at once."""

import math

import pretended
import pytest
import torch
from combinations import pairwise
from steps import copies, of_steps, slow

from synthetic_world import json_of, log_of, weights_of

MODELS = (
    "switchbert",
    *(f"ctrl_{name}" for name in ("uniter", "vilbert", "lxmert", "vl-bert", "visualbert", "interbert")),
)
SETTINGS = {
    "model": MODELS,
    "precision": ("fp32", "bf16", "fp16"),
    "parts": (1, 2),
    "clip": (0, 5),
    "deterministic": (False, True),
    "checkpointing": (False, True),
    "device": ("auto", "cuda", "cuda:0"),
    "workers": (0, 1),
}


def allowed(settings):
    """VL-BERT's losses depend on the whole batch, so that ``--deterministic`` refuses to divide it."""
    return not (settings["model"] == "ctrl_vl-bert" and settings["deterministic"] and settings["parts"] > 1)


def pretrain(world, out, model, *flags, **changes):
    """An epoch of 20 pairs in two steps; returns the run's folder and what happened."""
    fixed = ("--train_batch_size", 10, "--num_train_epochs", 1, "--max_skipped_steps", 100)
    with pretended.watched() as events:
        run = world.run("train_concap", out, model, *fixed, *flags, **changes)
    return run, events


@pytest.mark.parametrize("chosen", pairwise(SETTINGS, allowed), ids=lambda chosen: "-".join(map(str, chosen.values())))
def test_any_two_settings_train_together_and_no_step_waits_for_the_device(world, tmp_path, chosen):
    flags = [*("--precision", chosen["precision"]), *("--device", chosen["device"])]
    flags += ["--gradient_accumulation_steps", chosen["parts"], "--clip_grad_norm", chosen["clip"]]
    flags += ["--num_workers", chosen["workers"]]
    flags += ["--deterministic"] * chosen["deterministic"] + ["--gradient_checkpointing"] * chosen["checkpointing"]
    run, events = pretrain(world, tmp_path, chosen["model"], *flags)
    (line,) = log_of(run, "train")
    assert math.isfinite(line["loss"]) and line["memory_gib"] >= 0
    assert all(tensor.isfinite().all() for tensor in weights_of(run).values())
    described = json_of(run / "run.json")
    assert described["precision"] == str(
        {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[chosen["precision"]]
    ).removeprefix("torch.")
    steps = of_steps(events)
    assert not slow(steps), "\n".join(slow(steps))
    assert copies(steps)  # there were steps, and they were seen
    if chosen["precision"] != "fp16":  # from random weights its scale overflows at first: steps are left out by design
        assert not log_of(run, "skipped")


def test_in_fp16_the_scale_falls_until_steps_are_taken(world, tmp_path):
    run, _ = pretrain(
        world,
        tmp_path,
        "switchbert",
        *("--precision", "fp16", "--train_batch_size", 2, "--num_train_epochs", 3),
        *("--log_every", 1),
    )
    scales = [line["loss_scale"] for line in log_of(run, "train")]
    assert len(scales) == 30 and scales[-1] < 65536  # every step that is left out halves it
    assert not log_of(run, "skipped")  # an overflow of scaled gradients is no fault of a batch
    assert len(set(scales)) < len(scales)  # and some step was taken


@pytest.mark.parametrize("target", "0123456")
def test_no_visual_target_waits_for_the_device(world, tmp_path, target):
    _, events = pretrain(world, tmp_path, "ctrl_uniter", "--precision", "bf16", visual_target_weights={target: 1.0})
    steps = of_steps(events)
    assert not slow(steps), "\n".join(slow(steps))


@pytest.mark.parametrize("model", ["switchbert", "ctrl_vilbert"])
def test_keyed_noise_makes_the_device_learn_what_the_cpu_learns(world, tmp_path, model):
    flags = ("--deterministic", "--precision", "fp32", "--log_every", 1)
    on_device, _ = pretrain(world, tmp_path / "device", model, *flags, "--device", "cuda")
    on_cpu, events = pretrain(world, tmp_path / "cpu", model, *flags, "--device", "cpu")
    assert not events
    for name in ("itm", "mlm", "vision"):
        lines = [[line[name] for line in log_of(run, "train")] for run in (on_device, on_cpu)]
        assert lines[0] == pytest.approx(lines[1], rel=1e-5)


def test_deterministic_runs_are_the_same_twice(world, tmp_path):
    runs = [
        pretrain(world, tmp_path / name, "switchbert", "--deterministic", "--precision", "bf16")[0] for name in "ab"
    ]
    first, second = map(weights_of, runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
