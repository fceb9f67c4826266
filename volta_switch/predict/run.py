"""What ``volta-switch predict`` does: requests of the command line or of a file, answers printed or written."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from volta_switch.errors import UserError
from volta_switch.files import refuse_replacing, replacing
from volta_switch.predict.answers import answer_text, answer_values
from volta_switch.predict.picture_detector import detector_for
from volta_switch.predict.predictor import Predictor
from volta_switch.predict.requests import Request, read_requests, requests_of
from volta_switch.train.device import choose_device
from volta_switch.train.ranks import Ranks


def answer_requests(args: argparse.Namespace) -> None:
    """Answers what the flags ask.

    Raises:
        UserError: the flags contradict each other, or something that they name cannot be used; nothing is written.
    """
    _check(args)
    predictor = loaded_predictor(args, args.model)
    if args.input is not None:
        requests = read_requests(Path(args.input), args.features, predictor.question)
    else:
        requests = requests_of(args.text, args.image, args.features, predictor.question)
    answers = _answers(predictor, requests, args)
    if args.out is None:
        for values in answers:
            print(json.dumps(values, ensure_ascii=False) if args.json else answer_text(values))
        return
    with (
        replacing(Path(args.out)) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for values in answers:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
    print(f"{args.out}: {len(requests)} answers", file=sys.stderr)


def loaded_predictor(args: argparse.Namespace, source: str) -> Predictor:
    """Returns a model on the device that the flags name, with the features, head and cache that they name."""
    device = choose_device(args.device, Ranks())
    if args.detector is None and (args.select or args.regions):
        raise UserError("--select and --regions: say how a detector chooses; give --detector")
    predictor = Predictor.load(source, features=args.features, task=args.task, cache=args.cache)
    predictor.model.to(device)
    if args.detector is None:
        return predictor
    model = predictor.model
    width = model.config.v_feature_size
    detector = detector_for(model.files, args.detector, args.select, args.regions, device, width)
    return replace(predictor, sources=predictor.sources.with_detector(detector))


def _answers(predictor: Predictor, requests: list[Request], args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    question = predictor.question
    found = predictor.answers(requests, args.batch_size)
    hidden = True if args.out is None else None  # what is printed says how far it is; None: no bar without a terminal
    shown = tqdm(zip(requests, found, strict=True), total=len(requests), unit="text", leave=False, disable=hidden)
    for request, predictions in shown:
        values = answer_values(request, predictions, question, args.best)
        remarks = predictor.remarks(request.texts)
        yield values | {"remark": "; ".join(remarks)} if remarks else values


def _check(args: argparse.Namespace) -> None:
    if args.input is not None and (args.text or args.image):
        raise UserError("--input: holds the texts and images; leave --text and --image out")
    if args.input is None and not (args.text and args.image):
        raise UserError("give --image and --text, or many in --input FILE.jsonl")
    if args.json and args.out is not None:
        raise UserError("--json: prints, and --out writes JSON lines to a file; give one of them")
    if args.out is None:
        return
    out = Path(args.out)
    refuse_replacing(out, args.overwrite and not out.is_dir())
    if args.input is not None and out.resolve() == Path(args.input).resolve():
        raise UserError(f"{out}: is the --input, too; give another --out")
