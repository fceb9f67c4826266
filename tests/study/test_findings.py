"""The page of findings says what the paper's printed numbers give, what things cost, and what our runs gave."""

import json
import re
from copy import deepcopy
from html import escape
from pathlib import Path

import numpy as np
import pytest

from volta_switch import load_config
from volta_switch.cost.commands import cost
from volta_switch.study.claims import judge
from volta_switch.study.power import sizing
from volta_switch.study.records import ReportedTable, StudyClaim, StudyResults
from volta_switch.study.table_formats import routes_in_words

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "findings.md").read_text(encoding="utf-8").replace("−", "-")
SMALL, PILOT = (
    json.loads((DOCS / "findings" / f"{name}.json").read_text(encoding="utf-8")) for name in ("table", "pilot")
)
README = (DOCS.parent / "README.md").read_text(encoding="utf-8")
TASKS = ("VQAv2", "Flickr30k, image retrieval R@1", "Flickr30k, text retrieval R@1", "RefCOCO+")
PRINTED = {  # table 3 of the paper: mean and standard deviation over three seeds
    "UNITER": ((68.8, 0.4), (60.9, 0.7), (76.4, 1.3), (71.9, 0.67)),
    "VL-BERT": ((68.3, 0.31), (57.9, 1.1), (70.9, 1.7), (71.1, 0.23)),
    "VisualBERT": ((68.9, 0.27), (61.1, 1.2), (75.5, 1.8), (69.7, 0.31)),
    "LXMERT": ((67.1, 0.34), (58.6, 1.4), (74.9, 2.7), (69.8, 0.46)),
    "ViLBERT": ((68.7, 0.82), (59.8, 0.8), (78.3, 1.6), (70.8, 0.58)),
    "Switch-BERT": ((70.7, 0.62), (62.2, 0.9), (78.2, 1.6), (72.8, 0.45)),
}
SCORES = {
    arm: {(task, "score"): np.array([m - s, m, m + s]) for task, (m, s) in zip(TASKS, row, strict=True)}
    for arm, row in PRINTED.items()
}
ROWS = [("UNITER", "ctrl_uniter_base", [])]
ROWS += [(f"Switch-BERT, K = {k}", "switchbert", [f"switch.top_k={k}"]) for k in (4, 2, 1)]


def verdicts(rivals):
    claims = [
        StudyClaim("wins", "Switch-BERT", rival, task, "score") for task, rival in zip(TASKS, rivals, strict=True)
    ]
    return judge(claims, SCORES, paired=False)


TRAINED = ("The architectures side by side", "One block or both", "The mismatch sweep", "Attention modes", "Routes")


@pytest.mark.parametrize("section", [*TRAINED, "Active paths over training"])
def test_what_rests_on_the_withdrawn_schedule_says_so_before_anything_else(section):
    (body,) = re.findall(rf"^### {section}[^\n]*\n+(.*?)(?=^### )", PAGE, re.MULTILINE | re.DOTALL)
    first = body.split("\n\n")[0]
    assert first.startswith("**") and "schedule" in first and "top of this page" in first.replace("\n", " ")


def test_page_and_readme_say_first_that_the_trial_was_not_fair():
    assert PAGE.index("has not had a fair trial") < PAGE.index("| claim")
    line = next(part for part in README.split("\n\n") if "docs/findings.md" in part)
    assert "no fair trial" in line


def test_the_printed_table_decides_what_the_page_says():
    for verdict in verdicts(["UNITER"] * 4):
        low, high = verdict.estimate.interval()
        assert (
            f"| {verdict.claim.task} | {verdict.estimate.value:+.2f}, {low:+.2f} to {high:+.2f} | {verdict.p_holm:.2g} "
            f"| {verdict.verdict} | {verdict.needed.seeds} |"
        ) in PAGE


