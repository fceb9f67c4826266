"""The page of findings says what the paper's printed numbers give, what things cost, and what our runs gave."""

import json
import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import combine_pvalues

from volta_switch import load_config
from volta_switch.cost.commands import cost
from volta_switch.study.claims import judge
from volta_switch.study.plan import load_study
from volta_switch.study.power import excluded_effect
from volta_switch.study.records import ReportedTable, StudyClaim
from volta_switch.study.sizing import sizing

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "findings.md").read_text(encoding="utf-8").replace("−", "-")
FLOWING = " ".join(PAGE.split())
FIRST, CONTROLS = (
    json.loads((DOCS / name).read_text(encoding="utf-8"))
    for name in ("findings/first-study.json", "controls/controls.json")
)
SEEDS = {"needs-switching": ("0", "1", "2"), "planted-routes": ("10", "11", "12")}
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


def section(title):
    (body,) = re.findall(rf"^## {title}[^\n]*\n+(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return body


def mean_of(control, condition, measure):
    """Over the seeds on which all conditions were run."""
    return fmean(outcome(control, condition)["values"][seed][measure] for seed in SEEDS[control])


def outcome(control, condition):
    (found,) = (each for each in CONTROLS["outcomes"] if (each["control"], each["condition"]) == (control, condition))
    return found


@pytest.mark.parametrize(
    ("row", "condition"),
    [
        ("floor at the end of the run", "as it should be"),
        ("the same, without Gumbel noise", "noise off"),
        ("floor at 12 %", "floor at 12 %"),
        ("the first study's, pre-training", "first study, pre-training"),
        ("the first study's, fine-tuning", "first study, fine-tuning"),
    ],
)
def test_the_controls_are_told_as_they_were_measured(row, condition):
    failing, seeds = (outcome("planted-routes", condition)[key] for key in ("failing seeds", "values"))
    passes = f"fails on {len(failing)} of {len(seeds)}" if failing else f"passes on {len(seeds)}"
    accuracy, mi = (mean_of("needs-switching", condition, measure) for measure in ("Switch-BERT", "MI"))
    sab, sib, error = (mean_of("planted-routes", condition, key) for key in ("SAB MI/H", "SIB MI/H", "error"))
    assert f"| {row} | {accuracy:.2f}, {mi:.2f} | {sab:.2f}, {sib:.2f} | {error:.2f} | {passes} |" in PAGE
    if condition == "first study, pre-training":
        right = [mean_of("planted-routes", "as it should be", key) for key in ("SAB MI/H", "SIB MI/H")]
        assert (
            f"SAB {sab:.2f} in place of {right[0]:.2f}" in PAGE and f"SIB {sib:.2f} in place of {right[1]:.2f}" in PAGE
        )
    if condition == "as it should be":
        joint = fmean(values["joint"] for values in outcome("needs-switching", condition)["values"].values())
        assert f"Joint attention stays at {joint:.2f}" in PAGE


def test_what_a_reader_takes_home_is_said_first_and_withdrawn_numbers_come_last():
    titles = re.findall(r"^## (.*)$", PAGE, re.MULTILINE)
    assert titles.index("What the controls show") == 0
    assert titles.index("The new study") < titles.index("The first study, and what became of its claims")
    assert PAGE.index("are withdrawn") < PAGE.index("## ")
    line = next(part for part in README.split("\n\n") if "docs/findings.md" in part)
    assert "withdrawn" in line


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
    assert f"({', '.join(best)})" in FLOWING and {verdict.verdict for verdict in found} == {"undecided"}
    assert f"p after Holm {', '.join(f'{verdict.p_holm:.2g}' for verdict in found)}." in FLOWING


@pytest.mark.parametrize(("row", "config", "overrides"), ROWS)
def test_costs_are_what_the_command_says(row, config, overrides):
    flops = cost(load_config(config, overrides), 32)["flops_per_sample"]["pre-training"]
    executed, paths = (flops[name] / 1e9 for name in ("training_executed", "training_paths"))
    assert f"| {row} | {executed:.2f} | {paths:.2f} |" in PAGE
    uniter = float(re.search(r"\| UNITER \| ([\d.]+)", PAGE)[1])
    if row != "UNITER":
        assert f"{paths / uniter:.2f}" in PAGE


def claims_of_the_first_study():
    return [(table, verdict) for table in FIRST["tables"] for verdict in table["verdicts"]]


def test_every_claim_of_the_first_study_is_told_as_it_was_recorded_and_with_what_became_of_it():
    told = [line for line in section("The first study").splitlines() if re.match(r"\| .*: (refcoco|VQA|Retr)", line)]
    assert len(told) == len(claims_of_the_first_study()) == 14
    for table, verdict in claims_of_the_first_study():
        assert table["seeds"] == table["planned_seeds"]  # nothing was tested early
        claim, found = verdict["claim"], verdict["estimate"]
        effect = f"{found['value']:+.2f}, {verdict['level_low']:+.2f} to {verdict['level_high']:+.2f}"
        excluded = f", ± {verdict['minimum_effect']:g} excluded" if verdict["excludes_minimum_effect"] else ""
        (heading,) = (
            each["heading"]
            for each in table["columns"]
            if (each["task"], each["metric"]) == (claim["task"], claim["metric"])
        )
        of = ", without pre-training" if table["name"] == "modes-unpretrained" else ""
        source = claim["source"] or "section 3.4.2"
        row = f"| {claim['text']} ({source}): {heading}{of} | {effect} | {verdict['p_holm']:.2g} | {verdict['verdict']}"
        (line,) = (line for line in told if line.startswith(f"{row}{excluded} |"))
        assert line.split("|")[5].strip()


def test_what_the_first_study_could_find_is_what_the_power_analysis_says():
    tables = [ReportedTable.from_dict(table) for table in FIRST["tables"]]
    lines = {(line.column, line.difference): line for line in sizing(tables, 0.9) if line.table == "table3"}
    over_uniter = "switchbert minus ctrl_uniter"
    refcoco = lines["refcoco+ accuracy", over_uniter]
    assert f"takes {refcoco.seeds} ({refcoco.seeds_bound} at the spread's bound)." in PAGE
    assert f"Five can count on excluding ± {refcoco.excluded:.2f} only." in PAGE and refcoco.seen == 5
    retrieval = lines["RetrievalFlickr30k image R@1", over_uniter]
    assert f"by {retrieval.items:.2f} points: no number of seeds finds 2." in PAGE
    of_two_points = [line for line in sizing(tables, 2.0) if line.column == "RetrievalFlickr30k image R@1"]
    assert [line.seeds for line in of_two_points] == [None]


def test_what_the_planned_seeds_can_exclude_is_by_the_first_studys_spreads():
    plan = load_study(DOCS.parent / "studies" / "paper-small.yaml")
    planned = {(claim.text, claim.metric): table for table in plan.tables for claim in table.claims}
    lines = {
        (line.column, line.difference): line
        for line in sizing([ReportedTable.from_dict(t) for t in FIRST["tables"]], 0.9)
    }
    told = 0
    for table, verdict in claims_of_the_first_study():
        claim = verdict["claim"]
        new = planned.get((claim["text"], claim["metric"]))
        if new is None:
            continue
        (column,) = (
            each for each in table["columns"] if (each["task"], each["metric"]) == (claim["task"], claim["metric"])
        )
        line = lines[column["heading"], f"{claim['better']} minus {claim['worse']}"]
        images = 100 if column["heading"].startswith("Retrieval") else 200
        known = {"alpha": 0.05 / len(new.claims), "item_variance": line.items**2 * images / 1000}
        excluded = excluded_effect(line.spread, len(new.seeds), **known)
        assert f"| {claim['text']}, {column['heading']} | ± {excluded:.2f} |" in PAGE
        told += 1
    assert told == sum(len(table.claims) for table in plan.tables) == 6


def test_claims_that_are_asked_again_are_those_of_the_plan():
    plan = load_study(DOCS.parent / "studies" / "paper-small.yaml")
    asked = {claim.text for table in plan.tables for claim in table.claims}
    for line in section("The first study").splitlines():
        if "asked again" in line or "shown again" in line:
            text = line.split(" (")[0].removeprefix("| ")
            assert ("asked again |" in line) == (text in asked), line
    assert all(table.pilot == 5 and min(table.seeds) == 100 for table in plan.tables if table.claims)


def test_the_four_tests_together_are_told_as_they_are():
    p = combine_pvalues([verdict.p_value for verdict in verdicts(["UNITER"] * 4)]).pvalue
    assert f"combination of their p-values would give {p:.2g}." in FLOWING


def test_routes_of_the_first_study_are_told_as_they_were_recorded():
    shares = [share for arm in FIRST["routes"] for share in arm["quantities"]["most frequent"]["values"]]
    alike = shares.count(100.0)
    assert f"{alike} of {len(shares)} runs gave all samples one route" in PAGE


def test_the_new_study_is_told_as_it_is_planned():
    study = load_study(DOCS.parent / "studies" / "switching.yaml")
    told = section("The new study")
    for table in study.tables:
        assert f"| {table.name}: " in told and f" | {len(table.arms)} | 0 to 4" in told
        assert all(table.seeds_of(study.arms[arm]) == (0, 1, 2, 3, 4) for arm in table.arms)
    assert f"| {study.minimum_effect:g} points |" in PAGE
