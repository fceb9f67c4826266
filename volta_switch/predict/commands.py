"""``volta-switch predict``: what a model answers to texts about images; one on the command line, or many of a file."""

from __future__ import annotations

import argparse

from volta_switch.detector.flags import add_detector_arguments
from volta_switch.ranges import ANY_TEXT, BATCH_SIZE, PATH, Text, whole


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser)
    image = "a picture's path or, with --features, an image's id; NLVR2 takes two, retrieval ranks several"
    parser.add_argument("--image", type=Text(), action="append", default=[], metavar="IMAGE", help=image)
    text = "question, expression, caption, statement or hypothesis; may be given again"
    parser.add_argument("--text", type=ANY_TEXT, action="append", default=[], help=text)
    many = "a file of JSON lines in place of --image and --text: image or images, text, and features and id if wanted"
    parser.add_argument("--input", type=PATH, metavar="FILE", help=many)
    parser.add_argument("--out", type=PATH, metavar="FILE", help="write JSON lines there, whole or not at all")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --out names")
    parser.add_argument("--json", action="store_true", help="print JSON lines")
    parser.add_argument("--best", type=whole(1, 10_000), default=5, help="how many answers are listed (default: 5)")
    parser.add_argument(
        "--batch_size", "--batch-size", type=BATCH_SIZE, default=64, help="texts at a time (default: 64)"
    )


def add_model_arguments(parser: argparse.ArgumentParser, several: str = "") -> None:
    """Adds the arguments that say which model is asked, and where regions come from; ``several``: what several are."""
    model = "a model's folder, or hf://owner/name[@revision]"
    parser.add_argument("model", type=Text(), nargs="+" if several else None, metavar="MODEL", help=model + several)
    features = "a feature file of any format of this project; images are then ids in it"
    parser.add_argument("--features", type=ANY_TEXT, default="", metavar="FILE", help=features)
    add_detector_arguments(parser, required=False, otherwise="the model's own")
    parser.add_argument("--task", type=ANY_TEXT, default="", help="which head, of a model with several: TASK1")
    parser.add_argument("--device", type=ANY_TEXT, default="auto", help="auto, cpu, cuda or cuda:<n> (default: auto)")
    parser.add_argument(
        "--cache", type=PATH, metavar="FOLDER", help="where pictures' regions are kept (default: ~/.cache)"
    )


def run_predict(args: argparse.Namespace) -> None:
    """Answers, and prints or writes the answers."""
    from volta_switch.predict.run import answer_requests  # here, not above: it imports PyTorch

    answer_requests(args)
