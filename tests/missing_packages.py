"""Packages that are taken to be missing, by their names in MISSING_PACKAGES: ``python -m pytest -p missing_packages``.

Imported before anything else, it makes Python look for them in vain, as where they are not installed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = frozenset(os.environ.get("MISSING_PACKAGES", "").split())


class Without:
    """A finder of modules that does not find the packages which are to be missing."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As ``importlib`` asks its finders."""
        return None if name.partition(".")[0] in NAMES else self._finder.find_spec(name, path, target)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
