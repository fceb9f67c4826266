"""Every extension of docs/extending.md is applied to a copy of the repository, and its commands are run there.

A section of that page that shows an extension has one or more ``diff`` blocks and one or more ``console`` blocks. The
diffs must apply, touch no more files and lines than ``LIMITS`` allows, and the commands (``$ ...``) must succeed and
print what the page shows: the beginning of their output, line by line. ``...`` stands for anything, and a line of
``...`` alone for any number of lines. ``python tests/test_extending.py`` prints what each extension touches.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "extending.md"
# What the copy has: all that a command of the page may read.
COPIED = ("volta_switch", "config", "config_tasks", "studies", "examples", "tests", "pyproject.toml")
SCRIPTS = ("train_concap.py", "train_task.py", "eval_task.py", "eval_retrieval.py")
LEFT_OUT = ("__pycache__", "*.safetensors", "fixtures")  # large, and read by none
# Of each section: at most so many files, and lines added and removed.
LIMITS = {
    "An attention mode": (1, 8),
    "A fusion": (1, 4),
    "An architecture": (1, 50),
    "A task": (2, 220),
    "A feature format": (1, 160),
    "A study table": (1, 40),
}
SECONDS = 900  # for one command, on a machine that has much else to do


@dataclass(frozen=True)
class Command:
    """A command of a ``console`` block, and the lines that it is shown to print."""

    line: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Extension:
    """A section of the page that shows an extension."""

    title: str
    diff: str
    commands: tuple[Command, ...]

    @property
    def files(self) -> list[str]:
        """The files that the diff changes or adds."""
        return sorted({new if new != "/dev/null" else old for old, new in self._names()})

    @property
    def lines(self) -> tuple[int, int]:
        """How many lines the diff adds and removes."""
        body = [line for line in self.diff.splitlines() if not line.startswith(("+++ ", "--- "))]
        return sum(line.startswith("+") for line in body), sum(line.startswith("-") for line in body)

    @property
    def size(self) -> str:
        """One line: what the extension touches."""
        added, removed = self.lines
        return (
            f"{self.title}: {', '.join(self.files)} ({len(self.files)} of {self.limits[0]} files; +{added} -{removed})"
        )

    @property
    def limits(self) -> tuple[int, int]:
        """At most so many files and lines."""
        assert self.title in LIMITS, f"docs/extending.md: give {self.title!r} its limits in tests/test_extending.py"
        return LIMITS[self.title]

    def _names(self) -> list[tuple[str, str]]:
        pairs = re.findall(r"^--- (\S+).*\n\+\+\+ (\S+)", self.diff, re.M)
        return [(old.removeprefix("a/"), new.removeprefix("b/")) for old, new in pairs]


def extensions(page: str) -> list[Extension]:
    """Reads the sections that show an extension."""
    found = []
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        title, _, text = section.partition("\n")
        blocks = re.findall(r"^```(diff|console)\n(.*?)^```$", text, re.M | re.S)
        if not blocks:
            continue
        diff = "".join(block for kind, block in blocks if kind == "diff")
        commands = [command for kind, block in blocks if kind == "console" for command in read_console(block)]
        assert diff and commands, f"docs/extending.md, {title!r}: an extension has a diff block and a console block"
        found.append(Extension(title.strip(), diff, tuple(commands)))
    return found


def read_console(block: str) -> list[Command]:
    """Reads the commands of a ``console`` block; one goes on in the next line after a backslash."""
    commands: list[Command] = []
    for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
        match = re.match(r"((?:.*\\\n)*.*)\n?", part)
        assert match is not None
        commands.append(Command(match[1], tuple(part[match.end() :].rstrip().splitlines())))
    return commands


def begins_with(output: str, shown: tuple[str, ...]) -> bool:
    """Whether an output begins with the lines that are shown."""
    pattern = ""
    for line in shown:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ ]*\n"
    return re.match(pattern, output.rstrip() + "\n") is not None


def copy_repository(folder: Path) -> Path:
    """Copies what the commands need; returns the copy."""
    copy = folder / "volta_switch_copy"
    copy.mkdir()
    for name in (*COPIED, *SCRIPTS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy2(ROOT / name, copy / name)
    commands = folder / "bin"  # python and volta-switch are those of this process, on the copy
    commands.mkdir()
    for name, what in (("python", '"$@"'), ("volta-switch", '-c "$MAIN" "$@"')):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {what}\n')
        (commands / name).chmod(0o755)
    return copy


def apply(extension: Extension, copy: Path) -> None:
    """Applies an extension's diff to the copy."""
    git = ["git", "apply", "--whitespace=nowarn", "-"] if shutil.which("git") else ["patch", "-p1", "--fuzz=0"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)}
    done = subprocess.run(git, cwd=copy, env=environment, input=extension.diff, capture_output=True, text=True)
    assert done.returncode == 0, (
        f"docs/extending.md, {extension.title!r}: the diff no longer applies.\n{done.stderr or done.stdout}"
        f"Make the change by hand in a checkout, and put what `git diff` prints in the page "
        f"(it changed {', '.join(extension.files)})."
    )


