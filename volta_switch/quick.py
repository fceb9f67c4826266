"""``volta-switch quick``: one small Switch-BERT, one task, one picture of what it saw and answered.

It learns to point at what a referring expression names (RefCOCO+'s stand-in of the synthetic world), from random
weights, in one pass over the training expressions. Then it draws some of the test: the scene, the text, the right box,
its own.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from volta_switch.command import typed_program
from volta_switch.data.files.json_files import read_object
from volta_switch.play.commands import play_command
from volta_switch.ranges import COUNT_OR_NONE, PATH

if TYPE_CHECKING:
    from volta_switch.world.pictures import Answer

TASK, SPLIT, MODEL = "TASK10", "test", "demo/switchbert"
SHOWN = 6  # test expressions in the picture


def add_quick_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--out", type=PATH, default="runs/quick", help="folder of world, run and picture (default: %(default)s)"
    )
    parser.add_argument(
        "--max-steps", type=COUNT_OR_NONE, default=0, metavar="N", help="fewer optimiser steps; 0: one epoch"
    )


def run_quick(args: argparse.Namespace) -> None:
    """Writes the world, trains, tests and draws; prints the score beside the best blind guess."""
    from volta_switch.train import finetuning  # here, not above: they import PyTorch
    from volta_switch.world.build import SUMMARY, ensure_world
    from volta_switch.world.phrases import DIRECTORY
    from volta_switch.world.pictures import draw_answers

    out = Path(args.out)
    world = out / "quick-world"  # a name that no world of the user's has: it is replaced where it is of another version
    ensure_world(world, seed=0, images=2000, eval_images=100, render=False, data_sets=("refer",))
    print(f"{world}: a small synthetic world; a model learns to find what an expression names", file=sys.stderr)
    data = ["--tasks_config_file", str(world / "tasks.yml"), "--output_dir", str(out), "--in_memory"]
    model = ["--config", MODEL, "--set", f"bert_model={json.dumps(str(world / DIRECTORY))}", "--task", TASK]
    training = ["--num_epoch", "1", "--batch_size", "64", "--lr", "1.5e-3", "--max_steps", str(args.max_steps)]
    training += ["--from_pretrained", "", "--save_best_only", "--save_every", "0", "--overwrite"]
    training += ["--logdir", str(out / "logs")]
    run = finetuning.main([*data, *model, *training])
    answers, score = answered(world, [*data, "--split", SPLIT, "--from_pretrained", str(run)])
    blind = 100 * read_object(world / SUMMARY)["balance"]["refer"][SPLIT]["chance"]
    path = out / "answers.png"
    title = f"Switch-BERT finds what an expression names: {score:.1f} % right ({len(answers)} test expressions)"
    draw_answers(_some(answers), title, f"a blind guess among the objects: {blind:.1f} %").save(path)
    print(f"{score:.1f} % of the test expressions are answered rightly; a blind guess among the objects: {blind:.1f} %")
    print(f"{path}: what it saw and answered")
    for command in _next_commands(run, world, answers[0], str(path.with_name("why.html"))):
        print(f"next: {command}")


def _next_commands(run: Path, world: Path, answer: Answer, page: str) -> list[str]:
    """Returns commands that ask the model: a page to play with, one answer, and why it is that."""
    from volta_switch.world.task_file import REFER  # here, not above: it needs NumPy

    asked = ["--features", str(world / REFER["refer"].features), "--image", str(answer.scene.image_id)]
    asked += ["--text", answer.text]
    return [
        play_command(run, world / "tasks.yml"),
        shlex.join([*typed_program(), "predict", str(run), *asked]),
        shlex.join([*typed_program(), "explain", str(run), *asked, "--out", page, "--overwrite"]),
    ]


def answered(world: Path, flags: list[str]) -> tuple[list[Answer], float]:
    """Returns what a model answers to each test expression, with its routes, and the share that is right in percent."""
    from volta_switch.model.bert import BertForVLTasks, switch_encoder
    from volta_switch.routes.record import record
    from volta_switch.study.report.route_samples import Scenes
    from volta_switch.tasks.refer import ReferTask
    from volta_switch.train import evaluation
    from volta_switch.train.entry_points import read_flags
    from volta_switch.world.pictures import Answer

    run = evaluation.prepare(read_flags("eval_task", flags))
    task, model, encoder = run.task, run.model, switch_encoder(run.model)
    assert isinstance(task, ReferTask) and isinstance(model, BertForVLTasks) and encoder is not None
    with run.autocast():
        kept = record(task, model, encoder, task.loader(run.split, 256, training=False), run.device)
    scenes, store = Scenes(world, TASK, run.split), task.store(run.split)
    entries = {entry.sent_id: entry for entry in task.expressions(task.spec, run.split)}
    answers = []
    for row, result in enumerate(kept.evaluation.results):
        entry = entries[result["id"]]
        shown = scenes.of(str(entry.image_id), entry.caption)
        assert shown is not None and kept.ids[row] == result["id"]
        route = [encoder.switch.modes[mode] for mode in kept.modes[row]]
        box = store[entry.image_id].boxes[result["target"]]
        answers.append(Answer(shown.scene, entry.caption, entry.box, tuple(box.tolist()), result["IOU"] > 0.5, route))
    return answers, kept.evaluation.score


def _some(answers: list[Answer]) -> list[Answer]:
    """Chooses expressions about different scenes, short and long; wrong answers in their share, but at least one."""
    by_scene = {answer.scene.image_id: answer for answer in answers}.values()  # the last of each
    right, wrong = ([answer for answer in by_scene if answer.right is each] for each in (True, False))
    count = min(max(round(SHOWN * len(wrong) / len(by_scene)), 1), len(wrong), SHOWN)
    return [*_spread(right, SHOWN - count), *_spread(wrong, count)]


def _spread(answers: list[Answer], count: int) -> list[Answer]:
    """Chooses so many of them, evenly from the shortest expression to the longest."""
    ordered = sorted(answers, key=lambda answer: len(answer.text.split()))
    return [ordered[place * len(ordered) // count] for place in range(min(count, len(ordered)))]
