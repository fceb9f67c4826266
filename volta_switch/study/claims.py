"""Claims such as "Switch-BERT beats UNITER on VQAv2 by at least one point", and what a study's scores say of them.

A verdict comes from the interval of the difference at the level of Holm's procedure. Its family are all claims that are
judged together. It is fixed before the runs: a claim that cannot be tested keeps its place.

- ``supported``: the whole interval lies above m, the points asked for;
- ``contradicted``: it lies below m, so that the effect, whatever its sign, is smaller than claimed;
- ``undecided``: it contains m, or does not exist (one seed; seeds that all agree).

A claim of several metrics (image and text retrieval) is a claim for each, every one a test of its own in the family.
"On par with, or better" is a claim with a negative m. A claim with ``than`` is about a difference of differences: one
arm's advantage over another is larger than that of a second pair (a sweep at another setting).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from volta_switch.errors import UserError
from volta_switch.statistics import Estimate, estimate_difference, estimate_mean, holm, holm_levels, without_nan
from volta_switch.study.power import MOST_SEEDS, SeedsNeeded, seeds_to_decide
from volta_switch.study.records import ReportedEstimate, ReportedVerdict, StudyClaim
from volta_switch.tasks.graded_items import ITEMS_TOLERANCE

Measure = tuple[str, str]  # task, metric
Scores = Mapping[str, Mapping[Measure, np.ndarray]]  # arm -> (S,) in points


@dataclass(frozen=True, eq=False)
class ItemResults:
    """What an arm's scores are the means of."""

    names: np.ndarray
    """(items,) of the test items, by which those of several arms are told to be the same."""
    points: np.ndarray
    """(S, items), in the scores' unit."""


ItemsOfArms = Mapping[str, Mapping[Measure, ItemResults]]  # arm -> what its scores are the means of


@dataclass(frozen=True)
class Verdict:
    """What the scores say of a claim."""

    claim: StudyClaim
    verdict: str
    """"supported", "contradicted" or "undecided"."""
    reason: str
    """What the interval says, or why there is no verdict."""
    estimate: Estimate
    """Of ``better`` minus ``worse``."""
    confidence: float
    """Of ``estimate.interval`` taken alone: 0.95."""
    level: float
    """At which Holm's procedure tested the claim; the verdict is that of the interval at 1 - level."""
    family: int
    """Number of claims tested together."""
    p_value: float
    """Two-sided, that the true difference is m; NaN where it cannot be tested."""
    p_holm: float
    """After Holm's adjustment over the family."""
    needed: SeedsNeeded | None
    """Of an undecided claim: the seeds that would decide it, at Holm's level."""
    power: float
    """With which they would."""
    minimum_effect: float | None = None
    """The smallest effect of interest, in points, if one was set."""

    @property
    def family_confidence(self) -> float:
        """Bonferroni's, of an interval that holds whatever the family's other verdicts are; Holm's depends on them."""
        return 1 - (1 - self.confidence) / self.family

    @property
    def excluded_beyond(self) -> float:
        """Differences beyond this, in points, are excluded either way, at ``family_confidence``; NaN: none is."""
        low, high = self.estimate.interval(self.family_confidence)
        return max(-low, high)

    @property
    def excludes_minimum_effect(self) -> bool:
        """Whether effects of interest are excluded."""
        return self.minimum_effect is not None and self.excluded_beyond < self.minimum_effect

    @property
    def text(self) -> str:
        """One paragraph for a reader."""
        claim, found = self.claim, self.estimate
        source = f" ({claim.source})" if claim.source else ""
        about = claim.column if claim.synthetic else f"{claim.task} {claim.metric}"
        parts = [f"{self.verdict}: {claim.text}{source}", f"{about}: {self._effect()}"]
        if not found.problem:
            family = f" after Holm over {self.family} tests" if self.family > 1 else ""
            parts.append(f"{_shown_p(self.p_holm)}{family} (of a true difference of {claim.at_least:g})")
        parts.append(self.reason)
        if self.verdict == "undecided" and not found.problem:
            parts.append(
                f"Excluded are differences beyond {self.excluded_beyond:.2f} points either way "
                f"({100 * self.family_confidence:.4g} %){self._of_interest}"
            )
        return ". ".join([*parts, *self._seeds_needed()]) + "."

    def reported(self) -> ReportedVerdict:
        """Returns the verdict as tables and reports have it."""
        low, high = self.estimate.interval(1 - self.level)
        numbers = {"level": self.level, "level_low": low, "level_high": high, "power": self.power}
        numbers["excluded_beyond"] = self.excluded_beyond
        return ReportedVerdict(
            claim=self.claim,
            verdict=self.verdict,
            reason=self.reason,
            text=self.text,
            estimate=ReportedEstimate.of(self.estimate, self.confidence),
            family=self.family,
            minimum_effect=self.minimum_effect,
            excludes_minimum_effect=self.excludes_minimum_effect,
            seeds_needed=asdict(self.needed) if self.needed else None,
            **without_nan({**numbers, "p_value": self.p_value, "p_holm": self.p_holm}),
        )

    def _effect(self) -> str:
        claim, found = self.claim, self.estimate
        unit = found.unit if found.seeds == 1 else {"seed": "seeds", "pair of seeds": "pairs of seeds"}[found.unit]
        text = f"{claim.difference} is {found.value:+.2f} points over {found.seeds} {unit}"
        if found.problem:
            return text
        text += f", {100 * self.confidence:g} % interval {_shown(found.interval(self.confidence))}"
        if not math.isclose(self.level, 1 - self.confidence):
            text += f", at Holm's level ({100 * (1 - self.level):.4g} %) {_shown(found.interval(1 - self.level))}"
        other = f"{found.items} test items taken as a sample" if found.items else "on these test items"
        standard = "" if math.isnan(found.effect_size) else f", standardised {found.effect_size:+.1f}"
        return f"{text}, {other}{standard}"

    @property
    def _of_interest(self) -> str:
        """What that means for the smallest effect of interest."""
        if self.minimum_effect is None:
            return ""
        left = "no effect" if self.excludes_minimum_effect else "effects"
        return f", which leaves {left} of interest ({self.minimum_effect:g} or more)"

    def _seeds_needed(self) -> list[str]:
        if self.needed is None:
            return []
        seeds = self.needed
        if seeds.seeds is None:
            more = "; more test items would help where seeds cannot" if self.estimate.items else ""
            return [f"At the effect and spread observed not even {MOST_SEEDS} seeds would decide it{more}"]
        most = "no upper bound" if seeds.most is None else f"{seeds.most}"
        return [
            f"At the effect and spread observed {seeds.seeds} seeds would decide it with {100 * self.power:g} % power "
            f"({100 * self.confidence:g} % interval of that number: {seeds.fewest} to {most})"
        ]


