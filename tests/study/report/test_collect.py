"""What the page shows, read back from a study whose runs' files were written by hand."""

import json
from dataclasses import replace

import pytest
import yaml

from study.report.conftest import STUDY
from volta_switch.config import load_config
from volta_switch.cost.executed import parameters
from volta_switch.study import trained_runs
from volta_switch.study.plan import load_study
from volta_switch.study.records import StudyResults
from volta_switch.study.report.collect import _routes, _validations, collect
from volta_switch.study.report.runs import RunSummary, commands_of, environments
from volta_switch.study.route_reports import routes_over_seeds
from volta_switch.study.run_plan import RunPlan, plan_of
from volta_switch.study.study_data import world_folder
from volta_switch.world import write_world

PATHS = "Active paths in pre-training"


def costs_of(values, arm):
    return {cost["work"]: cost for cost in values["cost"]["arms"][arm]["works"]}


@pytest.fixture(scope="module")
def values(written):
    return collect(written.plan, written.tables).to_dict()


def test_everything_is_plain_json(values):
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_the_study_is_summed_up(values):
    study = values["study"]
    assert study["arms"] == ["ctrl_uniter", "switchbert", "top-1"] and study["seeds"] == [3]
    assert study["claims"] == {"supported": 1, "contradicted": 1, "undecided": 2, "not tested": 0}
    assert (study["cells"], study["finished"]) == (22, 19)  # 3 arms x 3 seeds x 2, and four reports of routes


def test_a_table_says_which_runs_it_waits_for(values):
    main, top_k = values["tables"]
    assert main["cells"] == {"needed": 12, "waiting": []} and main["seeds"] == main["planned_seeds"] == [0, 1, 2]
    assert top_k["cells"] == {"needed": 12, "waiting": ["top-1/seed2/refcoco+"]}
    assert top_k["seeds"] == [0, 1] and top_k["planned_seeds"] == [0, 1, 2]


def test_a_table_without_numbers_is_there_with_its_untested_claims(unfinished):
    values = collect(unfinished.plan, unfinished.tables).to_dict()
    main = values["tables"][0]
    assert main["rows"] == [] and main["left_out"].startswith("Left out: ")
    assert [claim["verdict"] for claim in main["claims"]] == ["not tested"] * 3
    assert [claim["heading"] for claim in main["claims"]] == ["referring expressions (synthetic), accuracy"] * 3
    assert values["study"]["claims"]["not tested"] == 4
    assert len(values["routes"]) == 2 and all(route["report"] is None for route in values["routes"])


def test_routes_know_the_world_that_their_samples_are_from(tmp_path):
    deep = {"model": "demo/switchbert", "world": {"text_depth": 2}}
    tables = {"dial": {"arms": ["switchbert", "deep"], "varies": ["world.text_depth"]}}
    values = {**STUDY, "arms": {"deep": deep}, "routes": {"arms": ["switchbert", "deep"]}, "tables": tables}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study(tmp_path / "study.yaml")
    for arm in study.arms.values():
        write_world(world_folder(study, arm, tmp_path), **arm.world)
    worlds = {route.arm: route.world for route in _routes(RunPlan(study, tmp_path), {})}
    assert worlds == {"switchbert": str(tmp_path / "world"), "deep": str(tmp_path / "world-text_depth-2")}


def test_tables_that_were_never_made_are_shown_as_unfinished(written):
    values = collect(written.plan, StudyResults("small")).to_dict()
    assert [table["name"] for table in values["tables"]] == ["main", "top-k"]
    assert not any(table["rows"] for table in values["tables"])


def test_curves_have_every_arm_and_seed(values):
    panels = {(panel["table"], panel["title"]): panel for panel in values["curves"]}
    titles = ("Pre-training", "refcoco+", PATHS)
    assert list(panels) == [(table, title) for table in ("main", "top-k") for title in titles]
    panel = panels["main", "refcoco+"]
    assert panel["y_label"] == "validation accuracy, %" and panel["waiting"] == []
    assert [arm["arm"] for arm in panel["arms"]] == ["ctrl_uniter", "switchbert"]
    assert panel["arms"][1]["seeds"][1] == {"seed": 1, "points": [[40, 75.2], [80, 76.2]]}
    assert panels["main", "Pre-training"]["arms"][0]["seeds"][0]["points"] == [[40, 7.0], [80, 6.0]]


