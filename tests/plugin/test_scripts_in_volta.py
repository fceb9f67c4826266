"""VOLTA's four scripts, unmodified, from end to end: with Switch-BERT and with a baseline, anew and resumed.

Every run is a process of its own. On a machine with CUDA the scripts use it by themselves.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from plugin.volta_runs import NAMES, VoltaWorld, volta_checkout
from synthetic_world import equal_weights, json_of, weights_of

HOME = volta_checkout()
MODELS = ("switchbert", "ctrl_uniter")
SEEDS = ("--fix", "seeds")
BATCH = 5  # of pre-training; VOLTA leaves out what does not fill a batch, and 20 samples fill 4
TASK_OF = {"switchbert": "nlvr2", "ctrl_uniter": "refer"}
ANNOTATIONS = {
    "retrieval": "datasets/flickr30k/annotations/train_ann.jsonl",
    "nlvr2": "datasets/nlvr2/annotations/train.jsonl",
}


@dataclass(frozen=True)
class Trained:
    """A run of two epochs; a second process made the second one, from the checkpoint of the first."""

    folder: Path  # where VOLTA wrote it
    events: Path  # TensorBoard's folder
    start: dict[str, torch.Tensor]  # weights before training
    checkpoints: tuple[dict[str, Any], dict[str, Any]]  # after each epoch
    logs: tuple[str, str]  # out.txt after each epoch
    shown: tuple[str, str]  # what each process printed


class Logger:
    """Takes what a checkpoint of VOLTA's holds of its logger."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.state = state


def checkpoint_of(run: Path) -> dict[str, Any]:
    """A run's latest checkpoint; none of VOLTA's code is needed to read it."""
    with torch.serialization.safe_globals([(Logger, "volta.train_utils.tbLogger")]):
        return torch.load(run / "pytorch_ckpt_latest.tar", map_location="cpu", weights_only=True)


def train(
    world: VoltaWorld, script: str, model: str, out: Path, *flags: Any, task: str = "", options: Sequence[str] = ()
) -> Trained:
    """An epoch of training, and one more in another process that resumes it."""
    name, epochs = (f"{NAMES[task]}_{model}", "--num_epoch") if task else (model, "--num_train_epochs")
    folder = out / name
    start, checkpoints, logs, shown = {}, [], [], []
    for epoch in (1, 2):
        resume = ("--resume_file", folder / "pytorch_ckpt_latest.tar") if epoch == 2 else ()
        line = (*world.flags(script, model, out, task), *flags, epochs, epoch, *resume)
        shown.append(world.succeed(script, *line, options=options))
        start = start or weights_of(folder, "pytorch_model_-1.bin")
        checkpoints.append(checkpoint_of(folder))
        logs.append((folder / "out.txt").read_text())
    return Trained(folder, out / "logs" / name, start, tuple(checkpoints), tuple(logs), tuple(shown))


@pytest.fixture(scope="module", autouse=True)
def git_before() -> str | None:
    """What Git says of the checkout before the first run; None where it is none of Git's."""
    return git_status() if (HOME / ".git").exists() else None


