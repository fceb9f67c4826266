"""The route of every sample of a split, and evaluation with given routes.

Legend: n rows (image-text pairs), B rows of a batch, L layers, M attention modes, C input candidates, O options.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volta_switch.config import ATTENTION_MODES
from volta_switch.cost import EPSILON
from volta_switch.cost.paths import TrackedFlops
from volta_switch.data.batches.collate import Batch
from volta_switch.model.bert import BertForVLTasks, Output
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Routes, noted_scores, soft_weights
from volta_switch.tasks import Evaluation, Task

# What each input candidate is called: where it takes text and vision from.
INPUT_NAMES = ("l-1", "text l-2", "vision l-2", "l-2")
_INPUTS = (
    "text and vision come from the layer before",
    "text comes from two layers before, vision from the layer before",
    "vision comes from two layers before, text from the layer before",
    "text and vision come from two layers before",
)
# Option of a switcher -> what it means.
MEANINGS = {name: mode.meaning for name, mode in ATTENTION_MODES.items()} | dict(zip(INPUT_NAMES, _INPUTS, strict=True))
RoutesOfRows = Callable[[slice], Routes]  # the weights to use for some rows, counted from the split's first


@dataclass(frozen=True)
class Record:
    """The options chosen for every image-text pair of a split, in the loader's order.

    ``counted`` marks the rows that statistics are about: all, but of retrieval's four alternatives only the true pair.
    """

    evaluation: Evaluation
    modes: np.ndarray  # (n, L) options' numbers
    inputs: np.ndarray  # (n, L); 0 in the first layer
    mode_scores: np.ndarray  # (n, L, M) log pi, as the switchers saw the hard route's states
    input_scores: np.ndarray  # (n, L, C)
    text_lengths: np.ndarray  # (n,) word pieces without [CLS] and [SEP]
    regions: np.ndarray  # (n,) without the global one
    ids: list[str]  # (n,) the sample of each row, as in the task's results
    counted: np.ndarray  # (n,) bool
    flops: dict[str, float]  # of a row, the mean, see ``TrackedFlops``
    scored: tuple[str, ...] = ()  # the samples that the metric is the mean of, in the order of ``evaluation.measured``

    def routes(self, rows: slice) -> Routes:
        """Returns the recorded routes as weights (B, L, M) and (B, L, C)."""
        return one_hot_routes(
            self.modes[rows], self.inputs[rows], self.mode_scores.shape[2], self.input_scores.shape[2]
        )


def one_hot_routes(modes: np.ndarray, inputs: np.ndarray, M: int, C: int) -> Routes:
    """Returns routes given by numbers (B, L) as weights (B, L, M) and (B, L, C)."""
    of_modes, of_inputs = (torch.from_numpy(numbers.astype(np.int64)) for numbers in (modes, inputs))
    return Routes(F.one_hot(of_modes, M).float(), F.one_hot(of_inputs, C).float())


class ObservedModel:
    """A task's model whose routes are given and whose outputs are watched; ``Task.evaluate`` takes it as the model.

    Args:
        model: the task's model.
        encoder: its switched encoder, if it has one.
        given: the routes of some rows; None: the model chooses.
    """

    def __init__(self, model: BertForVLTasks, encoder: SwitchEncoder | None, given: RoutesOfRows | None = None):
        self._model, self._encoder, self._given = model, encoder, given
        self.seen = 0  # rows
        self.watch: Callable[[dict[str, Tensor], Output], None] = lambda tensors, out: None

    def eval(self) -> ObservedModel:
        """Sets the model to evaluation."""
        self._model.eval()
        return self

    def __call__(self, task: str, **tensors: Tensor) -> Output:
        """Calls the model; blocks that are switched off get no routes."""
        rows = slice(self.seen, self.seen + len(tensors["input_ids"]))
        self.seen = rows.stop
        told: dict[str, Any] = {}
        if self._given is not None and self._encoder is not None:
            routes, switch = self._given(rows), self._encoder.switch
            told = {"modes": routes.modes} if switch.attention else {}
            told |= {"inputs": routes.inputs} if switch.input else {}
        out: Output = self._model(task, **tensors, **told)
        self.watch(tensors, out)
        return out


def record(
    task: Task,
    model: BertForVLTasks,
    encoder: SwitchEncoder,
    batches: Iterable[Batch],
    device: torch.device,
    epsilon: float = EPSILON,
) -> Record:
    """Evaluates the model on batches with hard routes of its own choice, and records them.

    Args:
        task: the task.
        model: its model.
        encoder: the model's switched encoder.
        batches: what is evaluated.
        device: where.
        epsilon: the soft weight above which a path counts as active.
    """
    encoder.routing = "hard"
    M, C, L = len(encoder.switch.modes), encoder.switch.input_candidates, encoder.depth
    found: dict[str, list[np.ndarray]] = {}
    ids: list[str] = []
    scored: list[str] = []
    observed, tracked = ObservedModel(model, encoder), TrackedFlops(task.config, task.spec.head(), epsilon)
    with noted_scores(encoder) as scores:

        def watch(tensors: dict[str, Tensor], out: Output) -> None:
            assert out.routes is not None
            words, boxes = (tensors[name].sum(1) for name in ("attention_mask", "image_attention_mask"))
            hard = Routes(out.routes.modes.cpu(), out.routes.inputs.cpu())
            said = _known(scores, "modes", hard.modes), _known(scores, "inputs", hard.inputs)
            tracked.add(tensors, soft_routes(encoder, *said), hard)
            for name, value in (
                ("modes", hard.modes.argmax(2)),
                ("inputs", hard.inputs.argmax(2)),
                ("mode_scores", said[0]),
                ("input_scores", said[1]),
                ("text_lengths", words - 2),
                ("regions", boxes - int(task.config.add_global_imgfeat is not None)),
            ):
                found.setdefault(name, []).append(value.cpu().numpy())
            scores.clear()

        observed.watch = watch
        evaluation = evaluate(task, observed, collect_ids(task, batches, ids, scored), device)
    none = {
        **{"modes": np.zeros((0, L), int), "inputs": np.zeros((0, L), int)},
        **{"mode_scores": np.zeros((0, L, M)), "input_scores": np.zeros((0, L, C))},
        **{"text_lengths": np.zeros(0, int), "regions": np.zeros(0, int)},
    }
    arrays = {name: np.concatenate([empty, *found.get(name, [])]) for name, empty in none.items()}
    each = len(arrays["modes"]) // max(len(ids), 1)  # rows of a sample
    counted = np.arange(len(arrays["modes"])) % task.alternatives == 0
    of_rows = [name for name in ids for _ in range(each)]
    report = tracked.report()
    return Record(evaluation, **arrays, ids=of_rows, counted=counted, flops=report, scored=tuple(scored))


def soft_routes(encoder: SwitchEncoder, modes: Tensor, inputs: Tensor) -> Routes:
    """Returns soft weights at the encoder's temperature, without noise, from log pi (B, L, M), (B, L, C) on the CPU."""
    temperature, switch = encoder.temperature.cpu(), encoder.switch
    return Routes(
        soft_weights(modes, temperature, switch.active_modes, noise=False),
        soft_weights(inputs, temperature, switch.input_candidates, noise=False),
    )


