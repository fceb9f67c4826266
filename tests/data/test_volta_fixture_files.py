"""Every file of VOLTA's fixtures is read: each has an entry here, and gives what VOLTA's writers put into it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from data.volta_files import (
    CONCAP,
    FEATURES,
    FLICKR,
    NLVR2,
    READS,
    REFER,
    TOKENIZER,
    VOLTA_DATA,
    VQA,
    captions,
    expressions,
    features,
    hard_negatives,
    questions,
    statements,
)
from small_regions import DETECTIONS
from volta_switch import cli
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json, read_json_lines
from volta_switch.data.tokenizer import check_vocab_size
from volta_switch.tasks.nlvr2 import load_nlvr2
from volta_switch.tasks.refer import load_refer
from volta_switch.tasks.retrieval_dataset import RetrievalDataset, RetrievalPairs, load_retrieval
from volta_switch.tasks.vqa import load_vqa

REGIONS = {"flickr30k": (100, 600), "mscoco": (5, 25), "nlvr2": (8, 32), "refcoco+": (6, 45)}  # images, regions


def vocabulary_is_its_models(path: Path) -> None:
    check_vocab_size(TOKENIZER, read_json(path)["vocab_size"])


def tokens_are_hugging_faces(path: Path) -> None:
    texts = load_retrieval(FLICKR / "annotations" / "test_ann.jsonl").captions
    theirs = AutoTokenizer.from_pretrained(str(path.parent))
    assert theirs.get_vocab()["[SEP]"] == TOKENIZER.sep_id
    assert [TOKENIZER.encode(text, 512) for text in texts] == [theirs.encode(text) for text in texts]


def pairs_are_those_captioned(path: Path) -> None:
    split, count = {"t": ("train", 4), "v": ("valid", 2)}[path.name.removeprefix("caption_")[0]]
    dataset, texts = captions(split), read_json(CONCAP / "annotations" / f"caption_{split}.json")
    assert len(dataset) == len(texts) == count
    for index, (image_id, text) in enumerate(texts.items()):
        regions, caption = dataset.pairs[index]
        assert (regions.image_id, caption) == (image_id, text)
        batch = dataset.collate([dataset[index]], BatchLayout(None))
        assert batch.inputs["input_ids"].tolist() == [TOKENIZER.encode(text, 38)]
        assert np.array_equal(regions.cls_prob[:, 1:].argmax(1), regions.objects_id)
        assert regions.features.shape == (36, 2048) and regions.attr_scores.shape == (36, 401)


def regions_are_whole(path: Path) -> None:
    name = next(name for name, file in FEATURES.items() if file in path.parents)
    store = features(name)
    assert (len(store), sum(len(store[key]) for key in store)) == REGIONS[name]
    for key in store:
        store[key].check()
        assert store[key].image_id == key and store[key].features.shape[1] == 2048


def images_have_captions(path: Path) -> None:
    annotations, store = load_retrieval(path), features("flickr30k")
    assert len(annotations.image_ids) == (60 if path.name.startswith("train") else 20)
    assert np.array_equal(annotations.caption_image, np.repeat(np.arange(len(annotations.image_ids)), 5))
    assert [text for line in read_json_lines(path) for text in line["sentences"]] == annotations.captions
    assert all(image_id in store for image_id in annotations.image_ids)


def hard_negatives_are_other_images(path: Path) -> None:
    pool = hard_negatives()
    assert path.exists() and pool.shape == (60, 3) and set(np.unique(pool)) <= set(range(60))
    assert not (pool == np.arange(60)[:, None]).any()


def statements_are_of_two_images(path: Path) -> None:
    lines, dataset = read_json_lines(path), statements(path.stem)
    assert load_nlvr2(NLVR2, path.stem) == dataset.entries and len(dataset) == len(lines)
    for index, line in enumerate(lines):
        sample = dataset[index]
        assert sample["id"] == line["identifier"] and len(sample["images"]) == 2
        assert sample["target"].tolist() == [line["label"] == "False", line["label"] == "True"]
        assert sample["input_ids"].tolist() == TOKENIZER.encode(line["sentence"], 40)


def expressions_name_boxes(path: Path) -> None:
    counts = {"train": 12, "val": 4, "testA": 4, "testB": 4, "test": 8}
    boxes = {item["id"]: item["bbox"] for item in read_json(REFER / "refcoco+" / "instances.json")["annotations"]}
    assert path.exists() and len(boxes) == 12
    for split, count in counts.items():
        dataset = expressions(split)
        assert dataset.entries == load_refer(REFER, "refcoco+", split) and len(dataset) == count
        for index, entry in enumerate(dataset.entries):
            x1, y1, x2, y2 = entry.box
            assert any(np.allclose([x1, y1, x2 - x1, y2 - y1], box) for box in boxes.values())
            sample = dataset[index]
            assert sample["id"] == str(entry.sent_id) and 0 <= sample["target"].max() <= 1


def questions_have_soft_answers(path: Path) -> None:
    """Each question with its soft target, whichever of their files `path` is."""
    for split, count in (("train", 9), ("val", 6)):
        dataset = questions(split)
        targets = {target["question_id"]: target for target in safe_pickle.load(VQA / "cache" / f"{split}_target.pkl")}
        assert path.exists() and len(dataset) == len(targets) == count and len(dataset.label2ans) == 50
        for index, entry in enumerate(dataset.entries):
            target, given = dataset[index]["target"], targets[int(entry.question_id)]
            assert target.shape == (50,) and np.count_nonzero(target) == len(given["labels"])
            assert np.array_equal(target[given["labels"]], np.float32(given["scores"]))


def questions_without_answers(path: Path) -> None:
    annotations, asked = load_vqa(VQA, "test", 50), read_json(path)["questions"]
    assert [entry.question for entry in annotations.entries] == [question["question"] for question in asked]
    assert len(asked) == 3 and all(entry.labels is entry.scores is None for entry in annotations.entries)


# What reads each file of the fixtures, through the public readers, and checks what it gives; paths below volta_data.
_VG = DETECTIONS
READERS: dict[str, Callable[[Path], None]] = {
    "bert-tiny-tok/config.json": vocabulary_is_its_models,
    "bert-tiny-tok/tokenizer_config.json": tokens_are_hugging_faces,
    "bert-tiny-tok/vocab.txt": tokens_are_hugging_faces,
    "datasets/conceptual_captions/annotations/caption_train.json": pairs_are_those_captioned,
    "datasets/conceptual_captions/annotations/caption_valid.json": pairs_are_those_captioned,
    f"datasets/conceptual_captions/{_VG}/training_feat_all.lmdb": pairs_are_those_captioned,
    f"datasets/conceptual_captions/{_VG}/validation_feat_all.lmdb": pairs_are_those_captioned,
    "datasets/flickr30k/annotations/test_ann.jsonl": images_have_captions,
    "datasets/flickr30k/annotations/train_ann.jsonl": images_have_captions,
    "datasets/flickr30k/annotations/valid_ann.jsonl": images_have_captions,
    "datasets/flickr30k/hard_negative.pkl": hard_negatives_are_other_images,
    f"datasets/flickr30k/{_VG}/flickr30k_feat.lmdb/data.mdb": regions_are_whole,
    f"datasets/mscoco/{_VG}/trainval_feat.lmdb/data.mdb": regions_are_whole,
    "datasets/nlvr2/annotations/dev.jsonl": statements_are_of_two_images,
    "datasets/nlvr2/annotations/test.jsonl": statements_are_of_two_images,
    "datasets/nlvr2/annotations/train.jsonl": statements_are_of_two_images,
    f"datasets/nlvr2/{_VG}/nlvr2_feat.lmdb/data.mdb": regions_are_whole,
    "datasets/refcoco+_unc/annotations/refcoco+/instances.json": expressions_name_boxes,
    "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p": expressions_name_boxes,
    f"datasets/refcoco+_unc/{_VG}/refcoco+_unc_dets36_feat.lmdb/data.mdb": regions_are_whole,
    "datasets/vqa/annotations/cache/train_target.pkl": questions_have_soft_answers,
    "datasets/vqa/annotations/cache/val_target.pkl": questions_have_soft_answers,
    "datasets/vqa/annotations/trainval_ans2label.pkl": questions_have_soft_answers,
    "datasets/vqa/annotations/trainval_label2ans.pkl": questions_have_soft_answers,
    "datasets/vqa/annotations/v2_OpenEnded_mscoco_test2015_questions.json": questions_without_answers,
    "datasets/vqa/annotations/v2_OpenEnded_mscoco_train2014_questions.json": questions_have_soft_answers,
    "datasets/vqa/annotations/v2_OpenEnded_mscoco_val2014_questions.json": questions_have_soft_answers,
}
NO_CHECK = {"config.json", "tokenizer_config.json", "vocab.txt"}  # not data: `data check` is for features, annotations
_opened: list[set[str]] = []


def _note_opened(event: str, arguments: tuple) -> None:
    if event == "open" and _opened and isinstance(arguments[0], str | Path):
        _opened[-1].add(str(arguments[0]))


sys.addaudithook(_note_opened)  # inert outside `opened_files`; there is no way to take it back


@contextmanager
def opened_files() -> Iterator[set[str]]:
    """The files that Python code opens in the block; LMDB and the tokenizers' Rust open theirs unseen."""
    _opened.append(set())
    try:
        yield _opened[-1]
    finally:
        _opened.pop()


