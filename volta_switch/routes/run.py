"""``volta-switch routes``: routes, their dependence on the data, their value, and attention's mass, as one JSON."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import record_json
from volta_switch.config import Config
from volta_switch.config.model_folder import take_model, weights_in
from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.files import refuse_replacing
from volta_switch.model.bert import BertForVLTasks, switch_encoder
from volta_switch.model.encoder import SwitchEncoder, encoder_of
from volta_switch.routes.measurements import intervene, watched
from volta_switch.routes.record import (
    INPUT_NAMES,
    ObservedModel,
    Record,
    collect_ids,
    evaluate,
    facts,
    record,
    shown,
)
from volta_switch.routes.report import ImageSample, counted_routes, dependence_values, means, route_values
from volta_switch.train.evaluation import EvaluationRun, prepare
from volta_switch.train.flag_values import print_ineffective_settings

FORMAT = 1


def run_routes(args: argparse.Namespace) -> None:
    """Evaluates, records the routes, and writes the report.

    Raises:
        UserError: flags that mean nothing here, or an architecture that switches nothing.
    """
    _check(args)
    take_model(args)
    print_ineffective_settings(args)
    refuse_replacing(Path(args.out), args.overwrite)
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
    drawn = ImageSample(dict(run.task.dataset(run.split, training=False).sample_images)) if args.samples else None
    with run.autocast():
        if encoder is not None:
            found |= _routes(args, run, model, encoder, drawn)
        if args.attention:
            _add_attention(found, run, model, _batches(run, args), drawn)
    if encoder is not None and args.checkpoints:
        found["over training"] = [_short_report(args, weights, drawn) for weights in args.checkpoints]
    record_json(Path(args.out), _without_nan(found))
    print(_summary(found), f"written to {args.out}", sep="\n", file=sys.stderr)


def _check(args: argparse.Namespace) -> None:
    if args.routing != "hard":
        raise UserError("--routing soft: a route is what is chosen; leave it out (soft weights are reported beside)")
    if not Path(args.out).name or Path(args.out).is_dir():
        raise UserError(f"--out {args.out}: expected a file's name, for example routes.json")


def _routes(
    args: argparse.Namespace,
    run: EvaluationRun,
    model: BertForVLTasks,
    encoder: SwitchEncoder,
    drawn: ImageSample | None,
) -> dict[str, Any]:
    batches = _batches(run, args)
    kept = record(run.task, model, encoder, batches(), run.device, args.epsilon)
    if not len(kept.modes):
        raise UserError(f"{run.task.spec.key} ({run.task.spec.name}): split {run.split!r} gave no sample")
    known = facts(run.task, run.split, kept)
    values = route_values(encoder, kept, args.epsilon)
    told = dependence_values(encoder, kept, known, args.permutations)
    found = {
        "switch": _switch(run.task.config),
        "metrics": kept.evaluation.metrics,
        "metric": run.task.metric,
        "temperature": float(encoder.temperature),
        "epsilon": args.epsilon,
        **means(values),
        "mutual information": means(told),
    }
    if drawn is not None:
        values |= {"mutual information": told}
        found |= _drawn_from(drawn, kept) | {"intervals": _intervals(drawn, kept, values)}
    if args.interventions:
        found |= intervene(run.task, model, encoder, batches, run.device, kept, drawn)
    per_sample = {**shown(run.task, run.split, kept), "routes": counted_routes(encoder, kept), **known}
    return found | {"per sample": per_sample}


def _drawn_from(drawn: ImageSample, kept: Record) -> dict[str, Any]:
    """Returns the number of the samples' images, and of the split's."""
    images = len(set(drawn.groups(kept.ids).tolist()))
    return {"images": images, "images of the split": len(set(drawn.image_of.values()))}


def _intervals(drawn: ImageSample, kept: Record, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the report with intervals in place of all numbers that are means over samples."""
    rows = drawn.groups([name for name, counted in zip(kept.ids, kept.counted, strict=True) if counted])
    measured = {
        name: 100 * np.array(of_samples, dtype=float)
        for name, of_samples in kept.evaluation.measured.items()
        if len(of_samples) == len(kept.scored)  # and not of a part of the split
    }
    means_over_samples = {key: value for key, value in values.items() if key not in ("samples", "flops per pair")}
    return drawn.intervals(means_over_samples, rows) | {"metrics": drawn.intervals(measured, drawn.groups(kept.scored))}


def _switch(config: Config) -> dict[str, Any]:
    assert config.switch is not None
    switch = config.switch
    inputs = list(INPUT_NAMES[: switch.input_candidates])
    return {"modes": list(switch.modes) if switch.attention else [], "inputs": inputs if switch.input else []}


def _add_attention(
    found: dict[str, Any],
    run: EvaluationRun,
    model: BertForVLTasks,
    batches: Callable[[], Iterable[Batch]],
    drawn: ImageSample | None,
) -> None:
    """Adds attention's mass over the true pairs, and its intervals."""
    ids: list[str] = []
    encoder = encoder_of(model)
    with watched(encoder, run.task.alternatives) as masses:
        evaluate(run.task, ObservedModel(model, None), collect_ids(run.task, batches(), ids, []), run.device)
    found["attention"] = masses.report()
    if drawn is not None:
        rows = 1 if run.task.config.fusion.joins_images else run.task.images
        groups = np.repeat(drawn.groups(ids), rows)
        found.setdefault("intervals", {})["attention"] = drawn.intervals(masses.values(), groups)


def _short_report(args: argparse.Namespace, source: str, drawn: ImageSample | None) -> dict[str, Any]:
    """Returns a short report of the routes of other weights: a file, or a folder that has them."""
    weights = str(weights_in(source)) if Path(source).is_dir() else source
    run = prepare(argparse.Namespace(**{**vars(args), "from_pretrained": weights}))
    model, encoder = run.model, switch_encoder(run.model)
    assert isinstance(model, BertForVLTasks) and encoder is not None
    with run.autocast():
        kept = record(run.task, model, encoder, _batches(run, args)(), run.device, args.epsilon)
    values = route_values(encoder, kept, args.epsilon)
    report = means(values)
    return {
        **{
            "weights": weights,
            "training samples": int(encoder.switch_samples),
            "temperature": float(encoder.temperature),
        },
        **{run.task.metric: kept.evaluation.score, "layers": report["layers"], "cross-layer": report["cross-layer"]},
        "architectures": {**report["architectures"], "most frequent": report["architectures"]["most frequent"][:1]},
        **({} if drawn is None else {"intervals": _intervals(drawn, kept, values)}),
    }


def _batches(run: EvaluationRun, args: argparse.Namespace) -> Callable[[], Iterable[Batch]]:
    """Returns a function that gives the split's batches, always the same; with ``--samples``, of some samples."""
    drawn = {"samples": args.samples, "samples_seed": args.samples_seed}
    return lambda: run.task.loader(run.split, args.batch_size, training=False, **drawn)


def _summary(found: dict[str, Any]) -> str:
    line = f"{found['name']} {found['split']}:"
    if "architectures" in found:
        of = found["architectures"]
        best = of["most frequent"][0]
        line += f" {of['different']} architectures over {found['samples']} samples, entropy {of['entropy']:.2f} bits;"
        line += f" {100 * best['share']:.2f} % take {best['route']}"
    return line


def _without_nan(value: Any) -> Any:
    """Returns the value with None for NaN, which JSON has not: a metric that could not be computed is null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
