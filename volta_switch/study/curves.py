"""Learning curves of a study, as one PNG."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

from volta_switch.files import replacing
from volta_switch.study.cells import PRETRAINING, Plan
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


def draw_curves(plan: Plan) -> Path:
    """Pre-training loss and each task's validation score over the epochs, one line per arm (first seed)."""
    study, folder = plan.study, plan.folder
    arms = list(study.arms.values())
    panels = [("pre-training", PRETRAINING, "loss", "validation loss")] if any(arm.pretraining for arm in arms) else []
    for task in study.tasks:
        panels.append((plan.spec(arms[0].name, task).name, task, "score", "validation score, %"))
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (title, task, value, label) in zip(axes[0], panels, strict=True):
        for arm, (colour, marker, style) in zip(arms, cycle(STYLES), strict=False):
            if not plan.has(arm.name, arm.seeds[0], task):
                continue
            lines = _read_log(plan.cell(arm.name, arm.seeds[0], task).folder / "log.jsonl")
            points = [(line["samples"] / 1000, line[value]) for line in lines]
            axis.plot(
                *zip(*points, strict=True), color=colour, marker=marker, linestyle=style, markersize=4, label=arm.name
            )
        axis.set(title=title, xlabel="training samples, thousands", ylabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0][-1].get_legend_handles_labels()
    if handles:
        axes[0][-1].legend(handles, labels, frameon=False, fontsize="small")
    path = folder / "curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)
    return path


def _read_log(path: Path) -> list[dict[str, Any]]:
    """The validations of a run, the last of each epoch."""
    return list({line["epoch"]: line for line in lines_of(path) if line["kind"] == "valid"}.values())
