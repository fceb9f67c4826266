"""``report.html``: what was collected, in one file that needs no network, with its pictures in ``figures/``.

Everything that comes from a study's file is escaped (jinja2's autoescape); pictures are escaped where they are made.
The page allows no script but its own (Content-Security-Policy), and is read without it: the script sorts tables and
chooses among curves.
"""

from __future__ import annotations

import base64
import hashlib
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from volta_switch.files import replacing
from volta_switch.study.ablation_formats import NOTE as ABLATION_NOTE
from volta_switch.study.ablation_formats import ablation_data, ablation_in_words
from volta_switch.study.planned_runs import RunKind
from volta_switch.study.records import ArmScore, ReportedTable, StudyResults
from volta_switch.study.report.collect import ReportData, StudySummary, collect
from volta_switch.study.report.cost_picture import CostPoint, cost_figure
from volta_switch.study.report.curves import curve_figure, sweep_figure
from volta_switch.study.report.flows import flow_figure, flows_section
from volta_switch.study.report.intervals import difference_figure, interval_figure
from volta_switch.study.report.route_counts import flows_of
from volta_switch.study.report.runs import ArmCost
from volta_switch.study.run_plan import RunPlan
from volta_switch.study.table_formats import FLOPS_NOTE, ROUTES_NOTE, flops_columns, routes_in_words
from volta_switch.task_names import task_title

HERE = Path(__file__).parent
SYMBOLS = {"supported": "✓", "contradicted": "✗", "undecided": "?", "not tested": "…"}


def write_report(plan: RunPlan, results: StudyResults) -> Path:
    """Writes ``report.html`` and ``figures/`` into the study's folder; returns the page's path.

    Args:
        plan: the study's, over its folder, finished or not.
        results: the made tables.
    """
    shown = collect(plan, results)
    pictures = draw(shown)
    figures = plan.folder / "figures"
    shutil.rmtree(figures, ignore_errors=True)  # an earlier study's would look like this one's
    for name, picture in pictures.items():
        _write(figures / f"{name}.svg", picture)
    return _write(plan.folder / "report.html", render(shown, pictures))


def draw(shown: ReportData) -> dict[str, str]:
    """Draws all pictures; returns them by the names of their files."""
    found = {}
    for table in shown.tables:
        for number, column in enumerate(table.columns if table.rows else ()):
            name = f"{table.name}-{column.task}-{column.metric}"
            found[f"intervals-{name}"] = interval_figure(table, number)
            if table.sweep:
                found[f"dial-{name}"] = sweep_figure(*sweep_lines(table, number))
            found[f"cost-{name}"] = cost_figure(
                *cost_against(shown.cost.arms, table, number), shown.cost.on_tasks, shown.cost.unit
            )
        if table.verdicts:
            found[f"differences-{table.name}"] = difference_figure(table.verdicts)
    for panel in shown.curves:
        if panel.arms:
            found[f"curves-{panel.table}-{panel.title}"] = curve_figure(panel, shown.study.arms)
    for flow in flows_of(shown.routes):
        found[f"routes-{flow.file}"] = flow_figure(flow)
    return {_file_name(name): picture for name, picture in found.items()}


