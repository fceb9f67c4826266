"""Sentences of Markdown and docstrings of Python: what people read, without code, tables and headings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_LEFT_OUT = (
    re.compile(r"^(```|~~~).*?^\1", re.S | re.M),  # blocks of code
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"^(?: {4}|\t)(?! *(?:[-*]|\d+\.) ).*$", re.M),  # indented code; not nested lists
    re.compile(r"^ *\|.*$", re.M),  # tables
    re.compile(r"^ *#+ .*$", re.M),  # headings
)
_ITEM = re.compile(r"^ *(?:[-*+]|\d+\.) +", re.M)  # begins a paragraph of its own
_END = re.compile(r"(?<=[.!?])[)\"'”*_`]*\s+(?=[\"'“(*_`\[]*[A-Z0-9`])")
_WORD = re.compile(r"[^\s]*[A-Za-z0-9][^\s]*")
FEWEST_WORDS = 3  # shorter pieces (a picture's title, a link alone) are no sentences


def sentences(markdown: str) -> list[str]:
    """Returns the sentences of a Markdown text; an item of a list ends where the next one begins."""
    text = markdown
    for pattern in _LEFT_OUT:
        text = pattern.sub("\n\n", text)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)  # pictures
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)  # links: their text
    text = re.sub(r"`[^`\n]*(?:\n[^`\n]+)?`", "CODE", text)  # code in a line is one word
    found = []
    for paragraph in re.split(r"\n\s*\n", _ITEM.sub("\n\n", text)):
        pieces = _END.split(" ".join(paragraph.split()))
        found += [piece for piece in pieces if len(words(piece)) >= FEWEST_WORDS]
    return found


def words(sentence: str) -> list[str]:
    """Returns the words of a sentence: what holds a letter or a digit, between spaces."""
    return _WORD.findall(sentence)


def docstrings(path: Path) -> Iterator[str]:
    """Yields the docstrings of a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def names(path: Path) -> Iterator[tuple[str, str]]:
    """Yields the classes and functions that a Python file defines: (``class`` or ``def``, name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield "class", node.name
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield "def", node.name
