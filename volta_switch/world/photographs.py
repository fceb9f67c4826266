"""Scenes as photographs, and a small detector that is trained on them: from pixels to regions, as with real pictures.

``volta-switch world-detector WORLD OUT`` writes

| below ``OUT`` | content |
|---|---|
| ``pictures/<data set>/<id>.png`` | every scene of a data set, all splits, named as its feature file names it |
| ``detector/`` | a detector's folder, for ``data extract`` |

The detector has seen training scenes alone. Its classes are the world's: shape and colour together; its attributes size
and material.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from volta_switch.detector.checkpoints import save_detector
from volta_switch.detector.detect import Detector, Labels
from volta_switch.detector.losses import Example, Training, train
from volta_switch.detector.settings import DetectorConfig
from volta_switch.files import writing_folder
from volta_switch.world.build import world_spec
from volta_switch.world.content import World, draw_world
from volta_switch.world.files import scenes_by_name
from volta_switch.world.pictures import SCALE, draw_objects
from volta_switch.world.scenes import COLOUR, MATERIAL, SHAPE, SIZE, Scene
from volta_switch.world.spec import (
    CANVAS_HEIGHT,
    CANVAS_WIDTH,
    COLOURS,
    IMAGES_OF,
    MATERIALS,
    SHAPES,
    SIZES,
)

PICTURES, DETECTOR = "pictures", "detector"
MOST_EXAMPLES = 600  # scenes that are kept in memory for training, half a megabyte each
# A few blocks of narrow layers, and anchors of the two sizes of objects, which are 27 to 53 pixels wide in the input.
SMALL = DetectorConfig(
    name="synthetic-scenes",
    classes=len(SHAPES) * len(COLOURS),
    attributes=len(SIZES) * len(MATERIALS),
    stem_width=8,
    bottleneck_width=16,
    stage_width=16,
    blocks=(1, 1, 2, 1),
    proposal_width=64,
    anchor_sizes=(30, 48),
    anchor_ratios=(1.0,),
    before_nms=400,
    after_nms=40,
    pooled=5,
    short_side=CANVAS_HEIGHT * 2 // 3,
    long_side=CANVAS_WIDTH * 2 // 3,
)


def photograph(scene: Scene) -> Image.Image:
    """Returns a picture of a scene in which the pixels are those of its boxes."""
    return draw_objects(scene).reduce(SCALE)


def write_photographs(
    world_folder: str | Path,
    out: str | Path,
    training: Training,
    progress: Callable[[str, int, float], None] = lambda what, number, loss: None,
) -> dict[str, int]:
    """Writes the pictures of a world's scenes and a detector for them, whole or not at all.

    Args:
        world_folder: a world, as ``volta-switch world`` has written it.
        out: a new folder.
        training: of the detector.
        progress: called with ("picture", number, 0) and ("step", number, loss).

    Returns:
        The number of pictures of each data set.

    Raises:
        UserError: there is no world, or ``out`` is there already.
    """
    world = draw_world(world_spec(Path(world_folder)))
    names = [name for name in world.spec.data_sets if name not in IMAGES_OF]
    counts = dict.fromkeys(names, 0)
    examples: list[Example] = []
    with writing_folder(Path(out)) as unfinished:
        for name in names:
            (unfinished / PICTURES / name).mkdir(parents=True)
            first = len(examples)
            for split, image_id, scene in named_scenes(world, name):
                picture = photograph(scene)
                picture.save(unfinished / PICTURES / name / f"{image_id}.png", compress_level=1)
                if split == "train" and len(examples) - first < MOST_EXAMPLES // len(names):
                    examples.append(example_of(scene, picture))
                counts[name] += 1
                progress("picture", sum(counts.values()), 0.0)
        network = train(SMALL, examples, training, lambda step, loss: progress("step", step, loss))
        save_detector(Detector(network, scene_labels()), unfinished / DETECTOR)
    return counts


def named_scenes(world: World, name: str) -> Iterator[tuple[str, str, Scene]]:
    """Yields all scenes of a data set: split, id as in its feature files, scene."""
    for split in getattr(world, name):
        for image_id, scene in scenes_by_name(name, split, world.scenes(name, split)).items():
            yield split, image_id, scene


def example_of(scene: Scene, picture: Image.Image) -> Example:
    """Returns a scene's picture with its boxes, classes and attributes."""
    objects = torch.tensor(scene.objects)
    return Example(
        picture,
        torch.tensor(scene.boxes, dtype=torch.float32),
        objects[:, SHAPE] * len(COLOURS) + objects[:, COLOUR],
        objects[:, SIZE] * len(MATERIALS) + objects[:, MATERIAL],
    )


def scene_labels() -> Labels:
    """Returns the names of the detector's classes, in the order of the world's."""
    return Labels(
        tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS),
        tuple(f"{size} {material}" for size in SIZES for material in MATERIALS),
    )
