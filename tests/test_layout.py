"""The layout of the package: sizes, number and names of its files; ``pytest -s`` prints the figures."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "volta_switch"
MOST_LINES = 350  # of a file
MOST_FILES = 300  # of the package
FEWEST_LINES = 30  # of a file whose first line does not say why it stands alone
REASON = "alone"  # the word of such a first line; packages and __main__ have theirs in their names
VAGUE = ("utils", "util", "helpers", "helper", "common", "misc")  # no names for modules
SPECIAL = ("__init__.py", "__main__.py")


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
    assert len(FILES) <= MOST_FILES


def test_no_file_is_too_long():
    longest = sorted(FILES, key=lambda name: -FILES[name])[:5]
    print(f"\nlongest (at most {MOST_LINES}): {', '.join(f'{name} {FILES[name]}' for name in longest)}")
    assert not [name for name, lines in FILES.items() if lines > MOST_LINES]


def test_a_short_file_says_in_its_first_line_why_it_stands_alone():
    small = {name: lines for name, lines in FILES.items() if lines < FEWEST_LINES and not name.endswith(SPECIAL)}
    print(f"\nbelow {FEWEST_LINES} lines: {', '.join(f'{name} {lines}' for name, lines in small.items()) or 'none'}")
    unexplained = [name for name in small if REASON not in first_line(name)]
    assert not unexplained, f"merge them, or say in the first line why they stand {REASON}: {unexplained}"


def test_modules_have_names_that_say_what_they_hold():
    vague = [name for name in FILES if Path(name).stem in VAGUE or Path(name).parent.name in VAGUE]
    assert not vague


def first_line(name: str) -> str:
    """Returns the first line of a file of the package."""
    return (PACKAGE / name).read_text(encoding="utf-8").partition("\n")[0]
