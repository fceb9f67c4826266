"""``volta-switch explain``: why a model answers what it answers, as a page; how often explanations are right."""

from __future__ import annotations

import argparse

from volta_switch.predict.commands import add_model_arguments
from volta_switch.ranges import ANY_TEXT, COUNT, PATH, Text


def add_explain_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser, several="; with --evaluate several seeds' folders")
    image = "an image's id with --features, else a picture's path; NLVR2 takes two"
    parser.add_argument("--image", type=Text(), action="append", default=[], metavar="IMAGE", help=image)
    text = "the question, expression, caption, statement or hypothesis"
    parser.add_argument("--text", type=ANY_TEXT, default="", help=text)
    shown = "a picture to show behind the regions of --features; one for each --image"
    parser.add_argument("--picture", type=PATH, action="append", default=[], metavar="FILE", help=shown)
    parser.add_argument("--out", type=PATH, default="explain.html", metavar="FILE", help="the page")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that --out names")
    rates = "in place of a page: how often explanations name what a synthetic world knows to be right (its folder)"
    parser.add_argument("--evaluate", type=PATH, metavar="WORLD", help=rates)
    parser.add_argument("--samples", type=COUNT, default=400, metavar="N", help="texts that --evaluate looks at")
    parser.add_argument("--json", action="store_true", help="with --evaluate: print JSON")


def run_explain(args: argparse.Namespace) -> None:
    """Writes the page, or prints the rates."""
    from volta_switch.explain.run import print_rates, write_page  # here, not above: it imports PyTorch

    (write_page if args.evaluate is None else print_rates)(args)
