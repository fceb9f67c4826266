"""The files that a task reads, by its type: the task opens them, and a command that lacks one says so first.

Nothing here opens a file or imports what takes time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from volta_switch.checksums import refuse_gone
from volta_switch.data.annotations import file_names
from volta_switch.data.annotations.file_names import Choice, chosen
from volta_switch.errors import UserError
from volta_switch.tasks.task_file import TaskSpec


@dataclass(frozen=True)
class Inputs:
    """What tasks of one type read.

    ``annotations``: (entry, split) -> the files of a split's annotations. ``features_h5path2``: what the entry's second
    feature file is, "validation", "annotated boxes" or "" (not read). ``named``: whether the entry may name annotations
    beside its data root's.
    """

    annotations: Callable[[TaskSpec, str], list[Choice]]
    features_h5path2: str = ""
    named: bool = False


def inputs_of(spec: TaskSpec) -> Inputs:
    """What a task reads.

    Raises:
        UserError: this project has no data set for the entry's ``type``.
    """
    if spec.type not in INPUTS:
        raise UserError(f"{spec.key} ({spec.name}): no data set for type {spec.type}; there are {', '.join(INPUTS)}")
    return INPUTS[spec.type]


def annotation_files(spec: TaskSpec, split: str, training: bool) -> list[Choice]:
    """The annotation files of a split, and what training needs beside them.

    Raises:
        UserError: the data set has no such split, or the task file names no annotations for it, or some that the data
            set does not read.
    """
    for name in ("train_annotations_jsonpath", "val_annotations_jsonpath"):
        if getattr(spec, name) and not inputs_of(spec).named:
            raise UserError(f"{spec.key} ({spec.name}): {name} is not read, annotations lie in dataroot; leave it out")
    needed = inputs_of(spec).annotations(spec, split)
    if training and spec.type == "VL-logit":
        needed.append((file_names.hard_negatives(spec.path(spec.dataroot)),))
    return needed


def features_path(spec: TaskSpec, split: str, features: str = "", boxes: str = "detected") -> Path:
    """The image features of a split.

    Args:
        spec: the task.
        split: of its annotations.
        features: another file than the task file's.
        boxes: "detected", or "gt" for those of the annotated boxes (referring expressions).

    Raises:
        UserError: boxes that the task does not have, or that the task file names no features of.
    """
    second = inputs_of(spec).features_h5path2
    if spec.features_h5path2 and not second:
        raise UserError(f"{spec.key} ({spec.name}): features_h5path2 is not read; leave it out")
    if boxes != "detected" and second != "annotated boxes" and not features:
        raise UserError(f"{spec.key} ({spec.name}): --boxes {boxes} is for RefCOCO's tasks")
    if features:
        return spec.given_path(features)
    if second == "annotated boxes" and boxes == "gt":
        if not spec.features_h5path2:
            raise UserError(
                f"{spec.key} ({spec.name}): --boxes gt needs features of the annotated boxes; name the file in the "
                "task file's features_h5path2"
            )
        return spec.path(spec.features_h5path2)
    own = spec.features_h5path2 if second == "validation" and split == spec.val_split else ""
    return spec.path(own or spec.features_h5path1)


def read_files(spec: TaskSpec, split: str, training: bool, features: str, boxes: str) -> tuple[list[Path], Path]:
    """The annotation files of a split that are there, and its image features; arguments as above."""
    found = [chosen(choice) for choice in annotation_files(spec, split, training)]
    refuse_gone(path for path in found if not path.is_file())
    return [path for path in found if path.is_file()], features_path(spec, split, features, boxes)


def captions_path(spec: TaskSpec, split: str) -> Path:
    """Retrieval's captions: the task file's for training and validation, ``<split>_ann.jsonl`` beside it else.

    VOLTA calls the validation file ``valid_ann.jsonl``; COCO's ``test1k`` is a split of its own.
    """
    path = spec.given_annotations(split)
    if path is not None:
        return path
    beside = spec.val_annotations_jsonpath or spec.train_annotations_jsonpath
    if not beside:
        raise UserError(f"{spec.key} ({spec.name}): the task file names no annotations for {split!r}")
    return spec.path(beside).with_name(f"{'valid' if split == 'val' else split}_ann.jsonl")


def _root(spec: TaskSpec) -> Path:
    return spec.path(spec.dataroot)


INPUTS = {
    "VL-classifier": Inputs(lambda spec, split: file_names.vqa_files(_root(spec), split)),
    "VL-classifier-GQA": Inputs(lambda spec, split: file_names.gqa_files(_root(spec), split), "validation"),
    "VL-logit": Inputs(lambda spec, split: [(captions_path(spec, split),)], "validation", named=True),
    "V-logit": Inputs(lambda spec, split: file_names.refer_files(_root(spec), spec.name, split), "annotated boxes"),
    "VL-binary-classifier": Inputs(
        lambda spec, split: file_names.nlvr2_files(_root(spec), split, spec.given_annotations(split)),
        "validation",
        named=True,
    ),
    "VL-tri-classifier": Inputs(
        lambda spec, split: file_names.snli_ve_files(_root(spec), split, spec.given_annotations(split)),
        "validation",
        named=True,
    ),
}
