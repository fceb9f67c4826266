"""What a command reads before it can begin: data, vocabulary, weights; and one message that says what is not there.

They are looked for in the order in which people would get them. Which files these are is asked of the modules that open
them later (``tasks``, ``data.files.pair_files``, ``hub``).
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import is_model_folder
from volta_switch.data.files.pair_files import CAPTIONS, Split, find_pairs
from volta_switch.errors import UserError
from volta_switch.files import require_file
from volta_switch.hub import NotCached, find_bert, find_vocabulary, is_weight_file
from volta_switch.hub_models import is_address, weights_of
from volta_switch.tasks import annotation_files, features_path
from volta_switch.tasks.dataset import Choice
from volta_switch.tasks.refer import other_splits
from volta_switch.tasks.retrieval import check_pools
from volta_switch.tasks.task_file import TaskSpec
from volta_switch.train.flag_values import (
    evaluated_spec,
    load_model_config,
    load_pretraining_config,
    load_task_spec,
    training_splits,
)

GUIDE = "https://github.com/e-bug/volta/tree/main/data"
_FILES = "https://sid.erda.dk/sharelink/"
_COCO, _FLICKR = "e4iGIc3xYv", "CrLpUMgIKh"


@dataclass(frozen=True)
class DataSet:
    """A data set: what people call it, the folders in which VOLTA keeps it, and the folder of its example scripts."""

    title: str
    shared: tuple[str, ...]
    examples: str

    @property
    def instructions(self) -> str:
        """How to get it, in words."""
        return f"get {self.title} as VOLTA's data guide says ({GUIDE}; its files: {', '.join(self.links)})"

    @property
    def links(self) -> list[str]:
        """The addresses of VOLTA's folders."""
        return [f"{_FILES}{name}" for name in self.shared]


CONCEPTUAL_CAPTIONS = DataSet("Conceptual Captions", ("hPGl0eTED3",), "concap")
DATA_SETS = {  # by the name that VOLTA's task files give the task
    "VQA": DataSet("VQAv2 and MS COCO's features", ("gzyTWulKAa", _COCO), "vqa"),
    "RetrievalCOCO": DataSet("MS COCO", (_COCO,), "coco"),
    "RetrievalFlickr30k": DataSet("Flickr30k", (_FLICKR,), "flickr30k"),
    "refcoco": DataSet("RefCOCO", ("GdBuBzki8m",), "refcoco"),
    "refcoco+": DataSet("RefCOCO+", ("eEqyrN1IVs",), "refcoco+"),
    "refcocog": DataSet("RefCOCOg", ("EPpqybot4p",), "refcocog"),
    "NLVR2": DataSet("NLVR2", ("fEZT4BVb9l",), "nlvr2"),
    "VisualEntailment": DataSet("SNLI-VE and Flickr30k's features", ("g23Gqj9cad", _FLICKR), "snli_ve"),
    "GQA": DataSet("GQA", ("erYmVzgpny",), "gqa"),
}


SPLITS: tuple[Split, Split] = ("train", "valid")
TRY = "--world tries the command on a small synthetic world, without any of this"


@dataclass(frozen=True)
class NeededFiles:
    """What one command reads.

    ``weights`` raises UserError where those to start from are not there; its argument says whether to ask the hub.
    """

    data: list[Choice]
    data_set: DataSet | None
    vocabulary: str  # a folder, a file or a hub name
    weights: Callable[[bool], object]


def require(needed: NeededFiles) -> None:
    """Looks for everything; where something is not there, nothing is fetched.

    Raises:
        UserError: names the first thing that is not there and where to get it, and in its details the others.
    """
    absent = []
    for choice in dict.fromkeys(needed.data):
        there = next(filter(os.path.exists, choice), None)
        if there is None:
            absent.append(choice[0])
        elif not there.is_dir():  # of a folder the reader says what it lacks
            require_file(there, "file", "check the path")
    lines = []
    if absent:
        get = needed.data_set.instructions if needed.data_set else f"get its data as VOLTA's guide says ({GUIDE})"
        others = [f"not there, either: {path}" for path in absent[1:]]
        lines = [f"{absent[0]}: no such file or folder{other_splits(absent[0])}; check the path, or {get}", *others]
    lines += _bert_that_is_missing(needed, after_data=bool(absent))
    if absent and len(lines) == 1:
        raise UserError(f"{lines[0]}; {TRY}")
    if lines:
        raise UserError(lines[0], [*lines[1:], *([TRY] if absent else [])])