def git_status() -> str:
    """Files of the checkout that are changed, new, or ignored by Git."""
    command = ["git", "-C", str(HOME), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def pretrained(volta_world, tmp_path_factory):
    """A model's name, and options of the command -> its run of train_concap.py."""

    @cache
    def run(model: str, *options: str) -> Trained:
        out, flags = tmp_path_factory.mktemp("pretrained"), ("--train_batch_size", BATCH)
        return train(volta_world, "train_concap.py", model, out, *flags, options=(*SEEDS, *options))

    return run


@pytest.fixture(scope="module")
def finetuned(volta_world, pretrained, tmp_path_factory):
    """A model's name, a task, and options of the command -> its run of train_task.py, from its pre-training."""

    @cache
    def run(model: str, task: str, *options: str) -> Trained:
        start = ("--from_pretrained", pretrained(model).folder / "pytorch_model_1.bin")
        out = tmp_path_factory.mktemp("finetuned")
        return train(volta_world, "train_task.py", model, out, *start, task=task, options=(*SEEDS, *options))

    return run


@pytest.fixture(scope="module")
def vqa_by_module(volta_world, pretrained, tmp_path_factory) -> Path:
    """A run of train_task.py by ``python -m volta_switch.plugin --home``, without VOLTA_HOME."""
    out = tmp_path_factory.mktemp("vqa")
    flags = volta_world.flags("train_task.py", "ctrl_uniter", out, "vqa")
    start = str(pretrained("ctrl_uniter").folder / "pytorch_model_1.bin")
    command = [sys.executable, "-m", "volta_switch.plugin", "--home", str(HOME), "train_task.py", *flags]
    run_python(volta_world, [*command, "--from_pretrained", start, "--num_epoch", "1"])
    return out / "VQA_ctrl_uniter"


def run_python(world: VoltaWorld, command: Sequence[str], **environment: str) -> str:
    """A process that must end well, with no VOLTA_HOME but one that is given; what it printed."""
    given = {name: value for name, value in os.environ.items() if name != "VOLTA_HOME"} | environment
    done = subprocess.run(command, cwd=world.path, env=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def evaluate(world: VoltaWorld, script: str, model: str, task: str, weights: Path, out: Path, *flags: Any) -> str:
    """What a script of evaluation printed."""
    line = (*world.flags(script, model, out, task), "--from_pretrained", weights, *flags)
    return world.succeed(script, *line)


def scalars_of(events: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves by name: steps and values in the order in which they were written."""
    curves = EventAccumulator(str(events), size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in curves.Scalars(tag)] for tag in curves.Tags()["scalars"]}


def samples_in(run: Trained, name: str) -> int:
    """The count that a weight file carries."""
    return int(weights_of(run.folder, name)["bert.encoder.switch_samples"])


def tensors_in(value: Any) -> Iterator[Any]:
    """Every tensor and number in a checkpoint, in order."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)
    elif isinstance(value, torch.Tensor | int | float | str):
        yield value


def assert_identical(left: Trained, right: Trained) -> None:
    """Both runs have the same losses, scores, weights and states of the optimiser, bit for bit."""
    curves = scalars_of(left.events)
    assert curves == scalars_of(right.events)
    assert sum(name.startswith("train/") for name in curves) == 3 and sum(map(len, curves.values())) > 24
    assert equal_weights(left.start, right.start)
    for epoch in (0, 1):
        name = f"pytorch_model_{epoch}.bin"
        assert equal_weights(weights_of(left.folder, name), weights_of(right.folder, name))
        states = [[run.checkpoints[epoch][key] for key in run.checkpoints[epoch] if key != "tb_logger"]
                  for run in (left, right)]  # fmt: skip
        for mine, other in zip(*map(tensors_in, states), strict=True):
            assert torch.equal(mine, other) if isinstance(mine, torch.Tensor) else mine == other


# --- Training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_pretraining_writes_a_run_of_the_models_name(pretrained, model):
    run = pretrained(model)
    assert {path.name for path in run.folder.iterdir()} == {
        "command.txt", "out.txt", "pytorch_ckpt_latest.tar",
        "pytorch_model_-1.bin", "pytorch_model_0.bin", "pytorch_model_1.bin",
    }  # fmt: skip
    assert not equal_weights(run.start, weights_of(run.folder, "pytorch_model_0.bin"))
    curves = scalars_of(run.events)
    for name in ("masked_loss_t", "masked_loss_v", "next_sentence_loss"):
        steps, losses = zip(*curves[f"train/Conceptual_Caption_{name}"], strict=True)
        assert steps == tuple(range(8)), "4 steps of each epoch, the resumed one's after the first one's"
        assert all(0 < loss < 20 for loss in losses)
    assert len(curves["val/Conceptual_Caption_mask_t"]) == 2


@pytest.mark.parametrize("model", MODELS)
def test_finetuning_writes_a_run_of_the_tasks_and_the_models_name(finetuned, model):
    run = finetuned(model, TASK_OF[model])
    assert {path.name for path in run.folder.iterdir()} == {
        "command.txt", "out.txt", "pytorch_ckpt_latest.tar", "pytorch_model_best.bin",
        "pytorch_model_-1.bin", "pytorch_model_0.bin", "pytorch_model_1.bin",
    }  # fmt: skip
    assert not equal_weights(run.start, weights_of(run.folder, "pytorch_model_0.bin"))
    steps = [step for step, _ in scalars_of(run.events)[f"train/{NAMES[TASK_OF[model]].replace('+', 'plus')}_loss"]]
    assert steps == list(range(run.checkpoints[1]["global_step"]))


@pytest.mark.parametrize(
    "find",
    [
        lambda pretrained, finetuned: pretrained("switchbert"),
        lambda pretrained, finetuned: pretrained("ctrl_uniter"),
        lambda pretrained, finetuned: finetuned("switchbert", "retrieval"),
        lambda pretrained, finetuned: finetuned("switchbert", "nlvr2"),
        lambda pretrained, finetuned: finetuned("ctrl_uniter", "refer"),
    ],
    ids=["switchbert", "ctrl_uniter", "switchbert-retrieval", "switchbert-nlvr2", "ctrl_uniter-refer"],
)
def test_a_resumed_run_goes_on_and_keeps_its_log(pretrained, finetuned, find):
    run = find(pretrained, finetuned)
    first, second = run.checkpoints
    assert (first["epoch_id"], second["epoch_id"]) == (0, 1)
    assert second["global_step"] == 2 * first["global_step"] > 0
    assert second["scheduler_state_dict"]["last_epoch"] == second["global_step"]
    assert {state["step"] for state in second["optimizer_state_dict"]["state"].values()} == {second["global_step"]}
    assert second["tb_logger"].state["epochId"] == 1
    assert second["tb_logger"].state["task_step"] != first["tb_logger"].state["task_step"]
    before, after = run.logs
    assert after.startswith(before)
    assert before.count("Validation [") == 1 and after.count("Validation [") == 2


@pytest.mark.parametrize(("model", "options", "plugin"), [
    ("switchbert", (), "with"), ("ctrl_uniter", (), "with"), ("ctrl_uniter", ("--no-plugin",), "without"),
])  # fmt: skip
def test_the_log_says_what_was_changed(pretrained, model, options, plugin):
    lines = pretrained(model, *options).logs[1].splitlines()
    told = [line for line in lines if line.startswith("volta_switch ")]
    assert len(told) == 6 and told[:3] == told[3:], "three lines of each process"
    assert told[0].endswith(f"VOLTA at {HOME}, {plugin} the plug-in")
    repairs = told[1].removeprefix("volta_switch repairs: ").split(", ")
    assert {"validation-log", "weight-names", "config-name", "checkpoint-logger"} <= set(repairs)
    assert "retrieval-split" not in repairs, "it concerns another script"
    assert told[2] == "volta_switch fixes of numbers: seeds"
    assert all(line in shown for shown in pretrained(model, *options).shown for line in told)


def test_the_temperature_counts_the_samples_of_pretraining(volta_world, pretrained):
    run = pretrained("switchbert")
    samples = len(json_of(volta_world.path / "datasets/conceptual_captions/annotations/caption_train.json"))
    assert samples % BATCH == 0
    assert (samples_in(run, "pytorch_model_0.bin"), samples_in(run, "pytorch_model_1.bin")) == (samples, 2 * samples)
    assert int(run.start["bert.encoder.switch_samples"]) == 0
    assert float(run.start["bert.encoder.switch_start_temperature"]) == 5.0


@pytest.mark.parametrize("task", ["retrieval", "nlvr2"])
def test_the_temperature_starts_anew_and_counts_the_samples_of_a_task(volta_world, finetuned, task):
    run = finetuned("switchbert", task)
    assert int(run.start["bert.encoder.switch_samples"]) == 0
    assert float(run.start["bert.encoder.switch_start_temperature"]) == 1.0
    lines = map(json.loads, (volta_world.path / ANNOTATIONS[task]).read_text().splitlines())
    samples = sum(len(line["sentences"]) if task == "retrieval" else 1 for line in lines)
    assert (samples_in(run, "pytorch_model_0.bin"), samples_in(run, "pytorch_model_1.bin")) == (samples, 2 * samples)
    assert int(run.checkpoints[1]["model_state_dict"]["bert.encoder.switch_samples"]) == 2 * samples


def test_finetuning_starts_from_the_pretrained_weights(pretrained, finetuned):
    before = weights_of(pretrained("switchbert").folder, "pytorch_model_1.bin")
    after = finetuned("switchbert", "nlvr2").start
    taken = [name for name in after if name.startswith("bert.") and "switch_s" not in name]
    assert any("attention_switch" in name for name in taken) and any("input_switch" in name for name in taken)
    assert all(torch.equal(before[name], after[name]) for name in taken)


def test_a_baselines_pretraining_is_the_same_without_the_plugin(pretrained):
    assert_identical(pretrained("ctrl_uniter"), pretrained("ctrl_uniter", "--no-plugin"))


def test_a_baselines_finetuning_is_the_same_without_the_plugin(finetuned):
    assert_identical(finetuned("ctrl_uniter", "refer"), finetuned("ctrl_uniter", "refer", "--no-plugin"))


def test_the_module_runs_scripts_too(vqa_by_module):
    assert (vqa_by_module / "pytorch_model_0.bin").is_file()
    log = (vqa_by_module / "out.txt").read_text()
    assert f"VOLTA at {HOME}, with the plug-in" in log and "Validation [VQA]: loss " in log


# --- Evaluation -----------------------------------------------------------------------------------------------------


def score_in(log: Path) -> float:
    """The score that eval.txt ends with."""
    return float(re.findall(r"score ([\d.]+)", log.read_text())[-1])


@pytest.mark.parametrize(("model", "task"), [("ctrl_uniter", "refer"), ("switchbert", "nlvr2")])
def test_eval_task_writes_results_that_agree_with_its_score(volta_world, finetuned, tmp_path, model, task):
    weights = finetuned(model, task).folder / "pytorch_model_best.bin"
    evaluate(volta_world, "eval_task.py", model, task, weights, tmp_path)
    folder = tmp_path / "pytorch_model_best.bin-"
    split = {"refer": "val", "nlvr2": "dev"}[task]
    assert {path.name for path in folder.iterdir()} == {f"{split}_result.json", f"{split}_others.json", "eval.txt"}
    results = json_of(folder / f"{split}_result.json")
    hits = [one["IOU"] > 0.5 if task == "refer" else one["prediction"] == one["label"] for one in results]
    assert len(hits) == {"refer": 40, "nlvr2": 16}[task]
    assert score_in(folder / "eval.txt") == pytest.approx(100 * sum(hits) / len(hits), abs=0.0005)
    validations = re.findall(r"score ([\d.]+)", finetuned(model, task).logs[1])
    assert score_in(folder / "eval.txt") == max(map(float, validations)), "of the best epoch"
    assert "volta_switch repairs: " in (folder / "eval.txt").read_text()


def test_eval_task_answers_every_question(volta_world, vqa_by_module, tmp_path):
    evaluate(volta_world, "eval_task.py", "ctrl_uniter", "vqa", vqa_by_module / "pytorch_model_0.bin", tmp_path)
    results = json_of(tmp_path / "pytorch_model_0.bin-" / "val_result.json")
    annotations = volta_world.path / "datasets/vqa/annotations"
    questions = json_of(annotations / "v2_OpenEnded_mscoco_val2014_questions.json")["questions"]
    assert [one["question_id"] for one in results] == [one["question_id"] for one in questions]
    known = (annotations / "trainval_label2ans.pkl").read_bytes()
    assert all(one["answer"].encode() in known for one in results)


@pytest.mark.parametrize(("model", "zero_shot"), [("switchbert", False), ("ctrl_uniter", True)])
def test_eval_retrieval_ranks_images_and_texts(volta_world, pretrained, finetuned, tmp_path, model, zero_shot):
    run = pretrained(model) if zero_shot else finetuned(model, "retrieval")
    weights, flags = run.folder / "pytorch_model_0.bin", ("--zero_shot",) if zero_shot else ()
    shown = evaluate(volta_world, "eval_retrieval.py", model, "retrieval", weights, tmp_path, *flags)
    image, text = re.split(r"\*Text Retrieval\*", shown)
    assert "*Image Retrieval*" in image
    finals = [re.findall(r"^Final .*", part, re.MULTILINE)[-1] for part in (image, text)]
    recalls = [list(map(float, re.findall(r"\br\d+:([\d.]+)", final))) for final in finals]
    assert all(0 <= r1 <= r5 <= r10 <= 100 for r1, r5, r10 in recalls) and recalls[0] != recalls[1]
    assert recalls[0][2] == 100, "of ten images, each is among the first ten"
    results = json_of(tmp_path / str(weights).split("/")[1] / "val_result.json")
    assert len(results) == 50 and all(sorted(best) == list(range(10)) for best in results)


# --- The checkout ----------------------------------------------------------------------------------------------------


def test_the_checkout_is_as_it_was(finetuned, vqa_by_module, git_before):
    """Last in this file, after the runs that it asks for; the session's fixture compares the files' contents too."""
    for model in MODELS:
        assert finetuned(model, TASK_OF[model]).folder.is_dir()
    assert not list(HOME.rglob("__pycache__"))
    if git_before is None:
        pytest.skip(f"VOLTA_HOME={HOME} is no checkout of Git's; the session's fixture compares checksums of its files")
    assert git_status() == git_before
