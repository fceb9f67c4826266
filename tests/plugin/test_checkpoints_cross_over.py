"""Weights go from VOLTA to this project and back unchanged, and what one trained the other evaluates alike.

Both programs are given the same files, the same command lines and the same working directory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from golden_files import ARCHITECTURES, load_golden
from model.small_models import switch_config
from plugin.volta_runs import NAMES, TASKS, VoltaWorld, volta_checkout
from synthetic_world import equal_weights, json_of, weights_of
from volta_switch import BertForVLPreTraining, BertForVLTasks, load_config
from volta_switch.plugin import register, unregister
from volta_switch.tasks import load_task
from volta_switch.train import evaluation, finetuning
from volta_switch.weights import load_volta, read_weights, to_volta, write_weights

volta_checkout()

HEADS = load_golden("ctrl_uniter").tasks  # every kind that VOLTA has
# Where VOLTA's from_pretrained starts anew.
ANNEALING = ("switch_samples", "switch_start_temperature", "switch_floor_samples")
PRINTED = 0.0005  # VOLTA prints three decimals


# --- Tensors --------------------------------------------------------------------------------------------------------


@pytest.fixture
def volta():
    """VOLTA's models, with the plug-in."""
    register()
    from volta import config, encoders

    yield encoders, config.BertConfig
    unregister()


def spread(model: torch.nn.Module) -> None:
    """Moves every weight and buffer away from what a model starts with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for buffer in model.buffers():
            buffer.add_(3)


def bits_of(state: dict[str, torch.Tensor]) -> dict[str, tuple[torch.dtype, torch.Size, bytes]]:
    return {name: (tensor.dtype, tensor.shape, tensor.numpy().tobytes()) for name, tensor in state.items()}


@pytest.mark.parametrize("model", ["switchbert", *ARCHITECTURES])
@pytest.mark.parametrize("kind", ["pretraining", "tasks"])
def test_tensors_come_back_to_volta_as_they_were(volta, tmp_path, model, kind):
    encoders, BertConfig = volta
    values = switch_config("ctrl_uniter").to_dict() if model == "switchbert" else load_golden(model).config
    values, rest = {"model": "bert", **values}, {"task_cfg": HEADS, "task_ids": list(HEADS)}
    made = {
        "pretraining": (encoders.BertForVLPreTraining, {}, BertForVLPreTraining, ()),
        "tasks": (encoders.BertForVLTasks, rest, BertForVLTasks, (HEADS,)),
    }
    theirs, options, ours, heads = made[kind]
    there = theirs(BertConfig.from_dict(values), **options)
    spread(there)
    before = bits_of(there.state_dict())
    assert any("switch" in name for name in before) == (model == "switchbert")
    torch.save(there.state_dict(), tmp_path / "pytorch_model_7.bin")

    here = ours(load_config(values), *heads)
    assert load_volta(here, read_weights(tmp_path / "pytorch_model_7.bin")) == []
    assert bits_of(to_volta(here)) == before
    write_weights(tmp_path / "pytorch_model_8.bin", to_volta(here))

    again = theirs(BertConfig.from_dict(values), **options)
    again.load_state_dict(torch.load(tmp_path / "pytorch_model_8.bin", weights_only=True))  # as VOLTA's resume does
    assert bits_of(again.state_dict()) == before
    config = BertConfig.from_dict(values)
    started = theirs.from_pretrained(str(tmp_path / "pytorch_model_8.bin"), config=config, **options)
    loaded = bits_of(started.state_dict())
    changed = {name for name in before if loaded.pop(name) != before[name]}
    annealing = {f"bert.encoder.{name}" for name in ANNEALING}
    assert changed == (annealing if (model, kind) == ("switchbert", "tasks") else set()) and not loaded


# --- Runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answers:
    """What an evaluation says: figures (recalls and accuracies in percent), and what was chosen for each question.

    Choices are in order of the questions: our loader groups texts of one length, VOLTA's keeps the order of the file.
    """

    figures: dict[str, float]
    choices: list[Any]


def begin(world: VoltaWorld, model: str, task: str, path: Path) -> Path:
    """Weights that both programs start training from, large enough for answers to differ."""
    spec = load_task(world.path / "tasks.yml", TASKS[task])
    torch.manual_seed(1)
    start = BertForVLTasks(load_config(world.config(model)), {spec.key: spec.head()})
    with torch.no_grad():
        for parameter in start.parameters():
            if parameter.dim() > 1:  # a bias of the head would decide alone
                parameter.add_(0.3 * torch.randn(parameter.shape))
    write_weights(path, to_volta(start))
    return path


@pytest.fixture(scope="module")
def trained(volta_world, tmp_path_factory):
    """A program, a model's name and a task -> the weights after an epoch of training."""

    @cache
    def run(program: str, model: str, task: str) -> Path:
        out = tmp_path_factory.mktemp(f"{program}-{task}")
        start = begin(volta_world, model, task, out / "pytorch_model_0.bin")
        flags = (*volta_world.flags("train_task.py", model, out, task), "--from_pretrained", start)
        flags = (*map(str, flags), "--num_epoch", "1")
        if program == "volta":
            volta_world.succeed("train_task.py", *flags)
            folder = out / f"{NAMES[task]}_{model}"
        else:
            folder = ours(volta_world, finetuning.main, *flags, "--precision", "fp32")
        weights = folder / "pytorch_model_best.bin"
        assert not equal_weights(weights_of(folder), weights_of(out, "pytorch_model_0.bin"))
        return weights

    return run


