"""The suites of tests: what ``make test`` passes over, visibly, and the make target that runs it.

A test without a marker belongs to ``make test``. One marked ``more`` or ``long`` is skipped unless its suite is asked
for (``pytest --include more``); the reason names the target. ``tests/conftest.py`` makes these functions pytest's.
"""

from __future__ import annotations

import pytest

TARGETS = {
    "more": "make test-more (a browser, clean environments, or minutes)",
    "long": "make test-long (takes long)",
}
_included: set[str] = set()


def is_included(suite: str) -> bool:
    """Returns whether this run includes a suite: for tests that differ by how much they try."""
    return suite in _included


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--include SUITE``."""
    about = "run a suite that is passed over otherwise (may be given twice)"
    parser.addoption("--include", action="append", default=[], choices=list(TARGETS), metavar="SUITE", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers, and notes what is included before any test module is imported."""
    for suite, target in TARGETS.items():
        config.addinivalue_line("markers", f"{suite}: run by {target}")
    _included.update(config.getoption("--include"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the tests of suites that are not included, each with the name of the target that runs it."""
    for item in items:
        for suite in TARGETS.keys() - _included:
            if item.get_closest_marker(suite):
                item.add_marker(pytest.mark.skip(reason=TARGETS[suite]))
