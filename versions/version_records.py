"""What pyproject.toml states about versions, and the records of what was tried (`records/`)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "versions" / "records"
EXTRAS = ("h5", "stream", "test")  # of pyproject.toml; VOLTA's own is tried by `make test-volta`


@dataclass(frozen=True)
class Record:
    """What was tried once, and what came of it."""

    kind: str  # "oldest" or "newest"
    pins: list[str]  # requirements given by --pin
    python: str
    platform: str
    date: str
    stated: list[str]  # pyproject.toml's requirements at that time
    versions: dict[str, str]  # of what is stated, by its name there; empty where nothing could be installed
    result: str  # "passed", or what went wrong
    tests: dict[str, int]  # how many passed, failed, were skipped
    seconds: int  # of the tests

    @property
    def name(self) -> str:
        """The record's file, less .json: the kind, the minor version of Python, the pins."""
        return "-".join([self.kind, minor(self.python), *(pin.replace("==", "-") for pin in self.pins)])


def minor(version: str) -> str:
    """3.11.7 -> 3.11."""
    return ".".join(version.split(".")[:2])


def project() -> dict[str, Any]:
    """What pyproject.toml says."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def supported_pythons(pyproject: Mapping[str, Any]) -> list[str]:
    """The minor versions among the classifiers, such as 3.11."""
    found = (re.search(r":: Python :: (3\.\d+)$", classifier) for classifier in pyproject["project"]["classifiers"])
    return [match[1] for match in found if match]


def stated_requirements(pyproject: Mapping[str, Any]) -> list[str]:
    """The requirements that are tried: the build's, the package's and those of EXTRAS, less the project itself."""
    own = pyproject["project"]["name"]
    extras = pyproject["project"]["optional-dependencies"]
    every = [*pyproject["build-system"]["requires"], *pyproject["project"]["dependencies"]]
    every += [requirement for extra in EXTRAS for requirement in extras[extra]]
    return list(dict.fromkeys(requirement for requirement in every if package(requirement) != own))


def package(requirement: str) -> str:
    """The package's name in a requirement: torch>=2.6 -> torch."""
    match = re.match(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", requirement)
    if match is None:
        raise ValueError(f"pyproject.toml: {requirement!r} names no package")
    return match[0]


def lowest(requirement: str) -> str:
    """The requirement's lower bound as a pin; its upper bound and its marker stay: torch>=2.6 -> torch==2.6."""
    bounds, semicolon, marker = requirement.partition(";")
    if bounds.count(">=") != 1:
        raise ValueError(f"pyproject.toml: {requirement!r}: expected one lower bound (>=), so that it can be tried")
    return bounds.replace(">=", "==") + semicolon + marker


def read_records(folder: Path = RECORDS) -> list[Record]:
    """Every record in a folder."""
    return [Record(**json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]


def write_record(record: Record, folder: Path = RECORDS) -> Path:
    """Write a record in place of the one before it; return its file."""
    path = folder / f"{record.name}.json"
    path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
    return path
