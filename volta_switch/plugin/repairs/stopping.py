"""What stops VOLTA on any machine: its own errors."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.errors import UserError
from volta_switch.hub import hub_file
from volta_switch.plugin.replacements import SAFE_PICKLE
from volta_switch.plugin.script import CONCAP, RETRIEVAL, TASK, Script, stops

BOXES = 36  # of every Conceptual Captions record, in VOLTA's code


@stops("train_concap.py:347", scripts=(CONCAP,))
def validation_log(script: Script) -> None:
    """The first validation passes one argument too many to the logger; the epoch's checkpoint is lost."""
    logger = script.volta("train_utils").tbLogger

    @script.wrap(logger, "step_val_CC")
    def step_val_CC(original: Any, self: Any, *args: Any) -> None:
        original(self, *args[-7:])


@stops("volta/task_utils.py:326")
def task_format(script: Script) -> None:
    """KeyError 'format' with every task file of the controlled models."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDataset")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str, *rest: Any) -> Any:
        task_cfg[f"TASK{task_id}"].setdefault("format", "")
        return original(args, config, task_cfg, task_id, *rest)


@stops("volta/task_utils.py:469")
def evaluation_annotations(script: Script) -> None:
    """val_annotations_jsonpath is not defined: every evaluation crashes."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str) -> Any:
        path = args.val_annotations_jsonpath or task_cfg[f"TASK{task_id}"].get("val_annotations_jsonpath", "")
        script.patches.set(task_utils, "val_annotations_jsonpath", path)
        return original(args, config, task_cfg, task_id)


@stops("eval_retrieval.py:254", scripts=(RETRIEVAL,))
def retrieval_split(script: Script) -> None:
    """Without --split the results have no name: KeyError, the task's number for its key."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str) -> Any:
        args.split = args.split or task_cfg[f"TASK{task_id}"]["val_split"]
        return original(args, config, task_cfg, task_id)


@stops("eval_retrieval.py:259", scripts=(RETRIEVAL,))
def retrieval_images(script: Script) -> None:
    """args.num_images does not exist: text retrieval is never reported."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, *rest: Any) -> Any:
        loaded = original(args, *rest)
        args.num_images = loaded[2].num_images
        return loaded


@stops("volta/task_utils.py:454", scripts=(RETRIEVAL,))
def retrieval_batch(script: Script) -> None:
    """Retrieval is evaluated one caption at a time; a task file's eval_batch_size makes it crash."""
    task_utils = script.volta("task_utils")

    @script.wrap(task_utils, "LoadDatasetEval")
    def load_dataset(original: Any, args: Any, config: Any, task_cfg: Any, task_id: str) -> Any:
        task_cfg[f"TASK{task_id}"]["eval_batch_size"] = 1
        return original(args, config, task_cfg, task_id)


@stops("eval_retrieval.py:191", scripts=(RETRIEVAL,))
def zero_shot(script: Script) -> None:
    """--zero_shot expects five values of a model that gives six."""

    @script.wrap(script.volta("encoders").BertForVLPreTraining, "forward")
    def forward(original: Any, *args: Any, **options: Any) -> Any:
        words, regions, match, _answers, *rest = original(*args, **options)
        return (words, regions, match, *rest)


@stops("volta/train_utils.py:330")
def checkpoint_logger(script: Script) -> None:
    """torch refuses the pickled logger in VOLTA's checkpoints since 2.6. Its counts go on in this run's log."""
    train_utils = script.volta("train_utils")

    class Counts:
        """Takes what a checkpoint says of its logger, and opens no file that it names."""

        def __setstate__(self, state: dict[str, Any]) -> None:
            self.state = state

    @script.wrap(train_utils, "resume")
    def resume(original: Any, path: str, model: Any, optimizer: Any, scheduler: Any, tb_logger: Any) -> Any:
        with torch.serialization.safe_globals([(Counts, "volta.train_utils.tbLogger")]):
            *start, logger, score = original(path, model, optimizer, scheduler, tb_logger)
        if isinstance(logger, Counts) and tb_logger is not None:
            own = ("log_dir", "txt_dir", "save_logger")
            tb_logger.__dict__.update({name: value for name, value in logger.state.items() if name not in own})
        return (*start, tb_logger, score)


