"""More test images than validation images: the tests grow, and nothing else of a world changes."""

import json
import pickle
import re

import numpy as np
import pytest

from volta_switch.data.feature_files import open_features
from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError
from volta_switch.study.plan import load_study
from volta_switch.study.study_data import world_folder
from volta_switch.world import WorldSpec, write_world
from volta_switch.world.balance import balance, retrieval_ceiling
from volta_switch.world.build import FORMAT
from volta_switch.world.content import draw_split, draw_world

SMALL = {"images": 24, "eval_images": 12, "render": False}
TEST_IMAGES = 120  # more than the 100 that retrieval uses at most without the field
BY_TEST = ("test", "testA", "testB")
# What the summary of a world said of its parameters before there was the field.
EARLIER = {
    "seed": 0, "images": 24, "eval_images": 12, "text_depth": 0, "vision_depth": 0, "feature_size": 64, "boxes": None,
    "num_classes": 31, "num_attributes": 7, "render": False,
    "data_sets": ["concap", "refer", "retrieval", "vqa", "nlvr2", "refcoco", "refcocog", "coco", "gqa", "snli_ve"],
}  # fmt: skip


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """The same world without the field and with it."""
    folder = tmp_path_factory.mktemp("worlds")
    write_world(folder / "few", **SMALL)
    write_world(folder / "many", test_images=TEST_IMAGES, **SMALL)
    return folder / "few", folder / "many"


def summary(world):
    return json.loads((world / "world.json").read_text())


def test_a_world_without_the_field_is_the_one_that_earlier_versions_wrote(worlds, tmp_path):
    few, _ = worlds
    assert summary(few)["spec"] == EARLIER == WorldSpec(**SMALL).as_dict() and FORMAT == 3
    assert list(summary(few)["spec"]) == list(EARLIER)  # the same bytes
    assert summary(few)["images"]["retrieval"] == {"train": 15, "val": 12, "test": 12}
    (tmp_path / "world.json").write_text(json.dumps({"format": 3, "spec": EARLIER}))
    assert write_world(tmp_path, test_images=None, **SMALL) is False
    with pytest.raises(UserError, match=r"another world \(test_images differ\)"):
        write_world(tmp_path, test_images=20, **SMALL)


def test_a_world_with_the_field_is_no_world_without_it(worlds):
    _, many = worlds
    assert write_world(many, test_images=TEST_IMAGES, **SMALL) is False
    with pytest.raises(UserError, match=r"another world \(test_images differ\)"):
        write_world(many, **SMALL)


def test_tests_have_the_images_that_are_asked_for(worlds):
    of_validation = {"concap": 12, "refer": 12, "retrieval": 12, "vqa": 12, "nlvr2": 12, "gqa": 12}
    for name, counts in summary(worlds[1])["images"].items():
        assert counts.get("test", TEST_IMAGES) == TEST_IMAGES and counts["val"] == of_validation[name]
    assert "test" not in summary(worlds[1])["images"]["concap"]


def test_a_validation_split_of_retrieval_stays_at_a_hundred_images():
    spec = WorldSpec(images=20, eval_images=150, test_images=120, data_sets=("retrieval",))
    drawn = draw_world(spec)
    assert [len(drawn.retrieval[split]) for split in ("val", "test")] == [100, 120]


@pytest.mark.parametrize("name", ["refer", "retrieval", "vqa", "nlvr2", "refcocog", "coco", "gqa", "snli_ve"])
def test_training_and_validation_are_the_same_with_it(name):
    few, many = WorldSpec(**SMALL), WorldSpec(test_images=40, **SMALL)
    for split in ("train", "val"):
        assert pickle.dumps(draw_split(few, name, split)) == pickle.dumps(draw_split(many, name, split))
    of_test = len(draw_split(many, name, "test"))
    assert of_test == {"coco": 6, "nlvr2": 10}.get(name, 40)  # COCO's: half of VQA's validation images


def test_files_of_training_and_validation_have_the_same_bytes(worlds):
    few, many = (summary(world)["sha256"] for world in worlds)
    assert few.keys() == many.keys()
    differ = {path for path in few if few[path] != many[path]}
    with_tests = (  # of the tests alone, and of all splits
        r"(test\.jsonl|testdev_balanced_questions\.json|mscoco_test2015_\w+\.json|test_target\.pkl|test_ann\.jsonl|"
        r"instances\.json|refs\(\w+\)\.p|(test|flickr30k|nlvr2|vg_gqa|_dets36|_gt)_feat\.lmdb/data\.mdb)$"
    )
    holding = {path for path in few if re.search(with_tests, path) and "mscoco/annotations" not in path}
    assert differ - {"tasks.yml"} == holding  # the task file tells the longest text, which a test may have


