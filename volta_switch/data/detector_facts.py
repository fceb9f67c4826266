"""Which detector features come from: the facts that ``data extract`` records, and whether two of them agree.

A compact store says them in its manifest, any other file in ``<name>.detector.json`` beside it. Files of other programs
say nothing, and are compared with nothing. Facts are what ``detector.detect.Detector.facts`` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there, record_json, release
from volta_switch.config.model_folder import DETECTOR
from volta_switch.data.files.json_files import read_object
from volta_switch.data.files.pair_files import is_address
from volta_switch.errors import UserError

Facts = Mapping[str, Any]
SUFFIX = ".detector.json"
GIVEN = ", given boxes"  # how a selection ends that takes boxes from outside
_MANIFESTS = ("manifest.json", "index.json")  # of a compact store, and of shards


def facts_of(path: str | Path) -> dict[str, Any] | None:
    """Returns the facts about the features in a file or folder; None where it says nothing, or is an address.

    Raises:
        UserError: what it says is damaged.
    """
    if is_address(path):
        return None
    path = Path(path)
    manifest = next((path / name for name in _MANIFESTS if is_there(path / name)), None)
    if manifest is not None:
        found = read_object(manifest).get("options")
        source = manifest
    else:
        source = facts_file(path)
        found = read_object(source) if is_there(source) else None
    facts = found.get(DETECTOR) if isinstance(found, dict) else None
    if facts is not None and not isinstance(facts, dict):
        raise UserError(f"{source}: {DETECTOR} is no object with facts; extract the features again")
    return facts


def facts_file(path: Path) -> Path:
    """Returns where the facts about a file stand that is no compact store."""
    return path.with_name(path.name + SUFFIX)


def keep_facts(path: Path, facts: Facts | None, **more: Any) -> None:
    """Writes the facts about a file beside it, and what else is to be kept; without facts those that stand there go."""
    if facts is not None:
        record_json(facts_file(path), {DETECTOR: facts, **more})
    elif is_there(facts_file(path)):
        release(facts_file(path))
        facts_file(path).unlink()


def common_facts(paths: Iterable[str | Path]) -> dict[str, Any] | None:
    """Returns the facts that files share; None where one says nothing.

    Raises:
        UserError: two of them come from different detectors or selections.
    """
    first: tuple[str | Path, dict[str, Any]] | None = None
    silent = False
    for path in paths:
        facts = facts_of(path)
        if facts is None:
            silent = True
        elif first is None:
            first = path, facts
        elif found := difference(first[1], facts):
            raise UserError(f"{path}: not the features of {first[0]}: {found}; extract all with one detector")
    return None if silent or first is None else first[1]


def difference(expected: Facts, found: Facts) -> str:
    """Says in words how features differ from those that are expected; "" where they are of one kind.

    Boxes given from outside are of the kind of those that the same detector finds: a task may have both.
    """
    said = []
    if expected.get("weights") != found.get("weights"):
        said.append(f"the detector is {_detector(found)}, not {_detector(expected)}")
    for name, text in (("selection", "regions are chosen by"), ("number", "the number of regions is")):
        one, other = _plain(expected.get(name)), _plain(found.get(name))
        given = name == "number" and "as given" in (expected.get(name), found.get(name))
        if one != other and not given:
            said.append(f"{text} {other}, not {one}")
    if expected.get("input") != found.get("input"):
        said.append(f"pictures are resized as {_settings(found)}, not as {_settings(expected)}")
    if expected.get("width") != found.get("width"):
        said.append(f"features are {found.get('width')} wide, not {expected.get('width')}")
    return "; ".join(said)


def described(facts: Facts) -> str:
    """Returns facts in words."""
    return f"{_detector(facts)}, {facts.get('selection')}, {facts.get('number')} regions"


def _detector(facts: Facts) -> str:
    return f"{facts.get('detector')} (weights {str(facts.get('weights'))[:8]})"


def _plain(value: object) -> str:
    return str(value).removesuffix(GIVEN)


def _settings(facts: Facts) -> str:
    values = facts.get("input")
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, dict) else str(values)
