"""The layout of the package: sizes, number and names of its files; ``pytest -s`` prints the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "volta_switch"
MOST_LINES = 350  # of a file
MOST_FILES = 175  # of the package
FEWEST_LINES = 30  # of a file whose first line does not say why it stands alone
REASON = "alone"  # the word of such a first line; packages and __main__ have theirs in their names
VAGUE = ("utils", "util", "helpers", "helper", "common", "misc")  # no names for modules
SPECIAL = ("__init__.py", "__main__.py")

# What is known to be open; both shrink to nothing.
OPEN_FILES: int | None = 237  # files of the package today; None once there are at most MOST_FILES
# A file below FEWEST_LINES -> what is to become of it.
_MERGE, _REASON = "to be merged with what uses it", "to say why it stands alone, or to be merged"
OPEN_SMALL = {
    **dict.fromkeys(("errors.py", "identities.py", "lazy.py", "results_version.py", "shipped.py"), _REASON),
    **dict.fromkeys(("tasks/gqa.py", "tasks/shares.py", "data/annotations/coco_test_ids.py"), _MERGE),
    **dict.fromkeys(("model/compiling.py", "study/shares.py", "train/failures.py", "train/launch.py"), _MERGE),
}


def lines_of(path: Path) -> int:
    """Returns the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


FILES = {path.relative_to(PACKAGE).as_posix(): lines_of(path) for path in sorted(PACKAGE.rglob("*.py"))}


def test_there_are_not_too_many_files():
    folders: dict[str, int] = {}
    for name in FILES:
        folder = name.partition("/")[0] if "/" in name else "."
        folders[folder] = folders.get(folder, 0) + 1
    each = ", ".join(f"{folder} {count}" for folder, count in folders.items())
    print(f"\n{len(FILES)} files (at most {MOST_FILES}), {sum(FILES.values())} lines: {each}")
    if OPEN_FILES is not None:
        print(f"  open: {len(FILES) - MOST_FILES} files are too many, of {OPEN_FILES} allowed until then")
    assert len(FILES) <= (MOST_FILES if OPEN_FILES is None else OPEN_FILES)


def test_no_file_is_too_long():
    longest = sorted(FILES, key=lambda name: -FILES[name])[:5]
    print(f"\nlongest (at most {MOST_LINES}): {', '.join(f'{name} {FILES[name]}' for name in longest)}")
    assert not [name for name, lines in FILES.items() if lines > MOST_LINES]


def test_a_short_file_says_in_its_first_line_why_it_stands_alone():
    small = {name: lines for name, lines in FILES.items() if lines < FEWEST_LINES and not name.endswith(SPECIAL)}
    print(f"\nbelow {FEWEST_LINES} lines: {', '.join(f'{name} {lines}' for name, lines in small.items()) or 'none'}")
    for name in small.keys() & OPEN_SMALL.keys():
        print(f"  open: {name}: {OPEN_SMALL[name]}")
    unexplained = [name for name in small if REASON not in first_line(name) and name not in OPEN_SMALL]
    assert not unexplained, f"merge them, or say in the first line why they stand {REASON}: {unexplained}"


@pytest.mark.parametrize("name", OPEN_SMALL)
def test_what_is_open_is_still_there(name):
    assert FILES.get(name, FEWEST_LINES) < FEWEST_LINES, f"{name} is gone: take it out of OPEN_SMALL"


def test_modules_have_names_that_say_what_they_hold():
    vague = [name for name in FILES if Path(name).stem in VAGUE or Path(name).parent.name in VAGUE]
    assert not vague


def first_line(name: str) -> str:
    """Returns the first line of a file of the package."""
    return (PACKAGE / name).read_text(encoding="utf-8").partition("\n")[0]
