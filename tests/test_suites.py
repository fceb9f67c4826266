"""Tests of other suites are skipped by the name of the target that runs them, and run where they are asked for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from suites import TARGETS

TESTS = Path(__file__).parent
MARKED = """
import pytest
def test_plain(): pass
@pytest.mark.more
def test_more(): pass
@pytest.mark.long
@pytest.mark.parametrize("n", [1, 2])
def test_long(n): pass
@pytest.mark.more
@pytest.mark.long
def test_both(): pass
"""


def pytest_of(*arguments, cwd=TESTS.parent):
    """The last words of a pytest of its own that knows the suites alone: every skip, and the counts."""
    command = [sys.executable, "-m", "pytest", "-rs", "-q", "-p", "no:cacheprovider", "--strict-markers", *arguments]
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | {"PYTHONPATH": str(TESTS)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("flags", "passed", "skipped"),
    [
        ((), 1, {"more": 1, "long": 2}),
        (("--include", "more"), 2, {"long": 3}),
        (("--include", "long"), 3, {"more": 2}),
        (("--include", "more", "--include", "long"), 5, {}),
        (("--include", "more", "-m", "more"), 1, {"long": 1}),
    ],
)
def test_a_suite_is_skipped_by_name_unless_it_is_included(tmp_path, flags, passed, skipped):
    (tmp_path / "test_marked.py").write_text(MARKED)
    said = pytest_of("-p", "suites", *flags, cwd=tmp_path)
    assert f"{passed} passed" in said
    for suite, count in skipped.items():
        lines = re.findall(rf"SKIPPED \[(\d)\] .*{re.escape(TARGETS[suite])}", said)
        assert sum(map(int, lines)) >= count, said
    assert sum(map(int, re.findall(r"SKIPPED \[(\d)\]", said))) == 5 - passed - ("-m" in flags) * 3


@pytest.mark.parametrize("suite", TARGETS)
def test_every_suite_has_a_target_that_includes_it(suite):
    target = TARGETS[suite].split()[1]
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (TESTS.parent / "Makefile").read_text(), re.MULTILINE)
    assert f"--include {suite}" in recipe[1]


def test_what_needs_a_browser_or_a_clean_environment_is_passed_over_by_make_test():
    browser = sorted((TESTS / "study" / "report").glob("*_in_browser.py"))
    said = pytest_of(*browser, TESTS / "clean_environments")
    assert len(browser) == 2 and re.search(r"^\d+ skipped", said, re.MULTILINE) and "passed" not in said
    reasons = re.findall(r"^SKIPPED \[\d+\] \S+ (.*)$", said, re.MULTILINE)
    # one of them needs a checkout of VOLTA beside, and says so first
    assert TARGETS["more"] in reasons and set(reasons) <= {TARGETS["more"], "VOLTA_HOME names no VOLTA checkout"}
