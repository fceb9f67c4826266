"""Writing a world's data sets: VOLTA's paths and formats, plain containers only."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.world.content import World
from volta_switch.world.json_files import write_json, write_json_lines
from volta_switch.world.paths import CONCAP, CONCAP_FEATURES, NLVR2, NLVR2_FEATURES, REFER, SNLI_VE
from volta_switch.world.question_files import write_gqa, write_vqa
from volta_switch.world.refer_files import write_referring_expressions
from volta_switch.world.retrieval_files import write_coco, write_flickr30k
from volta_switch.world.vocabulary import Lexicon

SPLIT_NAMES = {"train": "train", "val": "dev", "test": "test"}  # of NLVR2 and SNLI-VE


def write_datasets(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write the data sets that the world's spec names below ``root``."""
    for name in world.spec.data_sets:
        if name in REFER:
            write_referring_expressions(root, world, name, lexicon)
        else:
            _WRITE[name](root, world, lexicon)


def write_conceptual_captions(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write the pre-training pairs: captions by image id, and records that hold regions and caption."""
    for split, annotations, features in (("train", "train", "training"), ("val", "valid", "validation")):
        entries = world.concap[split]
        captions = [lexicon.spell(entry.captions[0].words()) for entry in entries]
        by_image = {str(entry.scene.image_id): caption for entry, caption in zip(entries, captions, strict=True)}
        write_json(root / CONCAP / "annotations" / f"caption_{annotations}.json", by_image)
        records = zip(world.regions("concap", split), captions, strict=True)
        write_concap(root / CONCAP_FEATURES / f"{features}_feat_all.lmdb", records)


def pair_name(split: str, number: int, pair: int) -> str:
    """Return the name of a pair of images: that of its file of annotations, of its contrast, its place therein."""
    return f"{SPLIT_NAMES[split]}-{number}-{pair}"


def image_name(split: str, number: int, pair: int, side: int) -> str:
    """Return the key of the left (0) or right (1) image of a pair in NLVR2's feature file."""
    return f"{pair_name(split, number, pair)}-img{side}"


def write_nlvr2(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write NLVR2's files: every statement with the pair of which it is true and with the one of which it is false."""
    (root / NLVR2 / "cache").mkdir(parents=True)  # VOLTA writes into it and does not create it
    for split, name in SPLIT_NAMES.items():
        lines = []
        for number, contrast in enumerate(world.nlvr2[split]):
            for row, (statement, true) in enumerate(contrast.statements):
                sentence = lexicon.spell(statement.words())
                for pair in (0, 1):
                    identifier = f"{pair_name(split, number, pair)}-{row}"
                    lines.append({"identifier": identifier, "sentence": sentence, "label": str(pair == true)})
        write_json_lines(root / NLVR2 / f"{name}.jsonl", lines)
    write_features(root / NLVR2_FEATURES, chain.from_iterable(_nlvr2_regions(world, split) for split in SPLIT_NAMES))


def _nlvr2_regions(world: World, split: str) -> Iterator[Regions]:
    for place, regions in enumerate(world.regions("nlvr2", split)):
        yield replace(regions, image_id=image_name(split, place // 4, place % 4 // 2, place % 2))


def write_snli_ve(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write SNLI-VE's claims about Flickr30k's images; the features are in Flickr30k's file."""
    for split, name in SPLIT_NAMES.items():
        lines = [
            {
                "Flikr30kID": f"{entry.scene.image_id}.jpg",
                "sentence2": lexicon.spell(claim.words()),
                "gold_label": verdict,
            }
            for entry in world.snli_ve[split]
            for claim, verdict in entry.claims
        ]
        write_json_lines(root / SNLI_VE / f"{name}.jsonl", lines)


_WRITE = {
    "concap": write_conceptual_captions,
    "retrieval": write_flickr30k,
    "vqa": write_vqa,
    "nlvr2": write_nlvr2,
    "coco": write_coco,
    "gqa": write_gqa,
    "snli_ve": write_snli_ve,
}
