"""What corrupts numbers of the tasks.

Legend: B batch, R regions.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.utils.data.distributed import DistributedSampler

from volta_switch.plugin.script import EVALUATE, RETRIEVAL, TASK, Script, corrupts


@corrupts("volta/datasets/retrieval_dataset.py:49")
def negatives(script: Script) -> None:
    """A caption's number within its image is taken for its index: all negative captions are the first image's."""

    @script.wrap(script.volta("datasets.retrieval_dataset").RetrievalDataset, "__init__")
    def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        for captions in self.imgid2entry.values():
            captions.clear()
        for index, entry in enumerate(self._entries):
            self.imgid2entry[entry["image_id"]].append(index)


@corrupts("volta/datasets/retrieval_dataset.py:108")
def token_caches(script: Script) -> None:
    """Tokenised texts are cached by the tokenizer's name: changed annotations or vocabularies are not seen."""
    datasets = script.volta("datasets")
    for kind in {*datasets.DatasetMapTrain.values(), *datasets.DatasetMapEval.values()}:

        @script.wrap(kind, "__init__")
        def init(original: Any, self: Any, *args: Any, **options: Any) -> None:
            sources = _annotation_files(options["dataroot"], options["annotations_jsonpath"])
            state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in sources]
            words = sorted(options["tokenizer"].get_vocab().items())
            digest = hashlib.sha256(repr((state, words)).encode()).hexdigest()[:12]
            original(self, *args, **{**options, "bert_model": f"{options['bert_model']}-{digest}"})


@corrupts("train_task.py:255", "script", (TASK,))
def schedule(script: Script) -> None:
    """The learning rate falls over --optim_train_epochs (20), not over the epochs that are trained."""

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        args.optim_train_epochs = args.num_epoch or _task(args)["num_epoch"]
        return args


@corrupts("train_task.py:334", "script", (TASK,))
def evaluation_steps(script: Script) -> None:
    """--eval_steps N evaluates every N-1 steps, and what is saved then goes on, when resumed, at epoch N."""

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        args.eval_steps = min(args.eval_steps, sys.maxsize - 1) + 1
        return args

    @script.wrap(script.module, "resume")
    def resume(original: Any, *given: Any) -> Any:
        iteration, steps, epoch, tb_logger, score = original(*given)
        in_the_middle = steps > 0 and epoch != tb_logger.epochId + 1
        return iteration, steps, tb_logger.epochId if in_the_middle else epoch, tb_logger, score


@corrupts("volta/train_utils.py:81")
def accumulated_loss(script: Script) -> None:
    """With gradient accumulation, logged losses, scores and rates are divided by the number of parts twice."""
    logger = script.volta("train_utils").tbLogger

    @script.wrap(logger, "step_train")
    def step_train(original: Any, self: Any, epoch: int, step: int, loss: float, *rest: Any) -> None:
        original(self, epoch, step, loss * self.gradient_accumulation_steps, *rest)

    for name in ("showLossTrain", "showLossTrainCC"):

        @script.wrap(logger, name)
        def show(original: Any, self: Any) -> None:
            self.task_step_tmp = {
                task: steps // self.gradient_accumulation_steps for task, steps in self.task_step_tmp.items()
            }
            original(self)


@corrupts("volta/task_utils.py:667")
def referred_region(script: Script) -> None:
    """The global region and padding, which are no boxes, may be the answer to a referring expression."""
    task_utils = script.volta("task_utils")

    def hiding(criterion: Any, config: Any, mask: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        hidden = mask == 0  # (B, R)
        if config.add_global_imgfeat == "first":
            hidden[:, 0] = True
        elif config.add_global_imgfeat == "last":  # after the boxes, before padding
            hidden[torch.arange(len(mask)), mask.sum(1) - 1] = True

        def then_hide(scores: Tensor, target: Tensor) -> Tensor:
            """The loss of scores (B, R, 1), from which the answer is chosen after it."""
            loss = criterion(scores, target)
            scores[hidden.to(scores.device)] = -torch.inf
            return loss

        return then_hide

    for name, before in (("ForwardModelsVal", 6), ("EvaluatingModel", 7)):  # arguments before the criterion

        @script.wrap(task_utils, name)
        def forward(original: Any, *args: Any, before: int = before) -> Any:
            config, task_cfg, _device, task_id, batch = args[:5]
            if task_cfg[task_id]["type"] != "V-logit":
                return original(*args)
            criterion = hiding(args[before], config, batch[2])
            return original(*args[:before], criterion, *args[before + 1 :])


@corrupts("volta/task_utils.py:674")
def referred_ids(script: Script) -> None:
    """Results of referring expressions carry the image's id, which several expressions share, not the sentence's."""

    @script.wrap(script.volta("datasets.refer_expression_dataset").ReferExpressionDataset, "__getitem__")
    def getitem(original: Any, self: Any, index: int) -> tuple[Any, ...]:
        *item, _image_id, number = original(self, index)
        return (*item, self.entries[index]["sent_id"], number)


@corrupts("volta/task_utils.py:401", scripts=(TASK,))
def sampler_epochs(script: Script) -> None:
    """On several GPUs every epoch has the same order."""

    class NewOrderEachEpoch(DistributedSampler):
        def __iter__(self) -> Iterator[int]:
            order = super().__iter__()
            self.set_epoch(self.epoch + 1)
            return order

    script.patches.set(script.volta("task_utils"), "DistributedSampler", NewOrderEachEpoch)


@corrupts("eval_task.py:128", "script", (EVALUATE, RETRIEVAL))
def results_folder(script: Script) -> None:
    """Results of all tasks and models are written to one folder, the later over the earlier."""

    @script.wrap(script.module, "parse_args")
    def parse_args(original: Any) -> Any:
        args = original()
        run = Path(args.from_pretrained).resolve().parent.name
        args.output_dir = str(Path(args.output_dir, _task(args)["name"], run))
        return args


def _task(args: Any) -> dict[str, Any]:
    return yaml.safe_load(Path(args.tasks_config_file).read_text(encoding="utf-8"))[f"TASK{args.task.strip()}"]


def _annotation_files(dataroot: str, annotations: str) -> list[Path]:
    """The files that a data set's texts and answers come from; VQA's targets lie among VOLTA's own caches."""
    if annotations:
        return [Path(annotations)]
    root = Path(dataroot)
    files = (file for pattern in ("*", "*/*") for file in root.glob(pattern) if file.is_file())
    sources = (file for file in files if file.parent.name != "cache" or file.name.endswith(("_target.pkl", ".npy")))
    return sorted(file for file in sources if file.suffix not in (".lmdb", ".mdb"))
