"""Power analysis: how many seeds a study's claims need to find its minimum effect, by the spread seen so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from scipy.special import chdtri
from tabulate import tabulate

from volta_switch.study.power import MOST_SEEDS, seeds_needed
from volta_switch.study.statistics import SEEDS_AGREE

ASSURANCE = 0.8  # the chance that the true spread is below the bound that is planned with


def sizing(tables: Sequence[Mapping[str, Any]], effect: float, target: float = 0.8) -> list[dict[str, Any]]:
    """A line for each table and column with claims on it.

    An arm's spread over seeds is pooled over the table's arms, A (S - 1) degrees of freedom; a difference of two arms
    spreads sqrt(2) times as much, one of two differences twice as much, if equal seeds make scores no more alike (where
    they do, fewer seeds are enough).
    A pilot knows the spread badly, so that the number of seeds is given for the upper bound of its one-sided
    chi-square interval, too. Test items that are a random effect of the verdicts are one here, by the mean variance
    that they give the differences: seeds do not lessen it. Claims are tested at Holm's hardest step, alpha / F of the
    table's F claims.

    Args:
        tables: as in ``table.json``.
        effect: the smallest difference worth finding, in points.
        target: the chance of finding it.

    Returns:
        Plain values; ``seeds`` and ``seeds_bound`` are None where ``MOST_SEEDS`` are not enough, or all seeds agree
        (``spread`` is 0).
    """
    lines = []
    for table in tables:
        for number, column in enumerate(table["columns"]):
            verdicts = [verdict for verdict in table["verdicts"] if _is_about(verdict["claim"], column)]
            compared: dict[int, list[float]] = {}  # number of arms -> the items' variance of each claim
            for verdict in verdicts:
                arms = 4 if verdict["claim"].get("than") else 2
                compared.setdefault(arms, []).append(_item_variance(verdict["estimate"]))
            scores = np.array([row["scores"][number]["values"] for row in table["rows"]])  # (A, S)
            degrees = scores.shape[0] * (scores.shape[1] - 1)
            for arms, variances in sorted(compared.items() if degrees else ()):
                spread = math.sqrt(arms * float(scores.var(1, ddof=1).mean()))
                bound = spread * math.sqrt(degrees / float(chdtri(degrees, ASSURANCE)))
                known = {"alpha": 0.05 / len(table["verdicts"]), "item_variance": fmean(variances)}
                spreads = (spread, bound) if spread > SEEDS_AGREE else ()
                seeds = [seeds_needed(effect, each, target, **known) for each in spreads] or [None, None]
                lines.append(
                    {
                        **{"table": table["name"], "column": column["heading"], "tests": len(table["verdicts"])},
                        **{"arms": arms, "seen": list(scores.shape), "spread": spread, "bound": bound},
                        "items": math.sqrt(known["item_variance"]),
                        **{"seeds": seeds[0], "seeds_bound": seeds[1]},
                    }
                )
    return lines


def _is_about(claim: Mapping[str, Any], column: Mapping[str, Any]) -> bool:
    return (claim["task"], claim["metric"]) == (column["task"], column["metric"])


def _item_variance(estimate: Mapping[str, Any]) -> float:
    """Of a difference, over other test items with infinitely many seeds; 0 where items are taken as they are."""
    if not estimate["items"] or estimate["standard_error"] is None:
        return 0.0
    return float(max(estimate["standard_error"] ** 2 - estimate["spread"] ** 2 / estimate["seeds"], 0.0))


def sizing_text(lines: Sequence[Mapping[str, Any]], effect: float, target: float = 0.8) -> str:
    """The same for a person."""
    if not lines:
        return "Nothing to reckon with: no table has claims and two seeds that all of its arms have finished."
    headings = ["table", "column", "tests", "between", "arms x seeds so far", "spread", "80 % bound", "of items"]
    headings += ["seeds", "at the bound"]
    body = [
        [
            *(line["table"], line["column"], line["tests"], f"{line['arms']} arms", " x ".join(map(str, line["seen"]))),
            *(f"{line['spread']:.2f}", f"{line['bound']:.2f}", f"{line['items']:.2f}"),
            *(_shown(line, line[key]) for key in ("seeds", "seeds_bound")),
        ]
        for line in lines
    ]
    about = f"Seeds that find a difference of {effect:g} points with {100 * target:g} % power, after Holm:"
    return f"{about}\n\n{tabulate(body, headings, tablefmt='github')}"


def _shown(line: Mapping[str, Any], seeds: int | None) -> str:
    if not line["spread"] > SEEDS_AGREE:
        return "all agree"
    return f"over {MOST_SEEDS}" if seeds is None else str(seeds)
