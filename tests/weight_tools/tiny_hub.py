"""A tiny LXMERT as transformers writes it, and the cache of the hub's library with one model in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from synthetic_world import SyntheticWorld
from volta_switch.tasks.vqa_files import load_labels

COMMIT = "0" * 39 + "1"


def tiny_lxmert(world: SyntheticWorld, folder: Path) -> Path:
    """A folder of an LXMERT with a head for the world's answers in another order, which ``labels.json`` tells."""
    answers = load_labels(world.path / "datasets/vqa/annotations")
    torch.manual_seed(1)
    config = transformers.LxmertConfig(
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        l_layers=2,
        r_layers=1,
        x_layers=1,
        vocab_size=world.overrides["vocab_size"],
        visual_feat_dim=world.overrides["v_feature_size"],
        num_qa_labels=len(answers) + 1,
    )
    transformers.LxmertForQuestionAnswering(config).save_pretrained(folder)
    shutil.copyfile(world.path / "bert-world" / "vocab.txt", folder / "vocab.txt")
    (folder / "labels.json").write_text(json.dumps(["none of them", *reversed(answers)]))
    return folder


def hub_of_one_model(name: str, source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the library's cache a new folder, in which this model lies as it keeps those that it fetched."""
    from huggingface_hub import constants

    model: Any = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, model / "snapshots" / COMMIT)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
