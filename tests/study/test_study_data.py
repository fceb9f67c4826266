"""A study of one's own data: its cells are known by what the data are, not by where they lie."""

import json
import shutil

import pytest
import yaml

from volta_switch.checksums import record_bytes
from volta_switch.study.plan import load_study
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.study_data import DATA_FILE

REFER = "datasets/refcoco+_unc/annotations/refcoco+"
CAPTIONS = "datasets/conceptual_captions"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Keys of a study's cells by their names: planned(world's folder) -> keys."""

    def plan(path, folder="out", **changes):
        data = {
            "tasks_config_file": str(path / "tasks.yml"),
            "features_path": str(path / CAPTIONS / "resnet101_faster_rcnn_genome_imgfeats/volta"),
            "annotations_path": str(path / CAPTIONS / "annotations"),
            "data_root": str(path),
        }
        values = {
            "models": ["demo/ctrl_uniter"],
            "tasks": {"refcoco+": {"test": {"split": "test"}}, "VQA": {}},
            "pretraining": {"learning_rate": 1e-3},
            "data": data,
            **changes,
        }
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(values))
        made = RunPlan(load_study(tmp_path / "plan.yaml"), tmp_path / folder)
        made.data.keep()
        return {cell.name.partition("/seed0/")[2]: (cell.key, cell.training) for cell in made.runs}

    return plan


def test_the_same_data_elsewhere_are_the_same_cells(world, planned, tmp_path):
    copy = world.copy(tmp_path / "copy")
    assert planned(world.path) == planned(copy.path, "other") and len(planned(copy.path, "other")) == 3


def changed_captions(path):
    file = path / CAPTIONS / "annotations" / "caption_train.json"
    said = json.loads(file.read_text())
    said[next(iter(said))] += " again"
    file.write_text(json.dumps(said))


def changed_boxes(path):
    file = path / REFER / "instances.json"
    said = json.loads(file.read_text())
    said["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(said))


def changed_setting(path):
    entries = yaml.safe_load((path / "tasks.yml").read_text())
    entries["TASK10"]["max_seq_length"] = 9
    (path / "tasks.yml").write_text(yaml.safe_dump(entries))


def changed_features(path):
    entries = yaml.safe_load((path / "tasks.yml").read_text())
    shutil.rmtree(path / entries["TASK10"]["features_h5path1"])
    shutil.copytree(path / entries["TASK10"]["features_h5path2"], path / entries["TASK10"]["features_h5path1"])


@pytest.mark.parametrize(
    ("change", "others"),
    [
        (changed_captions, {"pretraining", "refcoco+", "VQA"}),  # what starts from it is another run, too
        (changed_boxes, {"refcoco+"}),
        (changed_setting, {"refcoco+"}),
        (changed_features, {"refcoco+"}),
    ],
)
def test_changed_data_are_other_cells(world, planned, tmp_path, change, others):
    copy = world.copy(tmp_path / "copy")
    (copy.path / "world.json").unlink()  # hand-made data
    before = planned(copy.path)
    change(copy.path)
    after = planned(copy.path)
    assert {name for name in before if before[name] != after[name]} == others


def test_what_was_found_is_kept_for_a_machine_without_the_data(world, planned, tmp_path):
    copy = world.copy(tmp_path / "copy")
    before = planned(copy.path)
    assert (tmp_path / "out" / DATA_FILE).is_file()
    tasks = (copy.path / "tasks.yml").read_text()
    shutil.rmtree(copy.path)
    copy.path.mkdir()
    (copy.path / "tasks.yml").write_text(tasks)
    assert planned(copy.path) == before
    assert planned(copy.path, "elsewhere").keys() == before.keys()  # is planned all the same, as other cells
    assert planned(copy.path, "elsewhere") != before


def test_weights_that_a_plan_names_are_what_they_are(world, planned, tmp_path):
    starts = {"refcoco+": {"train": {"from_pretrained": str(tmp_path / "start.bin")}, "test": {}}}
    keys = []
    for content in (b"one", b"other", b"one"):
        (tmp_path / "start.bin").write_bytes(content)
        keys.append(planned(world.path, pretraining=None, tasks=starts)["refcoco+"])
    assert keys[0] == keys[2] and keys[0] != keys[1]
    begun = {"from_pretrained": str(tmp_path / "start.bin")}
    (tmp_path / "start.bin").write_bytes(b"one")
    first = planned(world.path, pretraining=begun)["pretraining"]
    (tmp_path / "start.bin").write_bytes(b"other")
    assert planned(world.path, pretraining=begun)["pretraining"] != first


def test_annotations_that_a_test_names_are_what_they_are(world, planned, tmp_path):
    own = world.path / "datasets/flickr30k/annotations/test_ann.jsonl"
    file = tmp_path / "ann.jsonl"
    tasks = {"TASK8": {"test": {"split": "test", "val_annotations_jsonpath": str(file)}}}
    found = []
    for lines in (10, 6):
        file.write_text("".join(own.read_text().splitlines(keepends=True)[-lines:]))
        found.append(planned(world.path, tasks=tasks)["RetrievalFlickr30k"])
    assert found[0][0] != found[1][0] and found[0][1] == found[1][1]  # another test of the same training


def test_a_flag_of_the_training_and_one_of_the_test_name_two_files(world, planned, tmp_path):
    """In a small world's study, too, where only files outside the world count."""
    own = world.path / "datasets/flickr30k/annotations/test_ann.jsonl"
    files = {part: tmp_path / f"{part}.jsonl" for part in ("train", "test")}
    flags = {part: {"val_annotations_jsonpath": str(file)} for part, file in files.items()}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "world").symlink_to(world.path)
    keys = []
    for changed in ("", "train", "test"):
        for part, file in files.items():
            file.write_text(own.read_text() + ("\n" if part == changed else ""))
        found = planned(world.path, data=None, world={"images": 20}, tasks={"TASK8": flags}, pretraining=None)
        keys.append(found["RetrievalFlickr30k"])
    assert len({key for key, _ in keys}) == 3
    assert len({training for _, training in keys}) == 2 and keys[0][1] == keys[2][1]  # the test is not the training's


def test_a_start_that_is_a_models_folder_is_known_by_its_weights(world, planned, finished, tmp_path):
    runs = {name: finished[1] / name / "seed0" / name for name in ("ctrl_uniter", "switchbert")}
    start = shutil.copytree(runs["ctrl_uniter"], tmp_path / "start")
    flags = {"pretraining": {"from_pretrained": str(start)}, "tasks": {"refcoco+": {}}}
    before = planned(world.path, "one", **flags)
    assert planned(world.path, "two", **flags) == before
    record_bytes(start / "pytorch_model_best.bin", (runs["switchbert"] / "pytorch_model_best.bin").read_bytes())
    after = planned(world.path, "three", **flags)
    assert before.keys() == after.keys() and not {*before.values()} & {*after.values()}
