"""The control ``gradients``: autograd's gradient of the whole pre-training loss is that of finite differences.

A small Switch-BERT in float64, all losses, keyed noise (the same in every evaluation), no dropout. Its weights are
moved away from their start, where switchers are uniform and biases are zero.

Legend: B batch, T text tokens, R regions, N boxes, n parameters that are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from volta_switch.config import Config
from volta_switch.controls.conditions import Budget, Condition, cut_gradients, model_config, start_annealing
from volta_switch.model.bert import BertForVLPreTraining, switch_encoder
from volta_switch.model.noise import sample_keys

BUDGET = Budget(steps=100, batch=4)  # the temperature is that of the middle of such a run
STEP = 1e-6  # a parameter is moved so far to either side
OF_SWITCHERS, OF_OTHERS = 6, 1  # elements of each tensor that are compared
WORDS, T, N = 20, 7, 4


class KeepFloat64(TorchFunctionMode):
    """Within the block, ``.float()`` leaves float64 as it is.

    The models compute probabilities in float32 or wider; rounded to float32, finite differences would show little.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replaces ``Tensor.float`` of float64."""
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


def measure(seed: int, condition: Condition) -> dict[str, float]:
    """Compares gradients of some elements of every parameter.

    Returns:
        ``switchers r`` and ``others r``: the correlation of both gradients; ``switchers error`` and ``others error``:
        the largest relative error (``relative_error``); ``compared``: elements.
    """
    config = condition.config(
        model_config(
            2,
            vocab_size=WORDS,
            width=16,
            fusion_method="mul",
            v_num_classes=7,
            add_global_imgfeat="first",
            initializer_range=0.1,
            layer_norm_eps=1e-6,
        ),
        BUDGET,
    )
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 3])
    model = BertForVLPreTraining(config).double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))), alpha=0.1)
    encoder = switch_encoder(model)
    assert encoder is not None
    encoder.routing = "auto" if condition.noise else "soft"
    start_annealing(encoder, BUDGET)
    encoder.switch_samples.fill_(BUDGET.samples // 2)
    batch = draw(rng, BUDGET.batch, config, seed)
    if condition.detached:
        cut_gradients(model)
    names = [name for name, _ in model.named_parameters()]

    def loss() -> Tensor:
        found = model(**batch).loss
        assert found is not None
        return found

    with KeepFloat64():
        pairs = compared_gradients(model, loss, rng, lambda name: OF_SWITCHERS if "_switch." in name else OF_OTHERS)
    found: dict[str, float] = {"compared": float(sum(len(pairs[name][0]) for name in names))}
    for group, members in (
        ("switchers", [name for name in names if "_switch." in name]),
        ("others", [name for name in names if "_switch." not in name]),
    ):
        own, finite = (np.concatenate([pairs[name][side] for name in members]) for side in (0, 1))
        found[f"{group} r"] = correlation(own, finite)
        found[f"{group} error"] = relative_error(own, finite)
    return found


def compared_gradients(
    model: nn.Module, loss: Callable[[], Tensor], rng: np.random.Generator, count: Callable[[str], int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns, of each parameter, autograd's gradient and the central difference of the same elements, (n,) each.

    Args:
        model: its parameters are moved one after the other, and put back.
        loss: the same in every call but for the parameters.
        rng: draws the elements.
        count: a parameter's name to how many of its elements are compared.
    """
    model.zero_grad()
    loss().backward()
    found = {}
    for name, parameter in model.named_parameters():
        flat = parameter.data.view(-1)
        places = rng.permutation(len(flat))[: count(name)]
        own = torch.zeros_like(flat) if parameter.grad is None else parameter.grad.reshape(-1)
        differences = []
        for place in places:
            value, ends = float(flat[place]), []
            for step in (STEP, -STEP):
                flat[place] = value + step
                with torch.no_grad():
                    ends.append(float(loss()))
            flat[place] = value
            differences.append((ends[0] - ends[1]) / (2 * STEP))
        found[name] = own[torch.from_numpy(places)].numpy().copy(), np.array(differences)
    return found


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Pearson's correlation of two gradients (n,); 0 where one of them is constant."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def relative_error(own: np.ndarray, finite: np.ndarray) -> float:
    """Returns the largest difference of two gradients (n,), relative to the larger of the two.

    What is below a thousandth of the largest gradient counts as that, so that rounding of small ones is not compared.
    """
    size = np.maximum(np.abs(own), np.abs(finite))
    return float((np.abs(own - finite) / np.maximum(size, 1e-3 * size.max())).max())


def draw(rng: np.random.Generator, B: int, config: Config, seed: int) -> dict[str, Tensor]:
    """Draws a batch with masked words, masked regions and matches, and keys of its noise."""
    R = N + 1  # the global region first
    ids = rng.integers(3, WORDS, (B, T))
    masked = rng.random((B, T)) < 0.3
    hidden = rng.random((B, N)) < 0.4
    masked[:, 1] = hidden[:, 0] = True  # at least one of each
    features = rng.standard_normal((B, R, config.v_feature_size))
    features[:, 1:][hidden] = 0.0
    classes = rng.random((B, N, config.v_num_classes))
    given = {
        "input_ids": np.where(masked, 2, ids),
        "image_feat": features,
        "image_loc": rng.random((B, R, config.num_locs)),
        "masked_lm_labels": np.where(masked, ids, -1),
        "image_label": np.where(hidden, 1, -1),
        "image_cls": classes / classes.sum(-1, keepdims=True),
        "next_sentence_label": rng.integers(0, 2, B),
    }
    keys = sample_keys(seed, 0, [str(number) for number in range(B)], B)
    return {name: torch.from_numpy(value) for name, value in given.items()} | {"noise_keys": keys}
