"""From the samples of a batch to the padded tensors that the models take.

Legend: B batch, T longest text, R regions with the global one, N boxes without it, F feature width, C object classes.

Samples are dicts of NumPy arrays without padding. Every sample has

    id: str; input_ids: (T,) int64; image_feat: (n, F), image_loc: (n, num_locs), global_feat: (F,), all float32

and what its task adds (see the collating functions; pre-training has its own, in ``pretraining_batch``). Features that
a compact store holds as float16, and the scores that it holds as TopScores, stay so until ``Batch.to`` expands them on
the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import get_worker_info

from volta_switch.config import Config
from volta_switch.data.regions import GlobalPlace, Regions, global_location
from volta_switch.errors import BadRecord

Sample = dict[str, Any]
SHARED_FROM = 1 << 20  # bytes from which a tensor of a loader's worker goes through shared memory
# Inputs that the models read on the host, to know which rows there are without waiting for the device.
ON_HOST = frozenset({"attention_mask", "image_attention_mask", "masked_lm_labels", "image_label", "noise_keys"})


@dataclass(frozen=True)
class BatchLayout:
    """How a batch is laid out.

    Attributes:
        add_global_imgfeat: the global region stands in the first slot, in the last slot (after the padding: VL-BERT
            reads slot R - 1), or (None) nowhere.
        text_length, num_boxes: fixed sizes, or None for the largest in the batch; a larger sample raises ValueError.
        pad_id: id of [PAD].
        joins_images: the images of one text stand in one row, one behind the other, else in a row each.
    """

    add_global_imgfeat: GlobalPlace | None = "first"
    text_length: int | None = None
    num_boxes: int | None = None
    pad_id: int = 0
    joins_images: bool = False

    @classmethod
    def of(cls, config: Config) -> BatchLayout:
        """Returns that of the batches that a model takes."""
        place, joins_images = config.add_global_imgfeat, config.fusion.joins_images
        return cls(place, pad_id=config.pad_token_id, joins_images=joins_images)  # type: ignore[arg-type]

    @property
    def boxes_from(self) -> int:
        """The slot of an image's first box."""
        return 1 if self.add_global_imgfeat == "first" else 0

    def slots(self, boxes: int) -> int:
        """Returns R, the slots that so many boxes and the global region need."""
        return boxes + (self.add_global_imgfeat is not None)

    @property
    def global_slot(self) -> int:
        """The slot of the global region, where there is one."""
        return 0 if self.add_global_imgfeat == "first" else -1


class UnusableSamples(BadRecord):
    """Some samples of a batch cannot be used; places: what is wrong, by their place in the batch."""

    def __init__(self, places: dict[int, str]) -> None:
        super().__init__("; ".join(places.values()))
        self.places = places


