"""The project's Markdown pages as the tests read them: fenced blocks, commands, links, anchors, sentences.

``python tests/pages.py`` prints how long they and their sentences are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Of fenced blocks: commands, code, output and formulas, changes of code, commands with output (test_extending.py).
KINDS = ("bash", "python", "text", "diff", "console")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
ASSIGNMENT = re.compile(r"^\w+=")
# How a code span begins that is a command, and not a name in a sentence.
PROGRAMS = ("python", "torchrun", "bash", "volta-switch", "make", "pytest", "pip", "git", "aws")


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, and the line where it begins."""

    kind: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """One simple command of a page: the environment that is set before it, and its words.

    ``shown``: it stands in a block of commands, and not in a sentence or table, which may name a part of it only.
    """

    page: str
    line: int
    shown: bool
    environment: tuple[tuple[str, str], ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


@dataclass(frozen=True)
class Page:
    """A Markdown file of the repository."""

    path: Path

    @property
    def name(self) -> str:
        """The path from the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        """The fenced blocks."""
        found, opened = [], None
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.lstrip().startswith("```"):
                if opened is None:
                    opened, held = (line.strip()[3:], number), []
                else:
                    found.append(Block(opened[0], "\n".join(held) + "\n", opened[1]))
                    opened = None
            elif opened is not None:
                held.append(line)
        assert opened is None, f"{self.name}:{opened}: a block that does not end"
        return found

    @cached_property
    def prose(self) -> str:
        """The text without fenced blocks; its lines keep their numbers."""
        lines, inside = [], False
        for line in self.text.splitlines():
            fence = line.lstrip().startswith("```")
            lines.append("" if inside or fence else line)
            inside ^= fence
        return "\n".join(lines)

    def anchors(self) -> set[str]:
        """The anchors of the headings, as GitHub makes them."""
        found: set[str] = set()
        for heading in re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE):
            plain = re.sub(r"[^\w\- ]", "", LINK.sub(lambda link: link[0][1:].split("]")[0], heading).lower())
            anchor = plain.strip().replace(" ", "-")
            number = 0
            while (unique := f"{anchor}-{number}" if number else anchor) in found:
                number += 1
            found.add(unique)
        return found

    def links(self) -> list[str]:
        """The targets of links and pictures."""
        return LINK.findall(re.sub(r"`[^`]*`", "", self.prose))

    def commands(self) -> Iterator[Command]:
        """The commands of fenced blocks, then those that stand in sentences and tables as code."""
        for block in self.blocks:
            if block.kind == "bash":
                yield from _commands(self.name, block.line + 1, True, block.text)
        for number, paragraph in _paragraphs(self.prose):
            for span in SPAN.findall(paragraph):
                words = span.split()
                while words and ASSIGNMENT.match(words[0]):
                    words = words[1:]
                if len(words) > 1 and words[0] in PROGRAMS:
                    yield from _commands(self.name, number, False, span)

    def sentences(self) -> Iterator[str]:
        """The sentences of paragraphs and lists; not of tables, headings and blocks."""
        for _, paragraph in _paragraphs(self.prose):
            if paragraph.startswith(("#", "|", "<!--", "![")):
                continue
            plain = LINK.sub(lambda link: link[0][1:].split("]")[0], paragraph.removeprefix("- "))
            plain = SPAN.sub("Code", plain)  # a command or a path counts as one word
            plain = re.sub(r"\*+", "", plain)
            for sentence in re.split(r"(?<=[.!?])['\")]?\s+(?=[\"'(A-Z0-9±])", plain):
                if words := re.findall(r"[^\s]*\w[^\s]*", sentence):
                    yield " ".join(words)


def pages() -> list[Page]:
    """The README, the changelog, and the pages of ``docs`` and ``benchmarks``."""
    paths = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
    return [Page(path) for path in sorted(paths)]


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Paragraphs, items of lists, headings and tables, each on one line, with the number of its first line."""
    held: list[str] = []
    first = 1
    for number, line in enumerate([*text.splitlines(), ""], 1):
        begins = line.startswith(("- ", "#", "|", "<!--", "!["))
        if held and (not line.strip() or begins):
            yield first, " ".join(part.strip() for part in held)
            held = []
        if line.strip():
            first = number if not held else first
            held.append(line)


def _commands(page: str, line: int, shown: bool, text: str) -> Iterator[Command]:
    """The simple commands of shell text, without comments; variables that it sets are put in.

    ``&&`` and ends of lines separate commands; nothing else of the shell's language occurs.
    """
    variables: dict[str, str] = {}
    for number, whole in _joined_lines(text):
        parts: list[list[str]] = [[]]
        for word in shlex.split(whole, comments=True):
            if word == "&&":
                parts.append([])
            else:
                for name, value in variables.items():
                    word = word.replace(f"${name}", value)
                parts[-1].append(word)
        for words in filter(None, parts):
            assigned = [word.partition("=") for word in words if ASSIGNMENT.match(word)]
            assigned = assigned[: next((i for i, word in enumerate(words) if not ASSIGNMENT.match(word)), len(words))]
            rest = words[len(assigned) :]
            if rest:
                yield Command(
                    page, line + number, shown, tuple((name, value) for name, _, value in assigned), tuple(rest)
                )
            else:
                variables.update({name: value for name, _, value in assigned})


def _joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines with those that a backslash continues."""
    held, first = "", 0
    for number, line in enumerate(text.splitlines()):
        first = number if not held else first
        if line.endswith("\\"):
            held += line[:-1] + " "
        else:
            yield first, held + line
            held = ""


def _print_lengths() -> None:
    """Prints how long the pages and their sentences are."""
    print(f"{'page':28}{'lines':>6}{'sentences':>11}{'words each':>12}{'above 30':>10}{'longest':>9}")
    total: list[int] = []
    for page in pages():
        counts = [len(sentence.split()) for sentence in page.sentences()]
        total += counts
        _print_row(page.name, len(page.text.splitlines()), counts)
    _print_row("all", sum(len(page.text.splitlines()) for page in pages()), total)


def _print_row(name: str, lines: int, counts: list[int]) -> None:
    mean, above = sum(counts) / len(counts), sum(count > 30 for count in counts)
    print(f"{name:28}{lines:6}{len(counts):11}{mean:12.1f}{above:10}{max(counts):9}")


if __name__ == "__main__":
    _print_lengths()
