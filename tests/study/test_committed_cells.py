"""Finished runs that are committed (``studies/cells``): readable, and still of the studies as they are planned now."""

from pathlib import Path

import pytest

from volta_switch.study.exports import read_exported
from volta_switch.study.plan import load_study
from volta_switch.study.run_plan import plan_ahead

STUDIES = Path(__file__).parents[2] / "studies"
FILES = sorted((STUDIES / "cells").glob("*.cells"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_run_counts_as_finished(file, tmp_path):
    """A change of settings, data or numbers that leaves committed runs behind must export them anew, or remove them."""
    runs = read_exported(file)
    data = {name: found for run in runs for name, found in run.data.items()}
    with plan_ahead(load_study(STUDIES / f"{file.stem}.yaml"), tmp_path, data) as plan:
        planned = {run.key for run in plan.runs}
    assert runs and not [each.run.name for each in runs if each.run.key not in planned]


def test_there_are_some():
    assert FILES
