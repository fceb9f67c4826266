"""Training a detector: the losses of proposals and of regions, and a loop for a small one.

It is what a minute on a CPU allows, not how the Visual Genome detector was trained: the head learns from the annotated
boxes, moved at random, and from random boxes as background; the proposals learn beside it.

Legend: n boxes of a picture, m annotated ones, C classes of objects, the background as one more at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from volta_switch.detector.boxes import clipped, deltas_between, overlaps
from volta_switch.detector.network import Network
from volta_switch.detector.pictures import network_input
from volta_switch.detector.pooling import roi_pool
from volta_switch.detector.settings import STRIDE, DetectorConfig

OBJECT, BACKGROUND = 0.6, 0.3  # overlap of an anchor with an object: from, below
REGION = 0.5  # of a box with an object, from which it is one
COPIES, RANDOM = 2, 4  # boxes of each object, moved; boxes anywhere
MOVED = 0.25  # of a side: the most by which an edge is moved
WEIGHT_DECAY = 1e-4
WARM_UP = 0.1  # share of the steps


@dataclass(frozen=True)
class Example:
    """A picture with what is in it.

    Attributes:
        picture: RGB.
        boxes: (m, 4), pixels.
        objects: (m,), classes, 0 to C - 1.
        attributes: (m,), likewise.
    """

    picture: Image.Image
    boxes: Tensor
    objects: Tensor
    attributes: Tensor


@dataclass(frozen=True)
class Training:
    """How a detector is trained.

    Attributes:
        steps: batches.
        batch: pictures of each, all of one size.
        rate: the highest learning rate; it rises for a tenth of the steps and falls to 0.
        seed: of initial weights, order and moved boxes.
    """

    steps: int = 300
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0


def train(
    config: DetectorConfig,
    examples: Sequence[Example],
    training: Training,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Network:
    """Returns a network that was trained from random weights; the same arguments give the same one.

    ``progress`` is called with the number of each step and its loss.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(training.seed)
        network = Network(config).train()
        dice = torch.Generator().manual_seed(training.seed)
        optimiser = torch.optim.AdamW(network.parameters(), training.rate, weight_decay=WEIGHT_DECAY)
        warm = max(1, int(WARM_UP * training.steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min((step + 1) / warm, (training.steps - step) / max(training.steps - warm, 1))
        )
        order: list[int] = []
        for step in range(training.steps):
            while len(order) < training.batch:
                order += torch.randperm(len(examples), generator=dice).tolist()
            chosen, order = [examples[index] for index in order[: training.batch]], order[training.batch :]
            loss = batch_loss(network, chosen, dice)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
            optimiser.step()
            schedule.step()
            progress(step + 1, float(loss.detach()))
    return network.eval()


def batch_loss(network: Network, examples: Sequence[Example], dice: torch.Generator) -> Tensor:
    """Returns the sum of all losses of a batch of pictures of one size, a scalar."""
    inputs = torch.stack([network_input(each.picture, network.config) for each in examples])
    size = (inputs.shape[2], inputs.shape[3])
    features, cells = network.backbone(inputs, [size] * len(examples))
    wanted = [each.boxes * (size[1] / each.picture.width) for each in examples]
    logits, deltas = network.proposal_generator.rpn_head(features)
    anchors = network.proposal_generator.grid(*cells[0])
    losses = [
        proposal_loss(own.reshape(-1), moves.reshape(-1, 4), anchors, boxes)
        for own, moves, boxes in zip(logits, deltas, wanted, strict=True)
    ]
    sampled = [_sampled(boxes, size, dice) for boxes in wanted]
    return torch.stack(losses).mean() + region_loss(network, features, sampled, wanted, examples)


def proposal_loss(logits: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
    """Returns the loss of one picture's anchors: whether they show an object, half of it, and where.

    Args:
        logits: (n,).
        deltas: (n, 4).
        anchors: (n, 4).
        boxes: (m, 4), m > 0, pixels of the input.
    """
    over = overlaps(anchors, boxes)  # (n, m)
    best, which = over.max(dim=1)
    shows = best >= OBJECT
    shows[over.argmax(dim=0)] = True  # each object has an anchor, however small their overlap is
    which[over.argmax(dim=0)] = torch.arange(len(boxes))
    empty = (best < BACKGROUND) & ~shows
    found = functional.softplus(-logits[shows]).mean() + functional.softplus(logits[empty]).mean()
    moves = deltas_between(anchors[shows], boxes[which[shows]], (1.0, 1.0, 1.0, 1.0))
    return found + functional.smooth_l1_loss(deltas[shows], moves, beta=1 / 9)


def region_loss(
    network: Network,
    features: Tensor,
    sampled: Sequence[Tensor],
    wanted: Sequence[Tensor],
    examples: Sequence[Example],
) -> Tensor:
    """Returns the loss of classes, attributes and moved boxes.

    Args:
        network: the head's.
        features: (B, D, H, W).
        sampled: (n, 4) for each picture, pixels of the input: what the head looks at.
        wanted: (m, 4), the annotated boxes.
        examples: what they are.
    """
    head, config = network.roi_heads, network.config
    pooled = [roi_pool(own, boxes, 1 / STRIDE, config.pooled) for own, boxes in zip(features, sampled, strict=True)]
    objects, attributes, moves = [], [], []
    for boxes, true, example in zip(sampled, wanted, examples, strict=True):
        best, which = overlaps(boxes, true).max(dim=1)
        shows = best >= REGION
        objects.append(torch.where(shows, example.objects[which], config.classes))
        attributes.append(torch.where(shows, example.attributes[which], config.attributes))
        moves.append(deltas_between(boxes, true[which], config.box_weights))
    classes = torch.cat(objects)
    said = head.box_predictor(head.res5(torch.cat(pooled)).mean(dim=(2, 3)), classes)
    loss = functional.cross_entropy(said.objects, classes)
    loss = loss + functional.cross_entropy(said.attributes, torch.cat(attributes))
    shown = (classes < config.classes).nonzero()[:, 0]
    return loss + functional.smooth_l1_loss(said.deltas[shown, classes[shown]], torch.cat(moves)[shown])


def _sampled(boxes: Tensor, size: tuple[int, int], dice: torch.Generator) -> Tensor:
    """Returns boxes (n, 4) around annotated ones (m, 4), and some anywhere, of the same sizes."""
    sides = boxes[:, 2:] - boxes[:, :2]
    copies = boxes.repeat(COPIES, 1)
    copies = copies + (2 * torch.rand(copies.shape, generator=dice) - 1) * MOVED * sides.repeat(COPIES, 2)
    corners = torch.rand((RANDOM, 2), generator=dice) * torch.tensor([size[1], size[0]])
    chosen = sides[torch.randint(len(sides), (RANDOM,), generator=dice)]
    anywhere = torch.cat([corners - chosen / 2, corners + chosen / 2], dim=1)
    found = clipped(torch.cat([copies, anywhere]), size[1], size[0])
    return found[((found[:, 2:] - found[:, :2]) >= 1).all(dim=1)]
