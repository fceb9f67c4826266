"""Measured scores beside published ones, and whether they lie within the spread that is published with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from volta_switch.errors import UserError
from volta_switch.identities import described
from volta_switch.weight_tools.registered.entries import NOT_STATED, VOLTA, Entry, Published, Spread

CONFIDENCE = 0.95
DEFINITION = (
    "within: between the lowest and the highest score that the page gives; where it gives mean and standard deviation "
    f"over seeds, inside the interval that covers one further seed with {CONFIDENCE:.0%} (Student's t). outside: not "
    "so. Without a published spread, or on another split, neither is said."
)
_UNIT = 1e-9  # of rounding, in points


def published_for(entry: Entry, task: str) -> list[Published]:
    """Returns what is published of an entry's model on a data set.

    Raises:
        UserError: nothing is.
    """
    found = [score for score in entry.scores if score.task == task]
    if not found:
        known = ", ".join(dict.fromkeys(score.task for score in entry.scores)) or "of none"
        raise UserError(f"{entry.name}: no published score on {task} is registered ({known}); give another --task")
    return found


def refuse_without_head(entry: Entry, key: str) -> None:
    """Raises UserError where an entry's own weights cannot do a task, with the commands by which some can."""
    if entry.head_of != key:
        raise UserError(
            f"{entry.name}: has no head of {key}; its published scores are of models fine-tuned from it. Fetch it "
            f"(volta-switch weights fetch {entry.name}), fine-tune (train_task.py --from_pretrained FOLDER --task "
            f"{key}), then compare the run (volta-switch weights verify {entry.name} --task {key} --from RUN)"
        )


def interval(spread: Spread) -> tuple[float, float]:
    """Returns the lowest and the highest score that count as within a spread, in points."""
    if spread.low is not None and spread.high is not None:
        return spread.low, spread.high
    from scipy.special import stdtrit  # here, not above: most spreads are ranges

    assert spread.mean is not None and spread.deviation is not None and spread.seeds is not None
    t = float(stdtrit(spread.seeds - 1, 0.5 + CONFIDENCE / 2))
    half = t * spread.deviation * math.sqrt(1 + 1 / spread.seeds)
    return spread.mean - half, spread.mean + half


def verdict(published: Published, measured: float, split: str) -> str:
    """Returns whether a measured score lies "within" or "outside" the published spread, or why neither is said."""
    if published.split is not None and split not in published.same_as:
        return f"not compared: published on another split ({published.split})"
    if published.spread is None:
        return "neither: no spread over seeds is published"
    low, high = interval(published.spread)
    return "within" if low - _UNIT <= measured <= high + _UNIT else "outside"


def comparison_text(
    entry: Entry, scores: Sequence[Published], metrics: Mapping[str, float], evaluation: Mapping[str, Any], here: str
) -> str:
    """Returns measured beside published scores, for readers.

    Args:
        entry: whose scores they are.
        scores: of ``published_for``.
        metrics: that were measured, in points.
        evaluation: its identity, the ``of`` of ``<split>_metrics.json``.
        here: the weights that were evaluated.

    Raises:
        UserError: the evaluation has none of the metrics: the split has no answers here.
    """
    from tabulate import tabulate

    split = str(evaluation["split"])
    there = {score.metric: metrics.get(score.metric, math.nan) for score in scores}
    if not any(map(math.isfinite, there.values())):
        raise UserError(
            f"split {split}: no {', '.join(there)} was measured, for its answers are not here; the predictions are "
            "written, to be sent to the evaluation server; or give another --split"
        )
    rows = [
        (
            score.column or score.task,
            score.metric,
            f"{there[score.metric]:.2f}",
            f"{score.value:.2f}",
            f"{there[score.metric] - score.value:+.2f}",
            _spread_text(score.spread),
            score.split or NOT_STATED,
            verdict(score, there[score.metric], split) if math.isfinite(there[score.metric]) else "not measured",
        )
        for score in scores
    ]
    heads = ("published as", "metric", "measured", "published", "difference", "spread", "its split", "verdict")
    compat = "on" if evaluation["volta_compat"] else "off"
    about = [
        ("weights", here),
        ("published", f"{entry.name}, {entry.about}"),
        ("evaluated on", f"{evaluation['task']}, split {split}"),
        ("settings", f"volta_compat {compat}, precision {evaluation['precision']}, boxes {evaluation['boxes']}"),
        *(("source", f"{source} ({runs})") for source, runs in dict.fromkeys((s.source, s.runs) for s in scores)),
    ]
    lines = [tabulate(about, tablefmt="plain", disable_numparse=True), ""]
    lines += [tabulate(rows, headers=heads, tablefmt="plain", disable_numparse=True), "", DEFINITION]
    if entry.layout == VOLTA and not evaluation["volta_compat"]:
        lines.append("VOLTA's scores have its known errors in them: --volta-compat repeats them.")
    return "\n".join(lines)


def other_configuration(entry: Entry, registered: Mapping[str, Any], evaluated: Mapping[str, Any]) -> str:
    """Returns a line where the evaluated model is not of the registered configuration; "" where it is."""
    found = described(registered, evaluated)
    return f"note: another configuration than {entry.config}, which {entry.name} has: {found}" if found else ""


def _spread_text(spread: Spread | None) -> str:
    if spread is None:
        return NOT_STATED
    low, high = interval(spread)
    text = f"{low:.2f} to {high:.2f}"
    if spread.mean is None:
        return text
    return f"{text} ({spread.mean:.2f} ± {spread.deviation:.2f} over {spread.seeds} seeds)"
