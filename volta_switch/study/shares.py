"""Shares of a study for job arrays: what belongs together stays together, whatever is finished already."""

from __future__ import annotations

from collections.abc import Sequence

from volta_switch.study.cells import Cell
from volta_switch.tasks.task import Share


def cells_of_share(cells: Sequence[Cell], share: Share) -> list[Cell]:
    """One of several shares of a plan's cells, in the plan's order.

    A pre-training run, the fine-tuning runs that start from it and their routes are one share's, so that no share waits
    for another one. Such chains go to the shares in turn, forwards and backwards, so that not one share has all of the
    slowest arm; that depends on the plan alone, not on what is finished.
    """
    needs = {cell.name: cell.needs for cell in cells}

    def root(name: str) -> str:
        while needs[name]:
            name = needs[name]
        return name

    roots = list(dict.fromkeys(root(cell.name) for cell in cells))
    turns = [*range(share.count), *reversed(range(share.count))]
    own = {root for place, root in enumerate(roots) if turns[place % len(turns)] == share.number}
    return [cell for cell in cells if root(cell.name) in own]
