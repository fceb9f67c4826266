import argparse
import json

import numpy as np
import pytest
import yaml

from volta_switch.data.feature_files import open_features
from volta_switch.data.files import safe_pickle
from volta_switch.data.formats.concap import ConcapFile
from volta_switch.errors import UserError
from volta_switch.world import WorldSpec, add_world_arguments, run_world, write_world
from volta_switch.world.build import world_spec

SMALL = {"images": 24, "eval_images": 12}
DETECTOR = "resnet101_faster_rcnn_genome_imgfeats/volta"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "world"
    assert write_world(out, **SMALL) is True
    return out


def summary(out):
    return json.loads((out / "world.json").read_text())


def test_equal_parameters_give_equal_files(written, tmp_path):
    write_world(tmp_path / "again", **SMALL)
    assert summary(tmp_path / "again") == summary(written)
    for file in ("tasks.yml", "world.json", "bert-world/vocab.txt", "datasets/flickr30k/hard_negative.pkl"):
        assert (tmp_path / "again" / file).read_bytes() == (written / file).read_bytes()


def test_the_parameters_of_a_world_are_read_or_refused_in_one_line(written, tmp_path):
    assert world_spec(written) == WorldSpec(**SMALL)
    good = summary(written)
    older = {**good, "format": good["format"] - 1}
    unnamed = {key: value for key, value in good.items() if key != "format"}
    file = tmp_path / "world.json"
    for content, message in (
        (None, "no world there"),
        ("{", "no world there"),
        ("[" * 100_000, "no world there"),
        ("[]", "no world there"),
        ("{}", "no world there"),
        (json.dumps({**good, "spec": 3}), "no world there"),
        (json.dumps(unnamed), "no world there"),
        (json.dumps(older), "another version"),
    ):
        if content is not None:
            file.write_text(content)
        with pytest.raises(UserError, match=message) as refused:
            world_spec(tmp_path)
        assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def test_another_seed_gives_another_world(written, tmp_path):
    write_world(tmp_path / "other", seed=1, render=False, **SMALL)
    first, other = summary(written)["sha256"], summary(tmp_path / "other")["sha256"]
    data = [path for path in other if path.startswith("datasets/") and "trainval_" not in path]
    assert data and all(first[path] != other[path] for path in data)


def test_a_world_that_is_already_there_is_not_written_again(written):
    before = (written / "world.json").stat().st_mtime_ns
    assert write_world(written, **SMALL) is False
    assert (written / "world.json").stat().st_mtime_ns == before