def read_claims(values: Any, where: str) -> tuple[StudyClaim, ...]:
    """Reads claims from the plain values of a file.

    Args:
        values: a list of mappings with ``StudyClaim``'s fields as keys; ``metric`` may be a list, a claim for each.
        where: what messages call the place: "studies/demo.yaml: tables.main.claims".

    Raises:
        UserError: no such list, an unknown or missing key, or a value of the wrong kind.
    """
    if not isinstance(values, list):
        raise UserError(f"{where}: expected a list of claims, found {values!r}")
    return tuple(
        claim for number, value in enumerate(values, 1) for claim in _read_claim(value, f"{where}: claim {number}")
    )


def judge(
    claims: Sequence[StudyClaim],
    scores: Scores,
    items: ItemsOfArms | None = None,
    *,
    paired: bool = True,
    confidence: float = 0.95,
    power: float = 0.8,
    minimum_effect: float | None = None,
) -> list[Verdict]:
    """Tests all claims as one family.

    Args:
        claims: the family.
        scores: (S,) of each arm and metric, in points, one for each seed.
        items: the results behind them. Items that belong together (one image's) are taken through
            ``statistics.by_group`` first. Where all arms of a claim have results on the same items, the verdict is
            about new ones, else about these. Items of different data are the same where they have the same names
            (one image, its words written otherwise). Where that is an accident, pairing them is arbitrary, and the
            interval is right all the same.
        paired: the arms' seeds are the same, in the same order.
        confidence: 1 - the chance of any wrong verdict in the family.
        power: for which the number of seeds is given.
        minimum_effect: the smallest effect of interest, in points; it changes no verdict.

    Returns:
        A verdict for each claim, in order.

    Raises:
        UserError: scores are missing, do not fit each other, or are not finite; items that are not those of the score.
    """
    estimates = [_estimate(claim, scores, items or {}, paired) for claim in claims]
    p_values = [found.p_value(claim.at_least) for claim, found in zip(claims, estimates, strict=True)]
    levels = holm_levels(p_values, 1 - confidence)
    verdicts = []
    for claim, found, p, p_holm, level in zip(claims, estimates, p_values, holm(p_values), levels, strict=True):
        word, reason = _decide(claim, found, float(level))
        needed = None
        if word == "undecided":
            needed = seeds_to_decide(found, claim.at_least, alpha=level, target=power, confidence=confidence)
        tested = (float(level), len(claims), p, float(p_holm))
        verdicts.append(Verdict(claim, word, reason, found, confidence, *tested, needed, power, minimum_effect))
    return verdicts


