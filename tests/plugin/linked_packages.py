"""An environment of exactly the packages that pyproject.toml asks for, made of links to those installed here.

What else is installed, such as the tests' own packages, is not found in it. Nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from volta_switch.plugin.checkout import name_in

ROOT = Path(__file__).parents[2]


def stated() -> dict[str, Any]:
    """pyproject.toml's section of the project."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def asked_for(*extras: str) -> list[str]:
    """The requirements of the project with some extras, as they stand in pyproject.toml."""
    project = stated()
    return [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]


def closure(requirements: Collection[str], without: Collection[str] = ()) -> dict[str, metadata.Distribution]:
    """Every package that requirements bring, by name.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    found: dict[str, metadata.Distribution] = {}
    waiting = [Requirement(requirement) for requirement in requirements]
    while waiting:
        requirement = waiting.pop()
        name = name_in(requirement.name)
        if name in found or name in without:
            continue
        found[name] = metadata.distribution(requirement.name)
        extras = requirement.extras or {""}
        for one in map(Requirement, found[name].requires or []):
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(one)
    return found


class LinkedPackages:
    """A folder to put on Python's path in place of site-packages."""

    def __init__(self, folder: Path, *extras: str, without: Collection[str] = ()):
        self.folder = folder
        folder.mkdir()
        self._write_metadata()
        for distribution in closure(asked_for(*extras), without).values():
            for source in _parts(distribution):
                link = folder / source.name
                if source.is_dir() and source.suffix != ".dist-info" and not (source / "__init__.py").is_file():
                    link.mkdir(exist_ok=True)  # a namespace, of which others may have parts
                    for part in source.iterdir():
                        _link(link / part.name, part)
                else:
                    _link(link, source)

    def run(self, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Python with these packages and this project's own, and no others."""
        path = os.pathsep.join((str(self.folder), str(ROOT)))
        inherited = {name: value for name, value in os.environ.items() if name != "TENSORPACK_SERIALIZE"}
        return subprocess.run(
            [sys.executable, "-S", *arguments],  # -S: without site-packages
            cwd=cwd, env={**inherited, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _write_metadata(self) -> None:
        """What pip writes of this project where it installs it."""
        project = stated()
        lines = [f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}"]
        lines += [f"Requires-Dist: {one}" for one in project["dependencies"]]
        for extra, requirements in project["optional-dependencies"].items():
            lines += [f'Requires-Dist: {one}; extra == "{extra}"' for one in requirements]
        info = self.folder / f"volta_switch-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parts(distribution: metadata.Distribution) -> Iterator[Path]:
    """The files and folders that a package has in site-packages."""
    tops = {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}
    for top in sorted(tops):
        yield Path(str(distribution.locate_file(top)))


def _link(link: Path, target: Path) -> None:
    if not link.exists():
        link.symlink_to(target)
