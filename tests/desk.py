"""A folder where the pages' commands run as they are shown, the synthetic world in place of the real data."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from page_commands import start
from pages import ROOT
from synthetic_world import SIZES, SyntheticWorld, write_config

# Words of a command that stand for something of the real world, and what lies in its place on the desk.
STAND_INS = {
    "s3://bucket/concap": "bucket",
    "/local/disk": "cache",
    "FILE": "datasets/refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta/refcoco+_unc_dets36_feat.lmdb",
}
DROPPED = {
    "--compile": "takes minutes; tests/model/test_compile.py compiles",
    "--interventions": "takes a test of the model for each option; tests/routes has them",
}
# What is added to a command so that it ends soon.
ADDED = {
    "train": ("--max_steps", "1", "--num_workers", "0", "--logdir", "logs", "--save_every", "0"),
    "eval": ("--num_workers", "0"),
    "study": ("--dry-run",),
    "world": ("--images", "20", "--eval-images", "10", "--no-render"),
    "quick": ("--max-steps", "1"),
}
KEPT = ("datasets", "runs", "weights", "bucket", "tiny.json", "tasks.yml")  # on the desk, from one command to the next
SCRIPTS = {
    "pretrain": "train_concap.py",
    "finetune": "train_task.py",
    "evaluate": "eval_task.py",
    "retrieve": "eval_retrieval.py",
}


@dataclass(frozen=True)
class Desk:
    """A folder where commands run as they are shown: the synthetic world's data lie where the real ones would."""

    folder: Path
    world: SyntheticWorld

    @classmethod
    def set_up(cls, folder: Path, world: SyntheticWorld) -> Desk:
        """Makes the folder."""
        shutil.copytree(world.path / "datasets", folder / "datasets")  # commands write beside some of the data
        shutil.copy(world.tasks_file, folder / "tasks.yml")
        for name in ("config_tasks", "studies", "config"):
            (folder / name).symlink_to(ROOT / name)
        write_config(folder / "tiny.json", world.config("switchbert"))
        return cls(folder, world)

    def run(self, words: Sequence[str]) -> None:
        """Runs a command with its stand-ins, in this process.

        Raises:
            SystemExit: it failed.
        """
        program, *rest = words
        if program == "torchrun":
            flags_of_torchrun = next(i for i, word in enumerate(rest) if word.endswith(".py"))
            program, rest = "python", rest[flags_of_torchrun:]
        if program == "volta-switch" and rest[0] in SCRIPTS:
            program, rest = "python", [SCRIPTS[rest[0]], *rest[1:]]
        rest = [STAND_INS.get(word, word) for word in rest if word not in DROPPED]
        with self.here():
            self._clear()
            if any(word.startswith("runs/quick/") for word in rest) and not Path("runs/quick").exists():
                start(["volta-switch", "quick", *ADDED["quick"]])
            if program == "python":
                start(["python", *self._of_an_entry_point(rest)])
            elif rest[:2] == ["study", "run"]:
                start(["volta-switch", *rest, *(word for word in ADDED["study"] if word not in rest)])
            elif rest[0] == "data":
                rest = ["tasks.yml" if word.startswith("config_tasks/") else word for word in rest]
                self._write_inputs(rest)
                start(["volta-switch", *rest])
            elif rest[0] == "routes":
                _, *flags = self._of_an_entry_point(["eval_task.py", *rest[1:]])
                start(["volta-switch", "routes", *flags])
            else:
                rest = ["demo/switchbert" if word == "switchbert" else word for word in rest]
                start(["volta-switch", *rest, *ADDED.get(rest[0], ())])

    def _clear(self) -> None:
        """Removes what the command before has written."""
        for path in self.folder.iterdir():
            if path.name not in KEPT and not path.is_symlink():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def here(self) -> Iterator[None]:
        """In this folder."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)

    def _of_an_entry_point(self, words: Sequence[str]) -> list[str]:
        """An entry point's words, for a model of the world's size."""
        script, *flags = words
        if (model := _given(flags, "--from_pretrained")).startswith("runs/world/"):
            self._train_on_world(Path(model).name.removesuffix("_switchbert"))
            return words if "--world" not in words or script.startswith("eval") else [*words, "--max_steps", "1"]
        on_world = "--world" in flags
        kind = script.partition("_")[0]
        values = {"--config": "demo/switchbert" if on_world else "tiny.json"}
        by_folder = not on_world and not {"--config", "--config_file"} & {*flags}  # which has the configuration, too
        if "--from_pretrained" in flags:
            weights = "" if kind == "train" else self._weights(flags)
            values["--from_pretrained"] = str(weights.parent if by_folder and weights else weights)
        if by_folder and script == "train_task.py":
            values["--from_pretrained"] = str(self._pretrained())
        if "--features_path" in flags:
            self._write_shards()
        if on_world and kind == "eval":
            self._train_on_world(_given(flags, "--task"))
        given = list(flags)
        for position, flag in enumerate(flags[:-1]):
            name = "--config" if flag == "--config_file" else flag
            given[position + 1] = values.get(name, given[position + 1])
        if kind == "train" and not on_world and "--from_pretrained" not in flags:
            given += ["--from_pretrained", ""]
        if script == "train_concap.py" and by_folder:
            given += ["--config", values["--config"]]
        if on_world:
            sizes = {**SIZES, "switch.hidden_size": 8}
            given += [part for name, value in sizes.items() for part in ("--set", f"{name}={value}")]
            return [script, *given]
        return [script, *given, *ADDED[kind]]

    def _train_on_world(self, task: str) -> None:
        """A model on the world, which is trained on a task; or, called "switchbert", pre-trained."""
        runs, words = self.folder / "runs/world/checkpoints", ["--config", "-", "--world"]
        if task == "switchbert" and not (runs / task).exists():
            start(["python", *self._of_an_entry_point(["train_concap.py", *words])])
        elif task != "switchbert" and not (runs / f"{task}_switchbert").exists():
            start(["python", *self._of_an_entry_point(["train_task.py", "--task", task, *words])])

    def _weights(self, flags: Sequence[str]) -> Path:
        """Weights of a model that was trained on a command's task, for one step."""
        task = _given(flags, "--task") or Path(_given(flags, "--from_pretrained")).name.partition("_")[0]
        out = self.folder / "weights" / task
        found = list(out.rglob("pytorch_model_best.bin"))
        if not found:
            own = ["--config", "-", "--from_pretrained", "-", "--task", task, "--output_dir", str(out)]
            start(["python", *self._of_an_entry_point(["train_task.py", *own])])
            found = list(out.rglob("pytorch_model_best.bin"))
        return found[0]

    def _pretrained(self) -> Path:
        """A pre-trained model's folder, of one step."""
        out = self.folder / "weights" / "concap"
        if not out.exists():
            own = ["--config", "-", "--from_pretrained", "-", "--output_dir", str(out), "--train_batch_size", "8"]
            start(["python", *self._of_an_entry_point(["train_concap.py", *own])])
        return out / "tiny"

    def _write_shards(self) -> None:
        """Shards of both splits, where a bucket would hold them."""
        if not (self.folder / "bucket").exists():
            features = "datasets/conceptual_captions/resnet101_faster_rcnn_genome_imgfeats/volta"
            for split in ("training", "validation"):
                words = ["data", "shard", f"{features}/{split}_feat_all.lmdb", "bucket", "--split", split]
                start(["volta-switch", *words])

    def _write_inputs(self, words: Sequence[str]) -> None:
        """The detector's TSV files that a command reads."""
        images = "datasets/mscoco/resnet101_faster_rcnn_genome_imgfeats/volta"
        for name, source in {"train2014": "trainval_feat.lmdb", "val2014": "test_feat.lmdb"}.items():
            tsv = f"{name}_obj36-36.tsv"
            if tsv in words and not (self.folder / tsv).exists():
                start(["volta-switch", "data", "convert", f"{images}/{source}", tsv, "--to", "tsv"])


def _given(flags: Sequence[str], name: str) -> str:
    """What a flag is given; empty where it is not there."""
    return flags[flags.index(name) + 1] if name in flags else ""
