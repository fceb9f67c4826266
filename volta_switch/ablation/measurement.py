"""The losses of a split: with the other modality whole, without what names or shows the entity, and without all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from volta_switch.ablation.losses import region_losses, region_target, word_losses
from volta_switch.ablation.samples import SplitSamples, model_inputs
from volta_switch.ablation.settings import LANGUAGE, MASKINGS, NONE, VISION
from volta_switch.data.batches.collate import on_device
from volta_switch.errors import UserError
from volta_switch.model.bert import BertForVLPreTraining
from volta_switch.model.heads import OF_CLASSES

Setting = tuple[str, str]  # direction and masking
SETTINGS: tuple[Setting, ...] = tuple((name, masking) for name, known in MASKINGS.items() for masking in known)


@dataclass
class PhraseLosses:
    """The losses of a direction.

    Attributes:
        places: (n,) of the phrases that are measured, in the split, ascending.
        values: masking -> loss ("mlm", "mrc_kl", "mrc_xe") -> (n,) float64, the phrases' in this order.
        left_out: phrases that are not: their words lie behind the cut, or no region shows their entity.
    """

    places: np.ndarray
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    left_out: int = 0


def measure(
    model: BertForVLPreTraining, samples: SplitSamples, settings: Sequence[Setting] = SETTINGS, batch_size: int = 64
) -> dict[str, PhraseLosses]:
    """Measures every phrase of a split; no number depends on ``batch_size``, but for rounding.

    Args:
        model: with the heads of pre-training, in evaluation mode.
        samples: the split's.
        settings: directions with their maskings.
        batch_size: phrases at once.

    Returns:
        Direction -> losses.

    Raises:
        UserError: the model does not predict regions' classes, features do not fit, no phrase can be measured, or a
            loss is not finite.
    """
    refuse_unfit(model, settings)
    device, mask_id = next(model.parameters()).device, samples.texts.tokenizer.mask_id
    takes_away = any(direction == VISION and masking != NONE for direction, masking in settings)
    mean = samples.mean_feature() if takes_away else np.zeros(model.config.v_feature_size, dtype=np.float32)
    places: dict[str, list[int]] = {direction: [] for direction, _ in settings}
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for batch in samples.batches(batch_size):
        for direction in places:
            measured = [sample for sample in batch if sample.is_measured(direction)]
            places[direction] += [sample.place for sample in measured]
            for masking in (each for name, each in settings if name == direction and measured):
                given = model_inputs(measured, direction, masking, model.config, mask_id, mean)
                inputs = on_device(given, device)
                if direction == VISION:
                    losses = word_losses(model, inputs, measured)
                else:
                    losses = region_losses(model, inputs, measured, str(samples.store.path))
                for name, values in losses.items():
                    found[direction, masking, name] += values.tolist()
    return {direction: _ordered(direction, places[direction], found, samples) for direction in places}


def refuse_unfit(model: BertForVLPreTraining, settings: Sequence[Setting]) -> None:
    """Raises UserError for a direction that the model's heads do not allow."""
    if any(direction == LANGUAGE for direction, _ in settings) and region_target(model.config) is None:
        raise UserError(
            f"{LANGUAGE}: the model predicts no classes of regions (none of the visual_target_weights "
            f"{', '.join(OF_CLASSES)} is positive); take --direction {VISION}"
        )


def _ordered(
    direction: str, places: list[int], found: dict[tuple[str, str, str], list[float]], samples: SplitSamples
) -> PhraseLosses:
    """Returns what was found of a direction in the order of the split."""
    if not places:
        why = "all their words lie behind max_seq_length" if direction == VISION else "no region shows an entity"
        raise UserError(f"{direction}: none of the {len(samples.phrases)} phrases can be measured: {why}")
    order = np.argsort(places)
    losses = PhraseLosses(np.array(places)[order], {}, len(samples.phrases) - len(places))
    for (of, masking, name), values in found.items():
        if of == direction:
            ordered = np.array(values)[order]
            if not np.isfinite(ordered).all():
                phrase = samples.phrases[losses.places[~np.isfinite(ordered)][0]]
                raise UserError(
                    f"{direction}, {masking} masked: the loss of {phrase.text!r} in image {phrase.image_id} is not "
                    "finite; is the model trained, and are the features those that it was trained with?"
                )
            losses.values.setdefault(masking, {})[name] = ordered
    return losses
