"""Tests on a model's card: an evaluation of the weights that ``training.json`` is about, beside which they lie."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.cards.origin import in_hub_cache, weights_digest
from volta_switch.cards.record import Record, add_test, change_record
from volta_switch.checksums import Changed, json_digest
from volta_switch.config.model_folder import TRAINING, weights_in
from volta_switch.errors import UserError
from volta_switch.hub_models import is_address
from volta_switch.tasks import Evaluation, task_class
from volta_switch.tasks.graded_items import NoItems, find_grader, interval_over_items, read_items
from volta_switch.tasks.task import FinishedTest
from volta_switch.train.run_data import world_of

if TYPE_CHECKING:
    from volta_switch.train.evaluation import EvaluationRun

CONFIDENCE = 0.95
_SETTINGS = ("zero_shot", "routing", "precision", "boxes", "volta_compat", "pool_images")  # of an evaluation's identity


def digest_beside_card(source: str) -> str:
    """Returns the sha256 of a file of weights that is to be read; "" where no card here could be about it.

    Raises:
        UserError: the file cannot be read.
    """
    weights = Path(source)
    if (
        is_address(source)
        or any(in_hub_cache(weights))
        or not (weights.parent / TRAINING).is_file()
        or not weights.is_file()
    ):
        return ""
    if weights_in(weights.parent).name != weights.name:  # an epoch's
        return ""
    try:
        return weights_digest(weights)
    except OSError as error:
        raise UserError(f"{weights}: cannot be read ({error.strerror}); check its permissions") from None


def add_to_card(run: EvaluationRun, result: Evaluation) -> None:
    """Writes an evaluation's metrics into the record and the card of the model that it evaluated.

    Of other weights than the record is about nothing is written; one line says so.
    """
    if not run.weights_sha256 or not (metrics := _metrics(run, result)):
        return
    folder = Path(run.weights).parent

    def change(record: Record) -> Record | None:
        if record["weights"].get("sha256") != run.weights_sha256:
            print(
                f"{folder / TRAINING}: is about other weights than were evaluated, and is left as it is",
                file=sys.stderr,
            )
            return None
        return add_test(record, _test(run, result, metrics))

    change_record(folder, change)


def _test(run: EvaluationRun, result: Evaluation, metrics: dict[str, dict[str, Any]]) -> Record:
    spec, identity = run.task.spec, run.identity
    return {
        "identity": json_digest(identity)[:16],
        "task": spec.key,
        "name": spec.name,
        "split": run.split,
        "synthetic": world_of(spec.path(spec.dataroot)) is not None,
        "settings": {name: identity[name] for name in _SETTINGS if name in identity},
        "otherwise": [list(each) for each in run.other_settings],
        "data": identity["data"],
        "notes": dict(result.notes),
        "metrics": metrics,
    }


def _metrics(run: EvaluationRun, result: Evaluation) -> dict[str, dict[str, Any]]:
    """Returns the finite metrics, those of the task's headline with intervals over items where these are known."""
    found: dict[str, dict[str, Any]] = {
        name: {"value": value} for name, value in result.metrics.items() if math.isfinite(value) and name != "loss"
    }
    test = FinishedTest(run.task.spec, run.split, run.folder)
    headline = [name for name in task_class(run.task.spec).headline if name in found]
    if not headline:
        return found
    try:
        grader = find_grader(test)
    except (NoItems, Changed):
        return found
    for name in headline:
        try:
            items = read_items(test, name, grader)
            low, high, count = interval_over_items(items, found[name]["value"], CONFIDENCE)
        except (NoItems, Changed):  # "one seed, no interval", as the card says; the reason may name places
            continue
        found[name] |= {"low": low, "high": high, "confidence": CONFIDENCE, "items": count}
    return found
