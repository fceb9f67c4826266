"""The arms' cross-modal ablations side by side, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from volta_switch.ablation.settings import MASKED, NONE, TITLES
from volta_switch.study.records import AblatedLoss, AblationOverSeeds
from volta_switch.study.table_formats import WordsTable

NOTE = (
    "Losses of pre-training in nats, means over phrases; ± is the standard deviation over seeds. In brackets 95 % "
    "intervals of how much larger they are than with nothing masked, about new seeds and new images."
)
MORE = "… more than unmasked"


def ablation_as_markdown(found: Sequence[AblationOverSeeds]) -> list[str]:
    """Returns title, table and note; none where nothing was measured."""
    title = f"**Cross-modal ablation** ({ablation_data(found)})"
    return [title, ablation_in_words(found).as_markdown(), NOTE] if found else []


def ablation_as_latex(found: Sequence[AblationOverSeeds]) -> list[str]:
    """Returns rows for booktabs, a comment before them; none where nothing was measured."""
    return [f"% Cross-modal ablation ({ablation_data(found)})\n{ablation_in_words(found).as_latex()}"] if found else []


def ablation_as_csv(found: Sequence[AblationOverSeeds]) -> str:
    """Returns a line for every arm, loss and seed, in nats; empty where nothing was measured."""
    if not found:
        return ""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(
        ["table", "arm", "direction", "masking", "loss", "split", "phrases", "seed", "nats", "more_than_unmasked"]
    )
    for arm in found:
        for each in arm.losses:
            place = ("cross-modal ablation", arm.arm, each.direction, each.masking, each.loss, arm.split, each.phrases)
            more = each.more.values if each.more else [""] * len(arm.seeds)
            lines.writerows([*place, *own] for own in zip(arm.seeds, each.mean.values, more, strict=True))
    return out.getvalue()


def ablation_data(found: Sequence[AblationOverSeeds]) -> str:
    """Returns what was measured on: "Flickr30k Entities, val"."""
    data = "the synthetic world's Flickr30k Entities" if any(each.synthetic for each in found) else "Flickr30k Entities"
    return ", ".join([data, *dict.fromkeys(each.split for each in found)])


def ablation_in_words(found: Sequence[AblationOverSeeds]) -> WordsTable:
    """Returns a column for each arm, and lines for each loss and what is masked."""
    table = WordsTable(["", *(each.arm for each in found)], [["seeds", *(str(len(each.seeds)) for each in found)]])
    for key in {(each.direction, each.loss, each.masking): None for arm in found for each in arm.losses}:
        own = [_loss(arm, key) for arm in found]
        direction, loss, masking = key
        title = f"{TITLES[loss]}: {MASKED[direction, masking]} masked"
        table.add(title, [each.mean if each else None for each in own], 3)
        if masking != NONE:
            table.add(MORE, [each.more if each else None for each in own], 3, signed=True)
    return table


def _loss(arm: AblationOverSeeds, key: tuple[str, str, str]) -> AblatedLoss | None:
    return next((each for each in arm.losses if (each.direction, each.loss, each.masking) == key), None)
