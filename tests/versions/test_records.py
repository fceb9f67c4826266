"""What is stated about versions is what was tried: the bounds, the table in docs/versions.md, the records."""

import dataclasses

import pytest

from support_table import support_table, with_table
from version_records import (
    ROOT,
    lowest,
    minor,
    package,
    project,
    read_records,
    stated_requirements,
    supported_pythons,
)

PYTHONS = supported_pythons(project())
RECORDS = read_records()
OLDEST = {minor(record.python): record for record in RECORDS if record.kind == "oldest" and not record.pins}


@pytest.mark.parametrize("python", PYTHONS)
def test_lower_bounds_are_those_that_passed(python):
    assert python in OLDEST, f"not tried: make test-oldest PYTHONS={python}, and commit its record"
    record = OLDEST[python]
    assert record.result == "passed" and record.tests["failed"] == 0
    stated = stated_requirements(project())
    assert record.stated == stated, "a bound that was not tried: make test-oldest, and commit its records"
    for requirement in stated:
        bound = lowest(requirement).partition("==")[2].partition(",")[0]
        assert same_release(record.versions[package(requirement)], bound), requirement


def same_release(version, bound):
    """2.6.0+cu124 is release 2.6."""
    numbers, stated = (text.partition("+")[0].split(".") for text in (version, bound))
    return numbers[: len(stated)] == stated and set(numbers[len(stated) :]) <= {"0"}


def test_the_oldest_supported_python_is_the_required_one():
    assert project()["project"]["requires-python"] == f">={PYTHONS[0]}"


def test_linters_are_pinned_to_the_versions_that_are_stated():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    linters = [each for each in project()["project"]["optional-dependencies"]["lint"] if ">=" in each]
    assert linters == [f"{name}>={pins[name]}" for name in ("ruff", "mypy")]


def test_the_table_on_the_page_is_that_of_the_records():
    text = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    expected = with_table(text, support_table(RECORDS, PYTHONS))
    assert text == expected, "python versions/support_table.py rewrites it"


def test_the_table_says_what_failed_and_what_was_not_run():
    counts = {"passed": 5, "failed": 2, "skipped": 0}
    failed = dataclasses.replace(
        RECORDS[0], kind="oldest", python="3.12.9", pins=[], result="failed: 2 tests", tests=counts
    )
    rows = support_table([failed], ["3.12", "3.13"]).splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    ends = [(row[0], row[1], row[-1]) for row in cells[2:]]
    assert ends[0] == (failed.python, "oldest stated", "failed: 2 tests (5 passed, 2 failed)")
    assert ends[1:4] == [
        ("3.12", "newest", "not run"), ("3.13", "oldest stated", "not run"), ("3.13", "newest", "not run")
    ]  # fmt: skip
    assert [row[-1] for row in cells[6:]] == ["untried", "untried"]


def test_a_page_without_the_tables_place_is_refused():
    with pytest.raises(ValueError, match="expected <!-- versions"):
        with_table("no marks", "table")
