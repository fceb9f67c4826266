"""Records are read from JSON and written to it by their fields, and what was recorded is written as it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from volta_switch.study.json_records import Record, in_json
from volta_switch.study.records import ReportedTable, StudyResults

TABLE = Path(__file__).parents[2] / "docs" / "findings" / "first-study.json"


@dataclass(frozen=True)
class Inner(Record):
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Outer(Record):
    name: str
    inner: Inner | None = None
    by_name: Mapping[str, Inner] = field(default_factory=dict, metadata=in_json("by name"))
    merged: bool = field(default=False, metadata=in_json(optional=True))


def test_a_recorded_table_is_written_as_it_was_read():
    text = TABLE.read_text(encoding="utf-8")
    results = StudyResults.from_dict(json.loads(text))
    assert json.dumps(results.to_dict(), indent=2, ensure_ascii=False) + "\n" == text
    assert all(isinstance(table, ReportedTable) and table.rows for table in results.tables)


def test_records_are_read_by_their_types_and_written_by_their_keys():
    said = {"name": "a", "inner": {"values": [1.0, 2]}, "by name": {"b": {"values": [3]}}}
    made = Outer.from_dict(said)
    assert made == Outer("a", Inner((1.0, 2)), {"b": Inner((3,))}) and made.to_dict() == said
    assert Outer("a", merged=True).to_dict() == {"name": "a", "inner": None, "by name": {}, "merged": True}


def test_keys_that_a_record_does_not_have_are_ignored_and_missing_ones_are_its_defaults():
    assert Outer.from_dict({"name": "a", "later": 1}) == Outer("a")
    with pytest.raises(TypeError, match="name"):
        Outer.from_dict({"inner": None})
