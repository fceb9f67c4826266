"""``eval_task.py`` and ``eval_retrieval.py``: a trained model on a split, with the task's exact metrics."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from volta_switch.errors import UserError
from volta_switch.files import replacing, write_json
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks, switch_encoder
from volta_switch.tasks import Evaluation, build_task
from volta_switch.tasks.retrieval import RetrievalTask
from volta_switch.train.arguments import (
    add_task_flags,
    data_options,
    load_model_config,
    load_task_spec,
    load_tokenizer,
    parser,
    prepare_device,
    run_name,
)
from volta_switch.weights import load_volta, read_weights


def main(argv: Sequence[str]) -> Evaluation:
    """Evaluates one model on one split; writes ``<split>_result.json`` and ``<split>_metrics.json``."""
    return evaluate(flags("Evaluates one model on one task.", batch_size=256).parse_args(argv), zero_shot=False)


def main_retrieval(argv: Sequence[str]) -> Evaluation:
    """As ``main`` for retrieval over all pairs; ``--zero_shot`` reads a pre-training model's matching head."""
    result = flags("Evaluates image-text retrieval over all pairs.", batch_size=128)
    result.add_argument("--zero_shot", action="store_true", help="score pairs by the pre-training matching head")
    args = result.parse_args(argv)
    return evaluate(args, args.zero_shot, only=RetrievalTask)


def flags(description: str, batch_size: int) -> argparse.ArgumentParser:
    """VOLTA's flags of the two evaluation scripts."""
    result = parser(description, seed=42)
    add_task_flags(result)
    result.set_defaults(output_dir="results")
    result.add_argument("--split", default="", help="default: the task file's validation split")
    result.add_argument("--batch_size", type=int, default=batch_size)
    result.add_argument("--routing", default="hard", choices=("hard", "soft"), help="how Switch-BERT's routes are read")
    return result


def evaluate(args: argparse.Namespace, zero_shot: bool, only: type | None = None) -> Evaluation:
    """Runs an evaluation that the flags describe."""
    spec = load_task_spec(args)
    split = args.split or spec.val_split
    if args.val_annotations_jsonpath:
        spec = dataclasses.replace(spec, val_split=split)
    config = load_model_config(args, spec.fusion_method)
    device, precision = prepare_device(args)
    options = data_options(args, args.val_features_lmdbpath, args.num_val_workers)
    task = build_task(spec, config, load_tokenizer(config, spec.max_seq_length), options)
    if only is not None and not isinstance(task, only):
        raise UserError(f"{spec.key} ({spec.name}) is no retrieval task; evaluate it with eval_task.py")
    if not args.from_pretrained:
        raise UserError("--from_pretrained: name the weights to evaluate, for example <run>/pytorch_model_best.bin")
    state = read_weights(args.from_pretrained)
    model: BertForVLTasks | BertForVLPreTraining
    if zero_shot:
        model = BertForVLPreTraining(config)
        load_volta(model, state, source=args.from_pretrained)
    else:
        model = BertForVLTasks(config, {spec.key: spec.head()})
        load_volta(model, state, unused=("cls.", "clfs_dict"), source=args.from_pretrained)
    model.to(device)
    switched = switch_encoder(model)
    if switched is not None:
        switched.routing = args.routing

    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        result = task.test(model, split, args.batch_size, device)  # type: ignore[arg-type]
    folder = Path(args.output_dir) / run_name(args, f"{spec.name}_")
    write_json(folder / f"{split}_result.json", result.results)
    if result.submission:
        with replacing(folder / f"{split}_submission.csv") as temporary:
            temporary.write_text(result.submission, encoding="utf-8")
    write_json(
        folder / f"{split}_metrics.json",
        {
            "task": spec.key,
            "name": spec.name,
            "split": split,
            "weights": args.from_pretrained,
            **result.notes,
            **result.metrics,
        },
    )
    shown = "  ".join(f"{name} {value:.2f}" for name, value in result.metrics.items())
    shown += "".join(f"  {name}: {value}" for name, value in result.notes.items())
    print(f"{spec.name} {split}: {shown}", file=sys.stderr)
    print(f"written to {folder}", file=sys.stderr)
    return result
