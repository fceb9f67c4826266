"""How several processes divide work: the pairs of retrieval, a study's cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """One process's share of the parts or cells: number ``number``, from 0, of ``count``."""

    number: int = 0
    count: int = 1


WHOLE = Share()
