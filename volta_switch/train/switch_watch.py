"""The switchers, watched at every validation: how many routes there are, and whether they depend on the sample.

All is taken from the pass with hard routes, which validates anyway, over all image-text pairs of all processes. Its
probabilities pi are eq. 6 at temperature 1, without noise, for the states that the hard route leads to. A hard route is
a function of its sample, so that its own mutual information with the sample is its entropy, however little a switcher
prefers one option to another. That of pi is small where the preferences are alike in all samples.

Only sums are kept, and how often each route was taken. Numbers are float64, on the CPU; informations are in bits.

Legend: B image-text pairs of a batch, L layers, M attention modes, C input candidates, O options of a switcher, W
switchers, K options of all switchers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from volta_switch.data.batches.collate import Batch
from volta_switch.model.encoder import EncoderOutput, SwitchEncoder, routed
from volta_switch.model.switch import noted_scores, switchers_of
from volta_switch.train.optimisation import Validation
from volta_switch.train.run_folder import RunFolder

# One route for all: it has this share of the pairs, and route and sample share less than so many bits.
COMMONEST, INFORMATION = 0.99, 0.05
UNTRAINED = 0.25  # of the run: until then, switchers that never told samples apart have not collapsed
ROUNDING = 1e-12  # of a mean square: a variance below it is that of float32's rounding


class SwitchWatch:
    """Validates a model, and tells what its switchers did; of a static architecture it validates alone.

    All processes call the same methods in the same order.

    Attributes:
        found: what the log says of the last validation, ``{"switchers": described(...)}``; empty without switchers.
    """

    def __init__(self, encoder: SwitchEncoder | None, run: RunFolder):
        self._encoder, self._run = encoder, run
        self.found: dict[str, Any] = {}
        self._is_counted = True  # whether the batch under way is one of the split's, and no stand-in
        self._informed = False  # whether pi has ever told samples apart
        self._collapsed = False  # as it was said last
        self._start()

    def _start(self) -> None:
        self._said: dict[tuple[str, int], Tensor] = {}  # block and layer -> log pi (B, O) of the forward pass under way
        self._routes: Counter[bytes] = Counter()  # a byte for each layer's mode, then one for each layer's input
        self._sums = torch.zeros(0, dtype=torch.float64)  # see _sums_of

    def validated(self, validate: Callable[[], Validation]) -> Validation:
        """Validates once; Switch-BERT's score is that of hard routes, soft routes are logged beside it."""
        if self._encoder is None:
            return validate()
        with routed(self._encoder, "soft"):
            soft = validate()
        with routed(self._encoder, "hard"), self._watching():
            hard = validate()
        self.found = self._read()
        extra = {f"{name}_soft_routes": value for name, value in soft.metrics.items()}
        return Validation(hard.score, {**hard.metrics, **extra})

    def noting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yields the batches that are validated, and notes which of them stand in for a part without samples."""
        for batch in batches:
            self._is_counted = len(batch) > 0
            yield batch

    def collapse(self, step: int, share: float) -> list[str]:
        """Returns a line that says so where the switchers have just collapsed, and logs it; else nothing.

        Args:
            step: at which ``found`` was found.
            share: of the run that has passed, in [0, 1].
        """
        found = self.found.get("switchers")
        if found is None or self._encoder is None:
            return []
        before = self._collapsed
        self._informed = self._informed or found["mutual_information"] >= INFORMATION
        self._collapsed = is_one_route(found) and (before or self._informed or share >= UNTRAINED)
        if before or not self._collapsed:
            return []
        temperature = float(self._encoder.temperature)
        said = _message(step, found, temperature)
        seen = {name: found[name] for name in ("pairs", "distinct_routes", "commonest_share", "mutual_information")}
        self._run.log("collapse", step, {**seen, "temperature": temperature, "message": said})
        return [said]

    def state(self) -> dict[str, bool]:
        """Returns what ``collapse`` must know of earlier validations, for a checkpoint; empty without switchers."""
        return {} if self._encoder is None else {"informed": self._informed, "collapsed": self._collapsed}

    def restore(self, state: dict[str, bool] | None) -> None:
        """Goes on with what ``state`` returned; None: a checkpoint of before there was any."""
        self._informed = bool((state or {}).get("informed"))
        self._collapsed = bool((state or {}).get("collapsed"))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Makes a block in which forward passes are noted."""
        assert self._encoder is not None
        self._start()
        hook = self._encoder.register_forward_hook(self._note_pairs)
        try:
            with noted_scores(self._encoder) as self._said:
                yield
        finally:
            hook.remove()

    def _note_pairs(self, _: nn.Module, __: Any, encoded: EncoderOutput) -> None:
        """Adds up a forward pass, unless it is a stand-in's."""
        assert self._encoder is not None and encoded.routes is not None
        if self._is_counted and self._said:
            taken = torch.cat((encoded.routes.modes.argmax(-1), encoded.routes.inputs.argmax(-1)), -1)  # (B, 2 L)
            self._routes.update(map(bytes, taken.to(torch.uint8).cpu().numpy()))
            said = [self._said[block, index] for block, index, _ in switchers_of(self._encoder)]
            own = _sums_of(torch.cat(said, -1).cpu(), [each.shape[-1] for each in said])
            self._sums = own + self._sums if len(self._sums) else own
        self._said.clear()

    def _read(self) -> dict[str, Any]:
        """Returns ``found`` of the pairs of all processes."""
        assert self._encoder is not None
        ranks, switchers = self._run.ranks, list(switchers_of(self._encoder))
        options = [switcher.options.out_features for _, _, switcher in switchers]
        own = self._sums if len(self._sums) else torch.zeros(4, sum(options), dtype=torch.float64)
        sums = torch.tensor(ranks.sums(own.flatten().tolist()), dtype=torch.float64).view_as(own)
        routes: Counter[str] = Counter()
        for each in ranks.gathered({route.hex(): count for route, count in self._routes.items()}):
            routes.update(each)
        self._start()
        if not routes:
            return {}
        places = [(block, index) for block, index, _ in switchers]
        return {"switchers": described(routes, sums, places, options, self._encoder.depth)}


