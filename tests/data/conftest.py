"""Tiny data sets: VOLTA's own fixture files, and ones written by this package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from small_regions import some_regions
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.task_lmdb import write_features
from volta_switch.data.regions import Regions
from volta_switch.data.tokenizer import Tokenizer

FIXTURES = Path(__file__).parent.parent / "fixtures"
DETECTIONS = "resnet101_faster_rcnn_genome_imgfeats/volta"
WORDS = ["red", "blue", "green", "dog", "cat", "tree", "house", "near", "on", "a", "the", "##s", "small", "big"]


@pytest.fixture(scope="session")
def volta_data() -> Path:
    """Data in VOLTA's exact formats, written by VOLTA's own writers."""
    return FIXTURES / "volta_data" / "datasets"


@pytest.fixture(scope="session")
def volta_world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A world at VOLTA's sizes (volta_datasets.py); for tests with VOLTA_HOME."""
    from volta_datasets import two_worlds  # not at the top: most tests need none of what it imports

    return two_worlds(tmp_path_factory.mktemp("worlds"))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n", encoding="utf-8")
    return Tokenizer(path)


@pytest.fixture
def regions_of() -> Callable[..., Regions]:
    return some_regions


@pytest.fixture(scope="session")
def concap_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 6 validation pairs; images of 1 to 5 regions, captions of 3 to 7 words, none of them twice."""
    directory = tmp_path_factory.mktemp("concap")
    for features, captions, count in (
        ("training_feat_all.lmdb", "caption_train.json", 40),
        ("validation_feat_all.lmdb", "caption_valid.json", 6),
    ):
        rng = np.random.default_rng(count)
        texts = {str(i): f"a {WORDS[i % 3]} {' '.join(rng.choice(WORDS[3:9], 1 + i % 5))}" for i in range(count)}
        texts = {name: f"{text} {WORDS[int(name) // 14]}" for name, text in texts.items()}
        pairs = [(some_regions(name, int(name), 1 + int(name) % 5), text) for name, text in texts.items()]
        write_concap(directory / features, pairs)
        (directory / captions).write_text(json.dumps(texts), encoding="utf-8")
    return directory


@pytest.fixture(scope="session")
def flickr_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 images, 2 captions each, with their features."""
    directory = tmp_path_factory.mktemp("flickr")
    lines = [
        {"img_path": f"{100 + i}.jpg", "id": str(i), "sentences": [f"a {a} {b}" for b in ("dog", "cat")]}
        for i, a in enumerate([*WORDS[:3], *WORDS[5:10]])
    ]
    (directory / "train_ann.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    write_features(directory / "flickr30k_feat.lmdb", [some_regions(str(100 + i), i, 1 + i % 4) for i in range(8)])
    return directory
