"""Writes a world's data sets: VOLTA's paths and formats, in plain containers."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.files import safe_pickle
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.tasks.retrieval_dataset import write_hard_negatives
from volta_switch.world.balance import annotator_scores
from volta_switch.world.content import SceneCaptions, SceneExpressions, World
from volta_switch.world.entities import write_entities
from volta_switch.world.phrases import Lexicon
from volta_switch.world.questions import LABELS, Question
from volta_switch.world.scenes import SHAPE, VALUES, Scene
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, SHAPES
from volta_switch.world.task_file import (
    CONCAP,
    CONCAP_FEATURES,
    GQA,
    GQA_FEATURES,
    NLVR2,
    NLVR2_FEATURES,
    REFER,
    RETRIEVAL,
    RETRIEVAL_FEATURES,
    SNLI_VE,
    VQA,
    VQA_FEATURES,
    VQA_TEST_FEATURES,
)

SPLIT_NAMES = {"train": "train", "val": "dev", "test": "test"}  # of NLVR2 and SNLI-VE
VQA_YEARS = {"train": "train2014", "val": "val2014", "test": "test2015"}
LABEL_OF = {answer: index for index, answer in enumerate(LABELS)}
HARD_POOL = 20  # most similar images per image, itself included
SHORT_TEST_STEP = 5  # COCO's short test set, of 1,000 images: every fifth


def write_datasets(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes the data sets that the world's spec names below ``root``."""
    for name in world.spec.data_sets:
        if name in REFER:
            write_referring_expressions(root, world, name, lexicon)
        else:
            _WRITE[name](root, world, lexicon)


