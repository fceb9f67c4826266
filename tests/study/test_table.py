"""The side-by-side table, and its refusal of unequal rows."""

import csv
import json
import math
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest

from synthetic_world import json_of, log_of
from volta_switch import UserError, cli
from volta_switch.checksums import SUMS
from volta_switch.data.files import safe_pickle
from volta_switch.study.records import ReportedTable, StudyClaim, TableRow
from volta_switch.study.run_plan import plan_of
from volta_switch.study.table import make_tables
from volta_switch.study.table_formats import amount, as_markdown
from volta_switch.study.written_tables import tables_text


@pytest.fixture
def copy(finished, tmp_path):
    """The finished study in a folder that may be corrupted."""
    study, folder = finished
    shutil.copytree(folder, tmp_path / "out", ignore=shutil.ignore_patterns("*.bin", "*.tar", "table.*", SUMS))
    return study, tmp_path / "out"


def run_of(folder, model, seed=0):
    return folder / model / f"seed{seed}" / f"refcoco+_{model}"


def test_the_table_has_a_row_for_each_model_and_one_for_chance(finished):
    study, folder = finished
    text = tables_text(make_tables(plan_of(study, folder)))
    assert (folder / "table.md").read_text() == text
    header, rule, uniter, switch, chance, _, tested, _, intervals, _, note = text.splitlines()
    assert tested == "Tested: referring expressions (synthetic) on test."
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, uniter, switch, chance)]
    assert cells[0] == ["model", "parameters", "referring expressions (synthetic), accuracy"]
    assert set(rule) <= set("|-:")
    assert [row[0] for row in cells[1:]] == ["ctrl_uniter", "switchbert", "best blind guess"]
    for row, model in ((cells[1], "ctrl_uniter"), (cells[2], "switchbert")):
        accuracy = json_of(run_of(folder, model) / "test_metrics.json")["accuracy"]
        parameters = json_of(run_of(folder, model).with_name(model) / "run.json")["parameters"]
        assert row[1:] == [f"{parameters / 1e6:.2f} M", f"{accuracy:.1f}"]
    balance = json_of(folder / "world" / "world.json")["balance"]["refer"]["test"]["chance"]
    assert cells[3] == ["best blind guess", "", f"{100 * balance:.1f}"]
    assert intervals.startswith("One seed of each arm: the spread over seeds is unknown")
    last = log_of(run_of(folder, "switchbert"), "valid")[-1]
    difference = last["accuracy_soft_routes"] - last["accuracy"]
    assert note.startswith("switchbert, validation score with soft routes minus hard routes")
    assert note.endswith(f"in points: referring expressions (synthetic) {difference:+.2f}.")


def test_soft_against_hard_routes_is_one_range_for_each_task():
    own = {"VQA/seed0": -0.5, "VQA/seed1": 1.25, "refcoco+/seed0": 0.0, "refcoco+/seed1": 0.0}
    row = TableRow("a", parameters=1, soft_minus_hard=own)
    said = as_markdown(ReportedTable("t", rows=(row,), seeds=(0, 1), planned_seeds=(0, 1)))
    assert said.endswith("in points: VQA -0.50 to +1.25, refcoco+ +0.00.")


def test_the_table_as_json(finished):
    study, folder = finished
    make_tables(plan_of(study, folder))
    table = json_of(folder / "table.json")
    assert table["study"] == "small"
    (table,) = table["tables"]
    assert table["seeds"] == table["planned_seeds"] == [0]
    names = {"task": "refcoco+", "key": "TASK10"}
    column = {**names, "metric": "accuracy", "split": "test", "heading": "refcoco+ accuracy", "synthetic": True}
    assert table["columns"] == [column]
    assert [row["arm"] for row in table["rows"]] == ["ctrl_uniter", "switchbert"]
    for row in table["rows"]:
        accuracy = json_of(run_of(folder, row["arm"]) / "test_metrics.json")["accuracy"]
        (score,) = row["scores"]
        estimate = score.pop("estimate")
        assert score == {"mean": accuracy, "std": 0.0, "values": [accuracy], "published": None}
        assert estimate["value"] == pytest.approx(accuracy) and estimate["seeds"] == 1 and estimate["low"] is None
        assert (estimate["items"], estimate["population"]) == (
            study.arms["switchbert"].world["eval_images"],
            "new items",
        )
    assert table["rows"][0]["soft_minus_hard"] == {} and list(table["rows"][1]["soft_minus_hard"]) == ["refcoco+/seed0"]
    assert len(table["chance"]) == 1


def changed(study, **changes):
    """The study with every arm changed."""
    return replace(study, arms={name: replace(arm, **changes) for name, arm in study.arms.items()})


