"""``volta-switch routes``: routes, what they depend on and what they are worth, and attention's mass, as one JSON."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from volta_switch.config import Config
from volta_switch.cost.paths import EPSILON
from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.files import write_json
from volta_switch.flag_parser import FlagParser
from volta_switch.model.bert import BertForVLTasks, switch_encoder
from volta_switch.model.encoder import SwitchEncoder, encoder_of
from volta_switch.ranges import COUNT_OR_NONE, PATH, Number, whole
from volta_switch.routes.attention_maps import watched
from volta_switch.routes.facts import facts, shown
from volta_switch.routes.interventions import intervene
from volta_switch.routes.record import INPUT_NAMES, Observed, evaluate, record
from volta_switch.routes.report import counted_routes, dependence, route_report
from volta_switch.tasks.retrieval import ALTERNATIVES, RetrievalTask
from volta_switch.train.evaluation import Run, prepare
from volta_switch.train.flags import evaluation_flags
from volta_switch.train.told_settings import say_without_effect

FORMAT = 1


def route_flags() -> FlagParser:
    """The flags of ``eval_task.py``, and the command's own; a parent of its parser."""
    result = evaluation_flags("What Switch-BERT's switchers do on a task.", batch_size=256)
    own = result.add_argument_group("routes")
    own.add_argument("--out", type=PATH, required=True, help="the JSON file to write")
    own.add_argument(
        "--interventions", action="store_true", help="force and forbid every option at every layer, and whole routes"
    )
    own.add_argument("--attention", action="store_true", help="attention's mass between text and vision, by head")
    own.add_argument("--samples", type=COUNT_OR_NONE, default=0, help="so many, evenly over the split; 0: all")
    over = "weights of the same run at other times: their routes' entropy, and what else changes"
    own.add_argument("--checkpoints", nargs="+", type=PATH, default=[], metavar="WEIGHTS", help=over)
    own.add_argument("--permutations", type=whole(0, 1_000_000), default=200, help="of the test of mutual information")
    own.add_argument(
        "--epsilon", type=Number(0.0, 1.0, below=True), default=EPSILON, help="soft weights above it are active paths"
    )
    return result


def run_routes(args: argparse.Namespace) -> None:
    """Evaluates with routes recorded, and writes what they are.

    Raises:
        UserError: flags that mean nothing here, or an architecture that switches nothing.
    """
    _check(args)
    say_without_effect(args)
    run = prepare(args)
    model = run.model
    assert isinstance(model, BertForVLTasks)
    encoder = switch_encoder(model)
    if encoder is None and not args.attention:
        raise UserError(f"{args.config_file}: no switch section, so no routes; --attention is for every architecture")
    found: dict[str, Any] = {
        **{"format": FORMAT, "task": run.task.spec.key, "name": run.task.spec.name, "split": run.split},
        **{"weights": run.weights, "config": str(args.config_file), "set": args.set},
    }
    with run.autocast():
        if encoder is not None:
            found |= _routes(args, run, model, encoder)
        if args.attention:
            found["attention"] = _attention(run, model, _batches(run, args))
    if encoder is not None and args.checkpoints:
        found["over training"] = [_at(args, weights) for weights in args.checkpoints]
    write_json(Path(args.out), _without_nan(found))
    print(_summary(found), f"written to {args.out}", sep="\n", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    if args.routing != "hard":
        raise UserError("--routing soft: a route is what is chosen; leave it out (soft weights are reported beside)")
    if not Path(args.out).name or Path(args.out).is_dir():
        raise UserError(f"--out {args.out}: expected a file's name, for example routes.json")


def _routes(args: argparse.Namespace, run: Run, model: BertForVLTasks, encoder: SwitchEncoder) -> dict[str, Any]:
    batches = _batches(run, args)
    kept = record(run.task, model, encoder, batches(), run.device, args.epsilon)
    if not len(kept.modes):
        raise UserError(f"{run.task.spec.key} ({run.task.spec.name}): split {run.split!r} gave no sample")
    known = facts(run.task, run.split, kept)
    found = {
        "switch": _switch(run.task.config),
        "metrics": kept.evaluation.metrics,
        "metric": run.task.metric,
        "temperature": float(encoder.temperature),
        "epsilon": args.epsilon,
        **route_report(encoder, kept, args.epsilon),
        "mutual information": dependence(encoder, kept, known, args.permutations),
    }
    if args.interventions:
        found |= intervene(run.task, model, encoder, batches, run.device, kept)
    per_sample = {**shown(run.task, run.split, kept), "routes": counted_routes(encoder, kept), **known}
    return found | {"per sample": per_sample}


def _switch(config: Config) -> dict[str, Any]:
    assert config.switch is not None
    switch = config.switch
    inputs = list(INPUT_NAMES[: switch.input_candidates])
    return {"modes": list(switch.modes) if switch.attention else [], "inputs": inputs if switch.input else []}


def _attention(run: Run, model: BertForVLTasks, batches: Callable[[], Iterable[Batch]]) -> list[dict[str, Any]]:
    """Attention's mass over the true pairs."""
    encoder = encoder_of(model)
    alternatives = ALTERNATIVES if isinstance(run.task, RetrievalTask) else 1
    with watched(encoder, alternatives) as masses:
        evaluate(run.task, Observed(model, None), batches(), run.device)
    return masses.report()


def _at(args: argparse.Namespace, weights: str) -> dict[str, Any]:
    """Routes of other weights, in short."""
    run = prepare(argparse.Namespace(**{**vars(args), "from_pretrained": weights}))
    model, encoder = run.model, switch_encoder(run.model)
    assert isinstance(model, BertForVLTasks) and encoder is not None
    with run.autocast():
        kept = record(run.task, model, encoder, _batches(run, args)(), run.device, args.epsilon)
    report = route_report(encoder, kept, args.epsilon)
    return {
        **{
            "weights": weights,
            "training samples": int(encoder.switch_samples),
            "temperature": float(encoder.temperature),
        },
        **{run.task.metric: kept.evaluation.score, "layers": report["layers"], "cross-layer": report["cross-layer"]},
        "architectures": {**report["architectures"], "most frequent": report["architectures"]["most frequent"][:1]},
    }


def _batches(run: Run, args: argparse.Namespace) -> Callable[[], Iterable[Batch]]:
    """The split's batches, the same every time; with ``--samples``, of some of its samples."""
    return lambda: run.task.loader(run.split, args.batch_size, training=False, samples=args.samples)


def _summary(found: dict[str, Any]) -> str:
    line = f"{found['name']} {found['split']}:"
    if "architectures" in found:
        of = found["architectures"]
        best = of["most frequent"][0]
        line += f" {of['different']} architectures over {found['samples']} samples, {of['entropy']:.2f} bits;"
        line += f" {100 * best['share']:.2f} % take {best['route']}"
    return line


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: a metric that could not be worked out is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
