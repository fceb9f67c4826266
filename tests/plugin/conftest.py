"""One small world at VOLTA's sizes for all runs of VOLTA's scripts, and a look at the checkout before and after."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.volta_runs import VoltaWorld, fingerprint_of, write_volta_world
from volta_switch.plugin import unregister


@pytest.fixture(scope="session")
def volta_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoltaWorld]:
    """The world; at the end, the checkout must be as it was."""
    home = Path(os.environ["VOLTA_HOME"])
    before = fingerprint_of(home)
    yield write_volta_world(tmp_path_factory.mktemp("volta") / "world")
    assert fingerprint_of(home) == before, f"{home} was changed"


@pytest.fixture(scope="module")
def world(volta_world: VoltaWorld, tmp_path_factory: pytest.TempPathFactory) -> VoltaWorld:
    """A copy to read in this process, which has the first one's LMDBs open since it wrote them."""
    return volta_world.copy(tmp_path_factory.mktemp("copy") / "world")


@pytest.fixture
def no_volta(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No VOLTA is named, on the path, imported or registered; and none is left behind."""
    monkeypatch.delenv("VOLTA_HOME", raising=False)
    path, modules = list(sys.path), {name: sys.modules.pop(name) for name in list(sys.modules) if _is_volta(name)}
    sys.path[:] = [folder for folder in path if not (Path(folder) / "volta").exists()]
    yield
    unregister()
    sys.path[:] = path
    for name in [name for name in sys.modules if _is_volta(name)]:
        del sys.modules[name]
    sys.modules.update(modules)


def _is_volta(name: str) -> bool:
    return name == "volta" or name.startswith("volta.")
