"""Made tables, and routes over seeds, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

from volta_switch.statistics import holds_zero
from volta_switch.study.records import (
    ArmScore,
    MeasuredQuantity,
    ReportedDifference,
    ReportedEstimate,
    ReportedTable,
    RoutesOverSeeds,
    TableRow,
    TrackedFlops,
)
from volta_switch.study.route_reports import QUANTITIES
from volta_switch.task_names import task_title

FLOPS_NOTE = (
    "FLOPs are those of training on a pair of image and text, as runs tracked them, the mean over seeds: executed, and "
    "of all active paths, each paid for."
)
ROUTES_NOTE = (
    "± is the standard deviation over seeds; in brackets 95 % intervals, seeds as a random effect (Student's t). The "
    "changes are the metric's when all samples take the most frequent route, and when each takes that of a sample "
    "drawn at random: what routes of their own are worth to samples. Samples are taken as they are; where a report is "
    "about drawn images (samples: ...), all seeds looked at the same ones."
)
PRETRAINING_NOTE = (
    "The last validation of pre-training, with hard routes, in nats: the mean over seeds ± standard deviation; "
    "differences are paired by seed, with 95 % intervals (Student's t)."
)
DIFFERENCES = ("vision less text", "one for all", "shuffled")  # quantities with a sign


def as_markdown(table: ReportedTable) -> str:
    """Returns title, what it is of, rows, what its intervals are, and the verdicts."""
    return _as_paragraphs(table, "github", f"**{table.title}**")


def as_text(table: ReportedTable) -> str:
    """Returns the same for a terminal."""
    return _as_paragraphs(table, "simple", table.title)


def _as_paragraphs(table: ReportedTable, style: str, title: str) -> str:
    headers, body = _cells(table)
    text = tabulate(
        body, headers, tablefmt=style, disable_numparse=True, colalign=("left", *["right"] * (len(headers) - 1))
    )
    losses = pretraining_as_markdown(table)
    notes = [_switch_note(row, table.synthetic) for row in table.rows if row.soft_minus_hard]
    verdicts = [verdict.text for verdict in table.verdicts]
    notes += [FLOPS_NOTE] if table.shows_flops else []
    before = [*([title] if table.title else []), *table.notes, *_partial(table)]
    said = [*_scopes(table), table.intervals, *map(_comparison, table.comparisons)]
    return "\n\n".join([*before, text, *said, *losses, *notes, *verdicts])


def _comparison(found: ReportedDifference) -> str:
    """Returns a difference of two rows in a sentence."""
    own = found.estimate
    about = f"{found.column}, {found.row} minus {found.less}: {own.value:+.3f}"
    if own.interval is None:
        return f"{about} (no interval: {own.problem})."
    unit = {"seed": "seeds", "pair of seeds": "pairs of seeds"}[own.unit]
    of = f"{own.items} test items taken as a sample" if own.items else "on these test data"
    low, high = own.interval
    return f"{about} ({100 * own.confidence:g} % interval {low:+.3f} to {high:+.3f}, {own.seeds} {unit}, {of})."


def _scopes(table: ReportedTable) -> list[str]:
    """Returns a line that says on which splits, and in which pools, the columns were tested; or nothing."""
    tested = dict.fromkeys(
        f"{task_title(column.task, column.synthetic)} on {column.scope}" for column in table.columns if column.scope
    )
    return [f"Tested: {'; '.join(tested)}."] if tested else []


def as_latex(table: ReportedTable) -> str:
    """Returns rows alone, for booktabs; of a partial table a comment says so. Notes are lines below the rows."""
    headers, body = _cells(table)
    rows = latex_rows(headers, body)
    notes = "".join(
        f"\\multicolumn{{{len(headers)}}}{{p{{0.9\\linewidth}}}}{{{_latex(note)}}} \\\\\n" for note in table.notes
    )
    if notes:
        rows = rows.replace("\\bottomrule", f"\\midrule\n{notes}\\bottomrule")
    return "\n".join([*(f"% {line}" for line in _partial(table)), rows])


def latex_rows(headers: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Returns rows for booktabs."""
    rows = tabulate(body, headers, tablefmt="latex_booktabs", disable_numparse=True)
    return rows.replace("±", "$\\pm$")


