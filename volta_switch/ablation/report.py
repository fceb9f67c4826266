"""The table and the JSON of an ablation: mean losses, and what they are more than with nothing masked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from volta_switch.ablation.measurement import PhraseLosses
from volta_switch.ablation.settings import LANGUAGE, MASKED, NONE, TITLES, VISION
from volta_switch.data.entities import EntityPhrase
from volta_switch.statistics import Estimate, by_group, estimate_mean, without_nan

NOTE = (
    "Losses are means over phrases, in nats. Intervals (95 %) are about new images: Student's t over images, those of "
    "one image taken together. A modality helps where its absence makes the loss larger."
)


@dataclass(frozen=True)
class LossRow:
    """A loss with something masked.

    Attributes:
        direction, masking, loss: which.
        phrases, left_out: how many are in the mean, and how many could not be measured.
        mean: over phrases; replicated are images.
        more: the same less that with nothing masked; None of that itself, and where it was not measured.
    """

    direction: str
    masking: str
    loss: str
    phrases: int
    left_out: int
    mean: Estimate
    more: Estimate | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the row as JSON values."""
        own = {"direction": self.direction, "masking": self.masking, "loss": self.loss}
        counts = {"phrases": self.phrases, "left_out": self.left_out, "images": self.mean.seeds}
        more = None if self.more is None else _values(self.more)
        return {**own, **counts, **_values(self.mean), "more_than_unmasked": more}


def loss_rows(phrases: Sequence[EntityPhrase], losses: Mapping[str, PhraseLosses]) -> list[LossRow]:
    """Returns a row for each direction, loss and masking."""
    return [row for direction, found in losses.items() for row in _rows(direction, phrases, found)]


def _rows(direction: str, phrases: Sequence[EntityPhrase], found: PhraseLosses) -> Iterator[LossRow]:
    images = [phrases[place].image_id for place in found.places]
    whole = found.values.get(NONE, {})
    for loss in next(iter(found.values.values())):
        for masking, values in found.values.items():
            more = None
            if masking != NONE and whole:
                more = over_images(values[loss] - whole[loss], images)
            mean = over_images(values[loss], images)
            yield LossRow(direction, masking, loss, len(images), found.left_out, mean, more)


def over_images(values: np.ndarray, images: Sequence[str]) -> Estimate:
    """Returns the mean over phrases (n,) of some images, with the spread over images; both in nats."""
    return estimate_mean(by_group(values[None], images)[0], unit="image")


def table_text(rows: Sequence[LossRow]) -> str:
    """Returns the table as Markdown, with how to read it."""
    from tabulate import tabulate

    headings = ("predicted", "masked beside it", "loss", "interval", "more than unmasked", "interval", "phrases")
    lines = [
        (
            TITLES[row.loss],
            MASKED[row.direction, row.masking],
            f"{row.mean.value:.3f}",
            _interval(row.mean, ".3f"),
            "–" if row.more is None else f"{row.more.value:+.3f}",
            "–" if row.more is None else _interval(row.more, "+.3f"),
            row.phrases,
        )
        for row in rows
    ]
    left_out = {
        VISION: "phrases lie behind the cut of their captions (max_seq_length)",
        LANGUAGE: "phrases name what no region shows (--overlap_threshold)",
    }
    counts = {row.direction: row.left_out for row in rows if row.left_out}
    notes = [f"Left out of {direction}: {count} {left_out[direction]}." for direction, count in counts.items()]
    return "\n".join([tabulate(lines, headings, "github", disable_numparse=True), "", NOTE, *notes])


def per_phrase(phrases: Sequence[EntityPhrase], losses: Mapping[str, PhraseLosses]) -> dict[str, Any]:
    """Returns every phrase and its losses as JSON values; None where a phrase could not be measured."""
    found: dict[str, Any] = {
        "image": [phrase.image_id for phrase in phrases],
        "sentence": [phrase.sentence for phrase in phrases],
        "first_word": [phrase.phrase.first for phrase in phrases],
        "entity": [phrase.phrase.entity for phrase in phrases],
        "kinds": [list(phrase.phrase.kinds) for phrase in phrases],
        "text": [phrase.text for phrase in phrases],
    }
    for direction, of_direction in losses.items():
        found[direction] = {}
        for masking, values in of_direction.values.items():
            for loss, known in values.items():
                column: list[float | None] = [None] * len(phrases)
                for place, value in zip(of_direction.places.tolist(), known.tolist(), strict=True):
                    column[place] = round(value, 6)
                found[direction].setdefault(masking, {})[loss] = column
    return found


def _interval(estimate: Estimate, form: str) -> str:
    low, high = estimate.interval()
    return "–" if estimate.problem else f"{low:{form}} to {high:{form}}"


def _values(estimate: Estimate) -> dict[str, Any]:
    low, high = estimate.interval()
    return without_nan({"value": estimate.value, "low": low, "high": high})