def ours(world: VoltaWorld, main: Callable[..., Any], *flags: str) -> Any:
    """An entry point of this project in the working directory of VOLTA's scripts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world.path)
        return main(flags)


def evaluated_by_us(world: VoltaWorld, model: str, task: str, weights: Path, out: Path) -> Answers:
    main = evaluation.main_retrieval if task == "retrieval" else evaluation.main
    flags = (*world.flags("eval_task.py", model, out, task), "--from_pretrained", str(weights))
    found = ours(world, main, *flags, "--volta-compat", "--precision", "fp32")
    return Answers(found.metrics, choices_in(task, found.results))


def evaluated_by_volta(world: VoltaWorld, model: str, task: str, weights: Path, out: Path) -> Answers:
    script = "eval_retrieval.py" if task == "retrieval" else "eval_task.py"
    shown = world.succeed(script, *world.flags(script, model, out, task), "--from_pretrained", weights)
    if task == "retrieval":
        folder = out / str(weights).split("/")[1]  # VOLTA's way to name it
        figures = {}
        for way, title in (("ir", "Image"), ("tr", "Text")):
            line = re.search(rf"\*{title} Retrieval\*.*?(Final r1:.*?)$", shown, re.DOTALL | re.MULTILINE)
            figures |= {f"{way}_r{k}": float(value) for k, value in re.findall(r"r(\d+):([\d.]+)", line[1])}
    else:
        folder = out / f"{weights.name}-"
        loss, score = re.findall(r"loss ([\d.]+) score ([\d.]+)", (folder / "eval.txt").read_text())[-1]
        # eval_task.py works nothing out for VQA
        figures = {"loss": float(loss), "accuracy": float(score)} if task != "vqa" else {}
    return Answers(figures, choices_in(task, json_of(next(folder.glob("*_result.json")))))


def choices_in(task: str, results: list[Any]) -> list[Any]:
    """What is comparable in a result file."""
    if task == "retrieval":
        return [best[0] for best in results]  # the image that each caption finds first
    if task == "refer":
        return sorted((result["id"], result["target"], round(result["IOU"], 5)) for result in results)
    keys = {"vqa": ("question_id", "answer"), "nlvr2": ("sentence", "prediction", "label")}
    return sorted(tuple(result[key] for key in keys[task]) for result in results)


@pytest.mark.parametrize(("program", "model", "task"), [
    ("volta", "switchbert", "refer"), ("volta", "switchbert", "retrieval"),
    ("volta", "ctrl_uniter", "vqa"), ("volta", "ctrl_uniter", "nlvr2"),
    ("ours", "switchbert", "vqa"), ("ours", "switchbert", "nlvr2"),
    ("ours", "ctrl_uniter", "refer"), ("ours", "ctrl_uniter", "retrieval"),
])  # fmt: skip
def test_a_run_of_either_is_evaluated_alike_by_both(volta_world, trained, tmp_path, program, model, task):
    weights = trained(program, model, task)
    theirs = evaluated_by_volta(volta_world, model, task, weights, tmp_path / "volta")
    mine = evaluated_by_us(volta_world, model, task, weights, tmp_path / "ours")
    assert mine.choices == theirs.choices
    assert len(theirs.choices) == {"vqa": 40, "refer": 40, "nlvr2": 16, "retrieval": 50}[task]
    chosen = {choice if task == "retrieval" else choice[1] for choice in theirs.choices}
    assert len(chosen) > 1, "a model that always answers the same shows nothing"
    assert len(theirs.figures) == {"vqa": 0, "refer": 2, "nlvr2": 2, "retrieval": 6}[task]
    for name, value in theirs.figures.items():
        assert mine.figures[name] == pytest.approx(value, abs=PRINTED), name
    if task != "vqa":
        assert any(0 < value < 100 for name, value in theirs.figures.items() if name != "loss")
