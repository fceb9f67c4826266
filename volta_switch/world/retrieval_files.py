"""Writing captions for retrieval: Flickr30k's files and COCO's, in VOLTA's formats."""

from itertools import chain
from pathlib import Path

import numpy as np

from volta_switch.data.annotations.retrieval import write_hard_negatives
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.world.content import Captioned, World
from volta_switch.world.json_files import write_json_lines
from volta_switch.world.paths import RETRIEVAL, RETRIEVAL_FEATURES
from volta_switch.world.scenes import VALUES
from volta_switch.world.spec import SHAPES
from volta_switch.world.vocabulary import Lexicon

HARD_POOL = 20  # most similar images per image, itself included
FEW = 5  # COCO's short test set, of 1,000 images: every fifth


def write_flickr30k(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write captions, hard negatives and features of Flickr30k."""
    _write_captions(root, world.retrieval, "retrieval", lexicon)
    regions = chain.from_iterable(world.regions("retrieval", split) for split in world.retrieval)
    write_features(root / RETRIEVAL_FEATURES["retrieval"], regions)


def write_coco(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write captions and hard negatives of COCO; the features are in VQA's file."""
    _write_captions(root, world.coco, "coco", lexicon)
    few = [_captions(entry, "coco", lexicon) for entry in world.coco["test"][::FEW]]
    write_json_lines(root / RETRIEVAL["coco"] / "annotations" / "test1k_ann.jsonl", few)


def _write_captions(root: Path, splits: dict[str, list[Captioned]], name: str, lexicon: Lexicon) -> None:
    """Write the captions of every image, and the images most like each training image."""
    for split, written in (("train", "train"), ("val", "valid"), ("test", "test")):
        path = root / RETRIEVAL[name] / "annotations" / f"{written}_ann.jsonl"
        write_json_lines(path, [_captions(entry, name, lexicon) for entry in splits[split]])
    image_ids = [entry.scene.image_id for entry in splits["train"]]
    write_hard_negatives(root / RETRIEVAL[name] / "hard_negative.pkl", image_ids, hard_pool(splits["train"]))


def _captions(entry: Captioned, name: str, lexicon: Lexicon) -> dict:
    image_id = entry.scene.image_id
    sentences = [lexicon.spell(caption.words()) for caption in entry.captions]
    if name == "coco":
        return {"sentences": sentences, "id": image_id}
    return {"sentences": sentences, "id": str(image_id), "img_path": f"{image_id}.jpg"}


def hard_pool(entries: list[Captioned]) -> np.ndarray:
    """Return the indices (N, K) of each image's most similar images, itself in column 0.

    Similarity: how many objects of one image have a counterpart of the same shape and colour in the other.
    """
    colours = len(VALUES[1])
    counts = np.zeros((len(entries), len(SHAPES) * colours), dtype=np.float32)
    for row, entry in enumerate(entries):
        for _, colour, _, shape in entry.scene.objects:
            counts[row, shape * colours + colour] += 1
    shared = np.zeros((len(entries), len(entries)), dtype=np.float32)
    for level in range(int(counts.max())):  # the smaller of two counts, summed over kinds of objects
        more = (counts > level).astype(np.float32)
        shared += more @ more.T
    np.fill_diagonal(shared, np.inf)
    return np.argsort(-shared, axis=1, kind="stable")[:, : min(HARD_POOL, len(entries))]
