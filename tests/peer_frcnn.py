"""Hugging Face's detector, where ``PEERS_HOME`` names a folder with its code (``frcnn/modeling_frcnn.py``).

It imports packages of which a detector needs nothing but torchvision's RoIPool and NMS. What is not installed is
replaced here: RoIPool and NMS by plain loops, others by nothing. Sorting is made stable, since distinct proposals may
have the same score, and then every order is right.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector_loops import left_by_loops, pooled_by_loops
from volta_switch.detector.settings import DetectorConfig

_HOME = os.environ.get("PEERS_HOME", "")


class LoopPool(nn.Module):
    """torchvision's RoIPool, as loops."""

    def __init__(self, output_size: tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        self.pooled, self.scale = output_size[0], spatial_scale

    def forward(self, features: Tensor, boxes: Tensor) -> Tensor:
        """boxes: (n, 5), the picture's number first."""
        parts = [
            pooled_by_loops(features[int(box[0])].numpy(), [box[1:].tolist()], self.scale, self.pooled) for box in boxes
        ]
        return torch.cat([torch.from_numpy(part) for part in parts])


def _nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return torch.tensor(left_by_loops(boxes.tolist(), scores.tolist(), threshold), dtype=torch.int64)


def _stand_in(name: str, **content: Any) -> None:
    try:
        importlib.import_module(name)
    except ImportError:
        module = types.ModuleType(name)
        module.__dict__.update(content)
        module.__dict__.setdefault("__path__", [])
        sys.modules[name] = module


@contextmanager
def peer() -> Iterator[Any]:
    """Yields the module ``modeling_frcnn``; skips the test, visibly, where there is none."""
    folder = Path(_HOME, "frcnn")
    if not _HOME or not (folder / "modeling_frcnn.py").is_file():
        pytest.skip("PEERS_HOME is not set to a folder with frcnn/modeling_frcnn.py (Hugging Face's detector)")
    before, sort = dict(sys.modules), torch.Tensor.sort

    def stable(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return sort(self, *args, **{"stable": True, "dim": -1, **kwargs})

    sys.path.insert(0, str(folder))
    try:
        for name in ("cv2", "wget", "requests", "filelock"):
            _stand_in(name, FileLock=None)
        _stand_in("huggingface_hub.utils", insecure_hashlib=None)
        if not hasattr(sys.modules["huggingface_hub.utils"], "insecure_hashlib"):
            sys.modules["huggingface_hub.utils"].insecure_hashlib = None  # type: ignore[attr-defined]
        _stand_in("torchvision")
        _stand_in("torchvision.ops", RoIPool=LoopPool)
        _stand_in("torchvision.ops.boxes", nms=_nms, batched_nms=lambda b, s, _, t: _nms(b, s, t))
        torch.Tensor.sort = stable  # type: ignore[method-assign, assignment]
        yield importlib.import_module("modeling_frcnn")
    finally:
        torch.Tensor.sort = sort  # type: ignore[method-assign]
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - before.keys():
            if name.split(".")[0] in ("modeling_frcnn", "utils", "cv2", "wget", "requests", "filelock", "torchvision"):
                del sys.modules[name]


def peer_settings(config: DetectorConfig, count: int) -> dict[str, Any]:
    """What Hugging Face's ``config.yaml`` says of such a detector."""
    return {
        "model": {"device": "cpu", "max_pool": True, "pixel_mean": list(config.pixel_mean), "pixel_std": [1.0] * 3},
        "backbone": {"freeze_at": 2},
        "resnets": {
            "norm": "BN",
            "stem_out_channels": config.stem_width,
            "res2_out_channels": config.stage_width,
            "out_features": ["res4"],
            "depth": 101,
            "num_groups": 1,
            "width_per_group": config.bottleneck_width,
            "stride_in_1x1": True,
            "res5_dilation": 1,
        },
        "proposal_generator": {"min_size": 0, "hidden_channels": config.proposal_width},
        "anchor_generator": {
            "sizes": [list(config.anchor_sizes)],
            "aspect_ratios": [list(config.anchor_ratios)],
            "offset": 0.0,
        },
        "rpn": {
            "in_features": ["res4"],
            "nms_thresh": config.proposal_nms,
            "batch_size_per_image": 256,
            "positive_fraction": 0.5,
            "smooth_l1_beta": 0.0,
            "loss_weight": 1.0,
            "pre_nms_topk_train": 12000,
            "pre_nms_topk_test": config.before_nms,
            "post_nms_topk_train": 2000,
            "post_nms_topk_test": config.after_nms,
            "boundary_thresh": 0,
            "bbox_reg_weights": [1.0] * 4,
            "iou_thresholds": [0.3, 0.7],
            "iou_labels": [0, -1, 1],
        },
        "roi_heads": {
            "in_features": ["res4"],
            "num_classes": config.classes,
            "nms_thresh_test": [0.5, 0.6, 0.7, 0.8, 0.9],
            "score_thresh_test": 0.2,
            "positive_fraction": 0.25,
            "proposal_append_gt": True,
        },
        "roi_box_head": {
            "smooth_l1_beta": 0.0,
            "bbox_reg_weights": list(config.box_weights),
            "cls_agnostic_bbox_reg": False,
            "pooler_resolution": config.pooled,
            "pooler_sampling_ratio": 0,
            "res5halve": False,
            "attr": True,
            "num_attrs": config.attributes,
        },
        "input": {"min_size_test": config.short_side, "max_size_test": config.long_side, "format": "BGR"},
        "min_detections": count,
        "max_detections": count,
    }
