"""How often explanations name what a synthetic world knows to be right: rates with intervals, beside chance.

| measure | a hit |
|---|---|
| deciding attribute | of the attributes that a text says, the highest is one without which it denotes something else |
| anchor that decides | of the regions that are not the answer, the highest is the anchor of the expression's relation |
| other anchors | the same of anchors that need not be read, such as that of a direction (``world_truth``) |
| regions of the truth | of all regions, the highest is one that a question's phrases denote |

Chance is the share of right ones among those that are ranked, text by text. Only texts count that all models answer
rightly, and of which some ranked parts are right and some are not. Intervals are Student's over images; with several
models, which are seeds of one training, for new seeds and new images together (``statistics.estimate_mean``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.feature_files import open_features
from volta_switch.errors import UserError
from volta_switch.explain.explanation import METHODS, Explanation, explain
from volta_switch.explain.world_truth import TrueText, data_set_of, features_of, region_of_each_object, true_texts
from volta_switch.model.bert import BertForVLPreTraining, BertForVLTasks
from volta_switch.statistics import by_group, estimate_mean
from volta_switch.world.build import world_spec

WORDS, ANCHOR, OTHERS, TRUTH = "deciding attribute", "anchor that decides", "other anchors", "regions of the truth"
CHANCE = "chance"
FEWEST = 10  # images, below which there is no interval
Model = BertForVLTasks | BertForVLPreTraining


@dataclass
class Hits:
    """Hits of one measure: per method (models, texts), and each text's image."""

    by_method: dict[str, list[list[float]]] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)

    def add(self, image: str, hits: dict[str, list[float]]) -> None:
        """Adds a text: of each method the models' hits."""
        self.images.append(image)
        for method, of_models in hits.items():
            self.by_method.setdefault(method, []).append(of_models)


