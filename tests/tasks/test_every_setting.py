"""Every setting of a task's entry has a range, and what lies outside is refused before anything is written."""

import dataclasses

import pytest
import yaml

from synthetic_world import ENTRY_POINTS, refusal
from volta_switch import UserError
from volta_switch.ranges import Range, range_of
from volta_switch.tasks.task_file import BESIDE, TaskSpec, load_task
from volta_switch.train.entry_points import read_flags

SETTINGS = [field for field in dataclasses.fields(TaskSpec) if field.name not in BESIDE]
NAN, INF = float("nan"), float("inf")
BAD = {  # by the field's type, whatever its bounds
    "int": [NAN, INF, -INF, -1, 10**30, 1e30, 2.5, "", "text", "1.5", True, [3], [], {"a": 1}],
    "float": [NAN, INF, -INF, -1, 1e30, 10**30, "", "text", "nan", "-1e-4", True, [3], {}],
    "str": [NAN, 3, 10**30, True, [], ["a"], {"a": "b"}, "a\0b"],
}


@pytest.fixture
def entry(world):
    """The world's entry of referring expressions."""
    return yaml.safe_load((world.path / "tasks.yml").read_text())["TASK10"]


def test_every_setting_has_a_range():
    assert all(isinstance(range_of(TaskSpec, field.name), Range) for field in SETTINGS)


@pytest.mark.parametrize("field", SETTINGS, ids=lambda field: field.name)
def test_values_outside_are_named(entry, tmp_path, field):
    path = tmp_path / "tasks.yml"
    for value in BAD[str(field.type).removesuffix(" | None")]:
        path.write_text(yaml.safe_dump({"TASK10": {**entry, field.name: value}}))
        with pytest.raises(UserError) as caught:
            load_task(path, "10")
        message = str(caught.value)
        assert message.startswith(f"{path}: TASK10: {field.name}: expected ") and "found " in message, message
        assert len(message) < 400 + len(str(path)) and "\n" not in message


@pytest.mark.parametrize("field", SETTINGS, ids=lambda field: field.name)
def test_an_entry_point_refuses_one_before_anything_is_written(world, entry, tmp_path, capsys, field):
    path = tmp_path / "tasks.yml"
    path.write_text(yaml.safe_dump({"TASK10": {**entry, field.name: [NAN]}}))
    argv = [*world.flags("train_task", tmp_path / "out", "ctrl_uniter", "refer"), "--tasks_config_file", path]
    message = refusal(ENTRY_POINTS["train_task"], argv, capsys)
    assert message.startswith(f"{path}: TASK10: {field.name}: expected ") and "found [nan]" in message
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_test_splits_names_none_to_train_on(world, tmp_path, capsys):
    bare = world.copy(tmp_path / "world", train_split="")
    argv = bare.flags("train_task", tmp_path / "out", "ctrl_uniter", "refer")
    message = refusal(ENTRY_POINTS["train_task"], argv, capsys)
    assert message == "TASK10 (refcoco+): the task file names no train_split; give --train_split, or another task file"
    read_flags("train_task", [*map(str, argv), "--train_split", "train"])
