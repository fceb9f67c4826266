"""The numbers on record change with the results version, and only with it."""

import pytest
import torch

import golden_runs
from golden_runs import RECORD, changed, golden_numbers
from synthetic_world import json_of
from volta_switch.identities import RESULTS_VERSION


def test_the_numbers_of_small_runs_of_every_kind_are_those_on_record(world, tmp_path):
    record = json_of(RECORD)
    assert record["results_version"] == RESULTS_VERSION, "make golden-runs writes the new version's numbers"
    if not torch.__version__.startswith(record["torch"]):
        pytest.skip(f"the record is of PyTorch {record['torch']}, whose random numbers need not be another one's")
    found = golden_numbers(world, tmp_path)
    assert found.keys() == record["numbers"].keys()
    assert not changed(record["numbers"], found), "raise RESULTS_VERSION if this is meant, then make golden-runs"


def test_a_number_that_is_gone_or_another_one_is_a_change():
    record = {"a loss": 2.0, "b": 0.0, "c": 1.0}
    assert not changed(record, {"a loss": 2.0 * (1 + 5e-5), "b": 5e-6, "c": 1.0, "new": 3.0})
    assert changed(record, {"a loss": 2.001, "b": 0.0}) == [
        "a loss: 2.0 on record, now 2.001",
        "c: 1.0 on record, now None",
    ]


def test_the_record_is_not_written_anew_while_the_version_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(golden_runs, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(golden_runs, "write_synthetic_world", lambda path: None)
    numbers = {"loss": 1.0}
    monkeypatch.setattr(golden_runs, "golden_numbers", lambda world, folder: dict(numbers))
    assert golden_runs.write_record() == []
    numbers["loss"] = 1.5
    before = golden_runs.RECORD.read_text()
    assert golden_runs.write_record() == ["loss: 1.0 on record, now 1.5"] and golden_runs.RECORD.read_text() == before
    monkeypatch.setattr(golden_runs, "RESULTS_VERSION", RESULTS_VERSION + 1)
    assert golden_runs.write_record() == [] and json_of(golden_runs.RECORD)["numbers"] == numbers
