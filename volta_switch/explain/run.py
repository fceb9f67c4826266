"""What ``volta-switch explain`` does: one page, or the rates of an evaluation."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from volta_switch.data.regions import Regions
from volta_switch.errors import UserError
from volta_switch.explain.evaluation import evaluate, rates_text
from volta_switch.explain.explanation import explain
from volta_switch.explain.occlusion import pairs_to_measure
from volta_switch.explain.page import page_of
from volta_switch.explain.pictures import Shown, shown_image
from volta_switch.files import refuse_replacing, replacing
from volta_switch.hub_models import is_address
from volta_switch.predict.predictor import Predictor
from volta_switch.predict.requests import Request
from volta_switch.predict.run import loaded_predictor


def write_page(args: argparse.Namespace) -> None:
    """Explains one answer.

    Raises:
        UserError: the flags contradict each other, or something that they name cannot be used; nothing is written.
    """
    _check(args)
    predictor = loaded_predictor(args, args.model[0])
    request = Request((args.text,), tuple(args.image), args.features)
    request.check(predictor.question)
    if len(request.images) != predictor.question.images:
        raise UserError(
            f"{len(request.images)} images, and a page is of {predictor.question.images}; give --image so often"
        )
    predictor.sources.check(request.images, request.features)
    images = tuple(predictor.sources.regions(image, args.features) for image in args.image)
    shown = _shown(args, predictor, images)
    found = explain(predictor.model, args.text, images, args.task, _say)
    _say(f"then {pairs_to_measure(found.subject)} times without a word and a region together")
    page = page_of(found, shown, _name(args.model[0]))
    with replacing(Path(args.out)) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    _say(f"{args.out}: written")


def print_rates(args: argparse.Namespace) -> None:
    """Prints how often explanations name the truth of a synthetic world's test split."""
    if args.image or args.text or args.picture or args.features:
        raise UserError("--evaluate: takes images and texts from the world; leave --image, --text and others out")
    predictors = [loaded_predictor(args, source) for source in args.model]
    found = evaluate([each.model for each in predictors], Path(args.evaluate), args.samples, args.task, _say)
    print(json.dumps(found, indent=2) if args.json else rates_text(found))


def _check(args: argparse.Namespace) -> None:
    if len(args.model) > 1:
        raise UserError("several models are for --evaluate; a page is of one")
    if not (args.image and args.text):
        raise UserError("give --image and --text, or --evaluate WORLD")
    if args.json:
        raise UserError("--json: is for --evaluate; a page's numbers stand in it")
    if args.picture and (not args.features or len(args.picture) != len(args.image)):
        raise UserError("--picture: shows the image of --features; give one for each --image")
    out = Path(args.out)
    refuse_replacing(out, args.overwrite and not out.is_dir())


def _shown(args: argparse.Namespace, predictor: Predictor, images: tuple[Regions, ...]) -> list[Shown]:
    """Returns what the page shows of each image."""
    pictures = args.picture if args.features else args.image
    files: list[Path | None] = [Path(picture) for picture in pictures] or [None] * len(images)
    return [
        shown_image(regions, args.features, file, () if args.features else predictor.sources.names(regions))
        for regions, file in zip(images, files, strict=True)
    ]


def _name(model: str) -> str:
    """Returns what a page calls a model: an address, or a folder's own name, whose place is nobody's business."""
    return model if is_address(model) else Path(model).resolve().name


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