def run(command: Command, copy: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in the copy, as a reader would in a checkout."""
    own = {
        "PATH": f"{copy.parent / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "MAIN": "import sys; from volta_switch.cli import main; sys.exit(main())",
        "PYTHONUNBUFFERED": "1",  # both streams in the order of a terminal
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # A pytest that a command starts is none of this one's workers.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(["bash", "-c", command.line], cwd=copy, env=inherited | own, timeout=SECONDS, **streams)


@pytest.mark.parametrize("extension", extensions(PAGE.read_text()), ids=lambda extension: extension.title)
def test_an_extension_applies_and_works(extension, tmp_path):
    print(extension.size)
    files, lines = extension.limits
    assert len(extension.files) <= files, extension.size
    assert sum(extension.lines) <= lines, extension.size
    copy = copy_repository(tmp_path)
    apply(extension, copy)
    for command in extension.commands:
        done = run(command, copy)
        said = f"docs/extending.md, {extension.title!r}: $ {command.line}\n{done.stdout}"
        assert done.returncode == 0, f"exit code {done.returncode} of {said}"
        assert begins_with(done.stdout, command.shown), f"the page shows other output than that of {said}"


def test_sections_stand_in_the_order_of_the_limits():
    titles = [extension.title for extension in extensions(PAGE.read_text())]
    assert titles == [title for title in LIMITS if title in titles]


PAGE_OF_ONE = """# Page
## Before
No extension.
## A fusion
```diff
--- a/one.txt
+++ b/one.txt
@@ -1,2 +1,2 @@
 first
-second
+third
```
```console
$ cat one.txt \\
  two.txt
first
...
la... line
$ true
```
"""


def test_a_page_is_read():
    (extension,) = extensions(PAGE_OF_ONE)
    assert extension.files == ["one.txt"] and extension.lines == (1, 1)
    assert extension.commands == (
        Command("cat one.txt \\\n  two.txt", ("first", "...", "la... line")),
        Command("true", ()),
    )


@pytest.mark.parametrize(
    ("output", "matches"),
    [
        ("first\nlast line\n", True),
        ("first\nsecond\nthird\nlast of all, a line\nmore\n", True),
        ("zeroth\nfirst\nlast line\n", False),
        ("first\nlast word\n", False),
        ("first", False),
    ],
)
def test_output_is_compared_from_its_beginning(output, matches):
    assert begins_with(output, ("first", "...", "la... line")) is matches


def test_a_diff_that_no_longer_applies_is_named(tmp_path):
    (extension,) = extensions(PAGE_OF_ONE)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "one.txt").write_text("first\nfourth\n")
    with pytest.raises(AssertionError, match=r"'A fusion': the diff no longer applies[^$]*changed one.txt"):
        apply(extension, tmp_path / "copy")
    (tmp_path / "copy" / "one.txt").write_text("first\nsecond\n")
    apply(extension, tmp_path / "copy")
    assert (tmp_path / "copy" / "one.txt").read_text() == "first\nthird\n"


if __name__ == "__main__":
    for shown in extensions(PAGE.read_text()):
        print(shown.size)