def several_seeds(folder, flips):
    """Each arm's run for each seed, copies whose first so many results are changed from wrong to right or back."""
    for model, by_seed in flips.items():
        for seed in range(1, len(by_seed)):
            shutil.copytree(folder / model / "seed0", folder / model / f"seed{seed}")
        for seed, changes in enumerate(by_seed):
            run = run_of(folder, model, seed)
            results = json_of(run / "test_result.json")
            for result in results[:changes]:
                result["IOU"] = 1 - result["IOU"]
            (run / "test_result.json").write_text(json.dumps(results))
            accuracy = 100 * float(np.mean([result["IOU"] > 0.5 for result in results]))
            metrics = json_of(run / "test_metrics.json")
            (run / "test_metrics.json").write_text(json.dumps({**metrics, "accuracy": accuracy}))


@pytest.mark.parametrize("value", [None, math.nan, "high"])
def test_a_split_without_a_score_is_refused_in_one_line(copy, value):
    study, folder = copy
    path = run_of(folder, "switchbert") / "test_metrics.json"
    path.write_text(json.dumps({**json_of(path), "accuracy": value}))
    with pytest.raises(UserError) as caught:
        make_tables(plan_of(study, folder))
    assert str(caught.value).startswith(f"{path}: accuracy is {value}, expected a score of refcoco+'s split test")


def test_verdicts_and_estimates_are_about_new_items_where_the_results_tell_them(copy):
    study, folder = copy
    several_seeds(folder, {"ctrl_uniter": (0, 3, 6), "switchbert": (1, 5, 8)})
    claim = StudyClaim("is better", "switchbert", "ctrl_uniter", "refcoco+", "accuracy")
    study = replace(changed(study, seeds=(0, 1, 2)), tables=(replace(study.tables[0], claims=(claim,)),))
    text = tables_text(make_tables(plan_of(study, folder)))
    (new,) = json_of(folder / "table.json")["tables"]
    assert (
        f"{study.arms['switchbert'].world['eval_images']} test items taken as a sample" in text
        and text.count(new["intervals"]) == 1
    )
    assert new["intervals"].endswith("they are about new seeds and new items.") and "over 3 seeds" in new["intervals"]

    for model in ("ctrl_uniter", "switchbert"):
        (run_of(folder, model, 2) / "test_result.json").unlink()
    text = tables_text(make_tables(plan_of(study, folder)))
    (these,) = json_of(folder / "table.json")["tables"]
    assert "on these test items" in text and text.count(these["intervals"]) == 1
    missing = run_of(folder, "ctrl_uniter", 2) / "test_result.json"
    said = "About these test items alone: referring expressions (synthetic), accuracy"
    assert f"{said} ({missing}: " in these["intervals"]

    def estimates(table):
        return [row["scores"][0]["estimate"] for row in table["rows"]] + [table["verdicts"][0]["estimate"]]

    for with_items, without in zip(estimates(new), estimates(these), strict=True):
        assert (with_items["population"], without["population"]) == ("new items", "these items")
        assert with_items["value"] == pytest.approx(without["value"]) and with_items["items"] and not without["items"]
        assert with_items["high"] - with_items["low"] > 1.01 * (without["high"] - without["low"])


@pytest.mark.parametrize("same", [True, False])
def test_arms_on_different_worlds_are_compared_by_items_where_the_images_are_the_same(copy, same):
    study, folder = copy
    several_seeds(folder, {"ctrl_uniter": (0, 3, 6), "switchbert": (1, 5, 8)})
    shutil.rmtree(folder / "cells")  # which say that the runs are of the first world
    shutil.copytree(folder / "world", folder / "world-text_depth-1")
    if not same:
        path = next((folder / "world-text_depth-1" / "datasets").glob("refcoco+*/annotations/refcoco+/refs(unc).p"))
        refs = safe_pickle.load(path)
        path.write_bytes(pickle.dumps([{**ref, "image_id": ref["image_id"] + 10_000_000} for ref in refs]))
    claim = StudyClaim("is better", "switchbert", "ctrl_uniter", "refcoco+", "accuracy")
    table = replace(study.tables[0], claims=(claim,), varies=("model", "world"))
    study = changed(replace(study, tables=(table,)), seeds=(0, 1, 2))
    switch = replace(study.arms["switchbert"], world={**study.arms["switchbert"].world, "text_depth": 1})
    text = tables_text(make_tables(plan_of(replace(study, arms={**study.arms, "switchbert": switch}), folder)))
    (made,) = json_of(folder / "table.json")["tables"]
    assert ("on these test items" in text) == (not same)
    told = "Verdicts on arms that were tested on different items are about these test items alone."
    assert (told in text) == (not same)
    assert [row["scores"][0]["estimate"]["population"] for row in made["rows"]] == ["new items"] * 2
    assert made["verdicts"][0]["estimate"]["population"] == ("new items" if same else "these items")


