"""``explain``'s page: one HTML file that needs no network, with all numbers in tables and what is shaded on a picture.

Texts are escaped (jinja2's autoescape). The page allows no script but its own (Content-Security-Policy), and is read
without it: the script changes what is shaded, and shows a word's regions and a region's words.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from volta_switch.explain.explanation import Explanation, region_values, word_values
from volta_switch.explain.occlusion import is_answer
from volta_switch.explain.pictures import Shown
from volta_switch.explain.route_choices import Choice, route_in_words
from volta_switch.explain.subject import Subject
from volta_switch.model.predictions import BOXES, MATCHING, PAIRS
from volta_switch.routes.record import MEANINGS

HERE = Path(__file__).parent
DIGITS = 6  # of values in the page's data, which its script rounds as the tables are
TITLES = {
    "occlusion": "Worth, measured by leaving out",
    "attention": "Attention, rolled out over all layers",
    "gradient": "Gradient × input",
}
_SIGNS = "Blue speaks for the answer, orange with a dashed frame against it"
_POINT = "Point at a word or a region for what belongs to it; a click keeps it, arrow keys move on."
ABOUT = {  # what is shown while nothing is pointed at
    "occlusion": f"{_SIGNS}. The numbers under the words are what each is worth. {_POINT}",
    "attention": f"The bluer, the more of a word or region reaches what the answer is read from. {_POINT}",
    "gradient": f"{_SIGNS}, by a first-order guess. {_POINT}",
}
Links = list[list[float | None]]


def page_of(explanation: Explanation, images: Sequence[Shown], model: str = "") -> str:
    """Returns the page.

    Args:
        explanation: what was measured.
        images: what is shown of each image.
        model: how the model is called.
    """
    subject = explanation.subject
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"signed": signed, "percent": percent}
    style, script = ((HERE / f"explain.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    measures = [
        {"name": name, "title": title, "about": ABOUT[name], **_measure(explanation, name)}
        for name, title in TITLES.items()
    ]
    heads = _heads(explanation)
    data = {"measures": [*measures, *(head for layer in heads for head in layer["heads"])]}
    return environment.get_template("explain.html.j2").render(
        model=model,
        text=subject.text,
        answer=_answer(explanation, images),
        remark=str(subject.unread),
        unknown=subject.unread.unknown,
        together=[[float(value) for value in row] for row in explanation.joint.T],
        meanings=_meanings(explanation),
        ranked=_ranked(explanation, images),
        score=explanation.regions.score,
        changes_answer=not subject.question.compares,
        images=_images(explanation, images),
        words=_words(explanation),
        regions=_regions(explanation, images),
        measures=measures,
        heads=heads,
        route=_route(explanation),
        route_in_words=[route_in_words(explanation.choices, row) for row in range(subject.rows)],
        data=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )


def signed(value: float | None) -> str:
    """Returns ``+1.23``, with a minus sign, or ``0.00`` without one; a dash where there is no value."""
    if value is None or np.isnan(value):
        return "–"
    return "0.00" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def percent(value: float | None) -> str:
    """Returns ``12.3 %``; a dash where there is no value."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _answer(explanation: Explanation, images: Sequence[Shown]) -> dict[str, Any]:
    """Returns the answer in words, its probability, and the region that it is."""
    subject, found = explanation.subject, explanation.subject.prediction
    words = {PAIRS: "how well they belong together", MATCHING: "text and image belong together"}
    label = words.get(subject.question.kind) or _named(subject, subject.answer, images)
    return {"label": label, "probability": found.probability, "region": found.region}


def _named(subject: Subject, answer: int, images: Sequence[Shown]) -> str:
    """Returns an answer in words; a region with what it shows, where that is known."""
    label = subject.label(answer)
    name = images[0].names[answer] if subject.question.kind == BOXES else ""
    return f"{label}, {name}" if name else label


def _ranked(explanation: Explanation, images: Sequence[Shown]) -> list[tuple[str, float]]:
    """Returns the best answers with their probabilities."""
    subject, found = explanation.subject, explanation.subject.prediction
    if subject.question.kind != BOXES or found.probabilities is None:
        return found.best()
    order = np.argsort(-found.probabilities, kind="stable")[:5].tolist()
    return [(_named(subject, place, images), float(found.probabilities[place])) for place in order]


def _images(explanation: Explanation, images: Sequence[Shown]) -> list[dict[str, Any]]:
    subject, found = explanation.subject, []
    for number, (regions, shown) in enumerate(zip(subject.images, images, strict=True)):
        parts: list[dict[str, Any]] = [
            {"index": index, "box": _box(regions.boxes[place.number])}
            for index, place in enumerate(subject.places)
            if place.image == number
        ]
        # the largest first, so that small regions lie above them and can be pointed at
        parts.sort(key=lambda part: -part["box"][2] * part["box"][3])
        size = float(regions.image_w), float(regions.image_h)
        found.append({"size": size, "address": shown.address, "about": shown.about, "regions": parts})
    return found


def _box(corners: np.ndarray) -> tuple[float, float, float, float]:
    """Returns x, y, width and height of a box."""
    x1, y1, x2, y2 = (round(float(edge), 1) for edge in corners)
    return x1, y1, max(x2 - x1, 1.0), max(y2 - y1, 1.0)