def _latex(text: str) -> str:
    """Returns plain text as LaTeX writes it."""
    names = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(names.get(each, f"\\{each}" if each in "&%$#_{}" else each) for each in text)


def as_csv(table: ReportedTable) -> str:
    """Returns a line for every arm, column and seed."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    names = "table arm parameters task metric split seed score published flops path_flops column"
    notes = [" ".join(table.notes)] if table.notes else []
    lines.writerow([*names.split(), *("notes" for _ in notes)])
    for row in table.rows:
        for column, score in zip(table.columns, row.scores, strict=True):
            place, flops = (column.task, column.metric, column.split), row.flops[column.task]
            for number, (seed, value) in enumerate(zip(row.seeds or table.seeds, score.values, strict=True)):
                own = (table.name, row.arm, row.parameters, *place, seed, value, score.published)
                lines.writerow([*own, flops.executed[number], flops.paths[number], column.title, *notes])
    return out.getvalue()


def _cells(table: ReportedTable) -> tuple[list[str], list[list[str]]]:
    """Returns headings and rows as text."""
    flops, of_rows = flops_columns(table)
    counts = [[str(len(row.seeds))] if row.seeds else [] for row in table.rows]
    seeds = ["seeds"] if any(counts) else []
    headers = ["model", "parameters", *seeds, *(column.title for column in table.columns), *flops]
    digits = [column.digits for column in table.columns]
    body = [
        [
            row.arm,
            f"{row.parameters / 1e6:.2f} M" if row.parameters else "–",
            *count,
            *map(_shown, row.scores, digits),
            *map(amount, own),
        ]
        for row, count, own in zip(table.rows, counts, of_rows, strict=True)
    ]
    if table.chance:
        body.append(
            [
                "best blind guess",
                "",
                *("" for _ in seeds),
                *(f"{value:.1f}" for value in table.chance),
                *("" for _ in flops),
            ]
        )
    return headers, body


def _shown(score: ArmScore, digits: int) -> str:
    own = f"{score.mean:.{digits}f}" + (f" ± {score.std:.{digits}f}" if len(score.values) > 1 else "")
    return own if score.published is None else f"{own} ({score.published})"


def flops_columns(table: ReportedTable) -> tuple[list[str], list[list[float | None]]]:
    """Returns headings of a table's columns of operations, and each row's means; none unless it shows them."""
    tasks = list(dict.fromkeys(column.task for column in table.columns)) if table.shows_flops else []
    titles = [f"{task_title(task, table.synthetic)}{',' if table.synthetic else ''}" for task in tasks]
    headings = [f"{title} {name}" for title in titles for name in ("FLOPs", "path FLOPs")]
    return headings, [[mean for task in tasks for mean in _mean_flops(row.flops[task])] for row in table.rows]


def _mean_flops(flops: TrackedFlops) -> tuple[float | None, float | None]:
    """Returns the means over seeds; None where a seed did not track them."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    return mean(flops.executed), mean(flops.paths)


def amount(number: float | None) -> str:
    """Returns ``437 k``, ``1.25 M``, ``25.3 G``: three digits."""
    if number is None:
        return "–"
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            digits = number / size
            return f"{digits:.{0 if digits >= 100 else 1 if digits >= 10 else 2}f} {unit}"
    return f"{number:.0f}"


def _switch_note(row: TableRow, synthetic: bool) -> str:
    of_tasks: dict[str, list[float]] = {}
    for run, value in row.soft_minus_hard.items():
        of_tasks.setdefault(run.split("/")[0], []).append(value)
    parts = ", ".join(f"{task_title(task, synthetic)} {_range(values)}" for task, values in of_tasks.items())
    return f"{row.arm}, validation score with soft routes minus hard routes, in points: {parts}."


def _range(values: list[float]) -> str:
    least, most = (f"{end:+.2f}" for end in (min(values), max(values)))
    return least if least == most else f"{least} to {most}"


def pretraining_as_markdown(table: ReportedTable) -> list[str]:
    """Returns the losses of pre-training's last validation, each with its difference to the first arm's; or nothing."""
    headings, lines = pretraining_in_words(table)
    if not lines:
        return []
    return [tabulate(lines, headings, tablefmt="github", disable_numparse=True), PRETRAINING_NOTE]


