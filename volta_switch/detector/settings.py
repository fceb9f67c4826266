"""What a detector is, as its ``config.json`` says it: widths, anchors, the size of its input.

The defaults are those of the Visual Genome detector. A small one is the same network with other numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from volta_switch.errors import UserError
from volta_switch.ranges import NAME, Choice, Many, Number, bounded, read_fields, whole

VERSION_KEY = "volta_switch_detector"
VERSION = 1
STRIDE = 16  # pixels of the input per cell of the feature map
_CHANNELS = whole(1, 65536)
_PIXELS = whole(1, 16384)


@dataclass(frozen=True)
class DetectorConfig:
    """The numbers of a detector.

    Attributes:
        name: what records and models call it.
        classes: of objects, without the background.
        attributes: without "none of them".
        stem_width: channels after the first convolution.
        bottleneck_width: inner channels of a block of res2; each later stage has twice as many.
        stage_width: outer channels of res2; each later stage has twice as many, res5's are the features.
        blocks: of res2, res3, res4 and res5; 3, 4, 23 and 3 make ResNet-101.
        proposal_width: hidden channels of the proposal network.
        anchor_sizes: pixels of the input: the side of a square of the same area.
        anchor_ratios: height / width.
        before_nms, after_nms: proposals of an image, the surest first.
        proposal_nms: overlap above which the less sure of two proposals is dropped.
        pooled: cells along a side of a pooled box.
        box_weights: by which the deltas of x, y, width and height are divided.
        short_side: of the input, pixels.
        long_side: the most that it may have, pixels.
        resizing: "pillow": of bytes and with a filter that fits the scale, as in detectron2; "points": of numbers and
            between the four nearest pixels, as in Caffe and Hugging Face's code.
        pixel_mean: subtracted from blue, green and red, in this order.
    """

    name: str = bounded("visual-genome-r101-c4", NAME)
    classes: int = bounded(1600, whole(1, 30_000))
    attributes: int = bounded(400, whole(1, 30_000))
    stem_width: int = bounded(64, _CHANNELS)
    bottleneck_width: int = bounded(64, _CHANNELS)
    stage_width: int = bounded(256, _CHANNELS)
    blocks: tuple[int, ...] = bounded((3, 4, 23, 3), Many(whole(1, 200)))
    proposal_width: int = bounded(512, _CHANNELS)
    anchor_sizes: tuple[float, ...] = bounded((64, 128, 256, 512), Many(Number(1, 16384)))
    anchor_ratios: tuple[float, ...] = bounded((0.5, 1.0, 2.0), Many(Number(0.01, 100)))
    before_nms: int = bounded(6000, whole(1, 1_000_000))
    after_nms: int = bounded(300, whole(1, 10_000))
    proposal_nms: float = bounded(0.7, Number(0, 1))
    pooled: int = bounded(14, whole(1, 64))
    box_weights: tuple[float, ...] = bounded((10.0, 10.0, 5.0, 5.0), Many(Number(0, 1000, above=True)))
    short_side: int = bounded(600, _PIXELS)
    long_side: int = bounded(1000, _PIXELS)
    resizing: str = bounded("pillow", Choice("pillow", "points"))
    pixel_mean: tuple[float, ...] = bounded((102.9801, 115.9465, 122.7717), Many(Number(0, 255)))

    def __post_init__(self) -> None:
        """Raises ``UserError`` for a value out of range."""
        read_fields(self, "detector: ")
        for name, count in (("blocks", 4), ("box_weights", 4), ("pixel_mean", 3)):
            if len(getattr(self, name)) != count:
                raise UserError(f"detector: {name}: expected {count} numbers, found {len(getattr(self, name))}")
        if not (self.anchor_sizes and self.anchor_ratios):
            raise UserError("detector: anchor_sizes and anchor_ratios: expected at least one number each")
        if self.long_side < self.short_side:
            raise UserError(f"detector: long_side is {self.long_side}, below short_side, {self.short_side}")

    @property
    def features(self) -> int:
        """The width of a region's feature: res5's channels."""
        return 8 * self.stage_width

    @property
    def anchors(self) -> int:
        """Anchors of a cell."""
        return len(self.anchor_sizes) * len(self.anchor_ratios)

    @property
    def input(self) -> dict[str, Any]:
        """How a picture becomes the input, as facts about features say it."""
        return {"short_side": self.short_side, "long_side": self.long_side, "resizing": self.resizing}

    def to_dict(self) -> dict[str, Any]:
        """Returns what ``config.json`` holds."""
        return {VERSION_KEY: VERSION, **asdict(self)}


def config_from(values: dict[str, Any], source: str) -> DetectorConfig:
    """Returns what ``config.json`` says; raises UserError, naming ``source``, for another version or unknown keys."""
    found = values.get(VERSION_KEY)
    if found != VERSION:
        raise UserError(f"{source}: {VERSION_KEY} is {found!r:.50}, expected {VERSION}; write the detector anew")
    known = {field.name for field in fields(DetectorConfig)}
    if unknown := sorted(set(values) - known - {VERSION_KEY}):
        raise UserError(f"{source}: unknown {', '.join(unknown)}; a detector has {', '.join(sorted(known))}")
    try:
        return DetectorConfig(**{name: value for name, value in values.items() if name != VERSION_KEY})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def network_size(width: int, height: int, config: DetectorConfig) -> tuple[int, int]:
    """Returns width and height of the input for a picture of some width and height.

    The short side becomes ``short_side``, unless the long one would then have more than ``long_side`` pixels.
    """
    scale = config.short_side / min(width, height)
    sides = [scale * width, scale * height]
    if max(sides) > config.long_side:
        scale = config.long_side / max(sides)
        sides = [side * scale for side in sides]
    across, down = (max(1, int(side + 0.5)) for side in sides)
    return across, down