def test_runs_whose_items_differ_are_refused(copy):
    study, folder = copy
    path = run_of(folder, "switchbert") / "test_result.json"
    results = json_of(path)
    del results[0]
    path.write_text(json.dumps(results))
    accuracy = 100 * float(np.mean([result["IOU"] > 0.5 for result in results]))
    path = path.with_name("test_metrics.json")
    path.write_text(json.dumps({**json_of(path), "accuracy": accuracy}))
    with pytest.raises(
        UserError, match=r"ctrl_uniter/test_result\.json and .*switchbert/test_result\.json: not the same"
    ):
        make_tables(plan_of(study, folder))
    assert not (folder / "table.md").exists()


def test_a_partial_table_is_of_the_seeds_that_all_its_arms_have_finished_and_says_so(copy):
    study, folder = copy
    (first,) = study.tables
    study = changed(study, seeds=(0, 7))
    whole = replace(study, tables=(first, replace(first, name="small", title="UNITER alone", arms=("ctrl_uniter",))))
    with pytest.raises(UserError, match=r"seed7.*run the study first"):
        make_tables(plan_of(whole, folder))
    text = tables_text(make_tables(plan_of(whole, folder), finished_only=True))
    line = "Partial: of the seeds 0, 7 those that all arms have finished: 0."
    assert text.count(line) == 2 and (folder / "table.tex").read_text().count(f"% {line}\n\\begin") == 2
    written = json_of(folder / "table.json")
    assert [(table["seeds"], table["planned_seeds"]) for table in written["tables"]] == [([0], [0, 7])] * 2
    assert written["left_out"] == [] and len(written["tables"][0]["rows"][0]["scores"][0]["values"]) == 1

    (folder / "cells" / "switchbert.seed0.refcoco+.json").unlink()
    text = tables_text(make_tables(plan_of(whole, folder), finished_only=True))
    left = f"Left out: {first.name}; no seed is finished for all of its arms. "
    assert left + "Finished seeds: ctrl_uniter 1 of 2, switchbert 0 of 2." in text
    written = json_of(folder / "table.json")
    assert [table["name"] for table in written["tables"]] == ["small"]
    assert [table["name"] for table in written["left_out"]] == [first.name]

    (folder / "cells" / "ctrl_uniter.seed0.refcoco+.json").unlink()
    text = tables_text(make_tables(plan_of(whole, folder), finished_only=True))
    assert text.count("Left out: ") == 2 and "UNITER alone (small); no seed is" in text
    assert (folder / "table.md").read_text() == text and json_of(folder / "table.json")["tables"] == []


def test_all_seeds_finished_is_no_partial_table_and_the_flag_is_partial(finished, copy, capsys):
    _, corrupted = copy
    (corrupted / "cells" / "switchbert.seed0.refcoco+.json").unlink()
    study, folder = finished
    for at, partial in ((folder, False), (corrupted, True)):
        cli.main(["study", "table", str(folder.parent / "plan.yaml"), "--out", str(at), "--partial"])
        assert ("Left out: " in capsys.readouterr().out) == partial
    assert make_tables(plan_of(study, folder), finished_only=True) == make_tables(plan_of(study, folder))


def test_several_seeds_give_mean_and_deviation(copy):
    study, folder = copy
    for model in ("ctrl_uniter", "switchbert"):
        shutil.copytree(folder / model / "seed0", folder / model / "seed4")
        for seed, accuracy in ((0, 60.0), (4, 63.0)):
            path = run_of(folder, model, seed) / "test_metrics.json"
            path.write_text(json.dumps({**json_of(path), "accuracy": accuracy}))
    text = tables_text(make_tables(plan_of(changed(study, seeds=(0, 4)), folder)))
    assert text.count("61.5 ± 2.1") == 2
    lines = (folder / "table.csv").read_text().splitlines()
    assert lines[0] == "table,arm,parameters,task,metric,split,seed,score,published,flops,path_flops,column"
    assert len(lines) == 5
    assert [line.split(",")[6:9] for line in lines[1:3]] == [["0", "60.0", ""], ["4", "63.0", ""]]
    latex = (folder / "table.tex").read_text()
    assert latex.count("61.5 $\\pm$ 2.1") == 2 and latex.startswith("\\begin{tabular}")


