"""Models with random weights for every task of a synthetic world, and what its test splits ask."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from volta_switch import BertForVLTasks
from volta_switch.config.model_folder import region_facts
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, build_task, features_path, load_task
from volta_switch.tasks.task import Task

TASKS = {  # key -> its test split
    "TASK1": "test", "TASK7": "test", "TASK8": "test", "TASK9": "test", "TASK10": "test", "TASK11": "test",
    "TASK12": "test", "TASK13": "test", "TASK15": "test",
}  # fmt: skip
JOINED = {"fusion_method": "visualbert_nlvr2", "add_global_imgfeat": None}  # both images of NLVR2 in one row
RETRIEVAL = ("TASK7", "TASK8")
VQA_TEST = "datasets/mscoco/resnet101_faster_rcnn_genome_imgfeats/volta/test_feat.lmdb"  # VQA's own file of the test


def task_of(world, key: str, model: str) -> Task:
    changes = JOINED if (key, model) == ("TASK12", "ctrl_visualbert") else {}
    spec, config = load_task(world.tasks_file, key), world.config(model, **changes)
    features = str(world.path / VQA_TEST) if key == "TASK1" else ""
    return build_task(spec, config, Tokenizer(config.bert_model), DataOptions(features=features))


def model_folder(task: Task, folder: Path) -> Path:
    """A folder as fine-tuning leaves it, of random weights whose scores differ between samples."""
    torch.manual_seed(0)
    model = BertForVLTasks(task.config, {task.spec.key: task.spec.kept()})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    labels = task.labels(task.spec)
    if labels:
        _spread_answers(task, model)
    facts = region_facts(task.config, "as in the feature files that training.json names")
    model.files = {"preprocessor.json": json.dumps(facts).encode()}
    model.files |= {"labels.json": json.dumps({task.spec.key: labels}).encode()} if labels else {}
    model.save_pretrained(folder)
    return folder


def _spread_answers(task: Task, model: BertForVLTasks) -> None:
    """Moves the last bias so that every answer's mean score is 0: random weights give nearly all samples one answer."""
    with torch.inference_mode():
        scores = [
            task.scores(model.eval(), batch.to("cpu"))
            for batch in task.loader(TASKS[task.spec.key], 64, training=False)
        ]
    last = [module for module in model.clfs_dict.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.bias.sub_(torch.cat(scores).mean(0))


def features_of(task: Task, split: str) -> str:
    return str(features_path(task.spec, split, task.options.features))


def questions(task: Task, split: str) -> list[dict[str, Any]]:
    """What each sample of a split asks, as a line of ``predict --input``; of retrieval, all captions of each image."""
    if task.spec.key in RETRIEVAL:
        pairs = task.pairs(split)
        return [{"image": image, "texts": list(pairs.texts)} for image in pairs.image_ids]
    dataset = task.dataset(split, training=False)
    if task.spec.type == "VL-binary-classifier":
        return [
            {"id": entry.identifier, "images": list(entry.image_ids), "text": entry.sentence}
            for entry in dataset.entries
        ]
    return [
        {"id": name, "image": image, "text": text}
        for (name, image), text in zip(dataset.sample_images, dataset.texts, strict=True)
    ]


def write_lines(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


class AskedModels:
    """Models of tasks by key and architecture, each made when it is first asked for."""

    def __init__(self, world, tmp_path_factory):
        self._world, self._folders, self._made = world, tmp_path_factory, {}

    def __call__(self, key: str, model: str = "switchbert") -> SimpleNamespace:
        if (key, model) not in self._made:
            task = task_of(self._world, key, model)
            folder = model_folder(task, self._folders.mktemp("models") / "model")
            made = {"task": task, "folder": folder, "features": features_of(task, "test")}
            self._made[key, model] = SimpleNamespace(**made)
        return self._made[key, model]