def test_the_best_rivals_are_those_that_the_page_names():
    others = [arm for arm in PRINTED if arm != "Switch-BERT"]
    best = [max(others, key=lambda arm: PRINTED[arm][number][0]) for number in range(4)]
    found = verdicts(best)
    flowing = " ".join(PAGE.split())
    assert f"({', '.join(best)})" in flowing and {verdict.verdict for verdict in found} == {"undecided"}
    assert f"p after Holm {', '.join(f'{verdict.p_holm:.2g}' for verdict in found)}." in flowing


@pytest.mark.parametrize(("row", "config", "overrides"), ROWS)
def test_costs_are_what_the_command_says(row, config, overrides):
    flops = cost(load_config(config, overrides), 32)["flops_per_sample"]["pre-training"]
    executed, paths = (flops[name] / 1e9 for name in ("training_executed", "training_paths"))
    assert f"| {row} | {executed:.2f} | {paths:.2f} |" in PAGE
    uniter = float(re.search(r"\| UNITER \| ([\d.]+)", PAGE)[1])
    if row != "UNITER":
        assert f"{paths / uniter:.2f}" in PAGE


@pytest.mark.parametrize("table", SMALL["tables"], ids=lambda table: table["name"])
def test_the_small_study_is_told_as_it_was_recorded(table):
    assert table["seeds"] == table["planned_seeds"]  # nothing is tested early
    for row in table["rows"]:
        scores = " | ".join(f"{score['mean']:.1f} ± {score['std']:.1f}" for score in row["scores"])
        assert f"| {row['arm']} | {scores} |" in PAGE
    for verdict in table["verdicts"]:
        claim, found = verdict["claim"], verdict["estimate"]
        effect = f"{found['value']:+.2f}, {verdict['level_low']:+.2f} to {verdict['level_high']:+.2f}"
        excluded = f", ± {verdict['minimum_effect']:g} excluded" if verdict["excludes_minimum_effect"] else ""
        (heading,) = (
            each["heading"]
            for each in table["columns"]
            if (each["task"], each["metric"]) == (claim["task"], claim["metric"])
        )
        name = claim["text"] if len(table["columns"]) == 1 else f"{claim['text']}, {heading}"
        assert f"| {name} | {effect} | {verdict['p_holm']:.2g} | **{verdict['verdict']}**{excluded} |" in PAGE
        assert claim["source"] in PAGE


@pytest.mark.parametrize("table", [*SMALL["tables"], PILOT], ids=lambda table: table["name"])
def test_the_number_of_seeds_is_by_the_spread_of_the_first_three(table):
    first = deepcopy(table)
    for verdict in first["verdicts"]:
        verdict["claim"] = {"text": "", "better": "", "worse": "", **verdict["claim"]}  # the pilot's file is short
    for row in first["rows"]:
        for score in row["scores"]:
            score["values"] = score["values"][:3]
    for line in sizing([ReportedTable.from_dict(first)], 2.0):
        compared = {2: "two arms", 4: "two advantages"}[line.arms]
        name = line.table if len(table["columns"]) == 1 else f"{line.table}, {line.column}"
        seeds, at_the_bound = ("over 10000" if each is None else each for each in (line.seeds, line.seeds_bound))
        assert (
            f"| {name} | {compared} | {line.tests} | {line.seen[0]} x 3 | {line.spread:.2f} | "
            f"{line.bound:.2f} | {line.items:.2f} | {seeds} | {at_the_bound} |"
        ) in PAGE


def test_routes_over_seeds_are_told_as_they_were_recorded():
    headings, lines = routes_in_words(StudyResults.from_dict(SMALL).routes)
    assert len(headings) > 1
    for line in lines:
        assert f"| {' | '.join(line)} |".replace("−", "-") in PAGE


def test_pictures_are_there_and_are_of_these_numbers():
    pictures = re.findall(r"\]\((findings/[^)]+\.svg)\)", PAGE)
    assert pictures and {f"findings/{path.name}" for path in (DOCS / "findings").glob("*.svg")} == set(pictures)
    drawn = "".join((DOCS / name).read_text(encoding="utf-8") for name in pictures)
    for table in SMALL["tables"]:
        for verdict in table["verdicts"]:
            assert escape(verdict["text"]) in drawn
