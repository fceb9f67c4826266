"""``volta-switch flops``: what a configuration costs, as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from volta_switch.config import Config, load_config
from volta_switch.ranges import BATCH_SIZE, PATH, Text

if TYPE_CHECKING:
    from volta_switch.cost.counts import TaskHead

# What is counted, of one image-text pair: pre-training, and the paper's tasks with the heads of VOLTA's task files.
WORK: dict[str, TaskHead | None] = {
    "pre-training": None,
    "VQAv2": {"type": "VL-classifier", "num_labels": 3129},
    "retrieval": {"type": "VL-logit"},
    "referring expressions": {"type": "V-logit"},
}
HEADINGS = {  # of the table
    "training_executed": "training",
    "inference_executed": "inference",
    "training_paths": "training, paths",
    "inference_paths": "inference, paths",
}


def add_flops_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    about = "a name in config/, a path, a model's folder, or hf://owner/name"
    parser.add_argument("config", type=PATH, help=about)
    parser.add_argument(
        "--set", action="append", type=Text(), default=[], metavar="KEY=VALUE", help="overrides a field"
    )
    parser.add_argument(
        "--batch", type=BATCH_SIZE, default=32, help="samples: captions of 12 +- 4 word pieces, 36 regions"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_flops(args: argparse.Namespace) -> None:
    """Prints what a configuration costs.

    Raises:
        UserError: no such configuration, or one that cannot be built.
    """
    found = cost(load_config(args.config, args.set), args.batch)
    print(json.dumps({"config": args.config, "set": args.set, **found}, indent=2) if args.json else table(found))


def cost(config: Config, B: int) -> dict[str, Any]:
    """Returns FLOPs and activation bytes of a sample (means over a batch of ``B``), and parameters.

    The path FLOPs assume K active modes in each layer, all equally probable; K is the configuration's.
    """
    from volta_switch.cost.counts import BatchCounts, some_batch  # here, not above: they import PyTorch
    from volta_switch.cost.executed import activation_bytes, inference, parameters, training_step
    from volta_switch.cost.paths import inference_paths, training_paths

    functions = (training_step, inference, training_paths, inference_paths)
    batch = some_batch(B, config=config)
    flops = {}
    for work, task in WORK.items():
        if task is not None and task["type"] != "V-logit" and config.fusion_method == "none":
            continue  # nothing is pooled; a task file would set another fusion method
        counts = BatchCounts.from_batch(config, batch, task)
        flops[work] = {name: count(config, counts) / B for name, count in zip(HEADINGS, functions, strict=True)}
    return {
        "parameters": parameters(config),
        "batch": B,
        "top_k": None if config.switch is None else config.switch.active_modes,
        "flops_per_sample": flops,
        "activation_bytes_per_sample": activation_bytes(config, B) / B,
    }


def table(found: dict[str, Any]) -> str:
    """Returns the same as text."""
    from tabulate import tabulate

    rows = [
        [work, *(f"{values[name] / 1e9:.2f}" for name in HEADINGS)]
        for work, values in found["flops_per_sample"].items()
    ]
    headings = ["GFLOPs per image-text pair", *HEADINGS.values()]
    memory = found["activation_bytes_per_sample"] / 2**20
    k = "" if found["top_k"] is None else f", paths at K = {found['top_k']}"
    return (
        f"{found['parameters'] / 1e6:.2f} M parameters{k}; pre-training keeps {memory:.1f} MiB of activations a sample "
        f"(float32, batch {found['batch']})\n\n"
        + tabulate(rows, headings, tablefmt="github", stralign="right", colalign=("left",))
    )
