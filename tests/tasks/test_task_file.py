"""A task is found by number, key or name; what is wrong with a task file is said in one line."""

from pathlib import Path

import pytest
import yaml

from volta_switch import UserError
from volta_switch.tasks import TASKS, build_task, load_task
from volta_switch.tasks.task_file import REQUIRED, WORLD, TaskSpec
from volta_switch.world.build import SUMMARY

SHIPPED = sorted((Path(__file__).parents[2] / "config_tasks").glob("*.yml"))
ENTRY = {
    "name": "refcoco+", "type": "V-logit", "dataroot": "data", "features_h5path1": "feat.lmdb",
    "max_seq_length": 20, "train_split": "train", "val_split": "val",
}  # fmt: skip


def task_file(folder, **entries):
    path = folder / "tasks.yml"
    path.write_text(yaml.safe_dump(entries))
    return path


def refused(path, task="10"):
    with pytest.raises(UserError) as caught:
        load_task(path, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("task", ["10", "TASK10", "refcoco+", " 10 "])
def test_a_task_is_found_by_number_key_or_name(tmp_path, task):
    path = task_file(tmp_path, TASK1={**ENTRY, "name": "VQA"}, TASK10=ENTRY)
    spec = load_task(path, task)
    assert (spec.key, spec.name, spec.type, spec.max_seq_length) == ("TASK10", "refcoco+", "V-logit", 20)


def test_an_unknown_task_suggests_the_nearest_and_lists_all(tmp_path):
    path = task_file(tmp_path, TASK1={**ENTRY, "name": "VQA"}, TASK10=ENTRY)
    message = refused(path, "refcoco")
    assert str(path) in message and "did you mean refcoco+?" in message and "TASK1 (VQA), TASK10 (refcoco+)" in message
    assert "choose one with --task" in refused(path, "")


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_setting_is_named(tmp_path, key):
    path = task_file(tmp_path, TASK10={name: value for name, value in ENTRY.items() if name != key})
    assert refused(path, "TASK10") == f"{path}: TASK10 lacks {key}"


@pytest.mark.parametrize("content", [b"TASK10: [", b"\xff\xfe\x00\x01", b"a: b: c"])
def test_a_file_that_is_no_yaml_is_named(tmp_path, content):
    path = tmp_path / "tasks.yml"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path}: not a YAML file")


@pytest.mark.parametrize("content", ["", "text", "- 1", "TASK10: 3"])
def test_a_file_without_entries_is_named(tmp_path, content):
    path = tmp_path / "tasks.yml"
    path.write_text(content)
    assert refused(path).startswith(f"{path}: expected entries TASK<n>")


def test_a_missing_file_is_named(tmp_path):
    assert "no such task file" in refused(tmp_path / "none.yml")


@pytest.mark.parametrize(("key", "value"), [("lr", "fast"), ("max_seq_length", "long"), ("batch_size", [64])])
def test_a_setting_of_the_wrong_kind_is_named(tmp_path, key, value):
    message = refused(task_file(tmp_path, TASK10={**ENTRY, key: value}))
    assert f"TASK10: {key}" in message and repr(value) in message


