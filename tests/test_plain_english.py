"""The pages are in plain English: short sentences, and none of the words that only we would understand."""

from __future__ import annotations

import re

import pytest

from pages import Page, pages

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
