"""The registry: published weights by name, where each is, what it is, and what is published about it.

A registry is a YAML file, the shipped one or another (``--registry``). Each address, size, checksum, licence and score
has the page beside it that it was read from; what no page says is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from volta_switch.errors import UserError, nearest
from volta_switch.files import read_yaml
from volta_switch.ranges import Number, OrNone, Range, Text, whole

SHIPPED = Path(__file__).with_name("registry.yml")
VOLTA, BERT = "volta", "bert"  # layouts that need no import
NOT_STATED = "not stated"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of an entry, and of the folder that its model lies in
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TEXT = Text()
_SCORE = Number(-1e6, 1e6)
Part = TypeVar("Part")


class Web(Range):
    """An address of the web."""

    expected = "an address that begins with https:// or http://"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        return isinstance(value, str) and re.fullmatch(r"https?://[^\s/]+/\S*", value) is not None


class Digest(Range):
    """A SHA-256."""

    expected = "64 digits 0-9a-f"

    def fits(self, value: Any) -> bool:
        """See ``Range.fits``."""
        return isinstance(value, str) and _SHA256.fullmatch(value) is not None


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web, or one of a hub's model."""

    source: str
    """The page that the rest was read from."""
    addresses: tuple[str, ...] = ()
    """Tried in order; none for a hub's file."""
    hub: str | None = None
    """The hub's name of the model."""
    file: str | None = None
    """Of the hub's model."""
    bytes: int | None = None
    shown_size: str | None = None
    """The size as the page rounds it; for readers alone."""
    sha256: str | None = None
    member: str | None = None
    """Where the file is an archive: the one of its files that is meant."""

    @property
    def key(self) -> str:
        """What its checksum is recorded under: the first place that it is fetched from."""
        return f"hf://{self.hub}/{self.file}" if self.hub else self.addresses[0]

    @property
    def size(self) -> str:
        """For readers."""
        return self.shown_size or (NOT_STATED if self.bytes is None else f"{self.bytes:,} bytes")


@dataclass(frozen=True)
class Answers(RemoteFile):
    """What the rows of a file's head stand for: a JSON list."""

    task: str = ""
    """The task that they are of, such as "TASK1"."""


@dataclass(frozen=True)
class Spread:
    """How far published scores lie apart: from ``low`` to ``high``, or a deviation over so many seeds."""

    low: float | None = None
    high: float | None = None
    mean: float | None = None
    deviation: float | None = None
    """The sample's standard deviation over seeds, in points."""
    seeds: int | None = None


@dataclass(frozen=True)
class Published:
    """One published score, in points."""

    task: str
    """The data set as task files name it, such as "VQA"."""
    metric: str
    """As this project's evaluation names it."""
    value: float
    source: str
    runs: str
    """What the number is of."""
    column: str | None = None
    """What the page calls it."""
    split: str | None = None
    """As the page says; None where it does not say."""
    same_as: tuple[str, ...] = ()
    """This project's names of that split."""
    spread: Spread | None = None


@dataclass(frozen=True)
class Entry:
    """Weights that are published."""

    name: str
    about: str
    layout: str | None
    """``VOLTA``, ``BERT``, or one of ``layouts.LAYOUTS``; None: none that this project reads."""
    config: str | None
    """Of a file in VOLTA's layout: the configuration. An import chooses its own."""
    weights: RemoteFile
    scores: tuple[Published, ...]
    license: str | None
    license_source: str | None
    config_source: str | None = None
    answers: Answers | None = None
    task: str | None = None
    """The task whose head a file in VOLTA's layout has, such as "TASK1"; None: pre-trained weights."""
    by_hand: str | None = None
    """Why no program can fetch it, and what a person does."""

    @property
    def head_of(self) -> str:
        """The task that the weights can do as they are, such as "TASK1"; "" where they must be fine-tuned first."""
        return self.task or (self.answers.task if self.answers else "")


_RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("about", "runs", "task", "metric"), _TEXT),
    **dict.fromkeys(("layout", "config", "by_hand", "hub", "file", "shown_size", "member"), OrNone(_TEXT)),
    **dict.fromkeys(("column", "split"), OrNone(_TEXT)),
    "source": Web(),
    "config_source": OrNone(Web()),
    "bytes": OrNone(whole(1, 2**50)),
    "sha256": OrNone(Digest()),
    "value": _SCORE,
    **dict.fromkeys(("low", "high", "mean"), OrNone(_SCORE)),
    "deviation": OrNone(Number(0.0, 1e6)),
    "seeds": OrNone(whole(2, 1_000_000)),
}


def load_registry(path: str | Path = "") -> dict[str, Entry]:
    """Reads a registry: name -> entry, in the file's order; "": the shipped one.

    Raises:
        UserError: the file is missing or no YAML, or an entry lacks something, has what nobody knows, or a value that
            cannot be; its name and key are given.
    """
    file = Path(path) if str(path) else SHIPPED
    found = read_yaml(file, "registry of weights", "give a file like the shipped one, or leave out --registry")
    if not isinstance(found, Mapping):
        raise UserError(f"{file}: expected names of weights, each with its settings")
    entries = {}
    for name, values in found.items():
        try:
            entries[str(name)] = _entry(str(name), values)
        except ValueError as error:
            raise UserError(f"{file}: {name}: {error}; the first lines of {SHIPPED} describe the keys") from None
    return entries


