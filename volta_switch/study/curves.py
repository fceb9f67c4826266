"""Learning curves of a study, as one PNG."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

from volta_switch.config import find_config
from volta_switch.files import replacing
from volta_switch.study.plan import Study, places
from volta_switch.tasks import load_task
from volta_switch.train.run_folder import lines_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Colour-blind safe (Okabe and Ito), with a marker and a line style each, so that they differ in grey too.
STYLES = [
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#56B4E9", "v", "-"),
    ("#E69F00", "P", "--"),
    ("#000000", "X", "-."),
]


def draw_curves(study: Study, folder: Path) -> Path:
    """Pre-training loss and each task's validation score over the epochs, one line per model (first seed)."""
    where = places(study, folder)
    panels = [("pre-training", "", "loss", "validation loss")] if study.pretraining else []
    for task in study.tasks:
        spec = load_task(where.tasks_config_file, task)
        panels.append((spec.name, f"{spec.name}_", "score", "validation score, %"))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (title, prefix, value, label) in zip(axes[0], panels, strict=True):
        for model, (colour, marker, style) in zip(study.models, cycle(STYLES), strict=False):
            stem = find_config(model).stem
            lines = _read_log(folder / stem / f"seed{study.seeds[0]}" / f"{prefix}{stem}" / "log.jsonl")
            points = [(line["samples"] / 1000, line[value]) for line in lines]
            axis.plot(
                *zip(*points, strict=True), color=colour, marker=marker, linestyle=style, markersize=4, label=stem
            )
        axis.set(title=title, xlabel="training samples, thousands", ylabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][-1].legend(frameon=False, fontsize="small")
    path = folder / "curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)
    return path


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The validations of a run, the last of each epoch."""
    return list({line["epoch"]: line for line in lines_of(path) if line["kind"] == "valid"}.values())
