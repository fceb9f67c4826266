"""``report.html``: what was collected, in one file that needs no network, with its pictures beside it in ``figures/``.

Everything that comes from a study's file is escaped (jinja2's autoescape); pictures are escaped where they are made.
The page allows no script but its own (Content-Security-Policy), and is read without it: the script sorts tables and
chooses among curves.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from volta_switch.files import replacing
from volta_switch.study.cells import Plan
from volta_switch.study.report.collect import collect
from volta_switch.study.report.cost import cost_figure
from volta_switch.study.report.curves import curve_figure, dial_figure
from volta_switch.study.report.flows import flow_figure, flows_section
from volta_switch.study.report.intervals import difference_figure, interval_figure
from volta_switch.study.report.route_counts import flows_of
from volta_switch.study.route_seeds import ROUTES_NOTE, in_words
from volta_switch.study.table_formats import FLOPS_NOTE, amount, flops_columns

HERE = Path(__file__).parent
ALIKE = 1.02  # the largest over the smallest cost, below which arms cost the same
SYMBOLS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not tested": "…"}


def write_report(plan: Plan, tables: Mapping[str, Any]) -> Path:
    """Writes ``report.html`` and ``figures/`` into the study's folder; returns the page's path.

    Args:
        plan: the study's, over its folder, finished or not.
        tables: what ``table.json`` holds.
    """
    values = collect(plan, tables)
    pictures = draw(values)
    figures = plan.folder / "figures"
    shutil.rmtree(figures, ignore_errors=True)  # an earlier study's would look like this one's
    for name, picture in pictures.items():
        _write(figures / f"{name}.svg", picture)
    return _write(plan.folder / "report.html", render(values, pictures))


def draw(values: Mapping[str, Any]) -> dict[str, str]:
    """All pictures, by the names of their files."""
    found = {}
    for table in values["tables"]:
        for number, column in enumerate(table["columns"] if table["rows"] else ()):
            name = f"{table['name']}-{column['task']}-{column['metric']}"
            found[f"intervals-{name}"] = interval_figure(table, number)
            if table["dial"]:
                found[f"dial-{name}"] = dial_figure(*along_the_dial(table, number))
            found[f"cost-{name}"] = cost_figure(*cost_against(values["cost"]["arms"], table, number))
        if table["verdicts"]:
            found[f"differences-{table['name']}"] = difference_figure(table["verdicts"])
    for panel in values["curves"]:
        if panel["arms"]:
            found[f"curves-{panel['table']}-{panel['title']}"] = curve_figure(panel, values["study"]["arms"])
    for flow in flows_of(values["routes"]):
        found[f"routes-{flow.name}"] = flow_figure(flow)
    return {_file_name(name): picture for name, picture in found.items()}


def render(values: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page's text.

    Args:
        values: as ``collect`` gives them.
        pictures: as ``draw`` gives them.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {each.__name__: each for each in (duration, amount, points, score, shown, published)}
    style, script = ("".join(_read(f"{part}.{kind}") for part in ("report", "flows")) for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    def figure(*parts: str) -> Markup:
        return Markup(pictures.get(_file_name("-".join(parts)), ""))

    return environment.get_template("report.html.j2").render(
        **values,
        symbols=SYMBOLS,
        figure=figure,
        best=best_rows,
        flows=Markup(flows_section(values["routes"])),
        flops_columns=flops_columns,
        flops_note=FLOPS_NOTE,
        over_seeds=in_words(values["routes_over_seeds"]),
        over_seeds_note=ROUTES_NOTE,
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )


def cost_against(
    costs: Mapping[str, Mapping[str, Any]], table: Mapping[str, Any], column: int
) -> tuple[list[dict[str, Any]], str, str, str]:
    """What ``cost_figure`` takes for a table's column: executed FLOPs, or paths' where those alone tell arms apart."""
    kind, meaning = "training_executed", "executed"
    arms = [row["arm"] for row in table["rows"]]
    spans = {each: _ratio([costs[arm][each] for arm in arms]) for each in (kind, "training_paths")}
    if spans[kind] < ALIKE <= spans["training_paths"]:
        kind, meaning = "training_paths", "of active paths"
    rows = [
        {
            "arm": row["arm"],
            "series": Path(row["model"]).stem,
            "x": costs[row["arm"]][kind],
            "score": row["scores"][column],
        }
        for row in table["rows"]
    ]
    heading = table["columns"][column]["heading"]
    return rows, f"training FLOPs of a pair, {meaning}", heading, f"{heading} against FLOPs"


def along_the_dial(
    table: Mapping[str, Any], column: int
) -> tuple[dict[str, list[tuple[float, Mapping[str, Any]]]], str, str]:
    """What ``dial_figure`` takes for a table's column."""
    scores = {row["arm"]: row["scores"][column] for row in table["rows"]}
    dial = table["dial"]
    series = {name: [(x, scores[arm]) for arm, x in arms.items()] for name, arms in dial["series"].items()}
    return series, dial["label"], f"{table['columns'][column]['heading']}, %"


def _ratio(values: list[float]) -> float:
    return max(values) / max(min(values), 1.0)


def best_rows(table: Mapping[str, Any], column: int) -> list[str]:
    """The arm whose interval lies above all others' of a column: one, or none."""
    spans = []
    for row in table["rows"]:
        estimate = row["scores"][column].get("estimate") or {}
        if estimate.get("low") is None:
            return []
        spans.append((row["arm"], estimate["low"], estimate["high"]))
    return [
        arm for arm, low, _ in spans if len(spans) > 1 and all(low > high for other, _, high in spans if other != arm)
    ]


def duration(seconds: float | None) -> str:
    """``45 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def points(number: float | None) -> str:
    """``+1.23``, with a minus sign."""
    return "–" if number is None else f"{number:+.2f}".replace("-", "−")


def score(number: float) -> str:
    """``61.5``, with a minus sign where an interval goes below 0."""
    return f"{number:.1f}".replace("-", "−")


def published(given: Any) -> str:
    """``published 68.8``, or ``paper 68.8, VOLTA 68.7`` where sources are named."""
    if isinstance(given, Mapping):
        return ", ".join(f"{source} {number}" for source, number in given.items())
    return f"published {given}"


def shown(value: Any) -> str:
    """A setting's value."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _file_name(name: str) -> str:
    """Of letters, digits and ``-_.+``; what comes from a file of settings must not lead out of the folder."""
    return "".join(char if char.isalnum() or char in "-_.+" else "_" for char in name)


def _read(name: str) -> str:
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
