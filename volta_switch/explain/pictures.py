"""What a page shows of an image: a picture, the drawing of a synthetic scene, or an empty canvas; and regions' names.

Pictures are put into the page as they lie upright, made smaller, so that the page needs no other file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from volta_switch.data.regions import Regions
from volta_switch.detector.pictures import read_picture
from volta_switch.errors import UserError
from volta_switch.explain.world_truth import region_of_each_object
from volta_switch.files import require_file
from volta_switch.world.build import is_world, world_spec
from volta_switch.world.content import draw_split, scenes_of
from volta_switch.world.files import scenes_by_name
from volta_switch.world.pictures import draw_objects
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import COLOURS, MATERIALS, SHAPES, SIZES, WorldSpec
from volta_switch.world.task_file import GQA_FEATURES, NLVR2_FEATURES, REFER, RETRIEVAL_FEATURES, VQA_FEATURES
from volta_switch.world.task_file import VQA_TEST_FEATURES as VQA_TEST

WIDEST = 1200  # pixels of a picture in a page
ASPECTS = 0.02  # by which a picture's may differ from that of the image that the features are of
SPLITS = ("test", "val", "train")


@dataclass(frozen=True)
class Shown:
    """What a page shows of an image.

    Attributes:
        address: a picture as ``data:`` address; "": an empty canvas.
        names: (n,) what each region shows; "" where that is not known.
        about: what the picture is, in words.
    """

    address: str
    names: tuple[str, ...]
    about: str


def shown_image(
    regions: Regions, features: str = "", picture: Path | None = None, names: tuple[str, ...] = ()
) -> Shown:
    """Returns what is shown of an image.

    Args:
        regions: of the image.
        features: the feature file that they are from; of a synthetic world its scene is drawn.
        picture: a file of the image itself.
        names: (n,) what each region of a picture shows, where that is known.

    Raises:
        UserError: the picture cannot be read, or has another shape than the image.
    """
    unknown = names or ("",) * len(regions)
    if picture is not None:
        return Shown(picture_address(picture, of=regions), unknown, f"the picture {picture.name}")
    scene = find_scene(Path(features), regions) if features else None
    if scene is None:
        return Shown("", unknown, "an empty canvas: the feature file holds no picture")
    return Shown(_address(draw_objects(scene), "PNG"), _names(scene, regions), "the drawing of a synthetic scene")


def picture_address(picture: Path, of: Regions | None = None, widest: int = WIDEST) -> str:
    """Returns a picture, upright and no side longer than ``widest`` pixels, as ``data:`` address.

    ``of``: whose picture it must be. Errors as ``shown_image``.
    """
    require_file(picture, "picture", "check the path")
    upright = read_picture(picture)
    if of is not None and abs((upright.width / upright.height) / (of.image_w / of.image_h) - 1) > ASPECTS:
        raise UserError(
            f"{picture}: is {upright.width} x {upright.height} pixels, the features of {of.image_id!r} are of an "
            f"image of {of.image_w:g} x {of.image_h:g}; give the picture of that image"
        )
    upright.thumbnail((widest, widest))
    return _address(upright, "JPEG")


def _address(picture: Image.Image, kind: str) -> str:
    content = io.BytesIO()
    picture.save(content, kind, optimize=True)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def find_scene(features: Path, regions: Regions) -> Scene | None:
    """Returns the scene that an image of a synthetic world's feature file shows; None where it is none of a world.

    A world's folder does not hold its scenes, but its parameters, from which they are drawn anew. A scene is returned
    only where each of its objects lies under a region.
    """
    world = next(filter(is_world, features.resolve().parents), None)
    if world is None:
        return None
    spec, place = world_spec(world), features.resolve().relative_to(world.resolve())
    for name, splits in _data_sets(place):
        for split in splits if name in spec.data_sets else ():
            scene = _scenes(spec, name, split).get(regions.image_id)
            if scene is not None and min(region_of_each_object(scene, regions)) >= 0:
                return scene
    return None


def _data_sets(place: Path) -> list[tuple[str, Sequence[str]]]:
    """Returns the data sets, and their splits, whose features lie at a place in a world's folder."""
    found: list[tuple[str, Sequence[str]]] = [
        (name, SPLITS) for name, layout in REFER.items() if place in (layout.features, layout.exact_features)
    ]
    others = ((RETRIEVAL_FEATURES["retrieval"], "retrieval", SPLITS), (NLVR2_FEATURES, "nlvr2", SPLITS))
    vqa = ((VQA_FEATURES, "vqa", ("val", "train")), (VQA_TEST, "vqa", ("test",)), (GQA_FEATURES, "gqa", SPLITS))
    return found + [(name, splits) for path, name, splits in (*others, *vqa) if path == place]


@lru_cache(maxsize=8)  # a split's scenes are drawn in seconds
def _scenes(spec: WorldSpec, name: str, split: str) -> dict[str, Scene]:
    """Returns the scenes of a split by their images' ids in the feature file."""
    return scenes_by_name(name, split, scenes_of(draw_split(spec, name, split)))


def _names(scene: Scene, regions: Regions) -> tuple[str, ...]:
    names = [""] * len(regions)
    for index, region in enumerate(region_of_each_object(scene, regions)):
        size, colour, material, shape = scene.objects[index]
        names[region] = f"{SIZES[size]} {COLOURS[colour]} {MATERIALS[material]} {SHAPES[shape]}"
    return tuple(names)
