"""Small runs of every kind, whose numbers (``golden_runs.json``) change with the results version alone.

``python tests/golden_runs.py`` (``make golden-runs``) writes the record anew. It refuses to where numbers have changed
and ``RESULTS_VERSION`` has not.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from synthetic_world import SyntheticWorld, json_of, log_of, write_synthetic_world
from volta_switch.identities import RESULTS_VERSION
from volta_switch.routes import route_flags
from volta_switch.routes.run import run_routes

RECORD = Path(__file__).with_suffix(".json")
# Rounding differs between processors, by 1e-6 of a loss after these few steps; another random draw changes it by 1e-2.
TOLERANCE = 1e-4
TASKS = ("VQA", "RetrievalFlickr30k", "refcoco+", "NLVR2")  # one for each way to score, to learn and to count
STEPS = ("--max-steps", 3, "--log-every", 1, "--save-every", 0, "--save_best_only")
PRETRAINING = ("--train_batch_size", 10, "--num_train_epochs", 1, "--learning_rate", 5e-3, *STEPS)
FINETUNING = ("--batch_size", 8, "--num_epoch", 1, "--lr", 5e-3, *STEPS)


def golden_numbers(world: SyntheticWorld, folder: Path) -> dict[str, float]:
    """All numbers by names such as ``refcoco+ step 2 loss``: of training, validation, tests, retrieval and routes."""
    found, start = {}, Path()
    for model in ("ctrl_vilbert", "switchbert"):
        run = world.run("train_concap", folder / model, model, *PRETRAINING)
        found |= _of_log(f"pretraining {model}", run)
        start = run / "pytorch_model_best.bin"
    for name in TASKS:
        given = ("--from_pretrained", start, "--task", name)
        run = world.run("train_task", folder / name, "switchbert", *FINETUNING, *given, task="vqa")  # a later flag wins
        found |= _of_log(name, run)
        entry = "eval_retrieval" if name.startswith("Retrieval") else "eval_task"
        given = ("--from_pretrained", run / "pytorch_model_best.bin", "--task", name)
        world.run(entry, folder / name, "switchbert", *given, task="vqa")
        [metrics] = run.glob("*_metrics.json")
        found |= _numbers(f"{name} test", {key: value for key, value in json_of(metrics).items() if key != "of"})
        if name == "refcoco+":
            flags = [*world.flags("eval_task", folder, "switchbert", "vqa"), *given, "--out", folder / "routes.json"]
            run_routes(route_flags().parse_args([*map(str, flags), "--permutations", "5"]))
            report = json_of(folder / "routes.json")
            found |= _numbers("routes", {name: report[name] for name in ("metrics", "flops per pair", "cross-layer")})
            found["routes entropy"] = report["architectures"]["entropy"]
    return found


def changed(recorded: Mapping[str, float], found: Mapping[str, float]) -> list[str]:
    """A line for every number of the record that is gone or another one."""
    return [
        f"{name}: {value} on record, now {found.get(name)}"
        for name, value in recorded.items()
        if name not in found or not math.isclose(value, found[name], rel_tol=TOLERANCE, abs_tol=TOLERANCE / 10)
    ]


def _of_log(name: str, run: Path) -> dict[str, float]:
    """Losses and paths of every step, and validation's metrics."""
    found: dict[str, float] = {}
    for line in log_of(run, "train"):
        losses = {key: line[key] for key in ("loss", "mlm", "vision", "itm", "path_flops_per_pair") if key in line}
        found |= _numbers(f"{name} step {line['step']}", losses)
    [validation] = log_of(run, "valid")
    # After these few steps a switcher's options are all but equally probable: which one leads is a matter of rounding.
    left_out = ("kind", "step", "time", "epoch", "samples", "switchers")
    return found | _numbers(f"{name} validation", {key: validation[key] for key in validation if key not in left_out})


def _numbers(prefix: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Every number of nested sections."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _numbers(f"{prefix} {key}", value)
        elif isinstance(value, int | float):
            found[f"{prefix} {key}"] = float(f"{value:.8g}")
    return found


def write_record() -> list[str]:
    """Writes the record anew, unless numbers have changed and the version has not: then returns which."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        found = golden_numbers(write_synthetic_world(Path(scratch) / "world"), Path(scratch) / "runs")
    if RECORD.is_file():
        record = json_of(RECORD)
        other = changed(record["numbers"], found)
        if other and record["results_version"] == RESULTS_VERSION:
            return other
    said = {"results_version": RESULTS_VERSION, "torch": torch.__version__.split("+")[0], "numbers": found}
    RECORD.write_text(json.dumps(said, indent=1) + "\n")
    return []


if __name__ == "__main__":
    other = write_record()
    if other:
        reason = "these numbers have changed; raise RESULTS_VERSION in volta_switch/identities.py, or mend it"
        sys.exit("\n".join([*other, f"error: {reason}"]))
    print(RECORD)
