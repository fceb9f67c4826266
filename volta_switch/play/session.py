"""A model that is asked by the page: its answer, the boxes and the routes, as JSON values.

| key of a request | value |
|---|---|
| ``pictures`` | keys of an album: one, or NLVR2's two |
| ``texts`` | one text; of a model that compares, the captions that are ranked |
| ``forced`` | choices that are forced: objects with ``row``, ``layer``, ``block``, ``option`` |

A forced choice changes one layer of one row. Others keep what the model chose, as in ``routes.measurements``.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from volta_switch.errors import UserError
from volta_switch.explain.routes import Place, Route
from volta_switch.explain.subject import Subject
from volta_switch.model.predictions import Prediction, Scorer, compared, predict
from volta_switch.play.album import Album
from volta_switch.predict.answers import answer_values
from volta_switch.predict.requests import Request
from volta_switch.ranges import shown
from volta_switch.routes.record import MEANINGS

BEST = 5  # answers that are listed
MOST_TEXTS, MOST_LETTERS = 20, 1000  # of a request
_KEYS = ("pictures", "texts", "forced")


class Session:
    """Answers, one at a time.

    Args:
        album: the pictures, and the model that is asked.
    """

    def __init__(self, album: Album) -> None:
        self.album, self._predictor = album, album.predictor
        self._lock = threading.Lock()

    def facts(self) -> dict[str, Any]:
        """Returns what the page must know: what is asked, and what is at hand."""
        question = self._predictor.question
        return {
            "kind": question.kind,
            "pictures": question.images,
            "compares": question.compares,
            "drops": self._predictor.sources.has_detector,
            "own_pictures": self._predictor.sources.own_pictures,
            "offers": [vars(offer) for offer in self.album.offers],
        }

    def thumbnail(self, key: str) -> dict[str, str]:
        """Returns a picture's small address, without looking for its regions."""
        return {"address": self.album.thumbnail(key)}

    def picture(self, key: str) -> dict[str, Any]:
        """Returns what the page shows of a picture: its address, size, boxes and names of regions."""
        found = self.album[key]
        regions = found.regions.first(self._predictor.question.most_regions)
        return {
            "key": key,
            "address": found.shown.address,
            "about": found.shown.about,
            "width": int(regions.image_w),
            "height": int(regions.image_h),
            "boxes": [[round(float(edge), 2) for edge in box] for box in regions.boxes],
            "names": list(found.shown.names[: len(regions)]),
        }

    def ask(self, request: Any) -> dict[str, Any]:
        """Returns the answer to a request.

        Returns:
            ``own``: what the model answers; ``forced``: what it answers with the forced choices, or None;
            ``routes``: of each text, each switcher's options; [] without switchers; ``remarks``: what of the texts is
            not read; ``why``: the command that explains the answer.

        Raises:
            UserError: the request is none, or cannot be answered.
        """
        keys, texts, forced = _read(request)
        self._check(keys, texts)
        images = tuple(self.album[key].regions for key in keys)
        with self._lock:
            model, task = self._predictor.model, self._predictor.task
            routes = [Route.chosen(Subject.of(model, text, images, task)) for text in texts]
            own = self._answer(keys, texts, images, [None] * len(texts))
            changed = [route and route.changed(forced) for route in routes]
            if forced and not all(changed):
                raise UserError("this architecture switches nothing, so that no choice can be forced")
            other = self._answer(keys, texts, images, changed) if forced else None
        return {
            "own": own,
            "forced": other,
            "routes": [[] if each is None else _route_values(each) for each in routes],
            "remarks": self._predictor.remarks(texts),
            "why": self.album.explaining(keys, own["ranking"][0]["text"] if "ranking" in own else texts[0]),
        }

    def _check(self, keys: Sequence[str], texts: Sequence[str]) -> None:
        question = self._predictor.question
        if len(keys) != question.images:
            raise UserError(f"{len(keys)} pictures; this model is asked about {question.images}")
        if len(texts) > 1 and not question.compares:
            raise UserError(f"{len(texts)} texts; this model is asked one at a time")

    def _answer(
        self, keys: Sequence[str], texts: Sequence[str], images: tuple, routes: Sequence[Route | None]
    ) -> dict[str, Any]:
        """Returns the answers to texts, each with its forced route."""
        model, question = self._predictor.model, self._predictor.question
        scorer = model.scorer(self._predictor.task)
        found: list[Prediction] = []
        for text, route in zip(texts, routes, strict=True):
            asked = [images if len(images) > 1 else images[0]]
            found += predict(model, partial(_forced_scores, scorer, route), question, [text], asked, 1)
        values = answer_values(Request(tuple(texts), tuple(keys)), compared(found, question), question, BEST)
        if found[0].box is not None and found[0].probabilities is not None:
            values["probabilities"] = [float(each) for each in found[0].probabilities]
        return values


def _forced_scores(scorer: Scorer, route: Route | None, given: dict[str, Any]) -> Tensor:
    return scorer(given if route is None else {**given, **route.weights})


def _route_values(route: Route) -> list[dict[str, Any]]:
    """Returns each switcher's options, and which one is taken."""
    found = []
    for place in route.places:
        row, layer, block = place
        chances = route.probabilities[block, layer][row]
        options = [
            {
                "name": name,
                "meaning": MEANINGS[name],
                "probability": float(chance),
                "chosen": number == route.option(place),
            }
            for number, (name, chance) in enumerate(zip(route.names(block), chances, strict=True))
        ]
        found.append({"row": row, "layer": layer, "block": block, "options": options})
    return found


def _read(request: Any) -> tuple[list[str], list[str], list[tuple[Place, str]]]:
    """Returns pictures, texts and forced choices (switcher, option) of a request; raises UserError where it is none."""
    if not isinstance(request, Mapping) or set(request) - set(_KEYS):
        raise UserError(f"a request is a JSON object with {', '.join(_KEYS)}")
    keys, texts, forced = (request.get(name, []) for name in _KEYS)
    for name, values in (("pictures", keys), ("texts", texts)):
        if not (isinstance(values, list) and values and all(isinstance(each, str) for each in values)):
            raise UserError(f"{name}: expected a list of texts")
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise UserError("type a text")
    if len(texts) > MOST_TEXTS or max(map(len, texts)) > MOST_LETTERS:
        raise UserError(f"at most {MOST_TEXTS} texts of {MOST_LETTERS} letters are asked at once")
    if not isinstance(forced, list):
        raise UserError("forced: expected a list of choices")
    return keys, texts, [_forced(each) for each in forced]


def _forced(choice: Any) -> tuple[Place, str]:
    kinds = {"row": int, "block": str, "layer": int, "option": str}
    if not isinstance(choice, Mapping) or not all(type(choice.get(key)) is kind for key, kind in kinds.items()):
        raise UserError(f"forced: {shown(choice)} is no choice; expected an object with {', '.join(kinds)}")
    return (choice["row"], choice["layer"], choice["block"]), choice["option"]
