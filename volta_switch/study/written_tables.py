"""All that a study's tables hold, as its three files have it; alone, above the formats of tables and of ablations."""

from __future__ import annotations

from volta_switch.study.ablation_formats import ablation_as_csv, ablation_as_latex, ablation_as_markdown
from volta_switch.study.records import StudyResults
from volta_switch.study.table_formats import as_csv, as_latex, as_markdown, routes_as_markdown


def tables_text(results: StudyResults) -> str:
    """Returns all tables as Markdown, those that are left out named, routes over seeds, and the ablation."""
    parts = [*map(as_markdown, results.tables), *(each.text for each in results.left_out)]
    return "\n\n".join([*parts, *routes_as_markdown(results.routes), *ablation_as_markdown(results.ablation)]) + "\n"


def tables_csv(results: StudyResults) -> str:
    """Returns all numbers of scores and of the ablation, a line for each seed; each table has its own first line."""
    return "".join(map(as_csv, results.tables)) + ablation_as_csv(results.ablation)


def tables_latex(results: StudyResults) -> str:
    """Returns the rows of all tables and of the ablation, for booktabs."""
    return "\n\n".join([*map(as_latex, results.tables), *ablation_as_latex(results.ablation)]) + "\n"
