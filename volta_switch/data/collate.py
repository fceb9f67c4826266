"""From the samples of a batch to the padded tensors that the models take.

Legend: B batch, T longest text, R regions with the global one, N boxes without it, F feature width, C object classes.

Samples are dicts of NumPy arrays without padding. Every sample has
    id: str; input_ids: (T,) int64; image_feat: (n, F), image_loc: (n, num_locs), global_feat: (F,), all float32
and what its task adds (see the collating functions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from volta_switch.data.masking import IGNORED
from volta_switch.data.regions import GlobalPlace, global_location

Sample = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """How a batch is laid out.

    add_global_imgfeat: the global region stands in the first slot, in the last slot (after the padding: VL-BERT reads
    slot R - 1), or (None) nowhere.
    text_length, num_boxes: fixed sizes, or None for the largest in the batch; a larger sample raises ValueError.
    pad_id: id of [PAD].
    """

    add_global_imgfeat: GlobalPlace | None = "first"
    text_length: int | None = None
    num_boxes: int | None = None
    pad_id: int = 0

    @property
    def boxes_from(self) -> int:
        """The slot of an image's first box."""
        return 1 if self.add_global_imgfeat == "first" else 0


@dataclass
class Batch:
    """One batch.

    inputs: the model's keyword arguments. target: what the task compares the scores with, None without answers.
    ids: what each sample is called in results. candidates: (B, R) bool, the slots that may be answered, for
    referring expressions.
    """

    inputs: dict[str, torch.Tensor]
    target: torch.Tensor | None
    ids: list[str]
    candidates: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on a device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; called by the DataLoader."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, move: Any) -> Batch:
        return replace(
            self,
            inputs={name: move(tensor) for name, tensor in self.inputs.items()},
            target=None if self.target is None else move(self.target),
            candidates=None if self.candidates is None else move(self.candidates),
        )


def collate_pretraining(samples: Sequence[Sample], layout: Layout) -> Batch:
    """Add masked_lm_labels (B, T), the region labels (B, N, ...) and next_sentence_label (B,) to the inputs.

    Samples add masked_lm_labels (T,), image_label (n,), image_cls (n, C), obj_labels, obj_confs, attr_labels,
    attr_confs (n,), next_sentence_label int, and where asked for image_feat_target (n, F). None of the region labels
    has a place for the global region. Padding: IGNORED in masked_lm_labels and image_label, else 0.
    """
    inputs = text_inputs([s["input_ids"] for s in samples], layout) | image_inputs(samples, layout)
    length, boxes = inputs["input_ids"].shape[1], _num_boxes(samples, layout)
    inputs["masked_lm_labels"] = padded([s["masked_lm_labels"] for s in samples], length, IGNORED)
    inputs["image_label"] = padded([s["image_label"] for s in samples], boxes, IGNORED)
    for name in ("image_cls", "obj_labels", "obj_confs", "attr_labels", "attr_confs", "image_feat_target"):
        if name in samples[0]:
            inputs[name] = padded([s[name] for s in samples], boxes, 0)
    inputs["next_sentence_label"] = torch.tensor([s["next_sentence_label"] for s in samples], dtype=torch.int64)
    return Batch(inputs, None, [s["id"] for s in samples])


def collate_labelled(samples: Sequence[Sample], layout: Layout) -> Batch:
    """Stack the samples' `target`s (num_labels,) float32 into (B, num_labels); None where a sample has none."""
    inputs = text_inputs([s["input_ids"] for s in samples], layout) | image_inputs(samples, layout)
    target = None if samples[0]["target"] is None else torch.from_numpy(np.stack([s["target"] for s in samples]))
    return Batch(inputs, target, [s["id"] for s in samples])