def test_another_world_is_replaced_only_when_asked(tmp_path):
    small = {**SMALL, "render": False, "data_sets": ["concap"]}
    write_world(tmp_path / "w", **small)
    with pytest.raises(UserError, match=r"another world \(seed differ\).*--overwrite"):
        write_world(tmp_path / "w", seed=3, **small)
    assert write_world(tmp_path / "w", seed=3, overwrite=True, **small) is True
    assert summary(tmp_path / "w")["spec"]["seed"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_folder_that_holds_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no world"):
        write_world(tmp_path, overwrite=True, **SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value"),
    [("images", 3), ("seed", -1), ("text_depth", 9), ("boxes", 4), ("num_classes", 10), ("feature_size", "64")],
)
def test_a_parameter_out_of_range_is_named(name, value):
    with pytest.raises(UserError, match=name) as raised:
        WorldSpec(**{name: value})
    assert "\n" not in str(raised.value)


def test_a_failed_world_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("volta_switch.world.build.digests", lambda root: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_world(tmp_path / "w", render=False, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_pre_training_pairs_are_read_with_their_captions(written):
    folder = written / "datasets/conceptual_captions"
    for split, name, count in (("train", "training", 24), ("valid", "validation", 12)):
        captions = json.loads((folder / f"annotations/caption_{split}.json").read_text())
        pairs = ConcapFile(folder / DETECTOR / f"{name}_feat_all.lmdb")
        assert len(pairs) == len(captions) == count
        for regions, caption in (pairs[index] for index in range(count)):
            assert captions[regions.image_id] == caption
            assert regions.features.shape == (len(regions), 64) and regions.cls_prob.shape == (len(regions), 31)


def test_soft_targets_are_the_scores_of_ten_annotators(written):
    folder = written / "datasets/vqa/annotations"
    labels = safe_pickle.load(folder / "trainval_label2ans.pkl")
    label_of = safe_pickle.load(folder / "trainval_ans2label.pkl")
    assert [label_of[label] for label in labels] == list(range(len(labels)))
    for split, year in (("train", "train2014"), ("val", "val2014"), ("test", "test2015")):
        questions = json.loads((folder / f"v2_OpenEnded_mscoco_{year}_questions.json").read_text())["questions"]
        annotations = json.loads((folder / f"v2_mscoco_{year}_annotations.json").read_text())["annotations"]
        targets = safe_pickle.load(folder / f"cache/{split}_target.pkl")
        ids = [[entry["question_id"] for entry in part] for part in (questions, annotations, targets)]
        assert ids[0] == ids[1] == ids[2]
        for target, annotation in zip(targets, annotations, strict=True):
            given = [answer["answer"] for answer in annotation["answers"]]
            assert len(given) == 10
            for label, score in zip(target["labels"], target["scores"], strict=True):
                assert score == [0, 0.3, 0.6, 0.9, 1][min(4, given.count(labels[label]))]


def test_hard_negatives_are_other_training_images(written):
    pool = safe_pickle.load(written / "datasets/flickr30k/hard_negative.pkl")
    images, hard = pool["train_image_list"], pool["train_hard_pool"]
    assert len(images) == len(hard) == 15 and (hard[:, 0] == np.arange(15)).all()
    assert all(len(set(row)) == len(row) for row in hard.tolist()) and hard.max() < 15
    lines = (written / "datasets/flickr30k/annotations/train_ann.jsonl").read_text().splitlines()
    assert [int(json.loads(line)["img_path"].split(".")[0]) for line in lines] == images
    assert all(len(json.loads(line)["sentences"]) == 5 for line in lines)


def test_every_path_of_the_task_file_exists_and_no_text_is_cut(written):
    tasks = yaml.safe_load((written / "tasks.yml").read_text())
    assert {name: task["name"] for name, task in tasks.items()} == {
        "TASK1": "VQA", "TASK7": "RetrievalCOCO", "TASK8": "RetrievalFlickr30k", "TASK9": "refcoco",
        "TASK10": "refcoco+", "TASK11": "refcocog", "TASK12": "NLVR2", "TASK13": "VisualEntailment", "TASK15": "GQA",
    }  # fmt: skip
    for task in tasks.values():
        paths = [value for key, value in task.items() if "path" in key or key == "dataroot"]
        assert all((written / path).exists() for path in paths if path)
        assert bool(task["features_h5path2"]) == task["name"].startswith("refcoco")
        assert bool(task["val_annotations_jsonpath"]) == task["name"].startswith("Retrieval")
    assert tasks["TASK1"]["num_labels"] == tasks["TASK15"]["num_labels"] == summary(written)["labels"]
    longest = summary(written)["longest_text"]
    data_sets = ("vqa", "coco", "retrieval", "refcoco", "refer", "refcocog", "nlvr2", "snli_ve", "gqa")
    assert [task["max_seq_length"] for task in tasks.values()] == [longest[name] for name in data_sets]


def test_no_image_is_in_two_data_sets_or_splits_but_for_those_of_referring_expressions(written):
    folders = ("refcoco+_unc", "flickr30k", "mscoco", "nlvr2", "gqa")
    stores = [store for folder in folders for store in (written / "datasets" / folder).rglob("*_feat.lmdb")]
    stores = [store for store in stores if not store.name.endswith("_gt_feat.lmdb")]
    keys = [key for store in stores for key in open_features(store).keys()]  # noqa: SIM118
    captions = (written / "datasets/conceptual_captions/annotations").glob("*.json")
    keys += [key for path in captions for key in json.loads(path.read_text())]
    assert len(set(keys)) == len(keys) == (24 + 12) + 4 * (24 + 12 + 12) + (15 + 12 + 12)


def test_scenes_are_drawn_for_people_to_look_at(written):
    from PIL import Image

    drawings = sorted((written / "scenes").glob("*.png"))
    assert {path.name.split("-")[0] for path in drawings} == {"refer", "vqa", "retrieval"}
    with Image.open(drawings[0]) as picture:
        assert picture.width == 960 and len(picture.getcolors(1 << 20)) > 10


def test_the_command_writes_volta_sized_records(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_world_arguments(parser)
    flags = "--images 20 --eval-images 10 --boxes 36 --feature-size 32 --classes 1601 --attributes 401 --no-render"
    args = parser.parse_args([str(tmp_path / "w"), *flags.split(), "--data-sets", "concap", "refer"])
    assert run_world(args) == 0
    assert "without looking" in capsys.readouterr().out
    regions, _ = ConcapFile(tmp_path / "w/datasets/conceptual_captions" / DETECTOR / "training_feat_all.lmdb")[0]
    assert regions.features.shape == (36, 32) and regions.boxes.shape == (36, 4)
    assert regions.cls_prob.shape == (36, 1601) and regions.attr_scores.shape == (36, 401)
    assert run_world(args) == 0
    assert "already there" in capsys.readouterr().out
