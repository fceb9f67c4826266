"""Writes Flickr30k Entities' files over the captions of Flickr30k's stand-in: which words name which object.

An object has one number in all captions of its image, as in the original (coreference chains), and one box.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from xml.etree import ElementTree

from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.world.content import SceneCaptions, World
from volta_switch.world.phrases import Caption, Lexicon, Phrase
from volta_switch.world.scenes import Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH
from volta_switch.world.task_file import ENTITIES, ENTITIES_FEATURES

TYPE = "other"  # of Flickr30k Entities' kinds of phrases: people, clothing, animals, ..., other


def write_entities(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes a list of images for each split, sentences and boxes of each image, and regions with class scores.

    The regions are those of Flickr30k's file, which has no scores.
    """
    folder = root / ENTITIES
    for name in ("Annotations", "Sentences"):
        (folder / name).mkdir(parents=True)
    for split, entries in world.entities.items():
        for entry in entries:
            image = str(entry.scene.image_id)
            lines = [marked(caption, entry.scene, lexicon) for caption in entry.captions]
            (folder / "Sentences" / f"{image}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            ElementTree.ElementTree(annotation(entry)).write(folder / "Annotations" / f"{image}.xml")
        listed = "".join(f"{entry.scene.image_id}\n" for entry in entries)
        (folder / f"{split}.txt").write_text(listed, encoding="utf-8")
    regions = chain.from_iterable(world.regions("entities", split) for split in world.entities)
    write_features(root / ENTITIES_FEATURES, regions)


def entity_id(scene: Scene, index: int) -> int:
    """Returns the number of object ``index`` of a scene, unique in a world."""
    return 100 * scene.image_id + index


def marked(caption: Caption, scene: Scene, lexicon: Lexicon) -> str:
    """Returns a caption as spelled, each phrase in brackets with its object: ``[/EN#7/other red ball] left of ...``."""
    clauses = []
    for clause, objects in zip(caption.clauses, caption.mentioned, strict=True):
        words: list[str] = []
        for phrase, index in zip(clause.chain(), objects, strict=True):
            head = lexicon.spell(Phrase(phrase.values).words())
            words.append(f"[/EN#{entity_id(scene, index)}/{TYPE} {head}]")
            words += [lexicon.spell(phrase.relation)] if phrase.relation else []
        clauses.append(" ".join(words))
    return " and ".join(clauses)


def annotation(entry: SceneCaptions) -> ElementTree.Element:
    """Returns the boxes of the objects that an image's captions mention, counted from pixel 1 as the original's."""
    scene = entry.scene
    tree = ElementTree.Element("annotation")
    ElementTree.SubElement(tree, "filename").text = f"{scene.image_id}.jpg"
    _numbers(ElementTree.SubElement(tree, "size"), width=CANVAS_WIDTH, height=CANVAS_HEIGHT, depth=3)
    for index in sorted({index for caption in entry.captions for index in chain(*caption.mentioned)}):
        named = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(named, "name").text = str(entity_id(scene, index))
        x1, y1, x2, y2 = (edge + 1 for edge in scene.boxes[index])
        _numbers(ElementTree.SubElement(named, "bndbox"), xmin=x1, ymin=y1, xmax=x2, ymax=y2)
    ElementTree.indent(tree)
    return tree


def _numbers(parent: ElementTree.Element, **values: int) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)