def _words(explanation: Explanation) -> list[dict[str, Any]]:
    subject, worth = explanation.subject, explanation.words
    by_method = {name: explanation.of_words(name) for name in TITLES}
    return [
        {
            "text": word.text,
            "becomes": _becomes(explanation, worth.becomes[number]),
            **{name: float(values[number]) for name, values in by_method.items()},
        }
        for number, word in enumerate(subject.words)
    ]


def _regions(explanation: Explanation, images: Sequence[Shown]) -> list[dict[str, Any]]:
    subject, worth = explanation.subject, explanation.regions
    by_method = {name: explanation.of_regions(name) for name in TITLES}
    several = len(images) > 1
    return [
        {
            "index": index,
            "label": f"{place.number}, image {place.image + 1}" if several else str(place.number),
            "short": f"{'ab'[place.image]}{place.number}" if several else str(place.number),
            "name": images[place.image].names[place.number],
            "is_answer": is_answer(subject, place),
            "becomes": _becomes(explanation, worth.becomes[index]),
            **{name: float(values[index]) for name, values in by_method.items()},
        }
        for index, place in enumerate(subject.places)
    ]


def _becomes(explanation: Explanation, answer: int) -> str:
    """Returns the answer that a missing part leads to; "" where it is the same."""
    if answer == explanation.subject.answer:
        return ""
    return "no answer" if answer < 0 else explanation.subject.label(answer)


def _measure(explanation: Explanation, name: str) -> dict[str, Any]:
    """Returns a measure's values of words and regions, and how they belong together.

    Occlusion and gradients are about the answer; beside them stands what words and regions are worth together.
    """
    subject = explanation.subject
    values = {"words": _rounded(explanation.of_words(name)), "regions": _rounded(explanation.of_regions(name))}
    if name == "attention":
        rolled, T = explanation.attention.rolled, explanation.attention.T
        to_regions = [region_values(subject, _mean_row(rolled[:, list(word.places), T:])) for word in subject.words]
        spots = [subject.row_and_slot(place) for place in subject.places]
        to_words = [word_values(subject, rolled[row : row + 1, T + slot, :T]) for row, slot in spots]
    else:
        to_regions = list(explanation.joint)
        to_words = list(explanation.joint.T)
    return {
        **values,
        "to_regions": [_rounded(row) for row in to_regions],
        "to_words": [_rounded(row) for row in to_words],
    }


def _mean_row(values: np.ndarray) -> np.ndarray:
    """Returns the mean over a word's pieces, (B, pieces, R) to (B, R)."""
    return np.asarray(values.mean(1))


def _rounded(values: Any) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]


def _heads(explanation: Explanation) -> list[dict[str, Any]]:
    """Returns, of each attention sublayer, its heads: what the answer's rows, words and regions attend to."""
    subject, attention = explanation.subject, explanation.attention
    T, spots = attention.T, [subject.row_and_slot(place) for place in subject.places]
    found = []
    for layer, (sublayer, answer) in enumerate(zip(attention.sublayers, attention.heads_to_answer(), strict=True), 1):
        heads = []
        for head in range(max(side.shape[1] for side in (sublayer.text, sublayer.vision) if side is not None)):
            of_answer = answer[head] if head < len(answer) else np.zeros_like(answer[0])  # (B, K)
            to_regions: Links = []
            to_words: Links = []
            if sublayer.text is not None and head < sublayer.text.shape[1]:
                weights = sublayer.text[:, head]  # (B, T, K)
                to_regions = [
                    _rounded(region_values(subject, _mean_row(weights[:, list(word.places), T:])))
                    for word in subject.words
                ]
            if sublayer.vision is not None and head < sublayer.vision.shape[1]:
                weights = sublayer.vision[:, head]  # (B, R, K)
                to_words = [_rounded(word_values(subject, weights[row : row + 1, slot, :T])) for row, slot in spots]
            on_regions = float(of_answer[:, T:].sum() / max(of_answer.sum(), 1e-12))
            heads.append(
                {
                    "name": f"{layer}.{head + 1}",
                    "title": f"Attention of layer {layer}, head {head + 1}",
                    "about": ABOUT["attention"],
                    "share": on_regions if of_answer.any() else None,
                    "words": _rounded(word_values(subject, of_answer[:, :T])),
                    "regions": _rounded(region_values(subject, of_answer[:, T:])),
                    "to_regions": to_regions,
                    "to_words": to_words,
                }
            )
        found.append({"layer": layer, "heads": heads})
    return found


def _route(explanation: Explanation) -> list[dict[str, Any]]:
    """Returns a row for each option of each switcher."""
    rows = []
    for choice in explanation.choices:
        for option in choice.options:
            rows.append(
                {
                    "first": option is choice.options[0],
                    "place": _place(choice, explanation.subject.rows),
                    "option": option.name,
                    "probability": option.probability,
                    "chosen": option.chosen,
                    "change": None if option.chosen else option.change,
                    "becomes": "" if option.chosen else _becomes(explanation, option.becomes),
                }
            )
    return rows


def _meanings(explanation: Explanation) -> dict[str, str]:
    """Returns each option of the switchers with what it means."""
    return {option.name: MEANINGS[option.name] for choice in explanation.choices for option in choice.options}


def _place(choice: Choice, rows: int) -> str:
    what = "mode" if choice.block == "modes" else "input"
    return f"layer {choice.layer + 1}, {what}" + (f", image {choice.row + 1}" if rows > 1 else "")
