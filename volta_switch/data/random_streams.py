"""Random numbers that depend on what they are for, and not on what was drawn before them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SAMPLE, MISMATCH, ORDER, SUBSET, GROUPS = range(5)  # what a stream is for


class KeyedRandom:
    """Streams of random numbers by (seed, purpose, epoch, index), each as long as 2**128 draws.

    Philox is a function of key and counter, so that going to a stream costs microseconds: making a generator for each
    sample of a loader takes ten times as long.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self._bits = np.random.Philox(0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state
        self._state["state"]["key"][:] = seed % 2**64, purpose
        self._state["buffer_pos"] = 4  # nothing is left of an earlier stream

    def at(self, epoch: int, index: int = 0) -> np.random.Generator:
        """Return the generator at the start of a stream; it is the same object for all streams."""
        self._state["state"]["counter"][:] = 0, 0, index, epoch
        self._bits.state = self._state
        return self._generator


def subset(count: int, fraction: float, seed: int) -> np.ndarray:
    """Return the places, in order, of a random share of `count` samples: (round(count * fraction),) int64, at least 1.

    It depends on (count, seed) alone, and a smaller share is part of every larger one.
    """
    chosen = KeyedRandom(seed, SUBSET).at(0).permutation(count)[: max(round(count * fraction), 1)]
    return np.sort(chosen)


def whole_groups(groups: Sequence[str], count: int, seed: int) -> np.ndarray:
    """Return the places, in order, of the samples of randomly drawn groups, about `count` of them: (n,) int64.

    As many groups as have `count` samples on average, two at least, each with all its samples. It depends on the
    groups' names and on (count, seed) alone, and fewer samples are part of more.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    wanted = min(max(round(count * len(names) / len(index)), 2), len(names))
    drawn = KeyedRandom(seed, GROUPS).at(0).permutation(len(names))[:wanted]
    return np.flatnonzero(np.isin(index, drawn))
