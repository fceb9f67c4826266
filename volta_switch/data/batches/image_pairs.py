"""The inputs of texts that are about several images each, as NLVR2's: a row for each image, or one for all of them.

Legend: S texts, K images of each, R regions with the global one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from volta_switch.data.batches.collate import BatchLayout, image_inputs, padded, text_inputs


def pair_inputs(
    texts: Sequence[np.ndarray], images: Sequence[Sequence[Mapping[str, Any]]], layout: BatchLayout
) -> dict[str, torch.Tensor]:
    """Returns the inputs of S texts that are about as many images each, K: S * K rows, each with the text.

    Where the layout joins images, S rows, and image_token_type_ids (S, R) int64: the number of each region's image.
    """
    K = len(images[0])
    if K == 1 or not layout.joins_images:
        rows = [image for shown in images for image in shown]
        return text_inputs([text for text in texts for _ in range(K)], layout) | image_inputs(rows, layout)
    joined = [
        {name: np.concatenate([each[name] for each in shown]) for name in ("image_feat", "image_loc")}
        for shown in images
    ]
    inputs = text_inputs(texts, layout) | image_inputs(joined, layout)
    types = [np.repeat(np.arange(K), [len(each["image_feat"]) for each in shown]) for shown in images]
    return inputs | {"image_token_type_ids": padded(types, inputs["image_feat"].shape[1], 0)}