def test_a_run_that_goes_on_is_drawn_as_far_as_it_is_and_named(values):
    panel = values["curves"][-2]
    assert panel["waiting"] == ["top-1/seed2"]
    assert [len(seed["points"]) for seed in panel["arms"][0]["seeds"]] == [2, 2, 1]


def test_active_paths_are_drawn_and_averaged_where_they_were_tracked(values):
    panel = next(panel for panel in values["curves"] if (panel["table"], panel["title"]) == ("main", PATHS))
    assert [arm["arm"] for arm in panel["arms"]] == ["switchbert"]  # the other one has no paths
    assert panel["arms"][0]["seeds"][0]["points"] == [[40, 2.0], [80, 1.0]]
    switched, fixed = (costs_of(values, arm)["pre-training"] for arm in ("switchbert", "ctrl_uniter"))
    assert (switched["training_executed"], switched["training_paths"]) == (pytest.approx(1.1e6), 1.5e6)
    assert fixed["training_paths"] == fixed["training_executed"]


def test_switchers_are_summed_up_over_training_where_they_were_watched(values):
    first, last = 0.5, pytest.approx((1.0 + 0.8 + 0.8) / 3)
    expected = {
        "arm": "switchbert", "seeds": [0, 1, 2], "commonest_share": [first, first, last],
        "distinct_routes": [12, 12, 3], "mutual_information": [1.5, 1.5, pytest.approx((0.01 + 0.61 + 0.61) / 3)],
        "collapsed": 1,
    }  # fmt: skip
    assert values["switchers"] == [{**expected, "work": work} for work in ("pre-training", "refcoco+")]


def test_curves_leave_out_what_an_earlier_run_in_the_folder_logged(tmp_path):
    def valid(epoch, score):
        return {"kind": "valid", "epoch": epoch, "step": epoch + 1, "samples": 10 * (epoch + 1), "score": score}

    lines = [
        {"kind": "start", "step": 0, "resumed": False}, valid(0, 1.0), valid(1, 2.0), valid(2, 3.0),
        {"kind": "start", "step": 0, "resumed": False}, valid(0, 4.0),
        {"kind": "start", "step": 1, "resumed": True}, valid(0, 5.0), {"kind": "train", "step": 2}, valid(1, 6.0),
    ]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert _validations(tmp_path / "log.jsonl", "score") == ((10, 5.0), (20, 6.0))
    assert _validations(tmp_path / "none.jsonl", "score") == ()


def test_parameters_are_those_of_the_models(values):
    found = {name: values["cost"]["arms"][name]["parameters"] for name in ("ctrl_uniter", "top-1")}
    configs = load_config("demo/ctrl_uniter"), load_config("demo/switchbert", ["switch.top_k=1"])
    assert list(found.values()) == [parameters(config) for config in configs]


def test_times_are_means_over_finished_runs(values):
    switched, one = (costs_of(values, arm) for arm in ("switchbert", "top-1"))
    assert {work: cost["time"] for work, cost in switched.items()} == {
        "pre-training": {"mean": 110.0, "runs": 3}, "refcoco+": {"mean": 110.0, "runs": 3}
    }  # fmt: skip
    assert one["refcoco+"]["time"] == {"mean": 105.0, "runs": 2}
    assert (switched["refcoco+"]["inference_executed"], switched["refcoco+"]["inference_paths"]) == (1e6, 9e5)
    assert one["refcoco+"]["inference_executed"] is None  # no report of routes yet


