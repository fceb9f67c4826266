"""VOLTA's dataset classes, unmodified, from the checkout that VOLTA_HOME names, and a world for them to read.

`volta.datasets` imports everything that VOLTA ever read, and tools of its own that must be compiled; here each module
is loaded by itself, and what is only needed for segmentation masks is stood in for, as the plug-in's repair does.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from volta_switch.data.tokenizer import Tokenizer
from volta_switch.plugin.repairs.packages import refer_masks, refer_pictures
from volta_switch.plugin.replacements import package
from volta_switch.plugin.script import Script
from volta_switch.world import write_world

LENGTH = 24  # word pieces of a text
WIDTHS = {"feature_size": 2048, "boxes": 36, "num_classes": 1601, "num_attributes": 401}  # fixed in VOLTA's code
PACKAGE = "volta_datasets_alone"
os.environ["TENSORPACK_SERIALIZE"] = "msgpack"  # tensorpack's default is pickle since 0.9.9; VOLTA's files are msgpack


def volta_home() -> Path:
    """The checkout; skips the calling module, saying why, where there is none or what it needs is not installed."""
    home = os.environ.get("VOLTA_HOME")
    if not home:
        pytest.skip("VOLTA_HOME is not set to a checkout of VOLTA", allow_module_level=True)
    if not (Path(home) / "volta" / "datasets" / "vqa_dataset.py").is_file():
        pytest.skip(f"VOLTA_HOME={home} holds no checkout of VOLTA", allow_module_level=True)
    for name in ("tensorpack.dataflow", "msgpack_numpy", "transformers", "jsonlines"):
        pytest.importorskip(name, reason=f"VOLTA's dataset classes need {name}")
    return Path(home)


def volta_module(name: str) -> Any:
    """A module of VOLTA's `volta/datasets`."""
    folder = Path(os.environ["VOLTA_HOME"]) / "volta" / "datasets"
    sys.modules.setdefault(PACKAGE, package(PACKAGE, folder))
    script = Script(Path(os.environ["VOLTA_HOME"]), "train_task.py")
    refer_masks(script)
    refer_pictures(script)
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    finally:
        script.patches.undo()


def hugging_face_tokenizer(directory: Path) -> Any:
    """The tokenizer that VOLTA's scripts make, with the method that transformers 5 has dropped."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    if not hasattr(tokenizer, "build_inputs_with_special_tokens"):
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        tokenizer.build_inputs_with_special_tokens = lambda ids: [cls, *ids, sep]
    return tokenizer


def two_worlds(folder: Path) -> SimpleNamespace:
    """A synthetic world at VOLTA's sizes, twice, as VOLTA writes caches into its own; both projects' tokenizers."""
    ours = folder / "ours"
    write_world(ours, seed=0, images=20, eval_images=10, render=False, **WIDTHS)
    theirs = shutil.copytree(ours, folder / "theirs")
    tokenizers = SimpleNamespace(
        ours=Tokenizer(ours / "bert-world"), theirs=hugging_face_tokenizer(ours / "bert-world")
    )
    return SimpleNamespace(ours=ours, theirs=theirs, tokenizers=tokenizers)


def volta_reader(path: Path, num_locs: int = 5, place: str | None = "first", in_memory: bool = False) -> Any:
    """VOLTA's reader of image features."""
    config = SimpleNamespace(v_feature_size=2048, num_locs=num_locs, add_global_imgfeat=place, norm_embeddings=False)
    return volta_module("_image_features_reader").ImageFeaturesH5Reader(str(path), config, in_memory)


def theirs_of(
    class_name: str, task: str, split: str, roots: Any, features: Path, dataroot: Path, **options: Any
) -> Any:
    """A dataset of VOLTA's, made as its task_utils.py makes it; paths below roots.theirs."""
    modules = {
        "VQAClassificationDataset": "vqa_dataset", "GQAClassificationDataset": "gqa_dataset",
        "NLVR2Dataset": "nlvr2_dataset", "VisualEntailmentDataset": "visual_entailment_dataset",
        "ReferExpressionDataset": "refer_expression_dataset", "RetrievalDataset": "retrieval_dataset",
        "RetrievalDatasetVal": "retrieval_dataset",
    }  # fmt: skip
    options = {"max_region_num": 36, "num_locs": 5, "place": "first", "annotations": "", **options}
    place, annotations = options.pop("place"), options.pop("annotations")
    return getattr(volta_module(modules[class_name]), class_name)(
        task=task,
        dataroot=str(roots.theirs / dataroot),
        annotations_jsonpath=str(roots.theirs / annotations) if annotations else "",
        split=split,
        image_features_reader=volta_reader(roots.theirs / features, options["num_locs"], place),
        gt_image_features_reader=None,
        tokenizer=roots.tokenizers.theirs,
        bert_model="bert-world",
        padding_index=0,
        max_seq_length=LENGTH,
        add_global_imgfeat=place,
        **options,
    )
