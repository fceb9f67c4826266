"""One small world at VOLTA's sizes for all runs of VOLTA's scripts, and a look at the checkout before and after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugin.volta_runs import VoltaWorld, fingerprint_of, write_volta_world


@pytest.fixture(scope="session")
def volta_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VoltaWorld]:
    """The world; at the end, the checkout must be as it was."""
    home = Path(os.environ["VOLTA_HOME"])
    before = fingerprint_of(home)
    yield write_volta_world(tmp_path_factory.mktemp("volta") / "world")
    assert fingerprint_of(home) == before, f"{home} was changed"
