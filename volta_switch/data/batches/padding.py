"""Arrays of different lengths in one tensor.

Legend: B batch, n rows of one array.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import get_worker_info

SHARED_FROM = 1 << 20  # bytes from which a tensor of a loader's worker goes through shared memory


def padded(arrays: Sequence[np.ndarray], length: int, fill: int, start: int = 0) -> torch.Tensor:
    """Put arrays (n, ...) under each other in a tensor (B, length, ...), from slot `start` on, `fill` elsewhere."""
    first = arrays[0]
    batch = _empty((len(arrays), length, *first.shape[1:]), first.dtype)
    rows = batch.numpy()
    for row, array in zip(rows, arrays, strict=True):
        end = start + len(array)
        if end > length:
            raise ValueError(
                f"a sample of {len(array)} does not fit into {length - start} slots: raise the Layout's size"
            )
        row[:start] = fill
        row[start:end] = array
        row[end:] = fill
    return batch


def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Put arrays (n, ...) one after the other in one tensor."""
    joined = _empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    np.concatenate(arrays, out=joined.numpy())
    return joined


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    """Return a tensor to be filled; a large one of a worker's in shared memory, to be handed over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    if size < SHARED_FROM or get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, dtype=dtype))
    kind = torch.from_numpy(np.empty(0, dtype=dtype)).dtype
    return torch.empty(0, dtype=kind).set_(torch.UntypedStorage._new_shared(size), 0, torch.Size(shape))  # type: ignore[call-overload]