def test_records_of_training_and_validation_in_shared_feature_files_are_the_same(worlds):
    for file in ("flickr30k/{}/flickr30k_feat.lmdb", "refcoco+_unc/{}/refcoco+_unc_gt_feat.lmdb"):
        path = f"datasets/{file.format('resnet101_faster_rcnn_genome_imgfeats/volta')}"
        few, many = (open_features(world / path) for world in worlds)
        shared = [key for key in few.keys() if int(key) % 100_000 < 24 + 12]  # noqa: SIM118
        assert len(many) == len(few) + TEST_IMAGES - 12 and shared
        for key in shared[: 15 + 12] if "flickr" in file else shared:
            assert np.array_equal(few[key].features, many[key].features)


def test_expressions_of_training_and_validation_have_the_same_numbers(worlds):
    files = [world / "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p" for world in worlds]
    few, many = (safe_pickle.load(file) for file in files)
    kept = [ref for ref in few if ref["split"] not in BY_TEST]
    assert kept and kept == [ref for ref in many if ref["split"] not in BY_TEST]
    tested = {split: len({ref["image_id"] for ref in many if ref["split"] == split}) for split in ("testA", "testB")}
    assert tested == {"testA": TEST_IMAGES // 2, "testB": TEST_IMAGES // 2}


def test_a_study_names_the_worlds_of_its_arms_as_before_and_by_the_field(tmp_path):
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "world: {images: 20, eval_images: 10, render: false}\n"
        "models: [demo/ctrl_uniter]\ntasks: {'10': {}}\n"
        "arms: {more: {model: demo/ctrl_uniter, world: {test_images: 30}}}\n"
        "tables: {t: {arms: [ctrl_uniter, more], tasks: ['10'], varies: [world]}}\n"
    )
    study = load_study(plan)
    folders = [world_folder(study, arm, tmp_path).name for arm in study.arms.values()]
    assert folders == ["world", "world-test_images-30"]


@pytest.mark.parametrize("value", [0, 9, -1, 2_000_000, "many", True])
def test_a_number_out_of_range_is_refused_in_one_line(value):
    with pytest.raises(UserError, match=r"world: test_images: .*expected") as raised:
        WorldSpec(test_images=value)
    assert "\n" not in str(raised.value)


def test_chance_and_ceiling_of_retrieval_within_pools(worlds):
    spec = WorldSpec(images=20, eval_images=10, test_images=30, data_sets=("retrieval",))
    entries = draw_split(spec, "retrieval", "test")
    twins = [*entries[:9], entries[0], *entries[10:]]  # a scene twice in a pool of ten
    for drawn, size in ((entries, 10), (twins, 10), (twins, 5), (twins, None)):
        shares = []
        for start in range(0, 30, size or 30):
            pool = drawn[start : start + (size or 30)]
            for entry in pool:
                for caption in entry.captions:
                    shares.append(1 / sum(caption.may_be_true(other.scene) for other in pool))
        found = retrieval_ceiling(drawn, size)
        assert found["chance_r1"] == 1 / (size or 30) and (found["images"], found["captions"]) == (30, 150)
        assert found["ceiling_r1"] == pytest.approx(sum(shares) / 150)
    assert retrieval_ceiling(twins, 10)["ceiling_r1"] <= retrieval_ceiling(entries, 10)["ceiling_r1"] - 5 / 150
    assert retrieval_ceiling(twins, 5)["ceiling_r1"] > retrieval_ceiling(twins, 10)["ceiling_r1"]  # they are parted
    few, many = (summary(world)["balance"]["retrieval"] for world in worlds)
    assert "in_pools_of_100" not in json.dumps([few, many])  # 120 images are no whole number of pools


def test_a_world_says_chance_and_ceiling_in_pools_of_a_hundred():
    scores = balance(draw_world(WorldSpec(images=20, eval_images=10, test_images=200, data_sets=("retrieval",))))
    test = scores["retrieval"]["test"]
    assert test["chance_r1"] == 1 / 200 and test["in_pools_of_100"]["chance_r1"] == 1 / 100
    assert test["ceiling_r1"] <= test["in_pools_of_100"]["ceiling_r1"] <= 1
    assert "in_pools_of_100" not in scores["retrieval"]["val"]
