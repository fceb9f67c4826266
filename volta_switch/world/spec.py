"""What a world is made from: every parameter that its files depend on."""

from dataclasses import asdict, dataclass

from volta_switch.errors import UserError
from volta_switch.ranges import SEED, Choice, Many, OrNone, Truth, bounded, read_fields, whole

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

    seed: int = bounded(0, SEED)
    images: int = bounded(2000, whole(20, 10_000_000))
    eval_images: int = bounded(200, whole(10, 1_000_000))
    text_depth: int = bounded(0, whole(0, 3))  # up to four pieces a word
    vision_depth: int = bounded(0, whole(0, 100))
    feature_size: int = bounded(64, whole(8, 65536))
    boxes: int | None = bounded(None, OrNone(whole(MAX_OBJECTS, 10_000)))
    num_classes: int = bounded(OBJECT_CLASSES, whole(OBJECT_CLASSES, 1_000_000))
    num_attributes: int = bounded(ATTRIBUTE_CLASSES, whole(ATTRIBUTE_CLASSES, 1_000_000))
    render: bool = bounded(True, Truth())
    data_sets: tuple[str, ...] = bounded(DATA_SETS, Many(Choice(*DATA_SETS)))

    def __post_init__(self) -> None:
        """Raises ``UserError`` for a value out of range."""
        read_fields(self, "world: ")
        object.__setattr__(self, "data_sets", _in_order(self.data_sets))

    def as_dict(self) -> dict:
        """Returns the parameters as plain JSON values."""
        return {**asdict(self), "data_sets": list(self.data_sets)}


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
