"""How several processes divide the pairs of retrieval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """One process's share of the parts: number ``number``, from 0, of ``count``."""

    number: int = 0
    count: int = 1