def write_conceptual_captions(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes the pre-training pairs: captions by image id, and records that hold regions and caption."""
    for split, annotations, features in (("train", "train", "training"), ("val", "valid", "validation")):
        entries = world.concap[split]
        captions = [lexicon.spell(entry.captions[0].words()) for entry in entries]
        by_image = {str(entry.scene.image_id): caption for entry, caption in zip(entries, captions, strict=True)}
        write_json(root / CONCAP / "annotations" / f"caption_{annotations}.json", by_image)
        records = zip(world.regions("concap", split), captions, strict=True)
        write_concap(root / CONCAP_FEATURES / f"{features}_feat_all.lmdb", records)


def pair_name(split: str, number: int, pair: int) -> str:
    """Returns the name of a pair of images: that of its file of annotations, of its contrast, its place therein."""
    return f"{SPLIT_NAMES[split]}-{number}-{pair}"


def image_name(split: str, number: int, pair: int, side: int) -> str:
    """Returns the key of the left (0) or right (1) image of a pair in NLVR2's feature file."""
    return f"{pair_name(split, number, pair)}-img{side}"


def write_nlvr2(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes NLVR2's files: every statement with the pair of which it is true and with the one of which it is false."""
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
    """Writes SNLI-VE's hypotheses about Flickr30k's images; the features are in Flickr30k's file."""
    for split, name in SPLIT_NAMES.items():
        lines = [
            {
                "Flikr30kID": f"{entry.scene.image_id}.jpg",
                "sentence2": lexicon.spell(hypothesis.words()),
                "gold_label": verdict,
            }
            for entry in world.snli_ve[split]
            for hypothesis, verdict in entry.hypotheses
        ]
        write_json_lines(root / SNLI_VE / f"{name}.jsonl", lines)


def write_flickr30k(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes captions, hard negatives and features of Flickr30k."""
    _write_captions(root, world.retrieval, "retrieval", lexicon)
    regions = chain.from_iterable(world.regions("retrieval", split) for split in world.retrieval)
    write_features(root / RETRIEVAL_FEATURES["retrieval"], regions)


def write_coco(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes captions and hard negatives of COCO; the features are in VQA's file."""
    _write_captions(root, world.coco, "coco", lexicon)
    few = [_captions(entry, "coco", lexicon) for entry in world.coco["test"][::SHORT_TEST_STEP]]
    write_json_lines(root / RETRIEVAL["coco"] / "annotations" / "test1k_ann.jsonl", few)


def _write_captions(root: Path, splits: dict[str, list[SceneCaptions]], name: str, lexicon: Lexicon) -> None:
    """Writes the captions of every image, and the images most like each training image."""
    for split, written in (("train", "train"), ("val", "valid"), ("test", "test")):
        path = root / RETRIEVAL[name] / "annotations" / f"{written}_ann.jsonl"
        write_json_lines(path, [_captions(entry, name, lexicon) for entry in splits[split]])
    image_ids = [entry.scene.image_id for entry in splits["train"]]
    write_hard_negatives(root / RETRIEVAL[name] / "hard_negative.pkl", image_ids, hard_pool(splits["train"]))


def _captions(entry: SceneCaptions, name: str, lexicon: Lexicon) -> dict:
    image_id = entry.scene.image_id
    sentences = [lexicon.spell(caption.words()) for caption in entry.captions]
    if name == "coco":
        return {"sentences": sentences, "id": image_id}
    return {"sentences": sentences, "id": str(image_id), "img_path": f"{image_id}.jpg"}


def hard_pool(entries: list[SceneCaptions]) -> np.ndarray:
    """Returns the indices (N, K) of each image's most similar images, itself in column 0.

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


def write_referring_expressions(root: Path, world: World, name: str, lexicon: Lexicon) -> None:
    """Writes one of ``REFER``: one ref per referent with all its expressions; images alternate between test splits."""
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
    """Returns the id of the annotation of object ``index`` in an image."""
    return 100 * image_id + index


def _object_annotations(entry: SceneExpressions) -> list[dict]:
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


def _refs(entry: SceneExpressions, split: str, first: int, lexicon: Lexicon) -> list[dict]:
    """Returns the refs of one image, sentence ids still missing."""
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


def write_vqa(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes VQA's questions, annotations by ten people, soft targets and answer vocabulary."""
    for split, year in VQA_YEARS.items():
        questions, annotations, targets = [], [], []
        for entry in world.vqa[split]:
            for number, (question, reply, given) in enumerate(entry.questions):
                ids = {"image_id": entry.scene.image_id, "question_id": 10 * entry.scene.image_id + number}
                questions.append({**ids, "question": lexicon.spell(question.words())})
                annotations.append({**ids, **_annotation(question, reply, given)})
                targets.append({**ids, **_target(given)})
        write_json(root / VQA / f"v2_OpenEnded_mscoco_{year}_questions.json", {"questions": questions})
        write_json(root / VQA / f"v2_mscoco_{year}_annotations.json", {"annotations": annotations})
        safe_pickle.dump(root / VQA / "cache" / f"{split}_target.pkl", targets)
    _write_labels(root / VQA)
    write_features(root / VQA_FEATURES, chain(world.regions("vqa", "train"), world.regions("vqa", "val")))
    write_features(root / VQA_TEST_FEATURES, world.regions("vqa", "test"))


def _target(given: tuple[str, ...]) -> dict[str, list]:
    scores = annotator_scores(given)
    return {"labels": [LABEL_OF[answer] for answer in scores], "scores": list(scores.values())}


def _write_labels(folder: Path) -> None:
    safe_pickle.dump(folder / "trainval_ans2label.pkl", LABEL_OF)
    safe_pickle.dump(folder / "trainval_label2ans.pkl", list(LABELS))


def _annotation(question: Question, reply: str, given: tuple[str, ...]) -> dict:
    """Returns the official annotation of one question, without its ids."""
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


def gqa_name(image_id: int | str) -> str:
    """Returns an image's name in GQA's files: Visual Genome's images have numbers, others "n" and a number."""
    return f"n{image_id}" if int(image_id) % 2 else str(image_id)


def scenes_by_name(name: str, split: str, scenes: Sequence[Scene]) -> dict[str, Scene]:
    """Returns the scenes of a data set's split by their images' ids in its feature files."""
    if name == "nlvr2":
        keys = [image_name(split, at // 4, at % 4 // 2, at % 2) for at in range(len(scenes))]
        return dict(zip(keys, scenes, strict=True))
    return {gqa_name(scene.image_id) if name == "gqa" else str(scene.image_id): scene for scene in scenes}


def write_gqa(root: Path, world: World, lexicon: Lexicon) -> None:
    """Writes GQA's questions with their one answer, and the official file of the test questions."""
    targets: dict[str, list[dict]] = {"train": [], "val": []}
    tests: dict[str, dict] = {}
    for split, entries in world.gqa.items():
        for entry in entries:
            image = gqa_name(entry.scene.image_id)
            for number, (question, reply, given) in enumerate(entry.questions):
                question_id, text = f"{10 * entry.scene.image_id + number:09}", lexicon.spell(question.words())
                if split == "test":
                    tests[question_id] = {"imageId": image, "question": text, "answer": reply, "isBalanced": True}
                else:
                    target = {"question_id": question_id, "image_id": image, "question": text, **_target(given)}
                    targets[split].append(target)
    for name, part in {**targets, "trainval": targets["train"] + targets["val"]}.items():
        safe_pickle.dump(root / GQA / f"{name}_target.pkl", part)
    write_json(root / GQA / "testdev_balanced_questions.json", tests)
    (root / GQA / "cache").mkdir()  # VOLTA writes into it and does not create it
    _write_labels(root / GQA)
    write_features(root / GQA_FEATURES, chain.from_iterable(_gqa_regions(world, split) for split in world.gqa))


def _gqa_regions(world: World, split: str) -> Iterator[Regions]:
    for regions in world.regions("gqa", split):
        yield replace(regions, image_id=gqa_name(regions.image_id))


def write_json(path: Path, content: Any) -> None:
    """Writes one value, its folder created where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: Path, lines: Iterable[Any]) -> None:
    """Writes one value a line, the folder created where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


_WRITE = {
    "concap": write_conceptual_captions,
    "retrieval": write_flickr30k,
    "vqa": write_vqa,
    "nlvr2": write_nlvr2,
    "coco": write_coco,
    "gqa": write_gqa,
    "snli_ve": write_snli_ve,
    "entities": write_entities,
}
