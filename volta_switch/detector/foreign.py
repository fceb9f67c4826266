"""Detectors of other programs: Hugging Face's folder, and the ``.pkl`` of py-bottom-up-attention.

Both hold the same network under the same names. No code in them is run: ``.bin`` files are read with PyTorch's
``weights_only``, pickles by the reader that knows arrays and plain containers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from volta_switch.checksums import verify
from volta_switch.data.files import safe_pickle
from volta_switch.detector.settings import DetectorConfig
from volta_switch.errors import UserError
from volta_switch.files import first_there, read_yaml, require_file
from volta_switch.weights.files import load_plain, read_tensors
from volta_switch.weights.loading import unwrapped

YAML = "config.yaml"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_EXPECTED = "expected config.json of this project, config.yaml with pytorch_model.bin (Hugging Face), or one .pkl"
# Settings of Hugging Face's file that this network has built in: section and key -> value.
_BUILT_IN = {
    ("anchor_generator", "offset"): 0.0,
    ("proposal_generator", "min_size"): 0,
    ("resnets", "norm"): "BN",
    ("resnets", "num_groups"): 1,
    ("resnets", "stride_in_1x1"): True,
    ("resnets", "res5_dilation"): 1,  # of a res5 in the backbone, where this detector has none
    ("roi_box_head", "attr"): True,
    ("roi_box_head", "cls_agnostic_bbox_reg"): False,
    ("roi_box_head", "res5halve"): False,
    ("rpn", "bbox_reg_weights"): [1.0, 1.0, 1.0, 1.0],
    ("input", "format"): "BGR",
    ("model", "max_pool"): True,
    ("model", "pixel_std"): [1.0, 1.0, 1.0],
}
# Field of ``DetectorConfig`` -> section and key.
_READ = {
    "classes": ("roi_heads", "num_classes"),
    "attributes": ("roi_box_head", "num_attrs"),
    "stem_width": ("resnets", "stem_out_channels"),
    "bottleneck_width": ("resnets", "width_per_group"),
    "stage_width": ("resnets", "res2_out_channels"),
    "proposal_width": ("proposal_generator", "hidden_channels"),
    "before_nms": ("rpn", "pre_nms_topk_test"),
    "after_nms": ("rpn", "post_nms_topk_test"),
    "proposal_nms": ("rpn", "nms_thresh"),
    "pooled": ("roi_box_head", "pooler_resolution"),
    "box_weights": ("roi_box_head", "bbox_reg_weights"),
    "short_side": ("input", "min_size_test"),
    "long_side": ("input", "max_size_test"),
    "pixel_mean": ("model", "pixel_mean"),
}


def read_foreign(source: Path) -> tuple[Path, DetectorConfig, dict[str, Tensor]]:
    """Returns the file of weights of a foreign detector, what it is, and its weights.

    Args:
        source: Hugging Face's folder, a file of weights in it, a ``.pkl``, or a folder with one.

    Raises:
        UserError: it is none of them, or damaged.
    """
    if source.suffix == ".pkl" and not source.is_dir():
        return source, DetectorConfig(), _pickled(source)
    folder = source if source.is_dir() else source.parent
    if (folder / YAML).is_file():
        weights = source if not source.is_dir() else first_there(folder, _WEIGHTS)
        if weights is None:
            raise UserError(f"{folder}: holds neither {' nor '.join(_WEIGHTS)}; copy the weights, too")
        verify(weights)
        plain = weights.suffix == ".safetensors"
        state = read_tensors(weights) if plain else unwrapped(load_plain(weights, "weights"), str(weights))
        return weights, config_of(read_yaml(folder / YAML, "configuration"), str(folder / YAML)), state
    pickles = sorted(folder.glob("*.pkl")) if source.is_dir() else []
    if len(pickles) != 1:
        found = "several .pkl files, name one of them" if pickles else f"no detector; {_EXPECTED}"
        raise UserError(f"{source}: {found}")
    return pickles[0], DetectorConfig(), _pickled(pickles[0])


def config_of(content: Any, source: str) -> DetectorConfig:
    """Returns what Hugging Face's ``config.yaml`` says.

    What it leaves out is as in its detector. Letters may be large or small, as its code takes them.

    Raises:
        UserError: it says something of a network that this is not.
    """
    sections = _lower(content)
    if not isinstance(sections, dict) or not {"resnets", "roi_box_head"} <= {*sections}:
        raise UserError(f"{source}: expected the sections resnets and roi_box_head, as {_EXPECTED}")

    def value(section: str, key: str) -> Any:
        found = sections.get(section)
        return found.get(key) if isinstance(found, dict) else None

    for (section, key), wanted in _BUILT_IN.items():
        found = value(section, key)
        if found is not None and found != wanted:
            raise UserError(f"{source}: {section}.{key} is {found!r:.50}, only {wanted!r} is supported")
    given = {field: found for field, place in _READ.items() if (found := value(*place)) is not None}
    depth = value("resnets", "depth")
    if depth is not None:
        if depth not in _BLOCKS:
            raise UserError(f"{source}: resnets.depth is {depth!r:.50}, expected one of {', '.join(map(str, _BLOCKS))}")
        given["blocks"] = _BLOCKS[depth]
    for field, key in (("anchor_sizes", "sizes"), ("anchor_ratios", "aspect_ratios")):
        lists = value("anchor_generator", key)
        if lists is not None:
            if not (isinstance(lists, list) and len(lists) == 1):
                raise UserError(f"{source}: anchor_generator.{key}: expected one list in a list, for one feature map")
            given[field] = lists[0]
    try:
        return replace(DetectorConfig(resizing="points"), **given)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _lower(content: Any) -> Any:
    if not isinstance(content, Mapping):
        return content
    return {str(key).lower(): _lower(value) for key, value in content.items()}


def _pickled(path: Path) -> dict[str, Tensor]:
    """Returns the weights in a model of detectron2's "model zoo format": arrays by name, under the key ``model``."""
    require_file(path, "detector", "give faster_rcnn_from_caffe_attr.pkl, or faster_rcnn_from_caffe_attr_original.pkl")
    content = safe_pickle.load(path)
    arrays = content.get("model") if isinstance(content, dict) else None
    if not isinstance(arrays, dict) or not arrays:
        raise UserError(f"{path}: expected a dictionary with the weights under 'model', as detectron2 writes it")
    state = {}
    for name, array in arrays.items():
        if not (isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in "fi"):
            raise UserError(f"{path}: {str(name)[:100]} is no array of numbers; copy the file again")
        state[name] = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=True))
    if "roi_heads.box_predictor.attr_score.weight" not in state:
        raise UserError(f"{path}: a detector without attributes; take faster_rcnn_from_caffe_attr.pkl, which has them")
    # the statistics are folded into the two numbers of each normalisation: they become those of none
    for name in [name for name in state if name.endswith(".norm.weight")]:
        state.setdefault(name.replace(".weight", ".running_mean"), torch.zeros_like(state[name]))
        state.setdefault(name.replace(".weight", ".running_var"), torch.ones_like(state[name]))
    return state
