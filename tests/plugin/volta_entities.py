"""Four images with Flickr30k Entities at VOLTA's sizes, some of them unusual, and VOLTA's ablation of them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import torch
import yaml

from plugin.volta_runs import VoltaWorld
from synthetic_world import SyntheticWorld
from volta_datasets import WIDTHS
from volta_switch import BertForVLPreTraining
from volta_switch.checksums import SUMS
from volta_switch.weights import to_volta, write_weights
from volta_switch.world import write_world

ENTITIES = Path("datasets/flickr30k_entities")
FEATURES = ENTITIES / "resnet101_faster_rcnn_genome_imgfeats/volta/flickr30k_entities_feat.lmdb"
TASKS = "cross-modal-ablation_test_tasks.yml"
DUMPED = {"mlm": "val_{0}_mlm.pkl", "mrc_kl": "val_{1}_{0}_kld.pkl", "mrc_xe": "val_{1}_{0}_xe.pkl"}
LENGTH, THRESHOLD = 12, 0.5


def write_entities_world(folder: Path, length: int = LENGTH) -> VoltaWorld:
    """One entity has two boxes, one none, one a box that no region covers half of; captions are cut at ``length``."""
    write_world(folder / "own", images=20, eval_images=10, render=False, data_sets=("retrieval", "entities"), **WIDTHS)
    world = VoltaWorld(folder / "own").copy(folder / "world")  # this process has the first one's LMDBs open
    (world.path / SUMS).unlink()  # what follows is a deliberate change
    tasks = yaml.safe_load((world.path / TASKS).read_text())
    tasks["TASK18"] |= {"max_seq_length": length, "batch_size": 1}  # a VL-BERT's outputs depend on the batch
    (world.path / TASKS).write_text(yaml.safe_dump(tasks))
    images = (world.path / ENTITIES / "val.txt").read_text().split()[:4]
    (world.path / ENTITIES / "val.txt").write_text("\n".join(images) + "\n")
    for image, change in zip(images, (_second_box, _no_box, _box_of_everything), strict=False):
        path = world.path / ENTITIES / "Annotations" / f"{image}.xml"
        tree = ElementTree.parse(path)
        change(*tree.findall("object")[:2])
        tree.write(path)
    return world


def _second_box(entity: ElementTree.Element, other: ElementTree.Element) -> None:
    """The other's box is the first one's, too."""
    ElementTree.SubElement(other, "name").text = entity.findtext("name")


def _no_box(entity: ElementTree.Element, other: ElementTree.Element) -> None:
    """It is a scene."""
    (outline,) = entity.findall("bndbox")
    entity.remove(outline)
    ElementTree.SubElement(entity, "nobndbox").text = "1"
    ElementTree.SubElement(entity, "scene").text = "1"


def _box_of_everything(entity: ElementTree.Element, other: ElementTree.Element) -> None:
    """It fills the image."""
    for edge, value in {"xmin": 1, "ymin": 1, "xmax": 480, "ymax": 360}.items():
        for found in entity.findall(f"bndbox/{edge}"):
            found.text = str(value)


def write_model(world: VoltaWorld, name: str, **changes: Any) -> tuple[str, Path, BertForVLPreTraining]:
    """A random model: its configuration's file, its file of weights, and the model."""
    config = SyntheticWorld(world.path).config(name, **changes)
    path = world.path / f"models-{len(list(world.path.glob('models-*')))}" / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config.to_dict()))
    torch.manual_seed(0)
    model = BertForVLPreTraining(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    weights = path.with_suffix(".bin")
    write_weights(weights, to_volta(model))
    return str(path), weights, model


def ablation_flags(path: str, weights: Path, out: Path, masking: str) -> list[Any]:
    """The command line of VOLTA's two scripts."""
    flags = ["--config_file", path, "--from_pretrained", weights, "--tasks_config_file", TASKS, "--task", "18"]
    given = ["--split", "val", "--output_dir", out, "--masking", masking, "--overlap_threshold", THRESHOLD]
    return [*flags, *given, "--dump_results"]


def dumped_losses(out: Path, masking: str) -> dict[str, np.ndarray]:
    """What a script has written of every phrase: loss -> (n,)."""
    found = {}
    for name, pattern in DUMPED.items():
        file = out / pattern.format(masking, THRESHOLD)
        if file.is_file():
            values = pickle.loads(file.read_bytes())
            if values[0] is not None:
                found[name] = np.array([float(value) for value in values])
    return found
