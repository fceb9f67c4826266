"""Plain English: short sentences in README and docs, and no words that the field has better ones for.

``pytest -s`` prints the figures of every file. What is not reached yet stands below as OPEN, with today's figures:
whoever rewrites a page lowers its line, or takes it out.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from prose import docstrings, names, sentences, words

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
MODULES = sorted((ROOT / "volta_switch").rglob("*.py"))
MOST_WORDS = 18.0  # of a page's sentences, on average
LONG = 30  # words; sentences above are long ones
MOST_LONG = 0.05  # the share of long sentences

# What is said otherwise (regular expressions, any case) -> what the field says.
AVOID = {
    r"nobody waits": "asynchronous copy",
    r"randomness does not cost more": "dropout with cheap random bits",
    r"rows? that go(es)? on": "rows still needed by later layers",
    r"which samples make up each batch|from any batch on": "deterministic, resumable batch sampler",
    r"in other coats": "in three encodings",
    r"says it by its variables": "set by torchrun's environment",
    r"watchful(ness)?": "fault tolerance",
    r"dividing a step": "parallelism and memory",
    r"is had back|be had back": "can be restored",
    r"cores that do nothing else": "otherwise idle cores",
    r"(?<!will )(?<!can )\bhid(e|es|ing)\b": "mask",
    r"dials?": "sweep",
    r"cells?": "run",
    r"worth finding": "smallest effect of interest",
    r"leads?(?= over| of | is | are |,|\.)": "advantage",
    r"spoil(s|t|ed|ing)?": "corrupt",
    r"small worlds?": "synthetic world",
}
ANOTHER_MEANING = {r"cells?": ("data", "model")}  # folders where a word means something else: a cell of a table
# Names without a noun (classes) or a verb (functions).
NO_CLASSES = ("Read", "Kept", "Known", "Done", "Reached", "Hiding", "Observed", "Forced")
NO_FUNCTIONS = ("also", "sent", "through", "at", "where", "beside")

# Page -> today's mean length and share of long sentences, rounded up.
OPEN: dict[str, tuple[float, float]] = {
    "README.md": (22.0, 0.218),
    "docs/data-files.md": (19.8, 0.182),
    "docs/findings.md": (22.9, 0.22),
    "docs/first-run.md": (16.8, 0.125),
    "docs/reliability.md": (19.4, 0.158),
    "docs/routes.md": (22.9, 0.233),
    "docs/scaling.md": (21.1, 0.206),
    **dict.fromkeys(("docs/small-world.md", "docs/synthetic-world.md"), (20.7, 0.2)),  # renamed
    "docs/studies.md": (24.3, 0.323),
    "docs/volta-differences.md": (27.0, 0.3),
}
# Word -> how often it stands in README and docs, and in docstrings, today.
OPEN_WORDS: dict[str, tuple[int, int]] = {
    r"nobody waits": (0, 2),
    r"randomness does not cost more": (0, 1),
    r"rows? that go(es)? on": (0, 8),
    r"which samples make up each batch|from any batch on": (0, 1),
    r"is had back|be had back": (1, 0),
    r"cores that do nothing else": (1, 0),
    r"(?<!will )(?<!can )\bhid(e|es|ing)\b": (1, 12),
    r"dials?": (7, 3),
    r"cells?": (21, 78),
    r"worth finding": (1, 5),
    r"leads?(?= over| of | is | are |,|\.)": (5, 1),
    r"small worlds?": (10, 9),
}
# Kind and name -> today's number of definitions.
OPEN_NAMES: dict[tuple[str, str], int] = {
    ("class", "Done"): 1,
    ("class", "Hiding"): 1,
    ("class", "Kept"): 1,
    ("class", "Known"): 1,
    ("class", "Reached"): 1,
    ("class", "Read"): 1,
    ("def", "also"): 1,
    ("def", "at"): 4,
    ("def", "beside"): 1,
    ("def", "sent"): 1,
    ("def", "through"): 1,
    ("def", "where"): 2,
}


def figures(text: str) -> tuple[int, float, float]:
    """Returns the number of a page's sentences, their mean length in words, and the share of long ones."""
    lengths = [len(words(sentence)) for sentence in sentences(text)]
    if not lengths:
        return 0, 0.0, 0.0
    return len(lengths), sum(lengths) / len(lengths), sum(length > LONG for length in lengths) / len(lengths)


@pytest.mark.parametrize("name", PAGES)
def test_the_sentences_of_a_page_are_short(name):
    count, mean, long = figures(PAGES[name].read_text(encoding="utf-8"))
    allowed_mean, allowed_long = OPEN.get(name, (MOST_WORDS, MOST_LONG))
    said = "" if name not in OPEN else f" (open: {MOST_WORDS:g}, {100 * MOST_LONG:g} %)"
    print(f"\n{name}: {count} sentences, {mean:.1f} words on average, {100 * long:.1f} % above {LONG}{said}")
    assert mean <= max(allowed_mean, MOST_WORDS) and long <= max(allowed_long, MOST_LONG)


def test_pages_that_are_open_are_not_plain_yet():
    for name in OPEN.keys() & PAGES.keys():
        _, mean, long = figures(PAGES[name].read_text(encoding="utf-8"))
        assert mean > MOST_WORDS or long > MOST_LONG, f"{name} is plain: take it out of OPEN"


@pytest.mark.parametrize("word", AVOID)
def test_words_that_the_field_has_better_ones_for(word):
    pattern = re.compile(rf"\b(?:{word})\b" if word[0] != "(" else word, re.I)
    in_pages = {name: len(pattern.findall(prose(path))) for name, path in PAGES.items()}
    in_modules = {
        path.relative_to(ROOT).as_posix(): len(pattern.findall("\n".join(docstrings(path))))
        for path in MODULES
        if path.relative_to(ROOT).parts[1] not in ANOTHER_MEANING.get(word, ())
    }
    found = sum(in_pages.values()), sum(in_modules.values())
    places = [f"{name} {count}" for name, count in {**in_pages, **in_modules}.items() if count]
    print(f"\n{word} ({AVOID[word]}): {found[0]} in pages, {found[1]} in docstrings: {', '.join(places) or 'none'}")
    allowed = OPEN_WORDS.get(word, (0, 0))
    assert found[0] <= allowed[0] and found[1] <= allowed[1], places


def test_names_are_nouns_for_things_and_verbs_for_functions():
    avoided = {*(("class", name) for name in NO_CLASSES), *(("def", name) for name in NO_FUNCTIONS)}
    found = Counter(name for path in MODULES for name in names(path) if name in avoided)
    print(f"\nnames to avoid: {', '.join(f'{kind} {name} {count}' for (kind, name), count in found.items()) or 'none'}")
    assert all(count <= OPEN_NAMES.get(name, 0) for name, count in found.items())


def prose(path: Path) -> str:
    """Returns the sentences of a page, one a line."""
    return "\n".join(sentences(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("One two three. Four five six `a b` seven!\nEight nine ten", [3, 5, 3]),
        ("# Heading of four words\n\n```bash\nmake all of it now\n```\n\n| a | b c d e |\n", []),
        ("- An item of five words\n- Another one, which is\n  continued below. And again it is.\n", [5, 6, 4]),
        ("See [the long page](docs/page.md) for more (e.g. this).", [8]),
    ],
)
def test_sentences_are_counted_without_code_tables_and_headings(text, lengths):
    assert [len(words(sentence)) for sentence in sentences(text)] == lengths
