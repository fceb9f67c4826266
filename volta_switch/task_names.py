"""What a reader sees tasks and their columns called: on a synthetic world never as the real data sets are.

A synthetic world has VOLTA's task names (``refcoco+``), under which files and claims know its tasks. A score of it is
no score of RefCOCO+, and is not called so where people read it.
"""

from __future__ import annotations

METRICS = {
    **{"accuracy": "accuracy", "vqa_score": "score", "ir_r1": "image R@1", "tr_r1": "text R@1"},
    **{"itm": "matching loss", "mlm": "loss of words", "vision": "loss of regions"},
}
OTHER_METRICS = {"vqa_score": "VQA score", "accuracy_4way": "accuracy among four"}  # where a task's name is spelt out
SYNTHETIC = {  # VOLTA's name of a task -> what the stand-in of a synthetic world is
    "refcoco+": "referring expressions",
    "refcoco": "short referring expressions",
    "refcocog": "long referring expressions",
    "VQA": "questions",
    "GQA": "questions with one answer",
    "RetrievalFlickr30k": "retrieval",
    "RetrievalCOCO": "retrieval of the questions' images",
    "NLVR2": "statements on two images",
    "VisualEntailment": "entailment",
}


def task_title(task: str, synthetic: bool) -> str:
    """Returns ``refcoco+``, or ``referring expressions (synthetic)``."""
    return f"{SYNTHETIC.get(task, task)} (synthetic)" if synthetic else task


def metric_title(metric: str, synthetic: bool) -> str:
    """Returns ``score``, or ``VQA score`` where the task's name does not say it."""
    return (OTHER_METRICS if synthetic else {}).get(metric) or METRICS.get(metric, metric)


def column_title(task: str, metric: str, synthetic: bool) -> str:
    """Returns ``refcoco+ accuracy``, or ``referring expressions (synthetic), accuracy``."""
    return f"{task_title(task, synthetic)}{',' if synthetic else ''} {metric_title(metric, synthetic)}"
