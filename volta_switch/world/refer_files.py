"""Writing RefCOCO, RefCOCO+ and RefCOCOg: one ref per referent, COCO's boxes, the regions of both kinds of boxes."""

from itertools import chain
from pathlib import Path

from volta_switch.data.files import safe_pickle
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.world.content import Referred, World
from volta_switch.world.json_files import write_json
from volta_switch.world.paths import REFER
from volta_switch.world.scenes import SHAPE
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, SHAPES
from volta_switch.world.vocabulary import Lexicon


def write_referring_expressions(root: Path, world: World, name: str, lexicon: Lexicon) -> None:
    """Write one of ``REFER``: one ref per referent with all its expressions; images alternate between test splits."""
    layout, splits = REFER[name], getattr(world, name)
    refs: list[dict] = []
    images: list[dict] = []
    annotations: list[dict] = []
    for split, entries in splits.items():
        for row, entry in enumerate(entries):
            part = split if split != "test" else layout.tests[row % len(layout.tests)]
            image_id = entry.scene.image_id
            images.append(
                {"id": image_id, "file_name": f"{image_id}.png", "width": CANVAS_WIDTH, "height": CANVAS_HEIGHT}
            )
            annotations.extend(_object_annotations(entry))
            refs.extend(_refs(entry, part, len(refs), lexicon))
    for sentence_id, sentence in enumerate(sentence for ref in refs for sentence in ref["sentences"]):
        sentence["sent_id"] = sentence_id
    for ref in refs:
        ref["sent_ids"] = [sentence["sent_id"] for sentence in ref["sentences"]]
    categories = [{"id": 1 + index, "name": shape} for index, shape in enumerate(SHAPES)]
    folder = root / layout.annotations / layout.task
    write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    safe_pickle.dump(folder / f"refs({layout.split_by}).p", refs)
    write_features(root / layout.features, chain.from_iterable(world.regions(name, split) for split in splits))
    exact = chain.from_iterable(world.regions(name, split, exact=True) for split in splits)
    write_features(root / layout.exact_features, exact)


def annotation_id(image_id: int, index: int) -> int:
    """Return the id of the annotation of object ``index`` in an image."""
    return 100 * image_id + index


def _object_annotations(entry: Referred) -> list[dict]:
    scene = entry.scene
    return [
        {
            "id": annotation_id(scene.image_id, index),
            "image_id": scene.image_id,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "category_id": 1 + scene.objects[index][SHAPE],
        }
        for index, (x1, y1, x2, y2) in enumerate(scene.boxes)
    ]


def _refs(entry: Referred, split: str, first: int, lexicon: Lexicon) -> list[dict]:
    """Return the refs of one image, sentence ids still missing."""
    image_id = entry.scene.image_id
    refs: dict[int, dict] = {}
    for target, phrase in entry.expressions:
        text = lexicon.spell(phrase.words())
        ref = refs.setdefault(
            target,
            {
                "ref_id": first + len(refs),
                "ann_id": annotation_id(image_id, target),
                "category_id": 1 + entry.scene.objects[target][SHAPE],
                "image_id": image_id,
                "split": split,
                "file_name": f"{image_id}.png",
                "sent_ids": [],
                "sentences": [],
            },
        )
        ref["sentences"].append({"raw": text, "sent": text, "sent_id": -1, "tokens": text.split()})
    return list(refs.values())
