"""Reports of `volta-switch data check` as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from volta_switch.data.files.check import Report


def reports_text(reports: list[Report]) -> str:
    """Return all reports, one paragraph each, and a last line that says how many files are fine."""
    wrong = sum(not report.fine for report in reports)
    read = [report for report in reports if report.looked_at]
    last = f"{len(read)} checked: " + (f"{wrong} with something wrong" if wrong else "all fine")
    if len(read) < len(reports):
        last += f"; {len(reports) - len(read)} notes say what was not looked at"
    return "\n\n".join([*(_paragraph(report) for report in reports), last])


def _paragraph(report: Report) -> str:
    return "\n".join([f"{report.path}: {report.format}", *(f"  {line}" for line in _lines(report))])


def _lines(report: Report) -> Iterable[str]:
    if report.counts:
        yield ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in report.counts.items())
    for split, ids in report.image_ids.items():
        if split:
            yield f"images of {split}: {len(ids)}"
    if report.statistics:
        yield "feature values: " + ", ".join(
            f"{name.replace('_', ' ')} {_statistic(name, value)}" for name, value in report.statistics.items()
        )
    for note in report.notes:
        yield f"note: {note}"
    for problem in report.problems:
        yield f"WRONG: {problem}"
    if report.bad_records:
        yield f"WRONG: {report.bad_records} bad records"
        yield from (f"  {example}" for example in report.bad_examples)
        if report.bad_records > len(report.bad_examples):
            yield f"  ... and {report.bad_records - len(report.bad_examples)} more"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_value(part)}" for name, part in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _statistic(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "zeros" else _value(value)
