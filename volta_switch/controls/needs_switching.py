"""The control ``needs-switching``: a task that joint attention cannot do, and that switching does.

A text and a picture carry a class each, independent of one another. A trigger word says which of the two is asked for.
The answer is read, linearly, from the last state of ``[CLS]``. In one layer with one head the ratio of its attention to
the text's word and to the picture cannot depend on a third token: a softmax's terms share their denominator alone. A
feed-forward width of 1 cannot repair that.

Legend: B batch, T text tokens, R regions, F feature width, D hidden, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.controls.conditions import Budget, Condition, model_config, mutual_information, train
from volta_switch.model.bert import BertModel, initialise
from volta_switch.model.embeddings import ModelInputs

BUDGET = Budget(steps=300)
ARMS = ("joint", "Switch-BERT", "forced")
ROUTES = ("SS", "CS")  # under which [CLS] attends to the text alone, or to the picture alone
K = 6
CLS, SEP, TRIGGERS = 1, 2, (3, 4)
FIRST = 5  # the first class's word
R = 3
TESTED = 1024  # samples


@dataclass(frozen=True)
class TriggeredBatch:
    """Samples with what is asked for: ``asked`` (B,), 0 the text's class and 1 the picture's, and ``labels`` (B,)."""

    given: ModelInputs
    asked: Tensor
    labels: Tensor


class ClassReader(nn.Module):
    """A model with a linear map from the last state of ``[CLS]`` to the classes."""

    def __init__(self, config: Config):
        super().__init__()
        self.bert = BertModel(config)
        self.classes = nn.Linear(config.hidden_size, K)
        initialise(self, config)

    def forward(self, batch: TriggeredBatch, forced: bool = False) -> tuple[Tensor, Tensor | None]:
        """Returns scores (B, K) and, of Switch-BERT, the weights of its modes (B, M); ``forced``: the right routes."""
        routes = [[ROUTES[asked]] for asked in batch.asked.tolist()] if forced else None
        found, _, _ = self.bert(batch.given, modes=routes)
        return self.classes(found.padded()[0][:, 0]), None if found.routes is None else found.routes.modes[:, 0]


def draw(rng: np.random.Generator, pictures: np.ndarray, B: int, config: Config) -> TriggeredBatch:
    """Draws samples; ``pictures`` (K, F) are the classes' features, to which every region adds noise of its own."""
    rows = np.arange(B)
    classes = rng.integers(0, K, (B, 2))  # of the text and of the picture
    asked = rng.integers(0, 2, B)
    words = np.stack((np.array(TRIGGERS)[asked], FIRST + classes[:, 0]), 1)
    words = rng.permuted(words, axis=1)  # in either order
    ids = np.concatenate((np.full((B, 1), CLS), words, np.full((B, 1), SEP)), 1)
    features = pictures[classes[:, 1], None] + 0.3 * rng.standard_normal((B, R, pictures.shape[1]), np.float32)
    boxes = rng.random((B, R, config.num_locs), np.float32)
    return TriggeredBatch(
        ModelInputs(*map(torch.from_numpy, (ids, features, boxes))),
        torch.from_numpy(asked),
        torch.from_numpy(classes[rows, asked]),
    )


def measure(seed: int, condition: Condition, arms: tuple[str, ...] = ARMS, budget: Budget = BUDGET) -> dict[str, float]:
    """Trains each arm and tests it, with hard routes, on samples of their own.

    Returns:
        Each arm's accuracy, 0 to 1; ``MI``: bits that Switch-BERT's hard route tells of the trigger.
    """
    found: dict[str, float] = {}
    for arm in arms:
        found[arm], told = _trained(arm, seed, condition, budget)
        if arm == "Switch-BERT":
            found["MI"] = told
    return found


def _trained(arm: str, seed: int, condition: Condition, budget: Budget) -> tuple[float, float]:
    """Returns the accuracy of one arm, and the bits that its route tells of the trigger (0 where it is joint)."""
    small = model_config(
        1,
        vocab_size=FIRST + K,
        width=32,
        switched=arm != "joint",
        initializer_range=0.05,
        num_attention_heads=1,
        intermediate_size=1,
    )
    config, forced = condition.config(small, budget), arm == "forced"
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 2])
    pictures = rng.standard_normal((K, config.v_feature_size), np.float32)
    model = ClassReader(config)
    test = draw(rng, pictures, TESTED, config)

    def loss_of(step: int) -> Tensor:
        batch = draw(rng, pictures, budget.batch, config)
        return F.cross_entropy(model(batch, forced)[0], batch.labels)

    train(model, model.bert.encoder, loss_of, budget, condition)
    with torch.no_grad():
        scores, modes = model(test, forced)
    told = 0.0 if modes is None else mutual_information(modes.argmax(1).numpy(), test.asked.numpy())
    return float((scores.argmax(1) == test.labels).float().mean()), told