@pytest.mark.parametrize("name", READERS)
def test_the_file_is_read_and_gives_what_was_written(name) -> None:
    path = VOLTA_DATA / name
    with opened_files() as opened:
        READERS[name](path)
    if path.suffix not in (".lmdb", ".mdb", ".txt"):
        assert str(path) in opened


def test_every_file_has_a_reader() -> None:
    files = {path.relative_to(VOLTA_DATA).as_posix() for path in VOLTA_DATA.rglob("*") if path.is_file()}
    assert files == set(READERS)


def test_every_recording_is_compared() -> None:
    compared = {f"refcoco+_{split}_locs{locs}" for split in ("train", "val") for locs in (5, 7)}
    compared |= {"concap_valid_unmasked_first", "concap_valid_unmasked_none", "concap_valid_ids"}
    assert {path.stem for path in READS.iterdir()} == compared | {"vqa_train_locs5", "nlvr2_train_locs5"}


@pytest.mark.parametrize("name", [name for name in READERS if Path(name).name not in NO_CHECK])
def test_the_command_finds_the_file_fine(name, capsys) -> None:
    path = VOLTA_DATA / name
    cli.main(["data", "check", str(path.parent if path.suffix == ".mdb" else path)])
    out = capsys.readouterr().out
    assert "1 checked: all fine" in out and path.parent.name in out