def evaluate(task: Task, model: ObservedModel, batches: Iterable[Batch], device: torch.device) -> Evaluation:
    """Returns the task's validation metrics; of retrieval, the accuracy among four."""
    return task.evaluate(cast(BertForVLTasks, model), batches, device)


def collect_ids(task: Task, batches: Iterable[Batch], ids: list[str], scored: list[str]) -> Iterator[Batch]:
    """Yields the batches; appends their samples' ids to ``ids``, those that the metric is about to ``scored``."""
    for batch in batches:
        ids += batch.ids
        if batch.target is not None:
            scored += compress(batch.ids, task.counted(batch))
        yield batch


def _known(said: dict[tuple[str, int], Tensor], block: str, weights: Tensor) -> Tensor:
    """Returns log pi (B, L, O) on the CPU; where there was no choice, that of the only option."""
    scores = weights.log()
    for (of_block, layer), of_layer in said.items():
        if of_block == block:
            scores[:, layer] = of_layer.cpu()
    return scores


def route_words(
    modes: np.ndarray, inputs: np.ndarray, names: tuple[str, ...], switched: tuple[bool, bool]
) -> list[str]:
    """Returns routes (n, L) in words: ``"J SS1 CS0"``, each layer's mode and, from the second on, its input's number.

    ``switched``: whether modes and inputs are switched; those that are not are left out.
    """
    of_modes, of_inputs = switched
    words = []
    for row, candidates in zip(modes.tolist(), inputs.tolist(), strict=True):
        layers = [
            (names[mode] if of_modes else "J") + (str(candidate) if of_inputs and layer else "")
            for layer, (mode, candidate) in enumerate(zip(row, candidates, strict=True))
        ]
        words.append(" ".join(layers))
    return words


def facts(task: Task, split: str, record: Record) -> dict[str, list[Any]]:
    """What the data say about each counted row, to set routes against: a value for each, by name.

    Always ``text length`` (word pieces) and ``regions``; and what the task knows of all its samples (``Task.facts``).
    """
    found: dict[str, list[Any]] = {
        "text length": record.text_lengths[record.counted].tolist(),
        "regions": record.regions[record.counted].tolist(),
    }
    names = list(compress(record.ids, record.counted))
    for fact, values in task.facts(split).items():
        if all(name in values for name in names):
            found[fact] = [values[name] for name in names]
    return found


def shown(task: Task, split: str, record: Record) -> dict[str, list[Any]]:
    """``ids``, ``images`` and ``texts`` of the counted rows, for a page that shows a route beside what it is about."""
    rows_of = task.dataset(split, training=False).sample_rows
    taken: Counter[str] = Counter()  # rows of each sample so far
    lists: dict[str, list[Any]] = {"ids": [], "images": [], "texts": []}
    for name in compress(record.ids, record.counted):
        image, text = rows_of[name][taken[name]]
        taken[name] += 1
        for key, value in (("ids", name), ("images", image), ("texts", text)):
            lists[key].append(value)
    return lists
