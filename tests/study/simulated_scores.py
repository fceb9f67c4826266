"""Score tables of studies whose true effects are known."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

BASES = {"gaussian": 0.5, "bernoulli50": 0.5, "bernoulli90": 0.9}
SHARED, OWN = 0.03, 0.04  # spread of the seeds on the latent scale: common to all arms, and an arm's own


@dataclass(frozen=True)
class Simulated:
    """Many studies with the same true scores."""

    results: np.ndarray  # (studies, arms, S, items), points
    these_items: np.ndarray  # (studies, arms) true scores over infinitely many seeds on the study's items
    new_items: np.ndarray  # (arms,) true scores over infinitely many seeds and items


def simulate(kind, seeds, item_spread, *, arms=2, gap=0.0, own_items=0.3, paired=True, studies=1000, items=200, key=0):
    """Latent value: arm (the first ``gap`` above the others) + seed (shared and own) + item (shared and own) + noise.

    A Bernoulli result is right where the latent value is above 0, so that an item's chance is a normal distribution
    function, and the true scores are known in closed form.
    """
    rng = np.random.default_rng([key, seeds, list(BASES).index(kind), int(10 * item_spread)])

    def normal(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    seed_effects = OWN * normal(studies, arms, seeds, 1)
    seed_effects += SHARED * normal(studies, 1 if paired else arms, seeds, 1)
    item_effects = item_spread * normal(studies, 1, 1, items)
    item_effects = item_effects + own_items * item_spread * normal(studies, arms, 1, items)
    seed_variance, item_variance = SHARED**2 + OWN**2, item_spread**2 * (1 + own_items**2)
    spread = np.sqrt(1 + seed_variance + item_variance)
    centre = spread * ndtri(BASES[kind]) + gap * (np.arange(arms) == 0)  # (arms,)
    fixed = centre[:, None, None] + item_effects  # (studies, arms, 1, items)
    results = (fixed + seed_effects + normal(studies, arms, seeds, items)).astype(float)
    if kind == "gaussian":
        return Simulated(50 + 10 * results, (50 + 10 * fixed).mean((2, 3)), 50 + 10 * centre)
    these_items = ndtr(fixed / np.sqrt(1 + seed_variance)).mean((2, 3))
    return Simulated(100.0 * (results > 0), 100 * these_items, 100 * ndtr(centre / spread))
