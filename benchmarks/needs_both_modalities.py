"""Does the synthetic world need both modalities? Trains one model three times per task: whole, text only, regions only.

All start from the same pre-training weights and get the same hyperparameters; the blind ones see zeroed features and
locations, or texts reduced to [CLS] [SEP]. Prints one Markdown table with the best blind guess beside it.

    python benchmarks/needs_both_modalities.py --world runs/demo/world \\
        --from_pretrained runs/demo/ctrl_uniter/seed0/ctrl_uniter
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from volta_switch import BertForVLTasks, load_config
from volta_switch.command import run_command
from volta_switch.config.model_folder import take_model
from volta_switch.data.batches.collate import Batch
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, Task, build_task, load_task
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.train.finetuning import FineTuning
from volta_switch.train.loop import Trainer
from volta_switch.train.optimisation import Hyperparameters, Validation
from volta_switch.train.ranks import Ranks
from volta_switch.train.replicas import Replicas
from volta_switch.train.run_folder import CHECKPOINTS, RunFolder
from volta_switch.train.start import initial_weights

TASKS = {"TASK10": "test", "TASK1": "val", "TASK8": "test"}
CPU = torch.device("cpu")


def main(argv: Any) -> None:
    """Trains, tests and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--from_pretrained", required=True, help="a model's folder, or weights of --config's model")
    parser.add_argument("--config", dest="config_file")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--views", nargs="+", default=list(VIEWS), choices=list(VIEWS))
    args = parser.parse_args(argv)
    take_model(args)
    blind = _blind_guesses(json.loads((args.world / "world.json").read_text())["balance"])
    rows = []
    for key in TASKS:
        scores = [_score(args, key, view) for view in args.views]
        rows.append([key, *(f"{score:.1f}" for score in scores), f"{blind[key]:.1f}"])
        print(tabulate(rows, ["task", *args.views, "best blind guess"], tablefmt="github"), flush=True)


def _score(args: argparse.Namespace, key: str, view: str) -> float:
    config = load_config(args.config_file, [f"bert_model={args.world / 'bert-world'}"])
    spec = load_task(args.world / "tasks.yml", key)
    tokenizer = Tokenizer(config.bert_model)
    task: Task = build_task(spec, config, tokenizer, DataOptions(in_memory=True))
    torch.manual_seed(0)
    model = BertForVLTasks(config, {key: spec.head()})
    initial_weights(model, config, args.from_pretrained)
    hide = VIEWS[view]
    model.register_forward_pre_hook(lambda _, given, named: (given, hide(named, tokenizer)), with_kwargs=True)
    validation = task.loader(spec.val_split, 256, training=False)

    def validate(batches: Iterable[Batch]) -> Validation:
        found = task.evaluate(model, batches, CPU)
        return Validation(found.score, found.metrics)

    with tempfile.TemporaryDirectory() as folder:
        hyper = Hyperparameters(args.epochs, 64, 1e-3, weight_decay=1e-4, clip_grad_norm=1.0)
        run = RunFolder(Path(folder))
        trainer = Trainer(
            replicas=Replicas(FineTuning(model, task), Ranks(), CPU),
            loader=task.loader(spec.train_split, hyper.batch_size, training=True),
            validation=validation,
            validate=validate,
            hyper=hyper,
            run=run,
            store=CheckpointStore(Path(folder) / CHECKPOINTS),
            device=CPU,
            precision=torch.float32,
            identity={},
            keep_epochs=False,
        )
        run.start(config, ["needs_both_modalities.py"], {"view": view}, False, 0)
        trainer.fit()
        run.close()
    return task.test(model, TASKS[key], 256, CPU).score


def _whole(inputs: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    return inputs


def _text_only(inputs: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    hidden = {name: torch.zeros_like(inputs[name]) for name in ("image_feat", "image_loc")}
    return {**inputs, **hidden}


def _regions_only(inputs: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    ids = torch.full_like(inputs["input_ids"], tokenizer.pad_id)
    ids[:, 0], ids[:, 1] = tokenizer.cls_id, tokenizer.sep_id
    return {**inputs, "input_ids": ids, "attention_mask": (ids != tokenizer.pad_id).long()}


VIEWS: dict[str, Callable[[dict[str, Any], Tokenizer], dict[str, Any]]] = {
    "whole": _whole,
    "text only": _text_only,
    "regions only": _regions_only,
}


def _blind_guesses(balance: Any) -> dict[str, float]:
    return {
        "TASK10": 100 * balance["refer"]["test"]["chance"],
        "TASK1": 100 * balance["vqa"]["val"]["prior_by_kind"],
        "TASK8": 100 * balance["retrieval"]["test"]["chance_r1"],
    }


if __name__ == "__main__":
    run_command(main)
