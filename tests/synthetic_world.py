"""A tiny synthetic world, models small enough for it, and the entry points with flags that make them quick."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from volta_switch import BertForVLTasks, Config, load_config
from volta_switch.checksums import SUMS
from volta_switch.command import run_command
from volta_switch.config import find_config
from volta_switch.data.files import safe_pickle
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, Task, build_task, load_task
from volta_switch.train import evaluation, finetuning, pretraining
from volta_switch.world import write_world

SIZES = {
    "hidden_size": 16, "v_hidden_size": 16, "num_attention_heads": 2, "v_num_attention_heads": 2,
    "intermediate_size": 32, "v_intermediate_size": 32, "pooler_size": 16, "v_pooler_size": 16,
    "clf_hidden_size": 24,
}  # fmt: skip
# A rate, as in the paper: the record of small runs, and what tests expect of temperatures, are of before shares were.
SWITCH = {
    "switch.hidden_size": 8, "switch.anneal_rate": 0.00096,
    "switch.anneal_share": None, "switch.finetune_anneal_share": None,
}  # fmt: skip
TASKS = {"vqa": "TASK1", "retrieval": "TASK8", "refer": "TASK10"}
ENTRY_POINTS = {
    "train_concap": pretraining.main,
    "train_task": finetuning.main,
    "eval_task": evaluation.main,
    "eval_retrieval": evaluation.main_retrieval,
}


@dataclass(frozen=True)
class SyntheticWorld:
    """A world's folder, and what models must know of it."""

    path: Path

    @cached_property
    def overrides(self) -> dict[str, Any]:
        """Fields of every model's configuration that the world decides."""
        spec = json.loads((self.path / "world.json").read_text())["spec"]
        vocabulary = json.loads((self.path / "bert-world" / "config.json").read_text())
        return {
            "bert_model": str(self.path / "bert-world"),
            "vocab_size": vocabulary["vocab_size"],
            "v_feature_size": spec["feature_size"],
            "v_num_classes": spec["num_classes"],
            "v_num_attributes": spec["num_attributes"],
        }

    @property
    def tasks_file(self) -> Path:
        return self.path / "tasks.yml"

    @property
    def captions(self) -> Path:
        return self.path / "datasets" / "conceptual_captions"

    def model_flags(self, model: str, **changes: Any) -> list[str]:
        """``--config_file`` and ``--set`` flags of a shipped demo model at test size."""
        fields = {**self.overrides, **SIZES, **(SWITCH if model == "switchbert" else {}), **changes}
        sets = [flag for key, value in fields.items() for flag in ("--set", f"{key}={json.dumps(value)}")]
        return ["--config_file", f"demo/{model}", *sets]

    def config(self, model: str, **changes: Any) -> Config:
        """The same model's configuration."""
        return load_config(f"demo/{model}", self.model_flags(model, **changes)[3::2])

    def data_flags(self, entry: str, task: str = "") -> list[str]:
        """Where the data of an entry point lie."""
        if entry == "train_concap":
            features = self.captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
            return ["--annotations_path", str(self.captions / "annotations"), "--features_path", str(features)]
        return ["--tasks_config_file", str(self.tasks_file), "--task", TASKS[task]]

    def flags(self, entry: str, out: Path, model: str, task: str = "", **changes: Any) -> list[str]:
        """A whole command line; ``changes`` are fields of the configuration."""
        flags = [*self.model_flags(model, **changes), *self.data_flags(entry, task), "--output_dir", str(out)]
        if entry.startswith("eval"):
            return flags
        return [*flags, "--logdir", str(out / "logs"), "--in_memory", "--from_pretrained", ""]  # a later flag wins

    def run(self, entry: str, out: Path, model: str, *flags: Any, task: str = "", **changes: Any) -> Any:
        """Runs an entry point in this process and returns what it returns."""
        return ENTRY_POINTS[entry]([*self.flags(entry, out, model, task, **changes), *map(str, flags)])

    def task(self, task: str, config: Config, val_annotations: str = "", **options: Any) -> Task:
        """A task as the entry points build it."""
        spec = load_task(self.tasks_file, TASKS[task])
        if val_annotations:
            spec = replace(spec, val_annotations_jsonpath=val_annotations, val_split="test")
        return build_task(spec, config, Tokenizer(config.bert_model), DataOptions(**options))

    def task_model(self, task: Task, seed: int = 0) -> BertForVLTasks:
        """A random model for a task, in evaluation, its weights large enough for scores to differ."""
        torch.manual_seed(seed)
        model = BertForVLTasks(task.config, {task.spec.key: task.spec.head()}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model

    def copy(self, to: Path, **entries: Any) -> SyntheticWorld:
        """A copy that may be corrupted; ``entries`` replace settings of every task in its task file."""
        shutil.copytree(self.path, to, ignore=shutil.ignore_patterns(SUMS))
        if entries:
            tasks = yaml.safe_load((to / "tasks.yml").read_text())
            (to / "tasks.yml").write_text(yaml.safe_dump({key: {**task, **entries} for key, task in tasks.items()}))
        return SyntheticWorld(to)

    def keep(self, task: str, count: int) -> None:
        """Cuts the training split of a task down to ``count`` samples; for copies."""
        if task == "refer":
            path = self.path / "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p"
            refs, left = safe_pickle.load(path), count
            for ref in refs:
                if ref["split"] == "train":
                    for key in ("sentences", "sent_ids"):
                        ref[key] = ref[key][:left]
                    left -= len(ref["sentences"])
            safe_pickle.dump(path, refs)
        elif task == "vqa":
            folder = self.path / "datasets/vqa/annotations"
            path = folder / "v2_OpenEnded_mscoco_train2014_questions.json"
            questions = json.loads(path.read_text())["questions"][:count]
            path.write_text(json.dumps({"questions": questions}))
            kept = {question["question_id"] for question in questions}
            target = folder / "cache" / "train_target.pkl"
            safe_pickle.dump(target, [entry for entry in safe_pickle.load(target) if entry["question_id"] in kept])
        else:
            path = self.path / "datasets/flickr30k/annotations/train_ann.jsonl"
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            images = len(lines)  # one caption each, so that there are as many images as samples
            for line in lines:
                line["sentences"] = line["sentences"][:1]
            assert count <= images
            path.write_text("\n".join(map(json.dumps, lines[:count])) + "\n")
            pool = {
                "train_hard_pool": [[(row + step) % count for step in range(3)] for row in range(count)],
                "train_image_list": [int(Path(line["img_path"]).stem) for line in lines[:count]],
            }
            safe_pickle.dump(self.path / "datasets/flickr30k/hard_negative.pkl", pool)


def write_synthetic_world(path: Path) -> SyntheticWorld:
    """A world of the fewest images."""
    write_world(path, seed=0, images=20, eval_images=10, render=False)
    return SyntheticWorld(path)


def log_of(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def json_of(path: Path) -> Any:
    return json.loads(path.read_text())


def weights_of(run: Path, name: str = "pytorch_model_best.bin") -> dict[str, torch.Tensor]:
    return torch.load(run / name, weights_only=True)


def equal_weights(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def write_config(path: Path, config: Config) -> Path:
    """A configuration file that the entry points take by its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config.to_dict()))
    assert find_config(path) == path
    return path


def refusal(main: Any, argv: Sequence[Any], capsys: pytest.CaptureFixture[str], details: int = 0) -> str:
    """What an entry point refuses its input with: one line, and so many ``details``, each a line of its own.

    Checks the exit code, and that nothing else is said.
    """
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_command(main, [str(argument) for argument in argv])
    err = capsys.readouterr().err
    assert caught.value.code == 2, err
    lines = err.splitlines()
    assert len(lines) == 1 + details and lines[0].startswith("error: ") and "Traceback" not in err, err
    assert all(line.startswith("  ") for line in lines[1:]), err
    return err.rstrip("\n").removeprefix("error: ")


def run_script(entry: str, argv: Sequence[Any], *more: Any) -> subprocess.CompletedProcess[str]:
    """An entry point in a process of its own."""
    script = Path(__file__).parents[1] / f"{entry}.py"
    command = [sys.executable, str(script), *map(str, (*argv, *more))]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=300)


@contextmanager
def interrupted_at(step: int) -> Iterator[None]:
    """Kills the training inside the block as it begins the optimiser step after ``step``."""
    from volta_switch.train.loop import Trainer

    take = Trainer._step

    def stopping(trainer: Any, *given: Any) -> None:
        if trainer.progress.step == step:
            raise KeyboardInterrupt
        take(trainer, *given)

    Trainer._step = stopping  # type: ignore[method-assign]
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        Trainer._step = take  # type: ignore[method-assign]