def find_entry(entries: Mapping[str, Entry], name: str) -> Entry:
    """Returns an entry by its name.

    Raises:
        UserError: there is none; the nearest is suggested.
    """
    if name in entries:
        return entries[name]
    near = nearest(name, entries, cutoff=0.4)
    hint = f"did you mean {near}? " if near else ""
    raise UserError(f"{name}: no weights of that name are registered; {hint}volta-switch weights list prints all names")


def registry_text(entries: Mapping[str, Entry], here: Mapping[str, Path]) -> str:
    """Returns a table for readers.

    Args:
        entries: of the registry.
        here: name -> folder, of those that are on this machine.
    """
    from tabulate import tabulate

    rows = [
        (
            entry.name,
            entry.about,
            entry.config or _layout_text(entry.layout),
            entry.weights.size,
            entry.license or NOT_STATED,
            f"{entry.weights.key} (by hand)" if entry.by_hand else entry.weights.key,
            str(here.get(entry.name, "no")),
        )
        for entry in entries.values()
    ]
    heads = ("name", "what it is", "configuration", "size", "licence", "from", "here")
    return tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True)


def _layout_text(layout: str | None) -> str:
    return "none" if layout is None else layout if layout in (VOLTA, BERT) else f"{layout} (import)"


def _entry(name: str, values: Any) -> Entry:
    """Returns an entry, checked. Raises ValueError with the key."""
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits and ._- alone, for a folder is called by it")
    known = ("about", "layout", "config", "config_source", "weights", "license", "answers", "scores", "by_hand", "task")
    given = _section(values, "the entry", known, ("about", "layout", "config", "weights", "license", "scores"))
    weights = _file(RemoteFile, given["weights"], "weights")
    answers = _file(Answers, given["answers"], "answers") if given.get("answers") is not None else None
    licence = given["license"]
    if licence is not None:
        licence = _section(licence, "license", ("name", "source"), ("name", "source"))
        _check(_TEXT, licence["name"], "license: name")
        _check(Web(), licence["source"], "license: source")
    if not isinstance(given["scores"], list):
        raise ValueError("scores: expected a list, [] where none is published")
    scores = tuple(_published(score, f"scores[{at}]") for at, score in enumerate(given["scores"]))
    plain: dict[str, Any] = {
        key: given.get(key) for key in ("about", "layout", "config", "config_source", "by_hand", "task")
    }
    for key, value in plain.items():
        _check(OrNone(_RANGES[key]) if key == "task" else _RANGES[key], value, key)
    if given["layout"] == VOLTA and not given.get("by_hand") and not (given["config"] and given.get("config_source")):
        raise ValueError("config and config_source: needed of a file in VOLTA's layout")
    return Entry(
        name=name,
        weights=weights,
        answers=answers,
        scores=scores,
        license=licence and licence["name"],
        license_source=licence and licence["source"],
        **plain,
    )


def _file(kind: type[Part], values: Any, where: str) -> Part:
    given = _part(kind, values, where, lists={"addresses": Web()})
    if bool(given.get("addresses")) == bool(given.get("hub")) or bool(given.get("hub")) != bool(given.get("file")):
        raise ValueError(f"{where}: expected addresses, or hub and file")
    return kind(**given)


def _published(values: Any, where: str) -> Published:
    given = _part(Published, values, where, lists={"same_as": _TEXT}, inner=("spread",))
    if given.get("spread") is not None:
        spread = _part(Spread, given["spread"], f"{where}: spread")
        has = {key for key, value in spread.items() if value is not None}
        if has not in ({"low", "high"}, {"mean", "deviation", "seeds"}):
            raise ValueError(f"{where}: spread: expected low and high, or mean, deviation and seeds")
        given["spread"] = Spread(**spread)
    return Published(**given)


def _part(
    kind: type, values: Any, where: str, lists: Mapping[str, Range] | None = None, inner: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Returns a section's values as the fields of a dataclass, checked one by one but for ``inner``."""
    names = {field.name: field for field in fields(kind)}
    required = [name for name, field in names.items() if field.default is MISSING]
    given = _section(values, where, tuple(names), tuple(required))
    for name, value in given.items():
        if name in (lists or {}):
            if not isinstance(value, list):
                raise ValueError(f"{where}: {name}: expected a list")
            for each in value:
                _check((lists or {})[name], each, f"{where}: {name}")
            given[name] = tuple(value)
        elif name not in inner:
            _check(_RANGES[name], value, f"{where}: {name}")
    return given


def _section(values: Any, where: str, known: tuple[str, ...], required: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected {', '.join(known)}")
    if strange := [str(key) for key in values if key not in known]:
        near = nearest(strange[0], known)
        raise ValueError(f"{where}: unknown key {strange[0]}" + (f", did you mean {near}?" if near else ""))
    if missing := [key for key in required if key not in values]:
        raise ValueError(f"{where}: lacks {', '.join(missing)}")
    return dict(values)


def _check(kind: Range, value: Any, where: str) -> None:
    if not kind.fits(value):
        raise ValueError(f"{where}: expected {kind.expected}, found {value!r:.80}")