def render(page: ReportData, pictures: Mapping[str, str]) -> str:
    """Returns the page's text.

    Args:
        page: what it shows.
        pictures: as ``draw`` gives them.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (duration, parameters, points, score, shown, published)
    environment.filters |= {each.__name__: each for each in filters}
    divisor, unit = page.cost.unit
    style, script = ("".join(_read(f"{part}.{kind}") for part in ("report", "flows")) for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    def figure(*parts: str) -> Markup:
        return Markup(pictures.get(_file_name("-".join(parts)), ""))

    return environment.get_template("report.html.j2").render(
        **vars(page),
        symbols=SYMBOLS,
        figure=figure,
        best=best_rows,
        flops=lambda number: in_digits(number, divisor),
        flops_unit=unit.removeprefix(", "),
        task_name=lambda work: work if work == RunKind.PRETRAINING.value else task_title(work, page.study.synthetic),
        again=commands_again(page.study),
        place=shlex.join(["cd", page.study.directory]),
        flows=Markup(flows_section(page.routes)),
        flops_columns=flops_columns,
        flops_note=FLOPS_NOTE,
        over_seeds=routes_in_words(page.routes_over_seeds),
        over_seeds_note=ROUTES_NOTE,
        ablation_words=ablation_in_words(page.ablation),
        ablation_data=ablation_data(page.ablation),
        ablation_note=ABLATION_NOTE,
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )


def cost_against(
    costs: Mapping[str, ArmCost], table: ReportedTable, column: int
) -> tuple[list[CostPoint], str, str, str]:
    """Returns what ``cost_figure`` takes for a table's column: scores, and the FLOPs of training on its task."""
    points = []
    for row in table.rows:
        cost = costs[row.arm].of(table.columns[column].task)
        executed, paths = cost.training_executed or 0.0, cost.training_paths or 0.0
        points.append(CostPoint(row.arm, Path(row.model).stem, executed, row.scores[column], paths))
    title = table.columns[column].title
    return points, "training FLOPs of a pair", title, f"{title} against cost"


def commands_again(study: StudySummary) -> str:
    """Returns the lines that run a study again and make its page, as they are typed in a shell."""
    lines = [["cd", study.directory]]
    for work in ("run", "table"):
        lines.append(["volta-switch", "study", work, study.path or f"{study.name}.yaml", "--out", study.folder])
    if study.finished < study.cells:
        lines[-1].append("--partial")
    return "\n".join(map(shlex.join, lines))


def sweep_lines(table: ReportedTable, column: int) -> tuple[dict[str, list[tuple[float, ArmScore]]], str, str]:
    """Returns what ``sweep_figure`` takes for a table's column; none where the table is no sweep."""
    scores, sweep = {row.arm: row.scores[column] for row in table.rows}, table.sweep
    if sweep is None:
        return {}, "", ""
    series = {name: [(x, scores[arm]) for arm, x in arms.items()] for name, arms in sweep.series.items()}
    return series, sweep.label, f"{table.columns[column].title}, %"


def best_rows(table: ReportedTable, column: int) -> list[str]:
    """Returns the arm whose interval lies above all others' of a column: one, or none."""
    spans = []
    for row in table.rows:
        interval = row.scores[column].estimate.interval
        if interval is None:
            return []
        spans.append((row.arm, *interval))
    return [
        arm for arm, low, _ in spans if len(spans) > 1 and all(low > high for other, _, high in spans if other != arm)
    ]


def duration(seconds: float | None) -> str:
    """Returns ``45 s``, ``12 min``, ``3.4 h``."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def parameters(number: int) -> str:
    """Returns ``0.44 M``."""
    return f"{number / 1e6:.2f} M"


def in_digits(number: float | None, divisor: float) -> str:
    """Returns a number in a unit, three digits and no more: ``20.7``, ``209``, ``6.83``."""
    if number is None:
        return "–"
    value = number / divisor
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def points(number: float | None) -> str:
    """Returns ``+1.23``, with a minus sign."""
    return "–" if number is None else f"{number:+.2f}".replace("-", "−")


def score(number: float) -> str:
    """Returns ``61.5``, with a minus sign where an interval goes below 0."""
    return f"{number:.1f}".replace("-", "−")


def published(given: object) -> str:
    """Returns ``published 68.8``, or ``paper 68.8, VOLTA 68.7`` where sources are named."""
    if isinstance(given, Mapping):
        return ", ".join(f"{source} {number}" for source, number in given.items())
    return f"published {given}"


def shown(value: object) -> str:
    """Returns a setting's value in words."""
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)


def _file_name(name: str) -> str:
    """Returns a name of letters, digits and ``-_.+``, so that a study's file cannot lead out of the folder."""
    return "".join(char if char.isalnum() or char in "-_.+" else "_" for char in name)


def _read(name: str) -> str:
    path = HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
