"""The task file of a world: VOLTA's numbers, names and heads, with the world's paths and sizes."""

from pathlib import Path

from volta_switch.world import paths
from volta_switch.world.questions import LABELS
from volta_switch.world.spec import MAX_OBJECTS, WorldSpec

# Of each data set: VOLTA's number of the task, its name, head, number of labels, loss, process, validation split.
TASKS = {
    "vqa": (1, "VQA", "VL-classifier", len(LABELS), "BCEWithLogitLoss", "normal", "val"),
    "coco": (7, "RetrievalCOCO", "VL-logit", 1, "CrossEntropyLoss", "retrieval", "val"),
    "retrieval": (8, "RetrievalFlickr30k", "VL-logit", 1, "CrossEntropyLoss", "retrieval", "val"),
    "refcoco": (9, "refcoco", "V-logit", 1, "BCEWithLogitLoss", "normal", "val"),
    "refer": (10, "refcoco+", "V-logit", 1, "BCEWithLogitLoss", "normal", "val"),
    "refcocog": (11, "refcocog", "V-logit", 1, "BCEWithLogitLoss", "normal", "val"),
    "nlvr2": (12, "NLVR2", "VL-binary-classifier", 2, "BCEWithLogitLoss", "nlvr", "dev"),
    "snli_ve": (13, "VisualEntailment", "VL-tri-classifier", 3, "BCEWithLogitLoss", "normal", "dev"),
    "gqa": (15, "GQA", "VL-classifier-GQA", len(LABELS), "BCEWithLogitLoss", "normal", "val"),
}


def task_file(spec: WorldSpec, lengths: dict[str, int]) -> dict[str, dict]:
    """Return the task file in VOLTA's format; texts are never cut, paths are relative to the world's folder."""
    return {
        f"TASK{fields[0]}": _task(spec, data_set, lengths[data_set])
        for data_set, fields in TASKS.items()
        if data_set in spec.data_sets
    }


def _task(spec: WorldSpec, data_set: str, length: int) -> dict:
    number, name, head, labels, loss, process, val_split = TASKS[data_set]
    return {
        "name": name,
        "type": head,
        "num_labels": labels,
        "loss": loss,
        "process": process,
        "task_id": number,
        **_paths(data_set),
        "max_seq_length": length,
        "max_region_num": spec.boxes or MAX_OBJECTS,
        "batch_size": 64,
        "eval_batch_size": 512,
        "train_split": "train",
        "val_split": val_split,
        "lr": 1e-4,
        "num_epoch": 20,
    }


def _paths(data_set: str) -> dict[str, str]:
    exact = train = val = None
    if data_set in paths.REFER:
        layout = paths.REFER[data_set]
        root, features, exact = layout.annotations, layout.features, layout.exact_features
    elif data_set in paths.RETRIEVAL:
        root, features = paths.RETRIEVAL[data_set], paths.RETRIEVAL_FEATURES[data_set]
        train, val = (root / "annotations" / f"{name}_ann.jsonl" for name in ("train", "valid"))
    else:
        root, features = _PLAIN[data_set]
    return {
        "dataroot": _posix(root),
        "features_h5path1": _posix(features),
        "features_h5path2": _posix(exact),
        "train_annotations_jsonpath": _posix(train),
        "val_annotations_jsonpath": _posix(val),
    }


def _posix(path: Path | None) -> str:
    return path.as_posix() if path else ""


_PLAIN = {
    "vqa": (paths.VQA, paths.VQA_FEATURES),
    "nlvr2": (paths.NLVR2, paths.NLVR2_FEATURES),
    "snli_ve": (paths.SNLI_VE, paths.RETRIEVAL_FEATURES["retrieval"]),
    "gqa": (paths.GQA, paths.GQA_FEATURES),
}