@dataclass(frozen=True)
class TopClasses:
    """The detector's class scores of K masked boxes as a compact store keeps them, see TopScores.

    Attributes:
        ids: (K, k) int16.
        scores: (K, k) float16.
        rest: (K,) float32.
        width: C.
    """

    ids: torch.Tensor
    scores: torch.Tensor
    rest: torch.Tensor
    width: int

    def map(self, move: Callable[[Any], Any]) -> TopClasses:
        """Returns the same with every tensor moved."""
        return TopClasses(move(self.ids), move(self.scores), move(self.rest), self.width)

    def dense(self) -> torch.Tensor:
        """Returns all scores, (K, C) float32."""
        others = max(self.width - self.ids.shape[1], 1)
        full = (self.rest / others)[:, None].repeat(1, self.width)
        return full.scatter_(1, self.ids.long(), self.scores.float())


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Which features of a file make up a batch's image_feat.

    Attributes:
        places: (B,) int64, in the data set.
        slots: R.
        start: the slot of the first box.
        zeroed: (Z, 2) int64, image and box of each feature that is masked.
        target: whether to give image_feat_target, too, (B, N, F), in which nothing is zeroed.
        num_boxes: N, the slots of image_feat_target.
    """

    places: np.ndarray
    slots: int
    start: int
    zeroed: np.ndarray
    target: bool
    num_boxes: int

    def inputs(self, regions: Sequence[Regions]) -> dict[str, torch.Tensor]:
        """Returns image_feat (B, R, F), and image_feat_target where asked for, in the type of the file."""
        features = [each.features for each in regions]
        given = padded(features, self.slots, 0, self.start)  # (B, R, F)
        rows = given.numpy()
        for image, box in self.zeroed.tolist():
            rows[image, self.start + box] = 0
        inputs = {"image_feat": given}
        return inputs | {"image_feat_target": padded(features, self.num_boxes, 0)} if self.target else inputs


@dataclass
class Batch:
    """One batch.

    Attributes:
        inputs: the model's keyword arguments. Between a worker and its loader, and nowhere else, those that ``stored``
            gives are missing.
        target: what the task compares the scores with; None without answers.
        ids: what each sample is called in results.
        candidates: (B, R) bool, the slots that may be answered, for referring expressions.
        stored: which features of the data set's file are the inputs' image_feat; None where samples hold their own.
        global_weights: (B, R) float32, what each slot counts for the global region's feature, which ``to`` puts into
            ``global_slot``; None where it is there already.
        global_slot: the slot of the global region.
        top_classes: what ``to`` expands into the input image_cls.
        passed_over: what was wrong with the records that were left out; a batch may lose all its samples to that, and
            then has no inputs.
        entries: the annotation of each sample, of tasks whose results hold more than its id.
    """

    inputs: dict[str, torch.Tensor]
    target: torch.Tensor | None
    ids: list[str]
    candidates: torch.Tensor | None = None
    stored: StoredFeatures | None = None
    global_weights: torch.Tensor | None = None
    global_slot: int = 0
    top_classes: TopClasses | None = None
    passed_over: list[str] = field(default_factory=list)
    entries: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """Returns the batch on a device, features and class scores expanded to float32 there; masks stay on the host.

        From page-locked memory (``pin_memory``) a GPU copies asynchronously.
        """
        inputs = on_device(self.inputs, device)
        batch = replace(self, inputs={})._map(lambda tensor: tensor.to(device, non_blocking=True))
        batch.inputs = inputs
        if batch.global_weights is not None:
            features = batch.inputs["image_feat"]  # (B, R, F)
            features[:, batch.global_slot] = (batch.global_weights[:, None] @ features)[:, 0]
            batch.global_weights = None
        if batch.top_classes is not None:
            batch.inputs["image_cls"] = batch.top_classes.dense()
            batch.top_classes = None
        return batch

    @property
    def is_complete(self) -> bool:
        """Whether no input is missing."""
        return self.stored is None or "image_feat" in self.inputs

    def completed(self, stored_regions: Callable[[int], Regions]) -> Batch:
        """Returns the batch with the features that lie in a file, whose regions are found by their place."""
        assert self.stored is not None
        regions = [stored_regions(place) for place in self.stored.places.tolist()]
        return replace(self, inputs=self.inputs | self.stored.inputs(regions))

    def sent_by_workers(self) -> list[torch.Tensor]:
        """Returns the tensors that a worker sends of such a batch: those that are in no file."""
        left_out = ("image_feat", "image_feat_target") if self.stored else ()
        inputs = [tensor for name, tensor in self.inputs.items() if name not in left_out]
        return [*inputs, *(each for each in (self.target, self.candidates) if each is not None)]

    def __getstate__(self) -> dict[str, Any]:
        """Sends small tensors as bytes: each tensor in shared memory costs a file, opened on both sides."""
        return self._map(lambda tensor: tensor.numpy() if tensor.nbytes < SHARED_FROM else tensor).__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        received = self._map(lambda part: torch.from_numpy(part) if isinstance(part, np.ndarray) else part)
        self.__dict__.update(received.__dict__)

    def pin_memory(self) -> Batch:
        """Returns the batch in page-locked memory."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, move: Callable[[Any], Any]) -> Batch:
        return replace(
            self,
            inputs={name: move(tensor) for name, tensor in self.inputs.items()},
            target=None if self.target is None else move(self.target),
            candidates=None if self.candidates is None else move(self.candidates),
            global_weights=None if self.global_weights is None else move(self.global_weights),
            top_classes=None if self.top_classes is None else self.top_classes.map(move),
        )


def collate_labelled(samples: Sequence[Sample], layout: BatchLayout) -> Batch:
    """Stacks the samples' ``target``s (num_labels,) float32 into (B, num_labels); None where a sample has none."""
    inputs = text_inputs([s["input_ids"] for s in samples], layout) | image_inputs(samples, layout)
    target = None if samples[0]["target"] is None else torch.from_numpy(np.stack([s["target"] for s in samples]))
    return Batch(inputs, target, [s["id"] for s in samples])