def test_paths_that_are_not_there_are_looked_for_beside_the_file(tmp_path, monkeypatch):
    (tmp_path / "world" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    spec = load_task(task_file(tmp_path / "world", TASK10=ENTRY), "10")
    monkeypatch.chdir(tmp_path)
    assert spec.path("data") == tmp_path / "world" / "data"
    assert spec.path("feat.lmdb") == Path("feat.lmdb")  # nowhere: named as it was given
    assert spec.path(str(tmp_path / "x")) == tmp_path / "x"


def test_a_path_that_leads_to_two_files_is_refused_unless_the_data_root_says_which(tmp_path, monkeypatch):
    for folder in ("plan", "checkout", "third"):
        (tmp_path / folder / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "checkout")
    path = task_file(tmp_path / "plan", TASK10=ENTRY)
    here, beside = tmp_path / "checkout" / "data", tmp_path / "plan" / "data"
    for of in (TaskSpec.path, TaskSpec.given_path):
        with pytest.raises(UserError, match=rf"data is there twice: {here} and {beside}; "):
            of(load_task(path, "10"), "data")
    assert load_task(path, "10", tmp_path / "third").path("data") == tmp_path / "third" / "data"
    assert load_task(path, "10", tmp_path / "third").given_path("data") == tmp_path / "third" / "data"
    assert load_task(path, "10", tmp_path / "plan").path("elsewhere") == tmp_path / "plan" / "elsewhere"
    with pytest.raises(UserError, match="none: no such folder; --data_root names"):
        load_task(path, "10", tmp_path / "none")
    beside.rmdir()
    beside.symlink_to(here)  # one file under two names
    assert load_task(path, "10").path("data").samefile(here)
    monkeypatch.chdir(tmp_path / "plan")  # the two places are one
    assert load_task(path, "10").path("data").samefile(here)


def test_numbers_that_yaml_takes_for_text_and_voltas_other_keys_are_read(tmp_path):
    path = tmp_path / "tasks.yml"
    path.write_text(
        yaml.safe_dump({"TASK10": ENTRY}) + "  lr: 4e-5\n  num_epoch: 3\n  clip_grad: true\n  fusion_method:\n"
    )
    spec = load_task(path, "10")
    assert (spec.lr, spec.num_epoch, spec.extra, spec.fusion_method) == (4e-5, 3, {"clip_grad": True}, None)
    assert spec.head() == {"type": "V-logit", "num_labels": None, "num_clf_layers": 1}


def test_a_type_without_a_data_set_is_refused(tmp_path):
    spec = load_task(task_file(tmp_path, TASK4={**ENTRY, "name": "Visual7w", "type": "V-logit-mc"}), "4")
    with pytest.raises(UserError, match=r"TASK4 \(Visual7w\): no data set for type V-logit-mc"):
        build_task(spec, None, None, None)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_task_can_be_built(path):
    entries = yaml.safe_load(path.read_text())
    assert entries
    for key in entries:
        spec = load_task(path, key)
        assert spec.type in TASKS and not spec.extra
        assert spec.lr < 1e-3 and spec.batch_size >= 64 and spec.num_epoch == 20


def test_shipped_hyperparameters_are_the_controlled_setups():
    train = next(path for path in SHIPPED if "trainval" in path.name)
    found = [load_task(train, key) for key in yaml.safe_load(train.read_text())]
    assert {spec.name: (spec.task_id, spec.max_seq_length, spec.batch_size, spec.lr) for spec in found} == {
        "VQA": (1, 23, 256, 1e-4), "RetrievalCOCO": (7, 30, 64, 2e-5), "RetrievalFlickr30k": (8, 30, 64, 2e-5),
        "refcoco": (9, 20, 256, 2e-5), "refcoco+": (10, 20, 256, 1e-4), "refcocog": (11, 20, 256, 2e-5),
        "NLVR2": (12, 40, 64, 1e-5), "VisualEntailment": (13, 56, 128, 2e-5), "GQA": (15, 26, 256, 4e-5),
    }  # fmt: skip
    assert {spec.name: spec.num_labels for spec in found if spec.type.startswith("VL-c")} == {"VQA": 3129, "GQA": 1842}


def test_training_and_test_differ_in_their_splits_and_files_alone():
    test, train = (yaml.safe_load(path.read_text()) for path in SHIPPED)
    assert train.keys() == test.keys()
    for key, entry in train.items():
        assert [load_task(SHIPPED[1], name) for name in (key, key.removeprefix("TASK"), entry["name"])] == [
            load_task(SHIPPED[1], key)
        ] * 3
        assert test[key]["val_split"] == "test" and entry["val_split"] in ("val", "dev")
        differing = {name for name, value in entry.items() if test[key][name] != value}
        assert differing - {"val_split", "val_annotations_jsonpath"} <= (
            {"features_h5path1"} if key == "TASK1" else set()
        )


@pytest.mark.parametrize("there", [True, False])
def test_a_small_worlds_task_file_never_reads_what_lies_in_the_working_directory(tmp_path, monkeypatch, there):
    assert WORLD == SUMMARY  # what a world's folder is known by
    world, elsewhere = tmp_path / "world", tmp_path / "elsewhere"
    for folder in (world, elsewhere):
        (folder / "data").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    (elsewhere / "feat.lmdb").touch()
    if there:
        (world / "feat.lmdb").touch()
    path = task_file(world, TASK10=ENTRY)
    if there:  # a hand-written file
        with pytest.raises(UserError, match=r"feat\.lmdb is there twice"):
            load_task(path, "10").path("feat.lmdb")
    (world / WORLD).touch()
    assert load_task(path, "10").path("feat.lmdb") == world / "feat.lmdb"
    assert load_task(path, "10").path("data") == world / "data"
    assert load_task(path, "10").path(str(elsewhere / "feat.lmdb")) == elsewhere / "feat.lmdb"
