"""A task is found by its data set, then by its head; importing it takes nothing that takes time."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import volta_switch.tasks
from volta_switch import UserError
from volta_switch.study.items import Evaluated, ItemReader, NoItems
from volta_switch.tasks import TaskSpec, data_set_modules, task_class, task_of
from volta_switch.tasks.gqa import GqaTask
from volta_switch.tasks.refer import ReferTask
from volta_switch.tasks.task import Task
from volta_switch.tasks.task_file import KINDS
from volta_switch.tasks.vqa import VqaTask

SPEC = TaskSpec("TASK1", Path(), "VQA", "VL-classifier", "data", "feat.lmdb", 20, "train", "val")


def test_every_module_names_data_sets_that_its_task_has():
    for name, module in data_set_modules().items():
        task = task_of(name)
        assert task is not None and task.__module__ == module and name in task.data_sets


def test_every_head_has_a_data_set_that_takes_it():
    for head, kind in KINDS.items():
        assert head in task_of(kind.data_set).heads


@pytest.mark.parametrize(
    ("name", "head", "task"),
    [
        ("VQA", "VL-classifier", VqaTask),
        ("mine", "VL-classifier", VqaTask),  # of another name: as VOLTA's data set with this head
        ("mine", "VL-classifier-GQA", GqaTask),
        ("mine", "V-logit", ReferTask),
        ("VQA", "V-logit", ReferTask),  # a head that VQA is not trained with
    ],
)
def test_an_entry_is_found_by_its_data_set_and_else_by_its_head(name, head, task):
    assert task_class(replace(SPEC, name=name, type=head)) is task


def test_a_second_data_set_with_a_known_head_is_one_new_file(tmp_path, monkeypatch):
    module = tmp_path / "claims.py"
    module.write_text(
        "from volta_switch.tasks.vqa import VqaTask\n\n\nclass ClaimsTask(VqaTask):\n"
        '    data_sets = (\n        "Claims",\n        "MoreClaims",\n    )\n'
    )
    monkeypatch.setattr(volta_switch.tasks, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(volta_switch.tasks, "__path__", [str(tmp_path)])
    data_set_modules.cache_clear()
    try:
        assert set(data_set_modules()) == {"Claims", "MoreClaims"}
        assert [task_class(replace(SPEC, name=name)).__name__ for name in data_set_modules()] == ["ClaimsTask"] * 2
        (tmp_path / "others.py").write_text(module.read_text())
        data_set_modules.cache_clear()
        with pytest.raises(ValueError, match=r"data set Claims is named by .*claims and .*others; expected one task"):
            data_set_modules()
    finally:
        data_set_modules.cache_clear()
        sys.modules.pop("volta_switch.tasks.claims", None)


def test_files_are_named_without_numpy_and_pytorch():
    code = (
        "import sys; from volta_switch.tasks import data_set_modules, task_of\n"
        "assert all(task_of(name) for name in data_set_modules())\n"
        "print([name for name in ('torch', 'numpy', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_a_task_without_items_has_none_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(VqaTask, "grader", Task.grader)
    with pytest.raises(NoItems, match=re.escape("TASK1 (VQA): ") + ".*does not tell its test items"):
        ItemReader().items(Evaluated(SPEC, "val", tmp_path), "vqa_score", 50.0)


def test_a_type_that_no_data_set_has_names_those_that_there_are():
    with pytest.raises(
        UserError, match=r"TASK1 \(Visual7w\): no data set for type V-logit-mc; there are VL-classifier"
    ):
        task_class(replace(SPEC, name="Visual7w", type="V-logit-mc"))