def collate_grounding(samples: Sequence[Sample], layout: BatchLayout) -> Batch:
    """Gives each slot the overlap with the box that is meant, as target (B, R) float32, and candidates (B, R) bool.

    Samples add target (n,) float32 and global_target float, the overlap of the whole image: VOLTA trains on it too. It
    is no candidate (differs from VOLTA, which may answer with the whole image). Padding: 0 and False.
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
        target[:, layout.global_slot] = [s["global_target"] for s in samples]
    return Batch(inputs, torch.from_numpy(target), [s["id"] for s in samples], torch.from_numpy(candidates))


def collate_alternatives(samples: Sequence[Sequence[Sample]], layout: BatchLayout) -> Batch:
    """Lays the K alternatives of each sample one after the other: inputs have B * K rows; target (B,) int64, all 0."""
    rows = [row for alternatives in samples for row in alternatives]
    inputs = text_inputs([row["input_ids"] for row in rows], layout) | image_inputs(rows, layout)
    ids = [alternatives[0]["id"] for alternatives in samples]
    return Batch(inputs, torch.zeros(len(samples), dtype=torch.int64), ids)


def text_inputs(texts: Sequence[np.ndarray], layout: BatchLayout) -> dict[str, torch.Tensor]:
    """Returns input_ids, token_type_ids (all 0) and attention_mask, (B, T) int64, of token ids (T,)."""
    length = layout.text_length or max(map(len, texts))
    return {
        "input_ids": padded(texts, length, layout.pad_id),
        "token_type_ids": torch.zeros((len(texts), length), dtype=torch.int64),
        "attention_mask": _mask([len(text) for text in texts], length),
    }


def image_inputs(samples: Sequence[Mapping[str, Any]], layout: BatchLayout) -> dict[str, torch.Tensor]:
    """Returns image_feat (B, R, F), image_loc (B, R, num_locs) float32 and image_attention_mask (B, R) int64."""
    size = layout.slots(layout.num_boxes or max(len(s["image_feat"]) for s in samples))
    start = layout.boxes_from
    feat = padded([s["image_feat"] for s in samples], size, 0, start)
    loc = padded([s["image_loc"] for s in samples], size, 0, start)
    mask = _mask([start + len(s["image_feat"]) for s in samples], size)
    inputs = {"image_feat": feat, "image_loc": loc, "image_attention_mask": mask}
    if layout.add_global_imgfeat is not None:
        feat[:, layout.global_slot] = torch.from_numpy(np.stack([s["global_feat"] for s in samples])).to(feat.dtype)
    return place_global(inputs, layout)


def place_global(inputs: dict[str, torch.Tensor], layout: BatchLayout) -> dict[str, torch.Tensor]:
    """Puts the global region into its slot of image_loc and image_attention_mask; returns the inputs."""
    if layout.add_global_imgfeat is not None:
        loc = inputs["image_loc"]
        loc[:, layout.global_slot] = torch.from_numpy(global_location(loc.shape[2]))
        inputs["image_attention_mask"][:, layout.global_slot] = 1
    return inputs


def on_device(inputs: Mapping[str, torch.Tensor], device: torch.device | str) -> dict[str, torch.Tensor]:
    """Sends a model's inputs to a device: features in float32 there, what is read on the host stays on the host."""
    moved = {
        name: tensor if name in ON_HOST else tensor.to(device, non_blocking=True) for name, tensor in inputs.items()
    }
    return {name: tensor.float() if name.startswith("image_feat") else tensor for name, tensor in moved.items()}


def _mask(lengths: Sequence[int], size: int) -> torch.Tensor:
    return (torch.arange(size)[None] < torch.tensor(lengths)[:, None]).long()  # (B, size)


def padded(arrays: Sequence[np.ndarray], length: int, fill: int, start: int = 0) -> torch.Tensor:
    """Stacks arrays (n, ...) in a tensor (B, length, ...), from slot ``start`` on; ``fill`` stands elsewhere."""
    first = arrays[0]
    batch = _empty((len(arrays), length, *first.shape[1:]), first.dtype)
    rows = batch.numpy()
    for row, array in zip(rows, arrays, strict=True):
        end = start + len(array)
        if end > length:
            raise ValueError(
                f"a sample of {len(array)} does not fit into {length - start} slots: raise the BatchLayout's size"
            )
        row[:start] = fill
        row[start:end] = array
        row[end:] = fill
    return batch


def joined(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Puts arrays (n, ...) one after the other in one tensor."""
    joined = _empty((sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
    np.concatenate(arrays, out=joined.numpy())
    return joined


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    """Returns a tensor to be filled; a large one of a worker's in shared memory, to be handed over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    if size < SHARED_FROM or get_worker_info() is None:
        return torch.from_numpy(np.empty(shape, dtype=dtype))
    kind = torch.from_numpy(np.empty(0, dtype=dtype)).dtype
    return torch.empty(0, dtype=kind).set_(torch.UntypedStorage._new_shared(size), 0, torch.Size(shape))  # type: ignore[call-overload]
