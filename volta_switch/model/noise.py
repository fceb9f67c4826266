"""Random numbers of a forward pass: from PyTorch's generators, or a function of the sample (``--deterministic``).

Keyed noise depends on (seed, epoch, sample, place in the model, element) alone: not on the other samples of the batch,
their order, padding, the number of ranks and threads, or what was drawn before. Every row has a key of 64 bits, made
from its sample's key and its number among the sample's real tokens or regions; every place that draws has a site, which
is folded into the key; and an element's random bits are a hash of that key and its column. The names are JAX's.

Legend: B batch, n packed rows (n_t of text, n_v of vision), O options of a switcher.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import Config

STEPS = 2**16  # a rate is rounded to a multiple of 1 / STEPS where four elements share a draw
# splitmix64: its increment, and the shifts and factors of its finaliser (Stafford's variant 13), as signed numbers.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
_LAST_SHIFT = 31


class Site(IntEnum):
    """What draws; together with the number of the sublayer or layer, a place in the model."""

    TEXT, VISION = 0, 1  # not drawn: parts a row's key from its sample's
    EMBEDDINGS = 2
    APPEARANCE, LAST_APPEARANCE = 3, 4  # VL-BERT's
    QUERY, KEY = 5, 6  # together, an attention weight
    OUTPUT = 7  # of a sublayer
    MODE, INPUT = 8, 9  # of a switched layer
    MATCH, TASK, HEAD = 10, 11, 12


def sample_keys(seed: int, epoch: int, ids: Sequence[str], rows: int) -> Tensor:
    """The keys of a batch's rows, (rows,) int64 on the CPU.

    Args:
        seed, epoch: any integers.
        ids: of the batch's samples; rows of one sample lie one after the other, as many for each.
        rows: B of the model's inputs.

    Raises:
        ValueError: the rows cannot be divided among the samples.
    """
    each = rows // max(len(ids), 1)
    if each * len(ids) != rows:
        raise ValueError(f"{rows} rows cannot belong to {len(ids)} samples, as many to each")
    named = [f"{seed} {epoch} {row} {sample}" for sample in ids for row in range(each)]
    hashes = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in named]
    return torch.tensor([int.from_bytes(found, "little", signed=True) for found in hashes], dtype=torch.int64)


def row_keys(sample_keys: Tensor, sample: Tensor, slot: Tensor, site: Site) -> Tensor:
    """Returns the keys of packed rows, (n,), from those of their samples (B,).

    A row is known by its number among its sample's real ones, which no padding changes: a global region in the last
    slot is the one behind the boxes.

    Args:
        sample_keys: (B,) on the rows' device.
        sample, slot: (n,) of each row.
        site: ``TEXT`` or ``VISION``.
    """
    keys = fold_in(sample_keys, site)
    assert keys is not None
    return mix_bits(keys.index_select(0, sample) + slot * _STEP)


def fold_in(keys: Tensor | None, site: Site, number: int = 0) -> Tensor | None:
    """Returns the keys of one site of a sublayer or layer, of the same shape; None: noise is not keyed."""
    return None if keys is None else mix_bits(keys + (16 * number + int(site)))


def random_bits(keys: Tensor, count: int) -> Tensor:
    """Returns 64 bits for each of ``count`` elements, (...) to (..., count): splitmix64, started at each key."""
    return mix_bits(keys[..., None] + torch.arange(1, count + 1, device=keys.device) * _STEP)


def mix_bits(bits: Tensor) -> Tensor:
    """splitmix64's finaliser, any shape, int64: each bit of the outcome depends on every bit that goes in."""
    for shift, factor in _ROUNDS:
        bits = (bits ^ _shift_right(bits, shift)).mul_(factor)
    return bits ^ _shift_right(bits, _LAST_SHIFT)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """A logical shift; PyTorch's keeps the sign."""
    return (bits >> by).bitwise_and_(2 ** (64 - by) - 1)


