"""What is random in a forward pass: drawn from PyTorch's generators, or a function of the sample (``--deterministic``).

Keyed noise depends on (seed, epoch, sample, place in the model, element) alone: not on the other samples of the batch,
their order, padding, the number of ranks and threads, or what was drawn before. Every row has a key of 64 bits, made
from its sample's key and its number among the sample's real tokens or regions; every place that draws has a site; and
an element's bits are a hash of key, site and column.

Legend: B batch, n packed rows (n_t of text, n_v of vision), O options of a switcher.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from volta_switch.config import Config
from volta_switch.model.rows import Rows, sent

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


def mixed(bits: Tensor) -> Tensor:
    """splitmix64's finaliser, any shape, int64: each bit of the outcome depends on every bit that goes in."""
    for shift, factor in _ROUNDS:
        bits = (bits ^ _shifted(bits, shift)).mul_(factor)
    return bits ^ _shifted(bits, _LAST_SHIFT)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A logical shift to the right; PyTorch's keeps the sign."""
    return (bits >> by).bitwise_and_(2 ** (64 - by) - 1)


def at(keys: Tensor, site: Site, number: int = 0) -> Tensor:
    """The keys of one site of a sublayer or layer, of the same shape."""
    return mixed(keys + (16 * number + int(site)))


def elements(keys: Tensor, count: int) -> Tensor:
    """64 bits for each of ``count`` elements behind each key, (...) to (..., count): splitmix64 from a key on."""
    return mixed(keys[..., None] + torch.arange(1, count + 1, device=keys.device) * _STEP)


@dataclass(frozen=True)
class Noise:
    """The keys of a forward pass: ``sample`` (B,), ``text`` (n_t,) and ``vision`` (n_v,) of the rows that are left."""

    sample: Tensor
    text: Tensor
    vision: Tensor

    @classmethod
    def of(cls, keys: Tensor, text: Rows, vision: Rows) -> Noise:
        """From the samples' keys (B,), for all real rows.

        A row is known by its number among its sample's real ones, which no padding changes: a global region in the last
        slot is the one behind the boxes.
        """
        keys = sent(keys, text.sample.device)
        sides = (
            mixed(rows.per_row(at(keys, site)) + rows.slot * _STEP)
            for rows, site in ((text, Site.TEXT), (vision, Site.VISION))
        )
        return cls(keys, *sides)

    def select(self, text: Tensor | None, vision: Tensor | None) -> Noise:
        """For the rows of these numbers; None: all of them."""
        left = self.text if text is None else self.text.index_select(0, text)
        return Noise(self.sample, left, self.vision if vision is None else self.vision.index_select(0, vision))

    @property
    def joined(self) -> Tensor:
        """(n,), text rows first."""
        return torch.cat((self.text, self.vision))


def keep_mask(
    shape: Sequence[int], rate: float, device: torch.device, keys: Tensor | None = None, along: int = -1
) -> Tensor | None:
    """Which elements of a tensor of this shape stay, bool; None where all do.

    Args:
        shape: of the mask.
        rate: the probability of being dropped; ``drawn_rate`` says what becomes of it.
        device: where it is.
        keys: of the shape without the dimension ``along``, whose elements are hashed from them; None: the mask is drawn
            from PyTorch's generator.
        along: see ``keys``.
    """
    if rate == 0.0:
        return None
    if keys is None and not shares_draws(rate, device):
        return torch.rand(tuple(shape), device=device) >= rate
    lowest_kept = round(drawn_rate(rate, device, keys is not None) * STEPS) - STEPS // 2
    if keys is not None:
        bits = elements(keys, (shape[along] + 3) // 4).view(torch.int16)[..., : shape[along]]
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
    high = _shifted(elements(keys, like.shape[-1]), 11)  # 53 bits
    return ((high.double() + 0.5) * 2**-53).log().neg().to(like.dtype)


def batch_dependent(config: Config) -> str:
    """Why a sample's loss depends on the rest of its batch, so that keyed noise cannot make its parts add up; or ""."""
    if config.visual_target_weights.get("2", 0) > 0:
        return "visual target 2 draws its negatives from the whole batch"
    if config.image_embeddings == "vl-bert":
        return "VL-BERT's positions depend on the batch's shortest text and largest number of regions"
    return ""
