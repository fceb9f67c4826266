"""A task is found by number, key or name; what is wrong with a task file is said in one line."""

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from volta_switch import UserError
from volta_switch.tasks import annotation_files, build_task, features_path, load_task, task_class
from volta_switch.tasks.task_file import REQUIRED, WORLD, TaskSpec
from volta_switch.world.build import SUMMARY

SHIPPED = sorted((Path(__file__).parents[2] / "config_tasks").glob("ctrl_*.yml"))  # the ablation's is no training task
ENTRY = {
    "name": "refcoco+", "type": "V-logit", "dataroot": "data", "features_h5path1": "feat.lmdb",
    "max_seq_length": 20, "train_split": "train", "val_split": "val",
}  # fmt: skip
NINE, LEVELS = ", ".join(9 * ["*{}"]), tuple(pairwise("abcdefghi"))  # of aliases, each of nine of the level below


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
    assert "did you mean VQA?" in refused(path, "vqa")
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


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_region_num", 0, "expected a whole number from 1 to 10000, or null, found 0"),
        ("max_region_num", -1, "found -1"), ("max_region_num", True, "found True"),
        ("lr", float("nan"), "expected a number from 0 to 100, found nan"), ("lr", "inf", "found inf"),
        ("num_epoch", 2.5, "found 2.5"), ("val_split", "", "found ''"), ("val_split", 2014, "put it in quotes"),
        ("name", "a/b", "without /"), ("name", ["x"], "found ['x']"), ("batch_size", 10**30, "found 10000000"),
        ("loss", "BCELoss", "a V-logit is trained with BCEWithLogitLoss here, found BCELoss; leave it out"),
        ("loss", "CrossEntropyLoss", "found CrossEntropyLoss; leave it out"),
        ("process", "retrieval", "a V-logit is read as normal here, found retrieval"),
        ("num_labels", 3, "a V-logit has 1, found 3; leave it out"), ("num_clf_layers", 3, "expected one of 1, 2"),
        ("fusion_method", "max", "expected one of mul, sum, text"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_or_does_nothing_is_named(tmp_path, key, value, said):
    message = refused(task_file(tmp_path, TASK10={**ENTRY, key: value}))
    assert f"TASK10: {key}: " in message and said in message


def test_a_name_that_two_tasks_have_chooses_neither(tmp_path):
    path = task_file(tmp_path, TASK9=ENTRY, TASK10={**ENTRY, "max_seq_length": 30})
    assert "TASK10, TASK9 are all called refcoco+; give the number of one with --task" in refused(path, "refcoco+")
    assert [load_task(path, task).max_seq_length for task in ("9", "TASK10")] == [20, 30]


def test_two_layers_are_for_heads_that_have_them(tmp_path):
    assert load_task(task_file(tmp_path, TASK10={**ENTRY, "num_clf_layers": 2}), "10").num_clf_layers == 2
    vqa = {**ENTRY, "type": "VL-classifier", "num_clf_layers": 2}
    assert "num_clf_layers: not read for a VL-classifier, found 2" in refused(task_file(tmp_path, TASK10=vqa))


@pytest.mark.parametrize(
    ("key", "near"), [("max_region_nums", "max_region_num"), ("learning_rate_", None), ("batchsize", "batch_size")]
)
def test_an_unknown_setting_suggests_the_nearest(tmp_path, key, near):
    message = refused(task_file(tmp_path, TASK10={**ENTRY, key: 3}))
    assert f"TASK10: unknown key {key}; " in message
    assert (f"did you mean {near}?" in message) if near else "leave it out" in message


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("val_annotations_jsonpath", "V-logit"), ("train_annotations_jsonpath", "VL-classifier"),
        ("val_annotations_jsonpath", "VL-classifier-GQA"), ("features_h5path2", "VL-classifier"),
    ],
)  # fmt: skip
def test_a_file_that_the_type_does_not_read_is_refused(tmp_path, key, kind):
    spec = load_task(task_file(tmp_path, TASK10={**ENTRY, "type": kind, key: "mine"}), "10")
    with pytest.raises(UserError, match=rf"TASK10 \(refcoco\+\): {key} is not read.*leave it out"):
        annotation_files(spec, "val", training=False)
        features_path(spec, "val")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("TASK10: {}\nTASK1: {}\nTASK10: {}", "TASK10 stands there twice, in lines 1 and 3"),
        ("TASK10:\n  lr: 1\n  name: x\n  lr: 2", "lr stands there twice, in lines 2 and 4"),
        ("TASK10:\n  lr: 2024-13-45", "month must be in 1..12"), ("TASK10:\n  name: 2024-02-30", "day is out of range"),
        ("TASK10:\n  lr: " + 5000 * "9", "5000 digits"), ("TASK10: " + 500 * "[" + 500 * "]", "nested too deeply"),
        ("TASK10: &a [*a]", "an alias stands inside"),
        ("a: &a [1]\n" + "".join(f"{new}: &{new} [{NINE.format(*9 * old)}]\n" for old, new in LEVELS), "100000 values"),
        ("a: &a {x: 1}\n" + "".join(f"{new}: &{new} {{<<: [{NINE.format(*9 * old)}]}}\n" for old, new in LEVELS),
         "100000 values"),
        ("TASK10: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("TASK10: !!timestamp x", "not a YAML file of settings"), ("TASK10: {[1]: 2}", "unhashable key"),
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_settings_is_one_line(tmp_path, text, said):
    path = tmp_path / "tasks.yml"
    path.write_text(text)
    message = refused(path)
    assert message.startswith(f"{path}: not a YAML file of settings (") and said in message and len(message) < 400


def test_aliases_and_merged_sections_are_read(tmp_path):
    path = tmp_path / "tasks.yml"
    shared = yaml.safe_dump(ENTRY, default_flow_style=True).strip()
    path.write_text(f"TASK9: &shared {shared}\nTASK10:\n  <<: *shared\n  name: other\n")
    assert load_task(path, "10").name == "other" and load_task(path, "9").name == "refcoco+"


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
        yaml.safe_dump({"TASK10": ENTRY}) + "  lr: 4e-5\n  num_epoch: 3\n  start_iteration: 0\n  fusion_method:\n"
    )
    spec = load_task(path, "10")
    assert (spec.lr, spec.num_epoch, spec.extra, spec.fusion_method) == (4e-5, 3, {"start_iteration": 0}, None)
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
        assert spec.name in task_class(spec).data_sets and spec.type in task_class(spec).heads and not spec.extra
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


def test_files_of_one_entry_do_not_come_from_two_places(tmp_path, monkeypatch):
    """Questions of the working directory and images beside the task file would be read as if they were one."""
    plan, checkout = tmp_path / "plan", tmp_path / "checkout"
    (plan / "data").mkdir(parents=True)
    checkout.mkdir()
    (checkout / "feat.lmdb").touch()
    monkeypatch.chdir(checkout)
    for name in ("data", "feat.lmdb"):
        with pytest.raises(
            UserError, match=rf"its data lie in two places, feat\.lmdb in {checkout} and data in {plan}; name"
        ):
            load_task(task_file(plan, TASK10=ENTRY), "10").path(name)
    assert load_task(plan / "tasks.yml", "10", plan).path("feat.lmdb") == plan / "feat.lmdb"
