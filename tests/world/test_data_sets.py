"""The files of RefCOCO, RefCOCOg, COCO and GQA agree with one another and with the scenes; data sets are chosen."""

import argparse
import json

import numpy as np
import pytest
import yaml
from small_truth import denoted, true_answer

from volta_switch.data.feature_files import open_features
from volta_switch.data.files import safe_pickle
from volta_switch.data.regions import pairwise_iou
from volta_switch.errors import UserError
from volta_switch.tasks.retrieval_dataset import load_hard_negatives, load_retrieval
from volta_switch.world import WorldSpec, add_world_arguments, run_world, write_world
from volta_switch.world.content import draw_world
from volta_switch.world.spec import BY_DEFAULT

SMALL = {"images": 24, "eval_images": 12}
DETECTOR = "resnet101_faster_rcnn_genome_imgfeats/volta"
UNC, UMD = {"train", "val", "testA", "testB"}, {"train", "val", "test"}
# Folder, name of the task, who split it, splits, the world's name.
REFER = [
    ("refcoco+_unc", "refcoco+", "unc", UNC, "refer"),
    ("refcoco_unc", "refcoco", "unc", UNC, "refcoco"),
    ("refcocog_umd", "refcocog", "umd", UMD, "refcocog"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "world"
    write_world(out, render=False, **SMALL)
    return out


@pytest.fixture(scope="module")
def content():
    return draw_world(WorldSpec(**SMALL))


def digests(out):
    return json.loads((out / "world.json").read_text())["sha256"]


def annotated_boxes(folder, task):
    """Of each image, the ids and boxes (x1, y1, x2, y2) of its annotations."""
    boxes = {}
    for entry in json.loads((folder / "annotations" / task / "instances.json").read_text())["annotations"]:
        x, y, width, height = entry["bbox"]
        boxes.setdefault(entry["image_id"], {})[entry["id"]] = [x, y, x + width, y + height]
    return boxes


@pytest.mark.parametrize(("folder", "task", "by", "splits", "name"), REFER)
def test_expressions_point_at_boxes_that_one_region_fits(written, content, folder, task, by, splits, name):
    folder = written / "datasets" / folder
    features = open_features(folder / DETECTOR / f"{folder.name}_dets36_feat.lmdb", feature_size=64)
    boxes = annotated_boxes(folder, task)
    refs = safe_pickle.load(folder / "annotations" / task / f"refs({by}).p")
    assert {ref["split"] for ref in refs} == splits
    sentences = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert len(set(sentences)) == len(sentences) == 24 * 6 + 24 * 4
    assert [sentence for ref in refs for sentence in ref["sent_ids"]] == sentences
    for ref in refs:
        box = np.array([boxes[ref["image_id"]][ref["ann_id"]]])
        assert (pairwise_iou(features[ref["image_id"]].boxes, box) > 0.5).sum() == 1
    for entry in (entry for part in getattr(content, name).values() for entry in part):
        assert all(denoted(entry.scene, phrase) == [target] for target, phrase in entry.expressions)


@pytest.mark.parametrize(("folder", "task"), [case[:2] for case in REFER])
def test_the_second_feature_file_has_the_annotated_boxes_of_the_same_images(written, folder, task):
    folder = written / "datasets" / folder
    detected = open_features(folder / DETECTOR / f"{folder.name}_dets36_feat.lmdb")
    exact = open_features(folder / DETECTOR / f"{folder.name}_gt_feat.lmdb", feature_size=64)
    boxes = annotated_boxes(folder, task)
    assert sorted(exact.keys()) == sorted(detected.keys()) == sorted(map(str, boxes))
    for image, annotated in boxes.items():
        assert sorted(exact[str(image)].boxes.tolist()) == sorted(annotated.values())


def test_annotated_boxes_come_without_clutter(tmp_path):
    write_world(tmp_path / "w", boxes=20, render=False, data_sets=["refer"], **SMALL)
    folder = tmp_path / "w/datasets/refcoco+_unc"
    exact = open_features(folder / DETECTOR / "refcoco+_unc_gt_feat.lmdb")
    detected = open_features(folder / DETECTOR / "refcoco+_unc_dets36_feat.lmdb")
    assert {len(exact[key]) for key in exact.keys()} == {7, 8, 9}  # noqa: SIM118
    assert {len(detected[key]) for key in detected.keys()} == {20}  # noqa: SIM118


def test_referring_data_sets_share_images_and_have_expressions_of_their_own(content):
    texts = {}
    for name in ("refer", "refcoco", "refcocog"):
        assert content.scenes(name, "test") == content.scenes("refer", "test")
        texts[name] = [phrase for entry in getattr(content, name)["train"] for _, phrase in entry.expressions]
    hops = {name: np.mean([phrase.hops() for phrase in phrases]) for name, phrases in texts.items()}
    assert hops["refcoco"] < hops["refer"] < hops["refcocog"]


def coco(written, name):
    return load_retrieval(written / f"datasets/mscoco/annotations/{name}_ann.jsonl", "id")


def test_captions_of_coco_are_of_the_images_of_vqa_and_no_image_is_in_two_splits(written):
    features = set(open_features(written / "datasets/mscoco" / DETECTOR / "trainval_feat.lmdb").keys())
    images = {name: coco(written, name).image_ids for name in ("train", "valid", "test", "test1k")}
    assert {name: len(part) for name, part in images.items()} == {"train": 24, "valid": 6, "test": 6, "test1k": 2}
    assert set(images["test1k"]) < set(images["test"])
    assert set(images["train"] + images["valid"] + images["test"]) == features
    assert all(len(coco(written, name).captions) == 5 * len(part) for name, part in images.items())


def test_every_caption_of_coco_is_true_of_its_image(content):
    for entry in (entry for part in content.coco.values() for entry in part):
        for caption in entry.captions:
            assert all(denoted(entry.scene, clause) for clause in caption.clauses), caption.words()


def test_hard_negatives_of_coco_cover_the_training_images(written):
    negatives = load_hard_negatives(written / "datasets/mscoco/hard_negative.pkl", coco(written, "train"))
    assert negatives.shape == (24, 19) and negatives.min() >= 0 and negatives.max() < 24
    assert all(row not in pool and len(set(pool)) == 19 for row, pool in enumerate(negatives.tolist()))


def gqa_questions(written):
    """Every question of GQA's files by id: image, text, answer."""
    folder = written / "datasets/gqa/annotations"
    labels = safe_pickle.load(folder / "trainval_label2ans.pkl")
    label_of = safe_pickle.load(folder / "trainval_ans2label.pkl")
    assert [label_of[label] for label in labels] == list(range(len(labels)))
    parts = {name: safe_pickle.load(folder / f"{name}_target.pkl") for name in ("train", "val", "trainval")}
    assert parts["trainval"] == parts["train"] + parts["val"]
    assert all(target["scores"] == [1.0] for target in parts["trainval"])
    asked = {
        target["question_id"]: (target["image_id"], target["question"], labels[target["labels"][0]])
        for target in parts["trainval"]
    }
    tests = json.loads((folder / "testdev_balanced_questions.json").read_text())
    return asked | {name: (test["imageId"], test["question"], test["answer"]) for name, test in tests.items()}


def test_every_answer_in_gqa_is_what_one_sees(written, content):
    asked = gqa_questions(written)
    assert len({int(name) for name in asked}) == len(asked) == 24 * 6 + 24 * 4
    for entry in (entry for part in content.gqa.values() for entry in part):
        for number, (question, reply, _) in enumerate(entry.questions):
            image, text, answer = asked[f"{10 * entry.scene.image_id + number:09}"]
            assert image.removeprefix("n") == str(entry.scene.image_id)
            assert text == question.words() and answer == reply == true_answer(entry.scene, question)


def test_images_of_gqa_have_names_of_both_kinds_and_regions(written):
    named = {image for image, _, _ in gqa_questions(written).values()}
    assert named == set(open_features(written / "datasets/gqa" / DETECTOR / "vg_gqa_feat.lmdb").keys())
    assert {image.startswith("n") for image in named} == {True, False}
    assert (written / "datasets/gqa/annotations/cache").is_dir()


def test_a_chosen_data_set_is_the_same_whatever_else_is_written(written, tmp_path):
    chosen = ["snli_ve", "gqa", "retrieval"]
    write_world(tmp_path / "w", render=False, data_sets=chosen, **SMALL)
    summary = json.loads((tmp_path / "w/world.json").read_text())
    assert summary["spec"]["data_sets"] == ["retrieval", "gqa", "snli_ve"]
    assert set(summary["images"]) == {"retrieval", "gqa"} and set(summary["balance"]) == set(chosen)
    assert set(yaml.safe_load((tmp_path / "w/tasks.yml").read_text())) == {"TASK8", "TASK13", "TASK15"}
    assert {path.name for path in (tmp_path / "w/datasets").iterdir()} == {"flickr30k", "gqa", "snli_ve"}
    whole = digests(written)
    assert all(whole[path] == digest for path, digest in summary["sha256"].items() if path.startswith("datasets/"))


@pytest.mark.parametrize(
    ("data_sets", "said"),
    [
        (["vqa", "coco", "imagenet"], "expected a list, each one of concap.*'imagenet'"),
        (["coco"], "coco, which describes the images of vqa; add vqa"),
        ([], "data_sets: expected (a list|some of)"),
        ("vqa", "data_sets: expected (a list|some of)"),
    ],
)
def test_a_choice_that_cannot_be_written_is_refused(data_sets, said):
    with pytest.raises(UserError, match=said) as raised:
        WorldSpec(data_sets=data_sets)
    assert "\n" not in str(raised.value)


def test_the_command_writes_the_data_sets_that_it_names(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_world_arguments(parser)
    flags = "--images 20 --eval-images 10 --no-render --data-sets gqa concap"
    assert run_world(parser.parse_args([str(tmp_path / "w"), *flags.split()])) == 0
    assert "without looking: GQA" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "w/datasets").iterdir()} == {"gqa", "conceptual_captions"}
    assert tuple(parser.parse_args(["w"]).data_sets) == BY_DEFAULT


def test_phrases_come_on_request_and_change_nothing_else(written, tmp_path):
    """Regions are Flickr30k's; only these have the detector's scores."""
    write_world(tmp_path / "w", render=False, data_sets=["retrieval", "entities"], **SMALL)
    own, default = digests(tmp_path / "w"), digests(written)
    added = {name for name in own if "entities" in name or "ablation" in name}
    assert added and not added & set(default)
    kept = [name for name in own if name not in added and name != "tasks.yml"]
    assert len(kept) > 5 and all(own[name] == default[name] for name in kept)
    folder = tmp_path / "w/datasets"
    features = open_features(folder / "flickr30k" / DETECTOR / "flickr30k_feat.lmdb", detections=True)
    scored = open_features(folder / "flickr30k_entities" / DETECTOR / "flickr30k_entities_feat.lmdb", detections=True)
    assert features.keys() == scored.keys()
    for name in features:
        assert (features[name].features == scored[name].features).all() and features[name].cls_prob is None
        assert scored[name].cls_prob.shape == (len(scored[name]), 31)
