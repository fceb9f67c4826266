"""Writing a world's data sets: VOLTA's paths and formats, plain containers only."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data import safe_pickle
from volta_switch.data.concap_lmdb import write_concap
from volta_switch.data.feature_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.world.balance import annotator_scores
from volta_switch.world.content import Captioned, Referred, World
from volta_switch.world.questions import LABELS, Question
from volta_switch.world.scenes import SHAPE, VALUES
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, SHAPES
from volta_switch.world.vocabulary import Lexicon

DETECTOR = "resnet101_faster_rcnn_genome_imgfeats/volta"
CONCAP = Path("datasets/conceptual_captions")
REFER = Path("datasets/refcoco+_unc")
RETRIEVAL = Path("datasets/flickr30k")
VQA = Path("datasets/vqa/annotations")
NLVR2 = Path("datasets/nlvr2/annotations")
CONCAP_FEATURES = CONCAP / DETECTOR
REFER_FEATURES = REFER / DETECTOR / "refcoco+_unc_dets36_feat.lmdb"
RETRIEVAL_FEATURES = RETRIEVAL / DETECTOR / "flickr30k_feat.lmdb"
VQA_FEATURES = Path("datasets/mscoco") / DETECTOR / "trainval_feat.lmdb"
VQA_TEST_FEATURES = VQA_FEATURES.with_name("test_feat.lmdb")
NLVR2_FEATURES = NLVR2.parent / DETECTOR / "nlvr2_feat.lmdb"
NLVR2_NAMES = {"train": "train", "val": "dev", "test": "test"}
VQA_YEARS = {"train": "train2014", "val": "val2014", "test": "test2015"}
HARD_POOL = 20  # most similar images per image, itself included


def write_json(path: Path, content: Any) -> None:
    """Write JSON in UTF-8, keys in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def write_datasets(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write all data sets of a world below ``root``."""
    write_conceptual_captions(root, world, lexicon)
    write_referring_expressions(root, world, lexicon)
    write_retrieval(root, world, lexicon)
    write_vqa(root, world, lexicon)
    write_nlvr2(root, world, lexicon)


def write_conceptual_captions(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write the pre-training pairs: captions by image id, and records that hold regions and caption."""
    for split, annotations, features in (("train", "train", "training"), ("val", "valid", "validation")):
        entries = world.concap[split]
        captions = [lexicon.spell(entry.captions[0].words()) for entry in entries]
        by_image = {str(entry.scene.image_id): caption for entry, caption in zip(entries, captions, strict=True)}
        write_json(root / CONCAP / "annotations" / f"caption_{annotations}.json", by_image)
        records = zip(world.regions("concap", split), captions, strict=True)
        write_concap(root / CONCAP_FEATURES / f"{features}_feat_all.lmdb", records)


def write_referring_expressions(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write RefCOCO+'s files: one ref per referent with all its expressions; test images alternate testA, testB."""
    refs: list[dict] = []
    images: list[dict] = []
    annotations: list[dict] = []
    for split, entries in world.refer.items():
        for row, entry in enumerate(entries):
            name = split if split != "test" else ("testA", "testB")[row % 2]
            image_id = entry.scene.image_id
            images.append(
                {"id": image_id, "file_name": f"{image_id}.png", "width": CANVAS_WIDTH, "height": CANVAS_HEIGHT}
            )
            annotations.extend(_object_annotations(entry))
            refs.extend(_refs(entry, name, len(refs), lexicon))
    for sentence_id, sentence in enumerate(sentence for ref in refs for sentence in ref["sentences"]):
        sentence["sent_id"] = sentence_id
    for ref in refs:
        ref["sent_ids"] = [sentence["sent_id"] for sentence in ref["sentences"]]
    categories = [{"id": 1 + index, "name": shape} for index, shape in enumerate(SHAPES)]
    folder = root / REFER / "annotations" / "refcoco+"
    write_json(folder / "instances.json", {"images": images, "annotations": annotations, "categories": categories})
    safe_pickle.dump(folder / "refs(unc).p", refs)
    write_features(root / REFER_FEATURES, chain.from_iterable(world.regions("refer", split) for split in world.refer))


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


def write_retrieval(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write Flickr30k's files: five captions per image, and the images most like each training image."""
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        path = root / RETRIEVAL / "annotations" / f"{name}_ann.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_captions(entry, lexicon)) for entry in world.retrieval[split]]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    pool = {
        "train_hard_pool": hard_pool(world.retrieval["train"]).astype(np.float64),
        "train_image_list": [entry.scene.image_id for entry in world.retrieval["train"]],
    }
    safe_pickle.dump(root / RETRIEVAL / "hard_negative.pkl", pool)
    regions = chain.from_iterable(world.regions("retrieval", split) for split in world.retrieval)
    write_features(root / RETRIEVAL_FEATURES, regions)


def _captions(entry: Captioned, lexicon: Lexicon) -> dict:
    image_id = entry.scene.image_id
    return {
        "sentences": [lexicon.spell(caption.words()) for caption in entry.captions],
        "id": str(image_id),
        "img_path": f"{image_id}.jpg",
    }


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


def write_vqa(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write VQA's questions, annotations by ten people, soft targets and answer vocabulary."""
    label_of = {answer: index for index, answer in enumerate(LABELS)}
    for split, year in VQA_YEARS.items():
        questions, annotations, targets = [], [], []
        for entry in world.vqa[split]:
            for number, (question, reply, given) in enumerate(entry.questions):
                ids = {"image_id": entry.scene.image_id, "question_id": 10 * entry.scene.image_id + number}
                questions.append({**ids, "question": lexicon.spell(question.words())})
                annotations.append({**ids, **_annotation(question, reply, given)})
                scores = {label_of[answer]: score for answer, score in annotator_scores(given).items()}
                targets.append({**ids, "labels": list(scores), "scores": list(scores.values())})
        write_json(root / VQA / f"v2_OpenEnded_mscoco_{year}_questions.json", {"questions": questions})
        write_json(root / VQA / f"v2_mscoco_{year}_annotations.json", {"annotations": annotations})
        safe_pickle.dump(root / VQA / "cache" / f"{split}_target.pkl", targets)
    safe_pickle.dump(root / VQA / "trainval_ans2label.pkl", label_of)
    safe_pickle.dump(root / VQA / "trainval_label2ans.pkl", list(LABELS))
    write_features(root / VQA_FEATURES, chain(world.regions("vqa", "train"), world.regions("vqa", "val")))
    write_features(root / VQA_TEST_FEATURES, world.regions("vqa", "test"))


def _annotation(question: Question, reply: str, given: tuple[str, ...]) -> dict:
    """Return the official annotation of one question, without its ids."""
    answer_types = {"count": "number", "exists": "yes/no"}
    return {
        "question_type": question.kind,
        "answer_type": answer_types.get(question.kind, "other"),
        "multiple_choice_answer": reply,
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": 1 + person}
            for person, answer in enumerate(given)
        ],
    }


def pair_name(split: str, number: int, pair: int) -> str:
    """Return the name of a pair of images: that of its file of annotations, of its contrast, its place therein."""
    return f"{NLVR2_NAMES[split]}-{number}-{pair}"


def image_name(split: str, number: int, pair: int, side: int) -> str:
    """Return the key of the left (0) or right (1) image of a pair in NLVR2's feature file."""
    return f"{pair_name(split, number, pair)}-img{side}"


def write_nlvr2(root: Path, world: World, lexicon: Lexicon) -> None:
    """Write NLVR2's files: every statement with the pair of which it is true and with the one of which it is false."""
    (root / NLVR2 / "cache").mkdir(parents=True)  # VOLTA writes into it and does not create it
    for split, name in NLVR2_NAMES.items():
        lines = []
        for number, contrast in enumerate(world.nlvr2[split]):
            for row, (statement, true) in enumerate(contrast.statements):
                sentence = lexicon.spell(statement.words())
                for pair in (0, 1):
                    identifier = f"{pair_name(split, number, pair)}-{row}"
                    lines.append({"identifier": identifier, "sentence": sentence, "label": str(pair == true)})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / NLVR2 / f"{name}.jsonl").write_text(text, encoding="utf-8")
    write_features(root / NLVR2_FEATURES, chain.from_iterable(_named_regions(world, split) for split in NLVR2_NAMES))


def _named_regions(world: World, split: str) -> Iterator[Regions]:
    for place, regions in enumerate(world.regions("nlvr2", split)):
        yield replace(regions, image_id=image_name(split, place // 4, place % 4 // 2, place % 2))