def _decide(claim: StudyClaim, found: Estimate, level: float) -> tuple[str, str]:
    """Returns the verdict, and what the interval at Holm's level says."""
    if found.problem:
        return "undecided", f"No verdict: {found.problem}"
    margin = claim.at_least
    low, high = found.interval(1 - level)
    if low > margin:
        return "supported", f"The whole interval lies above {margin:g}"
    if high < margin:
        if claim.than is not None:
            detail = "the second lead is larger" if high < 0 else "the first lead is not so much larger"
        elif high < 0:
            detail = f"{claim.worse} is better"
        elif low > 0:
            detail = f"{claim.better} is better, but by less"
        else:
            detail = "which of the two is better stays open"
        return "contradicted", f"The whole interval lies below {margin:g}: {detail}"
    return "undecided", f"The interval contains {margin:g}"


def _estimate(claim: StudyClaim, scores: Scores, items: ItemsOfArms, paired: bool) -> Estimate:
    key, arms = (claim.task, claim.metric), claim.arms
    values = [_scores_of_arm(scores, arm, key) for arm in arms]
    where = f"{claim.task} {claim.metric}"
    for arm, own in zip(arms, values, strict=True):
        if (paired or claim.than) and len(own) != len(values[0]):
            raise UserError(
                f"{where}: {arms[0]} has {len(values[0])} seeds and {arm} {len(own)}; to compare them in pairs give "
                "the seeds that both have"
            )
    results = [items[arm][key] for arm in arms if key in items.get(arm, {})]
    if len(results) == len(arms) and all(np.array_equal(each.names, results[0].names) for each in results):
        for arm, own, each in zip(arms, values, results, strict=True):
            _check_items(where, arm, own, each)
        values = [np.asarray(each.points, dtype=float) for each in results]
    if claim.than is not None:
        return estimate_mean(values[0] - values[1] - (values[2] - values[3]))
    return estimate_difference(*values, paired=paired)


def _check_items(where: str, arm: str, scores: np.ndarray, items: ItemResults) -> None:
    expected = (len(scores), len(items.names))
    if items.points.shape != expected:
        raise UserError(f"{where}: {arm}'s items have shape {items.points.shape}; expected {expected}, (seeds, names)")
    if not np.abs(items.points.mean(1) - scores).max() <= ITEMS_TOLERANCE:
        raise UserError(f"{where}: the mean of {arm}'s items is not its score; give both in the same unit")


def _scores_of_arm(scores: Scores, arm: str, key: Measure) -> np.ndarray:
    if arm not in scores:
        raise UserError(f"a claim names the arm {arm}, which has no scores; there are {', '.join(scores) or 'none'}")
    if key not in scores[arm]:
        there = ", ".join(" ".join(other) for other in scores[arm]) or "none"
        raise UserError(f"a claim is about {' '.join(key)}, of which {arm} has no scores; there are {there}")
    values = np.asarray(scores[arm][key], dtype=float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise UserError(f"{' '.join(key)}: expected one finite score for each seed of {arm}, found {values.tolist()}")
    return values


def _read_claim(value: Any, where: str) -> list[StudyClaim]:
    """Reads one mapping: a claim for each of its metrics."""
    known = {field.name: field for field in fields(StudyClaim) if field.name != "synthetic"}  # the data say it
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: expected {', '.join(known)}, found {value!r}")
    unknown = [str(key) for key in value if key not in known]
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]}; a claim has {', '.join(known)}")
    missing = [name for name in ("text", "better", "worse", "task", "metric") if not value.get(name)]
    if missing:
        raise UserError(f"{where}: {missing[0]} is missing")
    metrics = value["metric"] if isinstance(value["metric"], list) else [value["metric"]]
    found = []
    for metric in metrics:
        values = {**value, "metric": metric}
        for name, content in values.items():
            if name == "than":
                valid = isinstance(content, list) and len(content) == 2 and all(isinstance(arm, str) for arm in content)
            elif name == "at_least":
                valid = isinstance(content, (int, float)) and not isinstance(content, bool) and math.isfinite(content)
            else:
                valid = isinstance(content, str)
            if not valid:
                expected = {"at_least": "a number of points", "than": "a list of two arms"}.get(name, "text")
                raise UserError(f"{where}: {name}: expected {expected}, found {content!r}")
        found.append(StudyClaim(**{**values, "than": tuple(values["than"]) if values.get("than") else None}))
    if found[0].better == found[0].worse:
        raise UserError(f"{where}: better and worse are both {found[0].better}; a claim compares two arms")
    return found


def _shown(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.2f} to {interval[1]:+.2f}"


def _shown_p(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"
