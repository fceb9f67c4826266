"""The table in docs/versions.md of what was tried, from the records of try_versions.py.

    python versions/support_table.py     # rewrites it

A test compares the page with the records, so that the table says what was run, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable

from version_records import ROOT, Record, minor, project, read_records, supported_pythons

SHOWN = ("torch", "numpy", "transformers")  # the rest stands in the records
BEGIN = "<!-- versions: written by versions/support_table.py -->\n"
END = "<!-- end of versions -->\n"
HEAD = ["Python", "versions", *SHOWN, "on", "date", "the suite's core"]
UNTRIED = ("macOS, on the CPU", "Windows")


def support_table(records: Iterable[Record], pythons: Iterable[str]) -> str:
    """Returns the table in Markdown: each Python with the oldest and the newest versions, then what was pinned."""
    records = list(records)
    rows = []
    for python in pythons:
        own = [record for record in records if minor(record.python) == python]
        for kind in ("oldest", "newest"):
            plain = [record for record in own if record.kind == kind and not record.pins]
            rows += [_row(record) for record in plain] or [[python, _kind(kind), *[""] * len(SHOWN), "", "", "not run"]]
        rows += [_row(record) for record in own if record.pins]
    rows += [["any", "any", *[""] * len(SHOWN), system, "", "untried"] for system in UNTRIED]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [HEAD, ["---"] * len(HEAD), *rows])


def _row(record: Record) -> list[str]:
    counts = ", ".join(f"{count} {name}" for name, count in record.tests.items() if count)
    versions = _kind(record.kind) + "".join(f", {pin}" for pin in record.pins)
    found = [record.versions.get(name, "") for name in SHOWN]
    result = counts if record.result == "passed" else f"{record.result} ({counts})" if counts else record.result
    return [record.python, versions, *found, record.platform, record.date, result]


def _kind(kind: str) -> str:
    return {"oldest": "oldest stated", "newest": "newest"}[kind]


def with_table(text: str, table: str) -> str:
    """Returns the page's text with the table between its two marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"docs/versions.md: expected {BEGIN.strip()} and {END.strip()}, the table's place")
    return f"{before}{BEGIN}{table}{END}{after}"


def rewrite_table() -> None:
    """Rewrites the table in docs/versions.md."""
    page = ROOT / "docs" / "versions.md"
    table = support_table(read_records(), supported_pythons(project()))
    page.write_text(with_table(page.read_text(encoding="utf-8"), table), encoding="utf-8")


if __name__ == "__main__":
    rewrite_table()
