"""How many seeds a study's claims need, and what the planned ones can exclude, by the spread of finished seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri
from tabulate import tabulate

from volta_switch.statistics import SEEDS_AGREE
from volta_switch.study.power import MOST_SEEDS, excluded_effect, seeds_needed
from volta_switch.study.records import ReportedColumn, ReportedEstimate, ReportedTable, ReportedVerdict, StudyClaim

ASSURANCE = 0.8  # the chance that the true spread is below the bound that is planned with


@dataclass(frozen=True)
class SeedPlan:
    """How many seeds a claim needs to find the smallest effect of interest, and what the planned ones can exclude."""

    table: str
    column: str
    difference: str
    """That the claim is about, in words: "switchbert minus ctrl_uniter"."""
    tests: int
    """Claims of the table, which are one family."""
    seen: int
    """Seeds that the spread was estimated from."""
    spread: float
    """Of the difference over seeds, in points."""
    bound: float
    """Upper bound of the spread, at ``ASSURANCE``."""
    items: float
    """Standard deviation that test items give the difference, in points; 0 where they are taken as they are."""
    seeds: int | None
    """None where ``MOST_SEEDS`` are not enough, or all seeds agree (``spread`` is 0)."""
    seeds_bound: int | None
    """The same, were the spread at its bound."""
    planned: int
    """Seeds that the table plans."""
    excluded: float | None
    """The smallest effect that these exclude, in points, were there none and the spread as seen; None: seeds agree."""
    excluded_bound: float | None
    """The same, were the spread at its bound."""


def sizing(
    tables: Sequence[ReportedTable], effect: float, target: float = 0.8, planned: Mapping[str, int] | None = None
) -> list[SeedPlan]:
    """Plans the number of seeds for each claim of each table.

    The spread is that of the claim's own difference, seed by seed, with S - 1 degrees of freedom: equal seeds make two
    arms' scores more alike, or less, and other arms spread otherwise.
    A pilot knows the spread badly. The number of seeds is therefore given for the upper bound of its one-sided
    chi-square interval, too, and that is the one to plan with. The pilot's own seeds are not to be counted in: a test
    whose number of seeds follows from their spread would decide too often.
    Test items that are a random effect of the verdict are one here: seeds do not lessen it. Claims are tested at Holm's
    hardest step, alpha / F of the table's F claims.

    Args:
        tables: made tables, of the pilot's seeds that all of their arms have finished.
        effect: the smallest effect of interest, in points.
        target: the chance of finding it, and of excluding ``SeedPlan.excluded``.
        planned: table -> its number of seeds, where that is not the pilot's.
    """
    seeds = planned or {}
    return [
        _plan_claim(table, verdict, effect, target, seeds.get(table.name, len(table.planned_seeds)))
        for table in tables
        for verdict in table.verdicts
        if len(table.seeds) > 1
    ]


def _plan_claim(table: ReportedTable, verdict: ReportedVerdict, effect: float, target: float, planned: int) -> SeedPlan:
    claim = verdict.claim
    (number,) = (n for n, column in enumerate(table.columns) if _is_about(claim, column))
    scores = {row.arm: np.array(row.scores[number].values) for row in table.rows}
    values = [scores[arm] for arm in claim.arms]
    differences = sum(sign * own for sign, own in zip((1, -1, -1, 1), values, strict=False))  # (S,)
    spread, degrees = float(np.std(differences, ddof=1)), len(values[0]) - 1
    bound = spread * math.sqrt(degrees / float(chdtri(degrees, ASSURANCE)))
    known = {"alpha": 0.05 / len(table.verdicts), "item_variance": _item_variance(verdict.estimate)}
    spreads = (spread, bound) if spread > SEEDS_AGREE else ()
    needed = [seeds_needed(effect, each, target, **known) for each in spreads]
    excluded = [excluded_effect(each, planned, target, **known) for each in spreads if planned > 1]
    seeds, seeds_bound = needed or (None, None)
    at_spread, at_bound = excluded or (None, None)
    return SeedPlan(
        table=table.name,
        column=table.columns[number].title,
        difference=claim.difference,
        tests=len(table.verdicts),
        seen=len(values[0]),
        spread=spread,
        bound=bound,
        items=math.sqrt(known["item_variance"]),
        seeds=seeds,
        seeds_bound=seeds_bound,
        planned=planned,
        excluded=at_spread,
        excluded_bound=at_bound,
    )


def _is_about(claim: StudyClaim, column: ReportedColumn) -> bool:
    return (claim.task, claim.metric) == (column.task, column.metric)


def _item_variance(found: ReportedEstimate) -> float:
    """Returns a difference's variance over other test items with infinitely many seeds; 0 without such items."""
    if not found.items or found.standard_error is None or found.spread is None:
        return 0.0
    return float(max(found.standard_error**2 - found.spread**2 / found.seeds, 0.0))


def sizing_text(lines: Sequence[SeedPlan], effect: float, target: float = 0.8) -> str:
    """Writes ``sizing``'s lines as a table for a reader."""
    if not lines:
        return "No spread is known yet: no table has claims, and two seeds that all of its arms have finished."
    headings = ["table", "column", "difference", "tests", "seeds so far", "spread", "80 % bound", "of items"]
    headings += ["seeds", "at the bound", "planned", "these exclude", "at the bound"]
    body = [
        [
            *(line.table, line.column, line.difference, line.tests, line.seen),
            *(f"{line.spread:.2f}", f"{line.bound:.2f}", f"{line.items:.2f}"),
            *(_shown(line, seeds) for seeds in (line.seeds, line.seeds_bound)),
            *(line.planned, _excluded(line.excluded), _excluded(line.excluded_bound)),
        ]
        for line in lines
    ]
    about = (
        f"Seeds that find a difference of {effect:g} points with {100 * target:g} % power, after Holm; and the "
        "smallest difference that the planned seeds exclude, with the same chance, if there is none:"
    )
    return f"{about}\n\n{tabulate(body, headings, tablefmt='github', disable_numparse=True)}"


def _excluded(effect: float | None) -> str:
    return "–" if effect is None else f"± {effect:.2f}"


def _shown(line: SeedPlan, seeds: int | None) -> str:
    if not line.spread > SEEDS_AGREE:
        return "all agree"
    return f"over {MOST_SEEDS}" if seeds is None else str(seeds)
