"""Answers as JSON values and as text for a terminal.

| head | an answer's keys, beside ``id``, text and images |
|---|---|
| for answers | ``answer``, ``probability``, ``score``, ``answers``: the best with their probabilities |
| referring expressions | ``region``, ``box``, ``probability``, ``score``, ``regions``: the best |
| retrieval, matching | ``ranking``: the best first, each with text or image, place in the request, score, probability |

An answer to a text that the model does not read as a whole has ``remark``, too: which words are unknown to it, and how
many are cut off.

Probabilities of binary heads stand by themselves; those of retrieval are of the ranked ones among each other, and null
where there is one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from volta_switch.model.predictions import BOXES, Prediction, Question
from volta_switch.predict.requests import Request


def answer_values(request: Request, found: Sequence[Prediction], question: Question, best: int) -> dict[str, Any]:
    """Returns the answer to a request as JSON values; ``best``: how many alternatives are listed."""
    values: dict[str, Any] = {} if request.name is None else {"id": request.name}
    values |= {"text": request.texts[0]} if len(request.texts) == 1 else {"texts": list(request.texts)}
    values |= {"image": request.images[0]} if len(request.images) == 1 else {"images": list(request.images)}
    if question.compares:
        return values | {"ranking": _ranking(request, found)}
    (one,) = found
    if question.kind == BOXES:
        return values | _box_values(one, best)
    listed = [{"answer": answer, "probability": probability} for answer, probability in one.best(best)]
    return values | {"answer": one.label, "probability": one.probability, "score": one.score, "answers": listed}


def _box_values(found: Prediction, best: int) -> dict[str, Any]:
    assert found.probabilities is not None and found.box is not None
    places = np.argsort(-found.probabilities, kind="stable")[:best].tolist()
    listed = [{"region": place, "probability": float(found.probabilities[place])} for place in places]
    box = [round(edge, 2) for edge in found.box]
    own = {"region": found.region, "box": box, "probability": found.probability, "score": found.score}
    return own | {"regions": listed}


def _ranking(request: Request, found: Sequence[Prediction]) -> list[dict[str, Any]]:
    what, names = ("image", request.images) if len(request.images) > 1 else ("text", request.texts)
    order = sorted(range(len(found)), key=lambda place: -found[place].score)
    return [
        {what: names[place], "place": place, "score": found[place].score, "probability": found[place].probability}
        for place in order
    ]


def answer_text(values: dict[str, Any]) -> str:
    """Returns an answer, as ``answer_values`` gives it, for people."""
    head = [f"{values['text']}"] if "text" in values else []
    head += [f"image {values['image']}"] if "image" in values else []
    if "images" in values and "ranking" not in values:
        head.append(f"images {', '.join(values['images'])}")
    lines = ["  ".join([*([f"{values['id']}:"] if "id" in values else []), *head])]
    if "ranking" in values:
        for rank, each in enumerate(values["ranking"], 1):
            what = each["text"] if "text" in each else each["image"]
            lines.append(f"  {rank}. {_percent(each['probability'])}  score {each['score']:8.3f}  {what}")
    elif "box" in values:
        corners = ", ".join(f"{edge:g}" for edge in values["box"])
        lines.append(
            f"  region {values['region']}: {corners} (x1, y1, x2, y2 in pixels)  {_percent(values['probability'])}"
        )
        lines += [f"  {_percent(each['probability'])}  region {each['region']}" for each in values["regions"][1:]]
    else:
        lines += [f"  {_percent(each['probability'])}  {each['answer']}" for each in values["answers"]]
    lines += [f"  {values['remark']}"] if "remark" in values else []
    return "\n".join(lines)


def _percent(probability: float | None) -> str:
    return "   –   " if probability is None else f"{100 * probability:5.1f} %"
