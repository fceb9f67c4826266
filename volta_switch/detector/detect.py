"""``Detector``: pictures in, ``Regions`` out, and the facts about them that a model must agree with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from volta_switch.data.detector_facts import GIVEN
from volta_switch.data.regions import Regions
from volta_switch.detector.network import Network, Size
from volta_switch.detector.pictures import network_input
from volta_switch.detector.selection import Chosen, Selection, choose
from volta_switch.detector.settings import DetectorConfig
from volta_switch.errors import BadRecord

_MARGIN = 2.0  # pixels that a given box may reach beyond its picture: other programs round
_SMALLEST = 16  # pixels of the input's sides: smaller ones are padded, so that each stage has a cell


@dataclass(frozen=True)
class Labels:
    """What a detector's classes are called.

    Attributes:
        objects: without the background; () where nothing says it.
        attributes: without "none of them"; likewise.
    """

    objects: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


class Detector:
    """A network, on a device, with the names of its classes.

    Attributes:
        network: in evaluation mode.
        labels: names of classes.
        weights: SHA-256 of the weights (``digest_of``).
    """

    def __init__(self, network: Network, labels: Labels | None = None, device: str | torch.device = "cpu") -> None:
        self.network = network.to(device).eval()
        self.labels = labels or Labels()
        self.weights = digest_of(network.state_dict())
        self._device = torch.device(device)

    @property
    def config(self) -> DetectorConfig:
        """The network's."""
        return self.network.config

    def facts(self, selection: Selection, given: bool = False) -> dict[str, Any]:
        """Returns what its features are; ``given``: whether boxes come from outside."""
        return {
            "detector": self.config.name,
            "weights": self.weights,
            "selection": f"{selection.kind}{GIVEN}" if given else selection.kind,
            "number": "as given" if given else selection.numbers,
            "input": self.config.input,
            "width": self.config.features,
        }

    @torch.no_grad()
    def __call__(
        self,
        pictures: Sequence[tuple[str, Image.Image]],
        selection: Selection,
        boxes: Sequence[np.ndarray] | None = None,
    ) -> list[Regions]:
        """Returns the regions of each picture of a batch, with everything that VOLTA's files hold.

        Args:
            pictures: image id and picture of each, as ``pictures.read_picture`` gives it.
            selection: how regions are chosen.
            boxes: (n, 4) for each picture, pixels, where they are given from outside.

        Raises:
            BadRecord: the network has no finite numbers for a picture, or a given box is not one of its.
        """
        if boxes is not None:
            for (image_id, image), own in zip(pictures, boxes, strict=True):
                _refuse_strange_boxes(image_id, image, own)
        inputs = [network_input(image, self.config) for _, image in pictures]
        sizes = [(each.shape[1], each.shape[2]) for each in inputs]
        scales = [
            (image.width / columns, image.height / rows)
            for (_, image), (rows, columns) in zip(pictures, sizes, strict=True)
        ]
        given = None if boxes is None else [self._box_tensor(each) for each in boxes]
        scaled = None
        if given is not None:
            scaled = [own / own.new_tensor([*scale, *scale]) for own, scale in zip(given, scales, strict=True)]
        found = self.network(self._batch(inputs), sizes, scaled)
        outside = [None] * len(found) if given is None else given
        return [
            _regions(
                *pictures[place],
                choose(each, selection, self.config, scales[place], sizes[place], outside[place]),
                each.said.features,
            )
            for place, each in enumerate(found)
        ]

    def _box_tensor(self, boxes: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(boxes, dtype=np.float32).reshape(-1, 4)).to(self._device)

    def _batch(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns inputs in one array, (B, 3, h, w), those that are smaller padded with 0, the mean colour."""
        shape: Size = tuple(max(_SMALLEST, *(each.shape[side] for each in inputs)) for side in (1, 2))  # type: ignore[assignment]
        batch = torch.zeros(len(inputs), 3, *shape)
        for place, each in enumerate(inputs):
            batch[place, :, : each.shape[1], : each.shape[2]] = each
        return batch.to(self._device)


def _refuse_strange_boxes(image_id: str, image: Image.Image, boxes: np.ndarray) -> None:
    """Raises BadRecord for a box that is empty or leaves its picture: of another one, or x, y, width, height."""
    for number, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4), start=1):
        inside = min(x1, y1) >= -_MARGIN and x2 <= image.width + _MARGIN and y2 <= image.height + _MARGIN
        if not (x1 < x2 and y1 < y2 and inside):
            raise BadRecord(
                f"image {image_id!r}: box {number} is {x1:g}, {y1:g}, {x2:g}, {y2:g}; expected x1, y1, x2, y2 within "
                f"the picture, {image.width} x {image.height} pixels as it is shown"
            )


def _regions(image_id: str, image: Image.Image, chosen: Chosen, features: Tensor) -> Regions:
    objects, attributes = chosen.objects[:, 1:].max(dim=1), chosen.attributes[:, 1:].max(dim=1)
    regions = Regions(
        image_id=image_id,
        features=features[chosen.rows].cpu().numpy(),
        boxes=chosen.boxes.cpu().numpy(),
        image_w=image.width,
        image_h=image.height,
        objects_id=objects.indices.cpu().numpy(),
        objects_conf=objects.values.cpu().numpy(),
        attrs_id=attributes.indices.cpu().numpy(),
        attrs_conf=attributes.values.cpu().numpy(),
        cls_prob=chosen.objects.cpu().numpy(),
        attr_scores=chosen.attributes.cpu().numpy(),
    )
    try:
        regions.check()
    except ValueError as error:
        raise BadRecord(f"image {image_id!r}: {error}; are the detector's weights whole?") from None
    return regions


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Returns the SHA-256 of weights: names, shapes and numbers, the same whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        if not name.endswith("num_batches_tracked"):  # of training; some files have none
            tensor = state[name].detach().to("cpu", torch.float32).contiguous()
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()
