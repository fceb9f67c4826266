"""One pre-training sample as the model is given it, without padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset

WHOLE = ("next_sentence_label", "image_cls")  # not by token or region


def sample_of(dataset: ConcapDataset, index: int) -> dict[str, Any]:
    """The inputs of one sample as arrays, by name: image_feat (n, F) without the global region's, global_feat (F,).

    zeroed: (n,) bool, the boxes whose features are hidden.
    """
    batch = dataset.collate([dataset[index]], BatchLayout("last"))
    assert batch.stored is not None
    zeroed = batch.stored.zeroed
    inputs = {name: tensor.numpy() for name, tensor in batch.to("cpu").inputs.items()}
    sample: dict[str, Any] = {name: array if name in WHOLE else array[0] for name, array in inputs.items()}
    sample["next_sentence_label"] = int(sample["next_sentence_label"][0])
    sample["global_feat"] = sample["image_feat"][-1]
    for name in ("image_feat", "image_loc"):
        sample[name] = sample[name][:-1]
    sample["zeroed"] = np.isin(np.arange(len(sample["image_feat"])), zeroed[:, 1])
    return sample
