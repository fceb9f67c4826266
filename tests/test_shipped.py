"""Shipped files are found by their names in any folder, behind the files that lie there."""

import shutil
from pathlib import Path

import pytest
import yaml

from volta_switch.data_tools.check_tasks import check_paths
from volta_switch.errors import UserError
from volta_switch.files import here_or_shipped
from volta_switch.study.plan import load_study
from volta_switch.tasks import load_task

ROOT = Path(__file__).parents[1]
STUDIES = sorted(path.name for path in (ROOT / "studies").glob("*.yaml"))
TASK_FILES = sorted(path.name for path in (ROOT / "config_tasks").glob("*.yml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", STUDIES)
def test_a_shipped_study_is_found(name):
    assert load_study(f"studies/{name}") == load_study(ROOT / "studies" / name)


@pytest.mark.parametrize("name", TASK_FILES)
def test_a_shipped_task_file_is_found(name):
    entries = yaml.safe_load((ROOT / "config_tasks" / name).read_text())
    for key in entries:
        assert load_task(f"config_tasks/{name}", key) == load_task(ROOT / "config_tasks" / name, key)
    reports = check_paths([f"config_tasks/{name}"])
    assert len(reports) == len(entries) and all(" task" in f" {report.format}" for report in reports)


def test_a_file_that_lies_here_goes_before_a_shipped_one(elsewhere):
    (elsewhere / "studies").mkdir()
    mine = Path("studies") / STUDIES[0]
    shutil.copy(ROOT / mine, mine)
    assert here_or_shipped(mine) == mine
    mine.unlink()
    assert here_or_shipped(mine) == ROOT / mine


def test_a_name_of_neither_is_refused_as_it_was_given():
    with pytest.raises(UserError, match=r"^studies/none\.yaml: no such study"):
        load_study("studies/none.yaml")
    assert here_or_shipped(ROOT / "none.yaml") == ROOT / "none.yaml"
