"""A small world with Flickr30k Entities, random models, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from synthetic_world import SyntheticWorld
from volta_switch import BertForVLPreTraining
from volta_switch.ablation.masking import Texts
from volta_switch.ablation.samples import SplitSamples
from volta_switch.data.entities import load_entities
from volta_switch.data.feature_files import open_features
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.world import write_world

ENTITIES = Path("datasets/flickr30k_entities")
FEATURES = ENTITIES / "resnet101_faster_rcnn_genome_imgfeats/volta/flickr30k_entities_feat.lmdb"
TASKS = "cross-modal-ablation_test_tasks.yml"


@pytest.fixture(scope="session")
def entities_world(tmp_path_factory) -> SyntheticWorld:
    """Ten images of a split, each with fifteen phrases or so, and as many regions as it has objects."""
    path = tmp_path_factory.mktemp("entities") / "world"
    write_world(path, images=20, eval_images=10, render=False, data_sets=("retrieval", "entities"))
    return SyntheticWorld(path)


@pytest.fixture(scope="session")
def random_model(entities_world) -> Callable[..., BertForVLPreTraining]:
    """A model's name, and changes of its configuration -> one with weights large enough for losses to differ."""

    made: dict[str, BertForVLPreTraining] = {}

    def of(name: str, **changes: Any) -> BertForVLPreTraining:
        if (key := f"{name} {changes}") not in made:
            made[key] = build(name, **changes)
        return made[key]

    def build(name: str, **changes: Any) -> BertForVLPreTraining:
        torch.manual_seed(0)
        model = BertForVLPreTraining(entities_world.config(name, **changes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
        return model

    return of


@pytest.fixture(scope="session")
def split_samples(entities_world) -> Callable[..., SplitSamples]:
    """The validation split, as far as its captions are this long."""

    def of(length: int = 40, threshold: float = 0.5, most: int | None = None, images: int = 10) -> SplitSamples:
        phrases = load_entities(entities_world.path / ENTITIES, "val")
        names = list(dict.fromkeys(phrase.image_id for phrase in phrases))[:images]
        store = open_features(entities_world.path / FEATURES, detections=True)
        texts = Texts(Tokenizer(entities_world.path / "bert-world"), length)
        return SplitSamples([each for each in phrases if each.image_id in names], store, texts, threshold, most)

    return of
