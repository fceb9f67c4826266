"""What a world is made from: every parameter that its files depend on."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from volta_switch.errors import UserError

COLOURS = ("red", "green", "blue", "yellow", "white", "black")
SHAPES = ("cube", "ball", "cone", "ring", "star")
MATERIALS = ("metal", "wooden", "glass")
SIZES = ("small", "large")

OBJECT_CLASSES = 1 + len(SHAPES) * len(COLOURS)  # background, then shape x colour
ATTRIBUTE_CLASSES = 1 + len(SIZES) * len(MATERIALS)  # background, then size x material

CANVAS_WIDTH = 480  # pixels
CANVAS_HEIGHT = 360  # pixels
MAX_OBJECTS = 9  # of any scene

# Stand-ins for Conceptual Captions, RefCOCO+, Flickr30k, VQAv2, NLVR2, RefCOCO, RefCOCOg, COCO captions, GQA, SNLI-VE.
DATA_SETS = ("concap", "refer", "retrieval", "vqa", "nlvr2", "refcoco", "refcocog", "coco", "gqa", "snli_ve")
IMAGES_OF = {
    "refcoco": "refer",
    "refcocog": "refer",
    "coco": "vqa",
    "snli_ve": "retrieval",
}  # the others have their own


@dataclass(frozen=True)
class WorldSpec:
    """The parameters of a world; two worlds with equal specs have equal files.

    Attributes:
        seed: seeds scenes, texts, the detector's random embeddings and the spelling of words.
        images: training images of each data set (pre-training and every task have images of their own); for retrieval,
            where an image has five captions, five eighths as many; for NLVR2 they make half as many pairs.
        eval_images: validation images, and as many test images, of each data set; retrieval uses at most 100 of them.
        text_depth: 0 writes content words whole; k > 0 spells each in k + 1 word pieces of a small shared alphabet.
        vision_depth: layers of the fixed random network that the region features pass through; 0: linear in attributes.
        feature_size: F, width of a region feature.
        boxes: regions per image; None: one per object, so that images differ in their number of regions.
        num_classes: C, the detector's object classes, background (index 0) included; at least 31.
        num_attributes: A, the detector's attribute classes, background (index 0) included; at least 7.
        render: also draw a few dozen scenes as PNG.
        data_sets: those to write, of ``DATA_SETS``; the content of one does not depend on the others.
    """

    seed: int = 0
    images: int = 2000
    eval_images: int = 200
    text_depth: int = 0
    vision_depth: int = 0
    feature_size: int = 64
    boxes: int | None = None
    num_classes: int = OBJECT_CLASSES
    num_attributes: int = ATTRIBUTE_CLASSES
    render: bool = True
    data_sets: tuple[str, ...] = DATA_SETS

    def __post_init__(self) -> None:
        """Raise ``UserError`` for a value out of range."""
        object.__setattr__(self, "data_sets", _in_order(self.data_sets))
        lowest = {
            "seed": 0,
            "images": 20,
            "eval_images": 10,
            "text_depth": 0,
            "vision_depth": 0,
            "feature_size": 8,
            "num_classes": OBJECT_CLASSES,
            "num_attributes": ATTRIBUTE_CLASSES,
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "data_sets" or (field.name == "boxes" and value is None):
                continue
            if field.name == "render":
                if not isinstance(value, bool):
                    raise UserError(f"world: render must be true or false, not {value!r}")
                continue
            least = MAX_OBJECTS if field.name == "boxes" else lowest[field.name]
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UserError(
                    f"world: {field.name} must be a whole number of at least {least}, not {value!r}; "
                    f"give --{_flag(field.name)} {least} or more"
                )
        if self.text_depth > 3:
            raise UserError(f"world: text_depth must be at most 3 (four pieces a word), not {self.text_depth}")

    def as_dict(self) -> dict:
        """Return the parameters as plain JSON values."""
        return {**asdict(self), "data_sets": list(self.data_sets)}


def _in_order(data_sets: Any) -> tuple[str, ...]:
    """Return the data sets in the order of ``DATA_SETS``; raise ``UserError`` for an unknown or incomplete choice."""
    if not isinstance(data_sets, list | tuple) or not data_sets:
        raise UserError(f"world: data_sets must be a list of some of {' '.join(DATA_SETS)}, not {data_sets!r}")
    for name in data_sets:
        if name not in DATA_SETS:
            raise UserError(f"world: data_sets names {name!r}; expected some of {' '.join(DATA_SETS)}")
        if IMAGES_OF.get(name, name) not in data_sets:
            raise UserError(
                f"world: data_sets names {name}, which describes the images of {IMAGES_OF[name]}; "
                f"add {IMAGES_OF[name]} to --data-sets"
            )
    return tuple(name for name in DATA_SETS if name in data_sets)


def _flag(name: str) -> str:
    """Return the command-line flag that sets field ``name``, without its dashes."""
    return {"num_classes": "classes", "num_attributes": "attributes"}.get(name, name.replace("_", "-"))