@stops("volta/train_utils.py:29")
def kept_log(script: Script) -> None:
    """A resumed run first empties its out.txt."""

    @script.wrap(script.volta("train_utils"), "open")
    def opened(original: Any, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        resumed = os.path.exists(getattr(script.args, "resume_file", ""))
        return original(file, "a" if resumed and mode == "w" else mode, *args, **options)


@stops("volta/utils.py:499")
def lxmert_model(script: Script) -> None:
    """ctrl_lxmert.json has no key model: no weights can be loaded."""
    script.patches.set(script.volta("config").BertConfig, "model", "bert")


@stops("volta/encoders.py:25")
def hub_weights(script: Script) -> None:
    """BERT's weights are asked for where they were in 2019; they are on the Hub, and in its cache where it was used."""
    addresses = {address: name for name, address in script.volta("encoders").BERT_PRETRAINED_MODEL_ARCHIVE_MAP.items()}

    @script.wrap(script.volta("utils"), "cached_path")
    def cached_path(original: Any, address: str, *args: Any, **options: Any) -> str:
        if address in addresses:
            with contextlib.suppress(Exception):  # of many kinds: then as before
                return str(hub_file(addresses[address], ["pytorch_model.bin"], fetch=True, advice=""))
        return original(address, *args, **options)


@stops("volta/utils.py:444")
def missing_weights(script: Script) -> None:
    """A wrong --from_pretrained gives None in place of a model."""
    pretrained = script.volta("utils").PreTrainedModel
    original = pretrained.from_pretrained.__func__

    def from_pretrained(cls: Any, name: str, *args: Any, **options: Any) -> Any:
        loaded = original(cls, name, *args, **options)
        if loaded is None:
            raise UserError(f"--from_pretrained {name}: no such file, nor a folder with pytorch_model.bin")
        return loaded

    script.patches.set(pretrained, "from_pretrained", classmethod(from_pretrained))


@stops("volta/datasets/nlvr2_dataset.py:157")
def nlvr2_cache(script: Script) -> None:
    """NLVR2's folder cache/ must exist already."""

    @script.wrap(script.volta("datasets.nlvr2_dataset").NLVR2Dataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        Path(options["dataroot"], "cache").mkdir(exist_ok=True)
        original(self, *args, **options)


@stops("volta/datasets/concept_cap_dataset.py:436")
def box_count(script: Script) -> None:
    """A Conceptual Captions record with fewer or more than 36 boxes is a ValueError."""
    concap = script.volta("datasets.concept_cap_dataset")

    @script.wrap(concap, "iou")
    def iou(original: Any, *boxes: Any) -> np.ndarray:
        overlaps = original(*boxes)
        return np.pad(overlaps, ((0, 0), (0, BOXES - overlaps.shape[1])))

    @script.wrap(concap.BertPreprocessBatch, "__call__")
    def preprocess(original: Any, self: Any, record: Sequence[Any]) -> Any:
        rows, count = [value[:BOXES] for value in record[:8]], min(int(record[8]), BOXES)
        *sample, image_id = original(self, [*rows, count, *record[9:]])
        for field in range(8, 12):  # classes, attributes and their confidences, (R,)
            sample[field] = np.pad(sample[field], (0, BOXES - len(sample[field])))
        return (*sample, image_id)


@stops("volta/datasets/_image_features_reader.py:75")
def image_index(script: Script) -> None:
    """An image without features is a ValueError without its name; every image is searched for in a list (0.6 ms)."""

    class Names(list):
        def __init__(self, names: Sequence[bytes], path: str) -> None:
            super().__init__(names)
            self._path, self._places = path, {name: place for place, name in enumerate(names)}

        def index(self, name: bytes, *_range: Any) -> int:  # type: ignore[override]
            """Where an image stands."""
            if name not in self._places:
                raise UserError(f"{self._path}: holds no features of image {name.decode()}, which the annotations name")
            return self._places[name]

    @script.wrap(script.volta("datasets._image_features_reader").ImageFeaturesH5Reader, "__init__")
    def init(original: Any, self: Any, features_path: str, *args: Any, **options: Any) -> None:
        original(self, features_path, *args, **options)
        self._image_ids = Names(self._image_ids, features_path)


@stops("volta/datasets/_image_features_reader.py:59")
def safe_pickles(script: Script) -> None:
    """Pickles of features, annotations and caches are loaded without restriction: a downloaded file may run code."""
    script.volta("task_utils")  # imports every module of data sets
    for name, module in list(sys.modules.items()):
        if name.startswith(("volta.datasets.", "tools.refer.refer")):
            for pickler in {"pickle", "cPickle"} & set(vars(module)):
                script.patches.set(module, pickler, SAFE_PICKLE)


@stops("volta/encoders.py:1142")
def feature_targets(script: Script) -> None:
    """Visual targets 1 and 5 compare the regions' predictions with the regions and the global one."""
    encoders = script.volta("encoders")
    place = None  # of the global region, among the features that the model is given

    @script.wrap(encoders.BertForVLPreTraining, "__init__")
    def init(original: Any, self: Any, config: Any, *args: Any) -> None:
        nonlocal place
        place = config.add_global_imgfeat
        original(self, config, *args)

    for target in ("1", "5"):
        criterion = encoders.pre_vis_criterions[target]

        def without_global(  # as VOLTA calls it
            scores: Tensor, weight: float, label: Tensor, classes: Any, features: Any, *rest: Any, of: Any = criterion
        ) -> Any:
            if features is not None and place is not None:
                features = features[:, 1:] if place == "first" else features[:, :-1]
            return of(scores, weight, label, classes, features, *rest)

        script.patches.set_item(encoders.pre_vis_criterions, target, without_global)


@stops("train_concap.py:133, train_task.py:176", "script", (CONCAP, TASK))
def config_name(script: Script) -> None:
    """The run's name is the second part of --config_file: an IndexError, or a folder's, unless that is config/X."""

    class ConfigPath(str):
        def split(self, *_at: Any, **_options: Any) -> list[str]:  # type: ignore[override]
            """What VOLTA takes the name from."""
            return ["config", Path(self).name]

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        args.config_file = ConfigPath(args.config_file)
        return args


@stops("train_concap.py:201", "script", (CONCAP,))
def weight_names(script: Script) -> None:
    """Expects config/X_weight_name.json of every --from_pretrained X, in the working directory, even of none."""

    @script.wrap(script.module, "open")
    def opened(original: Any, file: Any, *args: Any, **options: Any) -> Any:
        if not lists_weights(file) or os.path.exists(file):
            return original(file, *args, **options)
        inside = script.home / file
        return original(inside, *args, **options) if inside.is_file() else io.StringIO("[]")


def lists_weights(file: Any) -> bool:
    """Whether a file is one of those in which VOLTA names BERT's weights."""
    return str(file).endswith("_weight_name.json")