def test_claims_are_judged_over_the_seeds(copy):
    study, folder = copy
    for model, gain in (("ctrl_uniter", 0.0), ("switchbert", 5.0)):
        for seed in (1, 2):
            shutil.copytree(folder / model / "seed0", folder / model / f"seed{seed}")
        for seed, accuracy in enumerate((60.0, 62.0, 61.0)):
            path = run_of(folder, model, seed) / "test_metrics.json"
            path.write_text(json.dumps({**json_of(path), "accuracy": accuracy + gain + 0.1 * seed * (gain > 0)}))
    claims = tuple(
        StudyClaim(f"by {points}", "switchbert", "ctrl_uniter", "TASK10", "accuracy", points, "table 3")
        for points in (1.0, 9.0)
    )
    tables = tuple(replace(table, claims=claims) for table in study.tables)
    text = tables_text(make_tables(plan_of(replace(changed(study, seeds=(0, 1, 2)), tables=tables), folder)))
    assert "supported: by 1.0 (table 3)" in text and "contradicted: by 9.0 (table 3)" in text
    verdicts = json_of(folder / "table.json")["tables"][0]["verdicts"]
    assert [verdict["verdict"] for verdict in verdicts] == ["supported", "contradicted"]


def test_operations_of_training_stand_beside_the_scores_where_a_table_asks_for_them(copy):
    study, folder = copy
    tracked = {model: json_of(run_of(folder, model) / "metrics.json") for model in ("ctrl_uniter", "switchbert")}
    executed = {model: of["executed_flops_per_pair"] for model, of in tracked.items()}
    assert "path_flops_per_pair" not in tracked["ctrl_uniter"]  # all that is executed is one path
    paths = {**executed, "switchbert": tracked["switchbert"]["path_flops_per_pair"]}
    plain = tables_text(make_tables(plan_of(study, folder)))
    assert "FLOPs" not in plain
    tables = tuple(replace(table, flops=True) for table in study.tables)
    text = tables_text(make_tables(plan_of(replace(study, tables=tables), folder)))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0][3:] == [f"referring expressions (synthetic), {name}" for name in ("FLOPs", "path FLOPs")]
    assert rows[-1][3:] == ["", ""]
    assert {row[0]: row[3:] for row in rows[2:4]} == {
        model: [amount(executed[model]), amount(paths[model])] for model in executed
    }
    assert "executed, and of all active paths" in text
    last = list(csv.DictReader((folder / "table.csv").open()))[-1]
    assert [float(last[name]) for name in ("flops", "path_flops")] == [executed["switchbert"], paths["switchbert"]]
    assert (last["task"], last["column"]) == ("refcoco+", "referring expressions (synthetic), accuracy")


def test_runs_that_tracked_no_operations_have_none(copy):
    study, folder = copy
    path = run_of(folder, "ctrl_uniter") / "metrics.json"
    path.write_text(json.dumps({"last_validation": json_of(path)["last_validation"]}))
    tables = tuple(replace(table, flops=True) for table in study.tables)
    text = tables_text(make_tables(plan_of(replace(study, tables=tables), folder)))
    (uniter,) = [line for line in text.splitlines() if line.startswith("| ctrl_uniter")]
    assert [cell.strip() for cell in uniter.split("|")[4:6]] == ["–", "–"]


def test_published_numbers_stand_beside_ours(copy):
    study, folder = copy
    published = {"switchbert": {"refcoco+ accuracy": "72.8 ± .45"}}
    tables = tuple(replace(table, published=published) for table in study.tables)
    assert tables_text(make_tables(plan_of(replace(study, tables=tables), folder))).count(" (72.8 ± .45)") == 1


def test_rows_that_differ_in_a_recorded_setting_are_refused(copy):
    study, folder = copy
    path = run_of(folder, "switchbert") / "run.json"
    record = json_of(path)
    record["hyperparameters"]["weight_decay"] = 0.5
    path.write_text(json.dumps(record))
    with pytest.raises(UserError) as caught:
        make_tables(plan_of(study, folder))
    assert str(caught.value) == (
        "the table is refused: in refcoco+/seed0, hyperparameters.weight_decay is 0.0001 for ctrl_uniter and 0.5 "
        "for switchbert; rows may differ in what the table varies only"
    )
    assert not (folder / "table.md").exists() and not (folder / "table.json").exists()


@pytest.mark.parametrize("missing", ["run.json", "metrics.json", "test_metrics.json"])
def test_a_run_that_is_not_there_is_named(copy, missing):
    study, folder = copy
    (run_of(folder, "switchbert") / missing).unlink()
    with pytest.raises(UserError, match=rf"refcoco\+_switchbert/{missing}: missing; run the study first"):
        make_tables(plan_of(study, folder))


def test_a_score_is_taken_of_the_split_that_the_plan_names(copy):
    study, folder = copy
    with pytest.raises(UserError, match=r"val_metrics.json: missing"):
        alone = study.arms["switchbert"].tasks["TASK10"].training_alone
        make_tables(plan_of(changed(study, tasks={"TASK10": alone}), folder))