def _bert_that_is_missing(needed: NeededFiles, after_data: bool) -> list[str]:
    """Returns what there is to say of the vocabulary and of the weights; nothing where both are there."""
    found: dict[str, UserError] = {}
    for what, look in (("the vocabulary", partial(find_vocabulary, needed.vocabulary)), ("weights", needed.weights)):
        try:
            look(not after_data and not found)
        except UserError as error:
            found[what] = error
    start = "a folder with model.safetensors (--from_pretrained FOLDER, or '')"
    if not after_data and isinstance(found.get("weights"), NotCached):  # the hub was asked for the vocabulary in vain
        return [f"{found['the vocabulary']}; weights to start from are wanted, too: {start}"]
    if not after_data:
        return [str(error) for error in found.values()]
    models = [error.name for error in found.values() if isinstance(error, NotCached)]
    if len(models) == 2 and models[0] == models[1]:
        return [f"then BERT's vocabulary and weights: {found['weights']}; the vocabulary: --set bert_model=FOLDER"]
    return [f"then {what}: {error}" for what, error in found.items()]


def needed_by_pretraining(args: argparse.Namespace) -> NeededFiles:
    """Returns what ``train_concap.py`` reads."""
    config = load_pretraining_config(args)
    data: list[Choice] = [(Path(args.annotations_path) / CAPTIONS[split],) for split in SPLITS]
    data += [(path,) for split in SPLITS for path in find_pairs(args.features_path, split).needed()]
    start = _start(args, "give one that a run has written, a BERT by folder or hub name, or '' for random weights")
    return NeededFiles(data, CONCEPTUAL_CAPTIONS, config.bert_model, start)


def needed_by_finetuning(args: argparse.Namespace) -> NeededFiles:
    """Returns what ``train_task.py`` reads."""
    spec = load_task_spec(args)
    train, valid = training_splits(args, spec)
    annotations = [*annotation_files(spec, train, training=True), *annotation_files(spec, valid, training=False)]
    features = [
        (features_path(spec, train, args.train_features_lmdbpath, args.boxes),),
        (features_path(spec, valid, args.val_features_lmdbpath, args.boxes),),
    ]
    made = f"{_example(args, CONCEPTUAL_CAPTIONS)} pre-trains a model"
    start = _start(
        args, f"give one that a run has written ({made}), a BERT by folder or hub name, or '' for random weights"
    )
    return _of_task(args, spec, [*annotations, *features], start)


def needed_by_evaluation(args: argparse.Namespace) -> NeededFiles:
    """Returns what ``eval_task.py`` and ``eval_retrieval.py`` read."""
    spec, split = evaluated_spec(args)
    check_pools(spec, split)
    data = annotation_files(spec, split, training=False)
    data.append((features_path(spec, split, args.val_features_lmdbpath, args.boxes),))
    data_set = CONCEPTUAL_CAPTIONS if args.zero_shot else _data_set(spec)
    made = f" ({_example(args, data_set)} writes one)" if data_set else ""

    def weights(fetch: bool) -> None:
        if not args.from_pretrained:
            raise UserError("--from_pretrained: name the model to evaluate, for example a run's folder")
        source, advice = args.from_pretrained, f"give one that a run has written{made}"
        if is_address(source):
            if not is_model_folder(source):
                raise UserError(f"{source}: no model of this project; give one that was fine-tuned")
            weights_of(source, fetch)
            return
        if os.path.isdir(source):
            raise UserError(f"{source}: a folder without a model, whose {CONFIG} would say what it is; {advice}")
        require_file(Path(source), "weight file" if is_weight_file(source) else "model's folder", advice)

    return _of_task(args, spec, data, weights)


def _of_task(
    args: argparse.Namespace, spec: TaskSpec, data: Iterable[Choice], weights: Callable[[bool], object]
) -> NeededFiles:
    config = load_model_config(args, spec.fusion_method)
    return NeededFiles(list(data), _data_set(spec), config.bert_model, weights)


def _data_set(spec: TaskSpec) -> DataSet | None:
    return DATA_SETS.get(spec.name)


def _start(args: argparse.Namespace, advice: str) -> Callable[[bool], object]:
    """Returns a function that looks for what training starts from."""
    source = args.from_pretrained

    def look(fetch: bool) -> None:
        if not source:
            return
        if is_weight_file(source):
            require_file(Path(source), "weight file", advice)
            return
        try:
            find_bert(source, fetch=False)
        except NotCached:
            find_bert(source, fetch)
        except UserError:
            if os.path.lexists(source):
                raise
            raise UserError(f"{source}: no such model's folder; {advice}") from None

    return look


def _example(args: argparse.Namespace, data_set: DataSet) -> str:
    """Returns the command that makes weights."""
    model = "" if args.config_file.removesuffix(".json") == "switchbert" else f"MODEL={args.config_file} "
    return f"{model}bash examples/{data_set.examples}/train.sh{' --world' if args.world else ''}"