def is_one_route(found: Mapping[str, Any]) -> bool:
    """Tells of what ``described`` returned whether all samples take one route, and the probabilities agree with it."""
    return found["commonest_share"] >= COMMONEST and found["mutual_information"] < INFORMATION


def described(
    routes: Counter[str], sums: Tensor, places: list[tuple[str, int]], options: list[int], depth: int
) -> dict[str, Any]:
    """Returns what the log says of switchers.

    Args:
        routes: how many pairs took each whole route.
        sums: (4, K), see ``_sums_of``.
        places: block and layer of each switcher, (W,).
        options: of each switcher, (W,).
        depth: L.

    Returns:
        ``pairs``; ``distinct_routes``; ``commonest_share``, in [0, 1]; ``route_entropy``, bits; ``mutual_information``,
        bits, the sum over switchers; ``constant`` and ``varying``, the root mean squares, over all options of all
        switchers, of the mean logits and of what differs from them between pairs, logits being centred over a
        switcher's options; ``constant_to_varying``, None where nothing varies. ``modes`` and ``inputs``, of a block
        that is switched: ``mutual_information``, ``constant`` and ``varying`` of its layers, (L,), None where a layer
        has no switcher.
    """
    pairs = routes.total()
    shares = torch.tensor([count / pairs for count in routes.values()], dtype=torch.float64)
    probability, entropy, logit, square = (sums / pairs).unbind()  # (K,) each: means over the pairs
    bits = [
        (torch.special.entr(mean).sum() - own.sum()).clamp(min=0) / math.log(2)
        for mean, own in zip(probability.split(options), entropy.split(options), strict=True)
    ]
    variance = square - logit**2
    variance = torch.where(variance > ROUNDING * square, variance, 0.0)
    constant, varying = (float(part.mean().sqrt()) for part in (logit**2, variance))
    found: dict[str, Any] = {
        "pairs": pairs,
        "distinct_routes": len(routes),
        "commonest_share": float(shares.max()),
        "route_entropy": abs(float(torch.special.entr(shares).sum())) / math.log(2),
        "mutual_information": float(sum(bits)),
        "constant": constant,
        "varying": varying,
        "constant_to_varying": constant / varying if varying else None,
    }
    for place, own, means, variances in zip(
        places, bits, (logit**2).split(options), variance.split(options), strict=True
    ):
        block, index = place
        names = ("mutual_information", "constant", "varying")
        of_block = found.setdefault(block, {name: [None] * depth for name in names})
        for name, value in zip(names, (own, means.mean().sqrt(), variances.mean().sqrt()), strict=True):
            of_block[name][index] = float(value)
    return found


def _sums_of(said: Tensor, options: list[int]) -> Tensor:
    """Adds up log pi (B, K) of all switchers over the pairs.

    Returns:
        (4, K): pi, the terms of its entropy (nats), the centred logits and their squares.
    """
    of_switchers = [each.log_softmax(-1) for each in said.double().split(options, -1)]  # so that they sum to 1 exactly
    probability = torch.cat(of_switchers, -1).exp()
    logit = torch.cat([each - each.mean(-1, keepdim=True) for each in of_switchers], -1)  # those of eq. 6, centred
    return torch.stack((probability, torch.special.entr(probability), logit, logit**2)).sum(1)


def _message(step: int, found: dict[str, Any], temperature: float) -> str:
    return (
        f"the switchers have collapsed: after step {step} one route takes {found['commonest_share']:.1%} of "
        f"{found['pairs']} image-text pairs, and route and sample share {found['mutual_information']:.3f} bit "
        f"(temperature {temperature:.2f}); try a longer run, switch.anneal_share=1 (fine-tuning: "
        "switch.finetune_anneal_share=1) or switch.alignment_norm=batch; docs/routes.md says why that may be"
    )
