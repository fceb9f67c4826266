"""Pages and docstrings are in plain English: short sentences, and none of the words that only we would understand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pages import ROOT, Page, pages

PAGES = pages()
MEAN, LONG, LONGEST, SHARE = 18, 30, 40, 0.05  # words of a sentence; the share that may have more than LONG
# What is avoided, and the field's word for it. Code (flags, keys, names of files) is not looked at.
WORDS = {
    r"small worlds?": "synthetic world",
    r"had back|can be had|could be had|be had": "restored; available",
    r"nobody waits": "asynchronous",
    r"go(es)? on\b": "continues",
    r"dials?": "sweep, parameter",
    r"worth finding": "smallest effect of interest",
    r"spoilt": "corrupted",
    r"in other coats": "in other encodings",
    r"watchfulness": "fault tolerance",
    r"leads\b|'s lead\b": "advantage",
    r"whoever|whatsoever": "a plain noun",
    r"mend(ed|s|ing)?": "repair",
    r"house": "a plain noun",
    r"stood in for|stands on": "replaced; depends on",
    r"pass(es|ed|ing) over": "skip",
    r"cores? that do nothing else": "idle cores",
}


def words(page: Page) -> list[int]:
    return [len(sentence.split()) for sentence in page.sentences()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_long_sentences(page):
    counts = words(page)
    longest = max(page.sentences(), key=lambda sentence: len(sentence.split()))
    assert max(counts) <= LONGEST, longest
    assert sum(counts) / len(counts) <= MEAN


def test_few_sentences_of_all_pages_are_long():
    counts = [count for page in PAGES for count in words(page)]
    mean, share = sum(counts) / len(counts), sum(count > LONG for count in counts) / len(counts)
    print(f"{len(counts)} sentences, {mean:.1f} words each, {100 * share:.1f} % above {LONG}")
    assert mean <= MEAN and share <= SHARE


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_words_are_the_fields(page):
    plain = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", page.prose)
    found = {match[0]: better for word, better in WORDS.items() for match in re.finditer(rf"(?i)\b(?:{word})", plain)}
    assert not found, found


# --- Docstrings and names ----------------------------------------------------------------------------------------

MODULES = sorted((ROOT / "volta_switch").rglob("*.py"))
# What is avoided in docstrings: the field's word for it. Code between double backticks is not looked at.
DOCSTRING_WORDS = {
    r"nobody waits": "asynchronous copy",
    r"randomness does not cost more": "dropout with cheap random bits",
    r"rows? that go(es)? on": "rows still needed by later layers",
    r"which samples make up each batch|from any batch on": "deterministic, resumable batch sampler",
    r"in other coats": "in three encodings",
    r"says it by its variables": "set by torchrun's environment",
    r"watchful(ness)?": "fault tolerance",
    r"(is|be) had back": "can be restored",
    r"cores? that do nothing else": "otherwise idle cores",
    r"hid(e|es|ing)": "mask",
    r"dials?": "sweep",
    r"worth finding": "smallest effect of interest",
    r"spoil(s|t|ed|ing)?": "corrupt",
    r"small worlds?": "synthetic world",
}
# Names without a noun (classes) or a verb (functions).
NAMES = {"Read", "Kept", "Known", "Done", "Reached", "Hiding", "Observed", "Forced", "also", "sent", "through", "at"}
NAMES |= {"where", "beside"}


def definitions(path: Path) -> Iterator[tuple[str, str]]:
    """Yields each class and function that a module defines, and its docstring; the module's own first."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    yield path.stem, ast.get_docstring(tree) or ""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_and_names_are_the_fields(path):
    found = {}
    for name, text in definitions(path):
        plain = re.sub(r"``.*?``", " ", text, flags=re.S)
        found |= {match[0]: word for avoided, word in DOCSTRING_WORDS.items()
                  for match in re.finditer(rf"(?i)\b(?:{avoided})\b", plain)}  # fmt: skip
        assert name not in NAMES, f"{name}: a noun for a thing, a verb for a function"
    assert not found, found