@pytest.mark.parametrize("compat", [False, True])
def test_flickr30ks_negatives(compat) -> None:
    """It has no recording. VOLTA takes a caption's number in its image for its index: all are among the first five."""
    annotations = load_retrieval(FLICKR / "annotations" / "train_ann.jsonl")
    options = {"hard_negatives": hard_negatives(), "num_locs": 5, "volta_compat": compat}
    dataset = RetrievalDataset(annotations, features("flickr30k", in_memory=True), TOKENIZER, **options)
    image_of, pool = annotations.caption_image, hard_negatives()
    image_with = {dataset._images[name].inputs["image_feat"].tobytes(): i
                  for i, name in enumerate(annotations.image_ids)}  # fmt: skip
    drawn: dict[str, set[int]] = {"random": set(), "hard": set(), "image": set()}
    for epoch in range(3):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            pair, text, image, hard = dataset[index]
            own = int(image_of[index])
            random, alike = int(text["id"]), int(hard["id"])
            other = image_with[image["image_feat"].tobytes()]
            assert pair["id"] == image["id"] == str(index) and other != own
            assert text["image_feat"] is hard["image_feat"] is pair["image_feat"]
            if not compat:
                assert image_of[random] != own and image_of[alike] in pool[own]
                assert TOKENIZER.encode(annotations.captions[random], 30) != pair["input_ids"].tolist()
                assert TOKENIZER.encode(annotations.captions[alike], 30) != pair["input_ids"].tolist()
            drawn["random"].add(random), drawn["hard"].add(alike), drawn["image"].add(other)
    assert drawn["image"] == set(range(60))
    if compat:
        assert drawn["random"] == drawn["hard"] == set(range(5))
    else:
        assert {int(image_of[caption]) for caption in drawn["random"]} == set(range(60))
        assert {int(image_of[caption]) for caption in drawn["hard"]} == set(np.unique(pool).tolist())


def test_flickr30ks_evaluation_has_every_caption_and_image() -> None:
    annotations = load_retrieval(FLICKR / "annotations" / "test_ann.jsonl")
    pool = RetrievalPairs(annotations, features("flickr30k"), TOKENIZER, num_locs=5)
    images = pool.image_inputs(range(20), BatchLayout("first", num_boxes=36))
    store = features("flickr30k")
    for row, image_id in enumerate(annotations.image_ids):
        assert np.array_equal(images["image_feat"][row, 1:7].numpy(), store[image_id].features)
        assert images["image_attention_mask"][row].tolist() == [1] * 7 + [0] * 30
    texts = pool.text_inputs(range(100), BatchLayout("first"))["input_ids"]
    assert [ids[ids != 0].tolist() for ids in texts] == [TOKENIZER.encode(text, 30) for text in annotations.captions]