def collate_grounding(samples: Sequence[Sample], layout: Layout) -> Batch:
    """Give each slot the overlap with the box that is meant, as target (B, R) float32, and candidates (B, R) bool.

    Samples add target (n,) float32 and global_target float, the overlap of the whole image: VOLTA trains on it too.
    It is no candidate (differs from VOLTA, which may answer with the whole image). Padding: 0 and False.
    """
    inputs = text_inputs([s["input_ids"] for s in samples], layout) | image_inputs(samples, layout)
    mask = inputs["image_attention_mask"]
    target = np.zeros(mask.shape, dtype=np.float32)  # (B, R)
    candidates = np.zeros(mask.shape, dtype=bool)  # (B, R)
    start = layout.boxes_from
    for row, sample in enumerate(samples):
        end = start + len(sample["target"])
        target[row, start:end] = sample["target"]
        candidates[row, start:end] = True
    if layout.add_global_imgfeat is not None:
        target[:, _global_slot(layout)] = [s["global_target"] for s in samples]
    return Batch(inputs, torch.from_numpy(target), [s["id"] for s in samples], torch.from_numpy(candidates))


def collate_alternatives(samples: Sequence[Sequence[Sample]], layout: Layout) -> Batch:
    """Lay the K alternatives of each sample one after the other: inputs have B * K rows; target (B,) int64, all 0."""
    rows = [row for alternatives in samples for row in alternatives]
    inputs = text_inputs([row["input_ids"] for row in rows], layout) | image_inputs(rows, layout)
    ids = [alternatives[0]["id"] for alternatives in samples]
    return Batch(inputs, torch.zeros(len(samples), dtype=torch.int64), ids)


def text_inputs(texts: Sequence[np.ndarray], layout: Layout) -> dict[str, torch.Tensor]:
    """Return input_ids, token_type_ids (all 0) and attention_mask, (B, T) int64, of token ids (T,)."""
    length = layout.text_length or max(map(len, texts))
    return {
        "input_ids": padded(texts, length, layout.pad_id),
        "token_type_ids": torch.zeros((len(texts), length), dtype=torch.int64),
        "attention_mask": _mask([len(text) for text in texts], length),
    }


def image_inputs(samples: Sequence[Mapping[str, Any]], layout: Layout) -> dict[str, torch.Tensor]:
    """Return image_feat (B, R, F), image_loc (B, R, num_locs) float32 and image_attention_mask (B, R) int64."""
    boxes = _num_boxes(samples, layout)
    size = boxes + (layout.add_global_imgfeat is not None)
    start = layout.boxes_from
    feat = padded([s["image_feat"] for s in samples], size, 0, start)
    loc = padded([s["image_loc"] for s in samples], size, 0, start)
    mask = _mask([start + len(s["image_feat"]) for s in samples], size)
    if layout.add_global_imgfeat is not None:
        slot = _global_slot(layout)
        feat[:, slot] = torch.from_numpy(np.stack([s["global_feat"] for s in samples]))
        loc[:, slot] = torch.from_numpy(global_location(loc.shape[2]))
        mask[:, slot] = 1
    return {"image_feat": feat, "image_loc": loc, "image_attention_mask": mask}


def padded(arrays: Sequence[np.ndarray], length: int, fill: int, start: int = 0) -> torch.Tensor:
    """Put arrays (n, ...) under each other in a tensor (B, length, ...), from slot `start` on, `fill` elsewhere."""
    first = arrays[0]
    shape = (len(arrays), length, *first.shape[1:])
    batch = np.full(shape, fill, dtype=first.dtype) if fill else np.zeros(shape, dtype=first.dtype)
    for row, array in enumerate(arrays):
        if start + len(array) > length:
            raise ValueError(
                f"a sample of {len(array)} does not fit into {length - start} slots: raise the Layout's size"
            )
        batch[row, start : start + len(array)] = array
    return torch.from_numpy(batch)


def _num_boxes(samples: Sequence[Mapping[str, Any]], layout: Layout) -> int:
    return layout.num_boxes or max(len(s["image_feat"]) for s in samples)


def _global_slot(layout: Layout) -> int:
    return 0 if layout.add_global_imgfeat == "first" else -1


def _mask(lengths: Sequence[int], size: int) -> torch.Tensor:
    return (torch.arange(size)[None] < torch.tensor(lengths)[:, None]).long()  # (B, size)
