"""Models of a synthetic world that have learned what its texts need: for evaluations of explanations.

Of directions ("left of"), the extreme object is always the right one, so that models soon answer them without their
anchors. What needs its anchor ("closest to", "coloured like") is an eighth of the expressions. So a model first learns
all expressions, and then those. One epoch of all is too short: what needs its anchor is then learned by heart.

``python tests/explain/trained_models.py FOLDER 0 1 2`` trains models with these seeds and prints how to evaluate them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from volta_switch.checksums import SUMS
from volta_switch.data.files import safe_pickle
from volta_switch.train import finetuning
from volta_switch.world import write_world

IMAGES, EVAL_IMAGES = 8000, 100
EPOCHS, ANCHOR_EPOCHS, VQA_EPOCHS = 4, 8, 1
NEED_ANCHORS = ("closest to", " like ")
REFERENCES = "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p"


def write_worlds(folder: Path) -> tuple[Path, Path]:
    """Writes a world of expressions and questions, and its copy in which training has only what needs its anchors."""
    world, anchors = folder / "world", folder / "world-anchors"
    data_sets = ("refer", "vqa")
    write_world(world, images=IMAGES, eval_images=EVAL_IMAGES, data_sets=data_sets, render=False)
    if not anchors.exists():
        shutil.copytree(world, anchors, ignore=shutil.ignore_patterns(SUMS))
        kept = []
        for reference in safe_pickle.load(world / REFERENCES):
            if reference["split"] in ("train", "val"):
                said = enumerate(reference["sentences"])
                places = [place for place, each in said if any(words in each["raw"] for words in NEED_ANCHORS)]
                for key in ("sentences", "sent_ids"):
                    reference[key] = [reference[key][place] for place in places]
            if reference["sentences"]:
                kept.append(reference)
        safe_pickle.dump(anchors / REFERENCES, kept)
    return world, anchors


def train_refer(folder: Path, seed: int) -> Path:
    """Trains a model of referring expressions; returns its folder."""
    world, anchors = write_worlds(folder)
    first = _train(world, "TASK10", folder / f"all-{seed}", seed, EPOCHS)
    return _train(anchors, "TASK10", folder / f"anchors-{seed}", seed, ANCHOR_EPOCHS, first)


def train_vqa(folder: Path, seed: int) -> Path:
    """Trains a model of questions; returns its folder."""
    world, _ = write_worlds(folder)
    return _train(world, "TASK1", folder / f"questions-{seed}", seed, VQA_EPOCHS, more=["--head_prior", "0.03"])


def _train(
    world: Path, task: str, out: Path, seed: int, epochs: int, start: Path | None = None, more: list[str] | None = None
) -> Path:
    flags = ["--tasks_config_file", world / "tasks.yml", "--task", task, "--num_epoch", epochs, "--seed", seed]
    flags += ["--batch_size", 64, "--lr", 1.5e-3, "--in_memory", "--output_dir", out, "--logdir", out / "logs"]
    flags += ["--save_best_only", "--save_every", 0, "--overwrite", "--from_pretrained", start or "", *(more or ())]
    if start is None:
        flags += ["--config", "demo/switchbert", "--set", f"bert_model={json.dumps(str(world / 'bert-world'))}"]
    return Path(finetuning.main(list(map(str, flags))))


def main(folder: Path, seeds: list[int]) -> None:
    """Trains both models with each seed."""
    for train in (train_refer, train_vqa):
        runs = " ".join(str(train(folder, seed)) for seed in seeds)
        print(f"volta-switch explain {runs} --evaluate {folder / 'world'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), list(map(int, sys.argv[2:])))