def test_the_confound_check_counts_and_names_settings(values):
    main, top_k = values["confounds"]
    planned = top_k["planned"]
    assert planned["differing"] == [{"setting": "model.switch.top_k", "values": {"top-1": 1, "switchbert": 4}}]
    assert planned["equal"] == planned["compared"] - 1 > 40
    assert top_k["recorded"] == {"compared": 12, "equal": 12, "differing": [], "runs": 12} and top_k["refused"] == ""
    assert all(entry["setting"].startswith("model.") for entry in main["planned"]["differing"])


def test_a_recorded_confound_is_reported(written, monkeypatch):
    def corrupted(cell, of=trained_runs.find_record):
        record = of(cell)
        if cell.name == "switchbert/seed1/pretraining":
            record.hyperparameters["learning_rate"] = 0.5
        return record

    monkeypatch.setattr(trained_runs, "find_record", corrupted)
    check = trained_runs.confounds_of(written.plan, written.plan.study.tables[0]).to_dict()
    values = {"ctrl_uniter": 1e-3, "switchbert": "0.001, 0.5"}
    assert check["recorded"]["differing"] == [
        {"setting": "hyperparameters.learning_rate in pretraining", "values": values}
    ]
    assert "hyperparameters.learning_rate is 0.001 for ctrl_uniter and 0.5 for switchbert" in check["refused"]


def test_every_cell_has_its_commands(values):
    runs = {run["cell"]: run for run in values["runs"]}
    assert len(runs) == 22
    tuned = runs["switchbert/seed1/refcoco+"]
    assert [command.split()[:2] for command in tuned["commands"]] == [
        ["volta-switch", "finetune"],
        ["volta-switch", "evaluate"],
    ]
    assert tuned["finished"] and tuned["seconds"] == 110.0
    begun = runs["top-1/seed2/refcoco+"]
    assert begun["begun"] and not begun["finished"] and begun["seconds"] is None
    assert runs["top-1/seed0/refcoco+ routes"]["commands"][0].startswith("volta-switch routes ")


def test_commands_that_differ_in_the_seed_alone_stand_once(values):
    found = {(arm, group["work"]): group for arm, groups in values["commands"].items() for group in groups}
    assert sum(group["runs"] for group in found.values()) == len(values["runs"]) == 22
    tuned = found["switchbert", "refcoco+"]
    runs = {run["cell"]: run["commands"] for run in values["runs"]}
    assert tuned["commands"] == runs["switchbert/seed0/refcoco+"] != runs["switchbert/seed1/refcoco+"]
    assert tuned["seeds"] == [0, 1, 2] and tuned["finished"] == tuned["runs"] == 3 and tuned["seconds"] == 110.0
    begun = found["top-1", "refcoco+"]
    assert (begun["runs"], begun["finished"], begun["begun"]) == (3, 2, 1)
    alone = [
        RunSummary.from_dict({**run, "commands": [f"{run['commands'][0]} --extra {run['seed']}"]})
        for run in values["runs"]
    ]
    assert all(group.runs == 1 for groups in commands_of(alone).values() for group in groups)


def test_environments_that_differ_are_named_with_their_runs(values):
    found = values["environment"]
    assert found["same"] == {"threads": "1", "versions.torch": "2.13.0"} and found["runs"] == 18
    assert {value: len(runs) for value, runs in found["differing"]["device"].items()} == {"cpu": 12, "cuda:0": 6}


def test_a_field_that_one_run_lacks_is_a_difference():
    found = {"a": {"device": "cpu", "gpu": "x"}, "b": {"device": "cpu"}}
    runs = [RunSummary(name, "a", 0, True, True, 1.0, (), environment) for name, environment in found.items()]
    assert environments(runs).differing == {"gpu": {"x": ["a"], "not recorded": ["b"]}}


def test_a_report_of_routes_that_was_made_with_other_flags_is_not_shown(written):
    study = written.plan.study
    other = replace(study, routes=replace(study.routes, flags={"samples": 3}))
    values = collect(plan_of(other, written.plan.folder), written.tables).to_dict()
    assert [route["report"] for route in values["routes"]] == [None, None]
    assert routes_over_seeds(written.plan) and routes_over_seeds(plan_of(other, written.plan.folder)) == ()
