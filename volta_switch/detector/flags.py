"""Which detector looks at pictures and how it chooses, as flags; alone, because no parser imports PyTorch."""

from __future__ import annotations

import argparse

from volta_switch.ranges import PATH, Text

KINDS = ("caffe", "maxnms")
KIND, NUMBERS = "maxnms", "36"  # where nothing says otherwise


def add_detector_arguments(command: argparse.ArgumentParser, required: bool, otherwise: str = "") -> None:
    """Adds --detector, --select and --regions.

    Args:
        command: its parser.
        required: whether there must be a detector.
        otherwise: what holds where --select and --regions are not given; "": ``KIND`` and ``NUMBERS``. Then they are
            None in what is parsed.
    """
    source = "a detector's folder, hf://unc-nlp/frcnn-vg-finetuned, or a .pkl of py-bottom-up-attention"
    command.add_argument("--detector", type=PATH, required=required, metavar="PATH", help=source)
    kind, numbers = (None, None) if otherwise else (KIND, NUMBERS)
    told = f" (default: {otherwise or KIND})"
    kinds = f"which proposals become regions: as VOLTA's Caffe scripts chose, or its later ones{told}"
    command.add_argument("--select", default=kind, choices=KINDS, help=kinds)
    told = f" (default: {otherwise or NUMBERS})"
    about = f"of a picture; with caffe also MIN-MAX, as 10-100{told}"
    command.add_argument("--regions", type=Text(), default=numbers, metavar="N", help=about)
