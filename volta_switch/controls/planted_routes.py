"""The control ``planted-routes``: routes that are known to be there are found again.

A teacher's route follows words: in each layer the presence of one word decides the attention mode, and that of
another the input. A student has the teacher's weights, frozen, and fresh switchers. They are trained on the squared
error of the last states, which only the right routes bring to zero.

Legend: B batch, T text tokens, R regions, F feature width, L layers, n packed rows, D hidden.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.config import Config
from volta_switch.controls.conditions import (
    Budget,
    Condition,
    entropy,
    model_config,
    mutual_information,
    train,
)
from volta_switch.model.bert import BertModel, initialise
from volta_switch.model.embeddings import ModelInputs
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Routes

BUDGET = Budget(steps=384)
# By layer, what a word's absence and its presence stand for. Each pair differs in as much as a pair can.
MODES = (("SC", "CS"), ("SS", "J"))
INPUTS = ((0, 0), (1, 2))  # candidates; the first layer has nothing to choose from
L = len(MODES)
CLS, SEP, FIRST = 1, 2, 3  # the first word; the first 2 L words decide
WORDS = 24  # that decide nothing
T, R = 8, 4
TESTED = 1024  # samples
WIDTH, SPREAD = 64, 0.07  # of the states, and of the weights' start: routes then change the states by much


@dataclass(frozen=True)
class PlantedBatch:
    """Samples with the teacher's routes: numbers of modes and of inputs, (B, L) each."""

    given: ModelInputs
    modes: Tensor
    inputs: Tensor


def draw(rng: np.random.Generator, B: int, config: Config) -> PlantedBatch:
    """Draws random words and regions; each word that decides something is there in half of the samples."""
    assert config.switch is not None
    rows = np.arange(B)[:, None]
    ids = rng.integers(FIRST + 2 * L, FIRST + 2 * L + WORDS, (B, T))
    ids[:, 0], ids[:, -1] = CLS, SEP
    present = rng.random((B, 2 * L)) < 0.5
    places = 1 + rng.permuted(np.tile(np.arange(T - 2), (B, 1)), axis=1)[:, : 2 * L]
    ids[rows, places] = np.where(present, FIRST + np.arange(2 * L), ids[rows, places])
    features = rng.standard_normal((B, R, config.v_feature_size), np.float32)
    boxes = rng.random((B, R, config.num_locs), np.float32)
    modes = np.array([[config.switch.modes.index(mode) for mode in pair] for pair in MODES])  # (L, 2)
    layers, chosen = np.arange(L), present.astype(np.int64)
    return PlantedBatch(
        ModelInputs(*map(torch.from_numpy, (ids, features, boxes))),
        torch.from_numpy(modes[layers, chosen[:, :L]]),
        torch.from_numpy(np.array(INPUTS)[layers, chosen[:, L:]]),
    )


def measure(seed: int, condition: Condition, budget: Budget = BUDGET) -> dict[str, float]:
    """Trains a student and compares its hard routes with the teacher's, on samples of their own.

    Returns:
        ``SAB MI/H`` and ``SIB MI/H``: the share of the planted routes' entropy that the student's tell, over all
        layers; ``error``: its squared error with hard routes, relative to that of its start (``start error``).
    """
    config = condition.config(
        model_config(L, vocab_size=FIRST + 2 * L + WORDS, width=WIDTH, initializer_range=SPREAD), budget
    )
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    teacher = BertModel(config)
    initialise(teacher, config)
    teacher.eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    assert isinstance(student.encoder, SwitchEncoder)
    for switchers in (student.encoder.attention_switch, student.encoder.input_switch):
        switchers.requires_grad_(True)
    test = draw(rng, TESTED, config)
    start, _ = _compared(teacher, student.eval(), test)

    def loss_of(step: int) -> Tensor:
        batch = draw(rng, budget.batch, config)
        return _loss(teacher, student, batch)[0]

    train(student, student.encoder, loss_of, budget, condition)
    end, routes = _compared(teacher, student, test)
    chosen = routes.modes.argmax(-1).numpy(), routes.inputs.argmax(-1).numpy()
    return {
        "SAB MI/H": recovered(chosen[0], test.modes.numpy()),
        "SIB MI/H": recovered(chosen[1], test.inputs.numpy()),
        "error": end / start,
        "start error": start,
    }


def recovered(chosen: np.ndarray, planted: np.ndarray) -> float:
    """Returns the share of the planted options' entropy that the chosen tell, of options (B, L) over all layers."""
    told = sum(mutual_information(one, other) for one, other in zip(chosen.T, planted.T, strict=True))
    return told / sum(entropy(layer) for layer in planted.T)


def _loss(teacher: BertModel, student: BertModel, batch: PlantedBatch) -> tuple[Tensor, Routes]:
    """Returns the mean squared error of a student's last states (n, D), and its routes."""
    with torch.no_grad():
        wanted, _, _ = teacher(batch.given, modes=batch.modes.tolist(), inputs=batch.inputs.tolist())
    found, _, _ = student(batch.given)
    assert found.routes is not None
    return F.mse_loss(torch.cat(found.states), torch.cat(wanted.states)), found.routes


@torch.no_grad()
def _compared(teacher: BertModel, student: BertModel, batch: PlantedBatch) -> tuple[float, Routes]:
    error, routes = _loss(teacher, student, batch)
    return float(error), routes
