"""A table's JSON values as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from volta_switch.study.route_seeds import ROUTES_NOTE, in_words

FLOPS_NOTE = (
    "FLOPs are those of training on a pair of image and text, as runs tracked them, the mean over seeds: executed, and "
    "of all active paths, each paid for."
)


def _switch_note(row: Mapping[str, Any]) -> str:
    of_tasks: dict[str, list[float]] = {}
    for run, value in row["soft_minus_hard"].items():
        of_tasks.setdefault(run.split("/")[0], []).append(value)
    parts = ", ".join(f"{task} {_range(values)}" for task, values in of_tasks.items())
    return f"{row['arm']}, validation score with soft routes minus hard routes, in points: {parts}."


def _range(values: list[float]) -> str:
    least, most = (f"{end:+.2f}" for end in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def _cells(table: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as text."""
    flops, of_rows = flops_columns(table)
    headers = ["model", "parameters", *(column["heading"] for column in table["columns"]), *flops]
    body = [
        [row["arm"], f"{row['parameters'] / 1e6:.2f} M", *map(_shown, row["scores"]), *map(amount, own)]
        for row, own in zip(table["rows"], of_rows, strict=True)
    ]
    if table["chance"]:
        body.append(["best blind guess", "", *(f"{value:.1f}" for value in table["chance"]), *("" for _ in flops)])
    return headers, body


def flops_columns(table: Mapping[str, Any]) -> tuple[list[str], list[list[float | None]]]:
    """Headings of a table's columns of operations, and each row's means over seeds; none unless it shows them."""
    tasks = list(dict.fromkeys(column["task"] for column in table["columns"])) if table["shows_flops"] else []
    kinds = {"executed": "FLOPs", "paths": "path FLOPs"}
    headings = [f"{task} {name}" for task in tasks for name in kinds.values()]
    return headings, [[_mean(row["flops"][task][kind]) for task in tasks for kind in kinds] for row in table["rows"]]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def amount(number: float | None) -> str:
    """``437 k``, ``1.25 M``, ``25.3 G``: three digits."""
    if number is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            digits = number / size
            return f"{digits:.{0 if digits >= 100 else 1 if digits >= 10 else 2}f} {unit}"
    return f"{number:.0f}"


def _shown(score: Mapping[str, Any]) -> str:
    own = f"{score['mean']:.1f}" + (f" ± {score['std']:.1f}" if len(score["values"]) > 1 else "")
    return own if score["published"] is None else f"{own} ({score['published']})"


def as_markdown(table: Mapping[str, Any]) -> str:
    """Title, what it is of, rows, what its intervals are, and the verdicts."""
    headers, body = _cells(table)
    text = tabulate(
        body, headers, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))
    )
    notes = [_switch_note(row) for row in table["rows"] if row["soft_minus_hard"]]
    title = [f"**{table['title']}**"] if table["title"] else []
    verdicts = [verdict["text"] for verdict in table["verdicts"]]
    notes += [FLOPS_NOTE] if table["shows_flops"] else []
    return "\n\n".join([*title, *_partial(table), text, table["intervals"], *notes, *verdicts])


def _partial(table: Mapping[str, Any]) -> list[str]:
    """A line that says which seeds a table is of, where these are not all."""
    if table["seeds"] == table["planned_seeds"]:
        return []
    seeds, planned = (", ".join(map(str, table[key])) for key in ("seeds", "planned_seeds"))
    return [f"Partial: of the seeds {planned} those that all arms have finished: {seeds}."]


def routes_as_markdown(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of ``routes_over_seeds`` those of several seeds, as one table; none where there are none."""
    several = [each for each in found if len(each["seeds"]) > 1]
    if not several:
        return []
    headings, lines = in_words(several)
    text = tabulate(lines, headings, tablefmt="github", disable_numparse=True)
    return ["**Routes over seeds**", text, ROUTES_NOTE]


def as_latex(table: Mapping[str, Any]) -> str:
    """Rows alone, for booktabs; of a partial table a comment says so."""
    headers, body = _cells(table)
    body = [[cell.replace("±", "$\\pm$") for cell in row] for row in body]
    rows = tabulate(body, headers, tablefmt="latex_booktabs", disable_numparse=True)
    return "\n".join([*(f"% {line}" for line in _partial(table)), rows.replace("\\$\\textbackslash{}pm\\$", "$\\pm$")])


def as_csv(table: Mapping[str, Any]) -> str:
    """A line for every arm, column and seed."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(
        ["table", "arm", "parameters", "task", "metric", "split", "seed", "score", "published", "flops", "path_flops"]
    )
    for row in table["rows"]:
        for column, score in zip(table["columns"], row["scores"], strict=True):
            place, flops = (column["task"], column["metric"], column["split"]), row["flops"][column["task"]]
            for number, (seed, value) in enumerate(zip(table["seeds"], score["values"], strict=True)):
                tracked = (flops[kind][number] for kind in ("executed", "paths"))
                own = (table["name"], row["arm"], row["parameters"], *place, seed, value, score["published"])
                lines.writerow([*own, *tracked])
    return out.getvalue()