def evaluate(
    models: Sequence[Model],
    world: Path,
    samples: int,
    task: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Explains texts of a world's test split with one or several models.

    Args:
        models: with the same head; several are seeds of one training.
        world: a synthetic world's folder.
        samples: texts of the test split, its first ones.
        task: which head, of models that have several.
        say: is told how far it is.

    Returns:
        JSON values: of each measure texts and images, and of each method a rate in percent with its interval and its
        difference to chance.

    Raises:
        UserError: the models or the world do not fit, or no text counts.
    """
    key = _task_of(models, task)
    name = data_set_of(key)
    spec = world_spec(world)
    if name not in spec.data_sets:
        raise UserError(f"{world}: has no {name}, which {key} asks about; write a world with it (--data-sets)")
    store = open_features(features_of(world, name), models[0].config.v_feature_size)
    hits: dict[str, Hits] = {}
    asked = right = 0
    for text in islice(true_texts(spec, name), samples):
        regions = store[text.image]
        found = [explain(model, text.text, regions, task) for model in models]
        asked += 1
        objects = region_of_each_object(text.scene, regions)
        if not all(_is_right(each, text, objects) for each in found):
            continue
        right += 1
        for measure, ranked, true in _ranked(text, objects, found[0]):
            if 0 < len(true) < len(ranked):
                hits.setdefault(measure, Hits()).add(text.image, _hits(found, measure, ranked, true))
        if asked % 100 == 0:
            say(f"{asked} texts explained, {right} of them answered rightly")
    if not hits:
        raise UserError(
            f"{world}: of {asked} texts the models answer {right} rightly, and none counts; train them longer"
        )
    measures = {measure: _rates(hits[measure], len(models)) for measure in sorted(hits)}
    return {"task": key, "models": len(models), "texts": asked, "right": right, "measures": measures}


def _task_of(models: Sequence[Model], task: str) -> str:
    keys = set()
    for model in models:
        if not isinstance(model, BertForVLTasks):
            raise UserError("--evaluate: needs fine-tuned models; a pre-trained one has no task")
        model.question(task)  # refuses an unknown head
        keys.add(task or next(iter(model.tasks)))
    if len(keys) > 1:
        raise UserError(f"--evaluate: models of different tasks ({', '.join(sorted(keys))}); give those of one")
    return keys.pop()


def _is_right(found: Explanation, text: TrueText, objects: list[int]) -> bool:
    prediction = found.subject.prediction
    if text.target is None:
        return prediction.label == text.answer
    return objects[text.target] >= 0 and prediction.region == objects[text.target]


def _ranked(text: TrueText, objects: list[int], found: Explanation) -> Iterator[tuple[str, list[int], set[int]]]:
    """Yields each measure that a text is of, the parts that are ranked, and which of them are right."""
    if len(found.subject.words) == len(text.words):  # texts may be cut
        attributes = [number for number, word in enumerate(text.words) if word.is_attribute]
        yield WORDS, attributes, {number for number in attributes if text.words[number].decides}
    own = objects[text.target] if text.target is not None else -1
    regions = [number for number in range(len(found.subject.places)) if number != own]
    true = {objects[index] for index in text.objects} - {-1, own}
    if text.target is None:
        yield TRUTH, regions, true
    else:
        yield ANCHOR if text.anchor_decides else OTHERS, regions, true


def _hits(found: Sequence[Explanation], measure: str, ranked: list[int], true: set[int]) -> dict[str, list[float]]:
    hits = {}
    for method in METHODS:
        values = [each.of_words(method) if measure == WORDS else each.of_regions(method) for each in found]
        hits[method] = [float(ranked[int(np.argmax(of_model[ranked]))] in true) for of_model in values]
    return {**hits, CHANCE: [len(true) / len(ranked)] * len(found)}


def _rates(hits: Hits, models: int) -> dict[str, Any]:
    images = len(set(hits.images))
    chance = np.array(hits.by_method[CHANCE]).T  # (models, texts)
    methods = {}
    for method, values in hits.by_method.items():
        of_models = np.array(values).T
        rate = {"rate": 100 * float(of_models.mean()), "interval": _within(_interval(of_models, hits.images))}
        if method != CHANCE:
            above = of_models - chance
            rate |= {"above chance": 100 * float(above.mean()), "above interval": _interval(above, hits.images)}
        methods[method] = rate
    return {"texts": len(hits.images), "images": images, "methods": methods}


def _interval(values: np.ndarray, images: Sequence[str]) -> list[float] | None:
    """Returns the 95 % interval of the mean of values (models, texts), in percent; None where there is none."""
    grouped = 100 * by_group(values, images)  # (models, images)
    if grouped.shape[1] < FEWEST:
        return None
    found = estimate_mean(grouped) if len(grouped) > 1 else estimate_mean(grouped[0], "image")
    low, high = found.interval()
    return None if np.isnan(low) else [low, high]


def _within(interval: list[float] | None) -> list[float] | None:
    """Returns the part of an interval in which rates can be."""
    return None if interval is None else [max(interval[0], 0.0), min(interval[1], 100.0)]


def rates_text(found: dict[str, Any]) -> str:
    """Returns the rates as a table for a terminal."""
    over = "images" if found["models"] == 1 else f"{found['models']} seeds and images"
    lines = [
        f"{found['task']}: {found['right']} of {found['texts']} texts are answered rightly by "
        f"{'the model' if found['models'] == 1 else 'all models'}; rates in %, 95 % intervals over {over}",
        f"{'measure':22}{'texts':>6}  {'by':12}{'rate':>6}  {'interval':16}{'above chance':>12}  interval",
    ]
    for measure, values in found["measures"].items():
        for method, rate in values["methods"].items():
            above = f"{rate['above chance']:+12.1f}  {_range(rate['above interval'])}" if "above chance" in rate else ""
            shown = f"{method:12}{rate['rate']:6.1f}  {_range(rate['interval']):16}{above}"
            lines.append(f"{measure:22}{values['texts']:6}  {shown}".rstrip())
    return "\n".join(lines)


def _range(interval: list[float] | None) -> str:
    return "–" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"
