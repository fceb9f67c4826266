"""What a world is made from: every parameter that its files depend on; and the command that writes one.

Nothing here imports NumPy before a world is written.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from volta_switch.errors import UserError
from volta_switch.ranges import PATH, SEED, Choice, Many, OrNone, Truth, bounded, range_of, read_fields, whole

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("cube", "ball", "cone", "ring", "star")
MATERIALS = ("metal", "wooden", "glass")
SIZES = ("small", "large")

OBJECT_CLASSES = 1 + len(SHAPES) * len(COLOURS)  # background, then shape x colour
ATTRIBUTE_CLASSES = 1 + len(SIZES) * len(MATERIALS)  # background, then size x material

ABLATION_FILE = "cross-modal-ablation_test_tasks.yml"  # of a world with Flickr30k Entities

CANVAS_WIDTH = 480  # pixels
CANVAS_HEIGHT = 360  # pixels
MAX_OBJECTS = 9  # of any scene

# Stand-ins for Conceptual Captions, RefCOCO+, Flickr30k, VQAv2, NLVR2, RefCOCO, RefCOCOg, COCO captions, GQA, SNLI-VE.
BY_DEFAULT = ("concap", "refer", "retrieval", "vqa", "nlvr2", "refcoco", "refcocog", "coco", "gqa", "snli_ve")
# Flickr30k Entities' is written on request only, so that a world without a choice stays the one that it was.
DATA_SETS = (*BY_DEFAULT, "entities")
IMAGES_OF = {
    "refcoco": "refer",
    "refcocog": "refer",
    "coco": "vqa",
    "snli_ve": "retrieval",
    "entities": "retrieval",
}  # the others have their own


@dataclass(frozen=True)
class WorldSpec:
    """The parameters of a world; two worlds with equal specs have equal files.

    Attributes:
        seed: seeds scenes, texts, the detector's random embeddings and the spelling of words.
        images: training images of each data set (pre-training and every task have images of their own); for retrieval,
            where an image has five captions, five eighths as many; for NLVR2 they make half as many pairs.
        eval_images: validation images of each data set, and as many test images where ``test_images`` does not say how
            many; retrieval uses at most 100 of them.
        test_images: test images of each data set with images of its own, retrieval's included; None: ``eval_images``.
            The other splits are the same with any number. COCO's test images are VQA's validation images.
        text_depth: 0 writes content words whole; k > 0 spells each in k + 1 word pieces of a small shared alphabet.
        vision_depth: layers of the fixed random network that the region features pass through; 0: linear in attributes.
        feature_size: F, width of a region feature.
        boxes: regions per image; None: one per object, so that images differ in their number of regions.
        num_classes: C, the detector's object classes, background (index 0) included; at least 31.
        num_attributes: A, the detector's attribute classes, background (index 0) included; at least 7.
        render: also draw a few dozen scenes as PNG.
        data_sets: those to write, of ``DATA_SETS``; the content of one does not depend on the others. All but Flickr30k
            Entities' by default.
    """

    seed: int = bounded(0, SEED)
    images: int = bounded(2000, whole(20, 10_000_000))
    eval_images: int = bounded(200, whole(10, 1_000_000))
    test_images: int | None = bounded(None, OrNone(whole(10, 1_000_000)))
    text_depth: int = bounded(0, whole(0, 3))  # up to four pieces a word
    vision_depth: int = bounded(0, whole(0, 100))
    feature_size: int = bounded(64, whole(8, 65536))
    boxes: int | None = bounded(None, OrNone(whole(MAX_OBJECTS, 10_000)))
    num_classes: int = bounded(OBJECT_CLASSES, whole(OBJECT_CLASSES, 1_000_000))
    num_attributes: int = bounded(ATTRIBUTE_CLASSES, whole(ATTRIBUTE_CLASSES, 1_000_000))
    render: bool = bounded(True, Truth())
    data_sets: tuple[str, ...] = bounded(BY_DEFAULT, Many(Choice(*DATA_SETS)))

    def __post_init__(self) -> None:
        """Raises ``UserError`` for a value out of range."""
        read_fields(self, "world: ")
        object.__setattr__(self, "data_sets", _in_order(self.data_sets))

    def as_dict(self) -> dict:
        """Returns the parameters as plain JSON values; ``test_images`` where it is given, as older worlds lack it."""
        values = {**asdict(self), "data_sets": list(self.data_sets)}
        if self.test_images is None:
            del values["test_images"]
        return values


def _in_order(data_sets: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the data sets in the order of ``DATA_SETS``; raise ``UserError`` for none, or an incomplete choice."""
    if not data_sets:
        raise UserError(f"world: data_sets: expected some of {' '.join(DATA_SETS)}, found none")
    for name in data_sets:
        if IMAGES_OF.get(name, name) not in data_sets:
            raise UserError(
                f"world: data_sets names {name}, which describes the images of {IMAGES_OF[name]}; "
                f"add {IMAGES_OF[name]} to --data-sets"
            )
    return tuple(name for name in DATA_SETS if name in data_sets)


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
        "test_images": "test images of each data set (default: as many as --eval-images; COCO's stay as many)",
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
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        kind = range_of(WorldSpec, field)
        parser.add_argument(*spellings, dest=field, type=kind, default=value, metavar="N", help=shown)
    based = ", ".join(f"{name} needs {described}" for name, described in IMAGES_OF.items())
    shown = f"those to write, of {' '.join(DATA_SETS)} (default: all but entities; {based})"
    one = Choice(*DATA_SETS)
    parser.add_argument("--data-sets", nargs="+", type=one, default=BY_DEFAULT, metavar="NAME", help=shown)
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
