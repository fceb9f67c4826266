"""What a training step keeps for its backward pass, found on a device that knows shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from volta_switch.config import Config
from volta_switch.cost.counts import some_batch
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import BertForVLPreTraining


def pretraining_model(config: Config) -> BertForVLPreTraining:
    """The model without values."""
    with torch.device("meta"):
        return BertForVLPreTraining(config)


def parameters(config: Config) -> int:
    """Of the pre-training model."""
    return sum(parameter.numel() for parameter in pretraining_model(config).parameters())


def activation_bytes(config: Config, B: int, seed: int = 0) -> int:
    """Bytes of all tensors that a step of pre-training in float32 saves between its passes.

    Weights, which are there anyway, and the batch do not count; nor does what a kernel needs for itself, so that the
    peak of a real step is higher.
    """
    model = pretraining_model(config).train()
    batch = some_batch(B, seed, config)
    boxes = batch["image_label"].shape
    for kind in ("obj", "attr"):  # for visual targets that need them
        batch |= {f"{kind}_labels": torch.ones(boxes, dtype=torch.long), f"{kind}_confs": torch.ones(boxes)}
    inputs = Batch(batch, None, [str(sample) for sample in range(B)]).to("meta").inputs
    known = {_storage(tensor) for tensor in (*model.parameters(), *inputs.values())}
    saved: dict[int, Tensor] = {}  # kept, so that no storage is given out twice

    def keep(tensor: Tensor) -> Tensor:
        saved.setdefault(_storage(tensor), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs).loss
    assert loss is not None
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in known)


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata)