def pretraining_in_words(table: ReportedTable) -> tuple[list[str], list[list[str]]]:
    """Returns headings, and a line for each arm that was pre-trained; none unless the table shows it."""
    names = list(next((row.pretraining for row in table.rows if row.pretraining), ()))
    first = table.rows[0].arm if table.rows else ""
    headings = ["pre-training", *(part for name in names for part in (name, f"{name}, less {first}'s"))]
    lines = []
    for row in table.rows:
        if row.pretraining:
            parts = [(row.pretraining[name], row.pretraining_difference.get(name)) for name in names]
            shown = [(quantity_in_words(own.estimate, 3), _difference(less)) for own, less in parts]
            lines.append([row.arm, *(each for pair in shown for each in pair)])
    return headings, lines


def _difference(found: MeasuredQuantity | None) -> str:
    return "–" if found is None else quantity_in_words(found.estimate, 3, signed=True)


def _partial(table: ReportedTable) -> list[str]:
    """Returns a line that says which seeds a table is of, where these are not all."""
    if table.seeds == table.planned_seeds:
        return []
    seeds, planned = (", ".join(map(str, some)) for some in (table.seeds, table.planned_seeds))
    return [f"Partial: of the seeds {planned} those that all arms have finished: {seeds}."]


# --- Routes over seeds ----------------------------------------------------------------------------------------------


@dataclass
class WordsTable:
    """Quantities as text, a line for each, its name first, and a column for each arm."""

    headings: list[str]
    lines: list[list[str]]
    grey: set[tuple[int, int]] = field(default_factory=set)
    """(line, arm), from 0: differences that are not told apart from none."""

    def add(self, name: str, found: Sequence[MeasuredQuantity | None], digits: int, signed: bool = False) -> None:
        """Adds a line; those with a sign are differences, and show their interval in place of their spread."""
        if signed:
            self.grey |= {(len(self.lines), arm) for arm, each in enumerate(found) if each and _is_within_zero(each)}
        shown = (quantity_in_words(each.estimate, digits, signed) if each else "–" for each in found)
        self.lines.append([name, *shown])

    def as_markdown(self) -> str:
        """Returns its text."""
        return tabulate(self.lines, self.headings, tablefmt="github", disable_numparse=True)

    def as_latex(self) -> str:
        """Returns its rows."""
        return latex_rows(self.headings, self.lines)


def _is_within_zero(found: MeasuredQuantity) -> bool:
    """Returns whether an interval holds zero, or lacks."""
    interval = found.estimate.interval
    return interval is None or holds_zero(interval)


def routes_as_markdown(found: Sequence[RoutesOverSeeds]) -> list[str]:
    """Returns those of several seeds, as one table; none where there are none."""
    several = [each for each in found if len(each.seeds) > 1]
    return ["**Routes over seeds**", routes_in_words(several).as_markdown(), ROUTES_NOTE] if several else []


def routes_in_words(found: Sequence[RoutesOverSeeds]) -> WordsTable:
    """Returns a column for each arm and task, and a line for each quantity: means over seeds ± standard deviation."""
    heads = ["", *(f"{each.arm}, {task_title(each.task, each.synthetic)}" for each in found)]
    table = WordsTable(heads, [["seeds", *(str(len(each.seeds)) for each in found)]])
    if any(each.modes for each in found):
        modes = [", ".join(f"{mode} {100 * share:.0f} %" for mode, share in each.modes.items()) for each in found]
        table.lines.append(["modes, mean over layers", *(shares or "–" for shares in modes)])
    for key, (name, digits) in QUANTITIES.items():
        known = [each.quantities.get(key) for each in found]
        if any(known):
            table.add(name, known, digits, signed=key in DIFFERENCES)
    return table


def quantity_in_words(estimate: ReportedEstimate, digits: int, signed: bool = False) -> str:
    """Returns a difference with its interval, all else with its spread."""
    sign = "+" if signed else ""
    value = f"{estimate.value:{sign}.{digits}f}"
    if estimate.seeds < 2:
        return value
    if not signed:
        return f"{value} ± {estimate.spread:.{digits}f}"
    if estimate.interval is None:
        return value
    low, high = estimate.interval
    return f"{value} ({low:+.{digits}f} to {high:+.{digits}f})"
