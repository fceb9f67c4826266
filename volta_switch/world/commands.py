"""``volta-switch world``: its flags, and what it prints; nothing here imports NumPy before it runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

from volta_switch.ranges import PATH, Choice, range_of
from volta_switch.world.spec import DATA_SETS, IMAGES_OF, WorldSpec

BLIND_GUESSES = (  # that the command prints: data set, what it is called, key in the summary's balance
    ("refer", "RefCOCO+", "chance"), ("vqa", "VQA", "prior_by_kind"), ("retrieval", "Flickr30k R@1", "chance_r1"),
    ("nlvr2", "NLVR2", "majority"), ("refcoco", "RefCOCO", "chance"), ("refcocog", "RefCOCOg", "chance"),
    ("coco", "COCO R@1", "chance_r1"), ("gqa", "GQA", "prior_by_kind"), ("snli_ve", "SNLI-VE", "majority"),
)  # fmt: skip


def add_world_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the ``world`` command's arguments: OUT, a flag for each field of ``WorldSpec``, and --overwrite."""
    default = WorldSpec()
    parser.add_argument("out", type=PATH, metavar="OUT", help="folder to write; it appears whole or not at all")
    flags = {
        "seed": "seeds everything",
        "images": "training images of each data set",
        "eval_images": "validation, and as many test, images of each data set (retrieval: at most 100)",
        "text_depth": "0: whole words; k: content words spelled in k + 1 word pieces that must be composed",
        "vision_depth": "layers of the fixed random network that features pass through",
        "feature_size": "width of a region feature",
        "boxes": "regions per image, clutter included (default: one per object, 9 to 12)",
        "classes": "object classes of the detector, background included",
        "attributes": "attribute classes of the detector, background included",
    }
    for name, text in flags.items():
        field = {"classes": "num_classes", "attributes": "num_attributes"}.get(name, name)
        value = getattr(default, field)
        shown = text if value is None else f"{text} (default: {value})"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=field, type=range_of(WorldSpec, field), default=value, metavar="N", help=shown)
    based = ", ".join(f"{name} needs {described}" for name, described in IMAGES_OF.items())
    shown = f"those to write, of {' '.join(DATA_SETS)} (default: all; {based})"
    one = Choice(*DATA_SETS)
    parser.add_argument("--data-sets", nargs="+", type=one, default=DATA_SETS, metavar="NAME", help=shown)
    parser.add_argument("--no-render", dest="render", action="store_false", help="draw no pictures of scenes")
    parser.add_argument("--overwrite", action="store_true", help="replace a world with other parameters")


def run_world(args: argparse.Namespace) -> int:
    """Writes the world that the parsed arguments describe and prints what was done; returns the exit code."""
    from volta_switch.world.build import SUMMARY, write_world  # here, not above: it imports NumPy

    parameters = {field.name: getattr(args, field.name) for field in fields(WorldSpec)}
    if not write_world(args.out, overwrite=args.overwrite, **parameters):
        print(f"{args.out}: this world is already there; nothing to do")
        return 0
    summary = json.loads((Path(args.out) / SUMMARY).read_text(encoding="utf-8"))
    train = sum(splits["train"] for splits in summary["images"].values())
    print(f"{args.out}: {train} training images, vocabulary of {summary['vocabulary']}, {summary['labels']} answers")
    scores = summary["balance"]
    said = [f"{name} {100 * scores[data_set]['test'][guess]:.1f} %"
            for data_set, name, guess in BLIND_GUESSES if data_set in scores]  # fmt: skip
    if said:
        print(f"without looking: {', '.join(said)}")
    return 0
