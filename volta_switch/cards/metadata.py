"""The card's metadata, which the Hugging Face hub reads: the YAML block above its text.

The hub's specification (hub-docs, ``modelcard.md``) says what it verifies: ``license``, ``datasets`` and
``model-index``, where they are there. A licence is left out: a run does not know it. Names of data sets are in the form
of hub ids; the hub links those that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from volta_switch.cards.origin import hub_model
from volta_switch.task_names import metric_title, task_title

SYNTHETIC = "volta-switch-synthetic-world"
QUESTIONS = "visual-question-answering"  # the one of our tasks that the hub has a pipeline tag for


@dataclass(frozen=True)
class PublishedDataSet:
    """A data set, as cards name it."""

    title: str
    """For a reader."""
    id: str
    """In the form of a hub id."""
    task_type: str
    """As ``model-index`` has it: the hub's word, or one in its form."""


CAPTIONS = PublishedDataSet("Conceptual Captions", "conceptual_captions", "masked-vision-language-modeling")
DATA_SETS = {  # by the name that task files give it
    "VQA": PublishedDataSet("VQA", "vqa", QUESTIONS),
    "GQA": PublishedDataSet("GQA", "gqa", QUESTIONS),
    "NLVR2": PublishedDataSet("NLVR2", "nlvr2", "visual-reasoning"),
    "VisualEntailment": PublishedDataSet("SNLI-VE", "snli-ve", "visual-entailment"),
    "RetrievalFlickr30k": PublishedDataSet("Flickr30k", "flickr30k", "image-text-retrieval"),
    "RetrievalCOCO": PublishedDataSet("COCO", "coco", "image-text-retrieval"),
    "refcoco": PublishedDataSet("RefCOCO", "refcoco", "referring-expression-comprehension"),
    "refcoco+": PublishedDataSet("RefCOCO+", "refcoco-plus", "referring-expression-comprehension"),
    "refcocog": PublishedDataSet("RefCOCOg", "refcocog", "referring-expression-comprehension"),
}


def data_set_of(record: Mapping[str, Any]) -> PublishedDataSet | None:
    """Returns the data set that a model was trained on; None where its name, or how it was trained, is not known."""
    if record["kind"] in ("import", "python"):
        return None
    if "task" not in record:
        return CAPTIONS
    return DATA_SETS.get(str(record["task"].get("name")))


def data_title(record: Mapping[str, Any]) -> str:
    """Returns what a reader sees a run's training data called; "" where nothing is known of them."""
    synthetic = "synthetic_world" in record.get("data", {})
    if "task" not in record:
        return "captions (synthetic)" if synthetic else CAPTIONS.title
    return _title_of(str(record["task"].get("name", "")), synthetic)


def _title_of(name: str, synthetic: bool) -> str:
    """Returns what a reader sees a task's data set called."""
    known = DATA_SETS.get(name)
    return task_title(name, True) if synthetic else known.title if known else name


def metadata(record: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Returns the card's metadata as the hub's parser reads them.

    Args:
        record: what ``training.json`` holds.
        title: of the model.
    """
    synthetic = "synthetic_world" in record.get("data", {})
    known = data_set_of(record)
    tags = ["volta", record["model"]["architecture"], "vision-and-language"]
    tags += ["synthetic-data"] if synthetic else []
    base = hub_model(record.get("start", {}))
    found: dict[str, Any] = {"library_name": "volta-switch", "tags": list(dict.fromkeys(tags))}
    if known is not None and known.task_type == QUESTIONS:
        found["pipeline_tag"] = QUESTIONS
    if known is not None and not synthetic:
        found["datasets"] = [known.id]
    if base:
        found["base_model"] = base
    if tests := record.get("tests"):
        found["model-index"] = [{"name": title, "results": _results(tests)}]
    return found


def _results(tests: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns evaluations as ``model-index`` has them: those of one data set's split in one entry."""
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    for test in tests:
        entry = _result(test)
        first = entries.setdefault((entry["dataset"]["name"], entry["dataset"]["split"]), entry)
        if first is not entry:
            first["metrics"] += entry["metrics"]
    return list(entries.values())


def _result(test: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an evaluation as an entry of ``model-index``."""
    name = str(test["name"])
    known = DATA_SETS.get(name)
    synthetic = test["synthetic"]
    told = test_settings(test)
    metrics = [
        {
            "type": metric,
            "value": found["value"],
            "name": metric_title(metric, synthetic) + (f" ({told})" if told else ""),
        }
        for metric, found in test["metrics"].items()
    ]
    return {
        "task": {"type": known.task_type if known else "other", "name": task_title(name, synthetic)},
        "dataset": {
            "name": _title_of(name, synthetic),
            "type": SYNTHETIC if synthetic else known.id if known else "other",
            "split": test["split"],
        },
        "metrics": metrics,
    }


def test_settings(test: Mapping[str, Any]) -> str:
    """Returns what else must be known to read a test's metrics, in words; "" where all is as usual."""
    settings = test["settings"]
    parts = ["zero-shot"] if settings.get("zero_shot") else []
    parts += ["soft routes"] if settings.get("routing") == "soft" else []
    parts += [settings["precision"]] if settings.get("precision", "float32") != "float32" else []
    parts += ["with VOLTA's known errors"] if settings.get("volta_compat") else []
    parts += [f"{name}: {value}" for name, value in test.get("notes", {}).items()]
    parts += [f"{name} {now}, trained with {was}" for name, was, now in test.get("otherwise", [])]
    return ", ".join(parts)