def dropout(
    update: Tensor, rate: float, training: bool = True, *, keys: Tensor | None = None, onto: Tensor | None = None
) -> Tensor:
    """Zeroes each element of ``update`` with probability ``rate`` and scales the others by 1 / (1 - rate).

    With ``keys``, one for each row (all dimensions but the last), what is dropped is a function of them. The result is
    added to ``onto`` where that is given. Four elements share one draw of 64 bits where noise is keyed, and on a CPU,
    where PyTorch draws one number for each; the probability is then ``drawn_rate``. Else it is PyTorch's own.
    """
    if not training or rate in (0.0, 1.0) or (keys is None and not shares_draws(rate, update.device)):
        update = F.dropout(update, rate) if training and rate > 0 else update
        return update if onto is None else update + onto
    kept = keep_mask(update.shape, rate, update.device, keys=keys)
    return _Drop.apply(update, onto, kept, drawn_rate(rate, update.device, keys is not None))


class _Drop(torch.autograd.Function):
    """Elements that are zeroed with a probability, the others scaled; added to ``onto`` where that is given."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, onto: Tensor | None, kept: Tensor, rate: float) -> Tensor:  # type: ignore[override]
        """Any shape."""
        ctx.scale, ctx.onto = 1 / (1 - rate), onto is not None
        ctx.save_for_backward(kept)
        left = values * kept.view(torch.uint8)
        return left.mul_(ctx.scale) if onto is None else torch.add(onto, left, alpha=ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:  # type: ignore[override]
        """Through the same elements."""
        (kept,) = ctx.saved_tensors
        return (grad * kept.view(torch.uint8)).mul_(ctx.scale), grad if ctx.onto else None, None, None


class Dropout(nn.Dropout):
    """``dropout`` as a module, for layers in a sequence."""

    def forward(self, states: Tensor) -> Tensor:
        """Any shape."""
        return dropout(states, self.p, self.training)


def apply_keyed(layer: nn.Module, states: Tensor, keys: Tensor | None) -> Tensor:
    """Returns ``layer(states)``; with keys of the rows, the dropouts in it draw by them. It may be a sequence."""
    if keys is None:
        return layer(states)
    for part in layer if isinstance(layer, nn.Sequential) else (layer,):
        states = dropout(states, part.p, part.training, keys=keys) if isinstance(part, nn.Dropout) else part(states)
    return states


def keep_mask(
    shape: Sequence[int], rate: float, device: torch.device, *, keys: Tensor | None = None, along: int = -1
) -> Tensor | None:
    """Returns which elements of a tensor of this shape stay, bool; None where all do.

    ``rate``: the probability of being dropped, rounded as in ``drawn_rate``. ``keys``: of the shape without the
    dimension ``along``, whose elements are hashed from them; None: the mask is drawn from PyTorch's generator.
    """
    if rate == 0.0:
        return None
    if keys is None and not shares_draws(rate, device):
        return torch.rand(tuple(shape), device=device) >= rate
    lowest_kept = round(drawn_rate(rate, device, keys is not None) * STEPS) - STEPS // 2
    if keys is not None:
        bits = random_bits(keys, (shape[along] + 3) // 4).view(torch.int16)[..., : shape[along]]
        return (bits >= lowest_kept).movedim(-1, along).contiguous()
    count = math.prod(shape)
    bits = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (bits.view(torch.int16)[:count] >= lowest_kept).view(tuple(shape))


def drawn_rate(rate: float, device: torch.device, keyed: bool = False) -> float:
    """``keep_mask``'s probability: keyed or on a CPU, the nearest multiple of 1 / 65536 (0.100006 for 0.1)."""
    return min(round(rate * STEPS), STEPS - 1) / STEPS if keyed or shares_draws(rate, device) else rate


def shares_draws(rate: float, device: torch.device) -> bool:
    """Whether four elements share one draw: on a CPU, where nothing is compiled, which knows only plain draws."""
    return device.type == "cpu" and rate < 1.0 and not torch.compiler.is_compiling()


def exponential(like: Tensor, keys: Tensor | None = None) -> Tensor:
    """Draws from the exponential distribution, (B, O) as ``like``; by the keys (B,) where there are any."""
    if keys is None:
        return torch.empty_like(like).exponential_()
    high = _shift_right(random_bits(keys, like.shape[-1]), 11)  # 53 bits
    return ((high.double() + 0.5) * 2**-53).log().neg().to(like.dtype)


def batch_dependent(config: Config) -> str:
    """Why a sample's loss depends on the rest of its batch, so that keyed noise cannot make its parts add up; or ""."""
    if config.visual_target_weights.get("2", 0) > 0:
        return "visual target 2 draws its negatives from the whole batch"
    if config.image_embeddings == "vl-bert":
        return "VL-BERT's positions depend on the batch's shortest text and largest number of regions"
    return ""
