"""A study asks for the cross-modal ablation of its arms: planned, run, summed up over seeds, and exported."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from study.small_plans import ARMS, SHARED
from volta_switch import UserError
from volta_switch.statistics import by_group, estimate_mean
from volta_switch.study.ablation_formats import MORE, NOTE, ablation_as_markdown, ablation_in_words
from volta_switch.study.ablation_reports import AblationReport, ablation_over_seeds
from volta_switch.study.exports import export_runs, merge_runs
from volta_switch.study.forecast import dry_run
from volta_switch.study.plan import load_study
from volta_switch.study.planned_runs import ABLATION, PRETRAINING, finished_runs
from volta_switch.study.records import StudyResults
from volta_switch.study.report.page import write_report
from volta_switch.study.run import run_study
from volta_switch.study.run_plan import RunPlan, plan_of
from volta_switch.study.table import make_tables

SETS = ("concap", "refer", "retrieval", "entities")
WORLD = {"images": 20, "eval_images": 10, "render": False, "data_sets": list(SETS)}


def with_ablation(plan, **flags):
    """A plan of pre-training and one task, measured by the ablation."""
    return {
        **{key: value for key, value in plan.items() if key != "routes"},
        **{"world": WORLD, "seeds": [0, 1], "models": ["demo/ctrl_uniter"]},
        "ablation": {"arms": ["ctrl_uniter"], "seeds": 2, **flags},
    }


@pytest.fixture(scope="module")
def measured(plan, tmp_path_factory):
    """The study, its folder, and its tables."""
    folder = tmp_path_factory.mktemp("study")
    small = with_ablation(plan, split="test", masking=["none", "all"])
    small["pretraining"] = {**small["pretraining"], "num_train_epochs": 1}
    small["tasks"] = {"TASK10": {"train": {"max_steps": 1, "batch_size": 16, "save_best_only": True}}}
    (folder / "plan.yaml").write_text(yaml.safe_dump(small))
    study = load_study(folder / "plan.yaml")
    run_study(study, folder / "out", jobs=1)
    return study, folder / "out", make_tables(plan_of(study, folder / "out"))


def test_every_seed_is_measured_once_and_the_table_says_it(measured):
    study, folder, results = measured
    plan = plan_of(study, folder)
    runs = plan.runs_of(ABLATION)
    assert [run.name for run in runs.values()] == [f"ctrl_uniter/seed{seed}/ablation" for seed in (0, 1)]
    assert all(run.needs == plan.run_of("ctrl_uniter", seed).name for (_, seed), run in runs.items())
    (found,) = results.ablation
    assert (found.arm, found.split, found.seeds, found.synthetic) == ("ctrl_uniter", "test", (0, 1), True)
    written = [json.loads((run.folder / "ablation.json").read_text()) for run in runs.values()]
    keys = [(row["direction"], row["masking"], row["loss"]) for row in written[0]["losses"]]
    assert [(each.direction, each.masking, each.loss) for each in found.losses] == keys and len(keys) == 6
    for number, each in enumerate(found.losses):
        own = [file["losses"][number] for file in written]
        assert each.mean.values == pytest.approx([row["value"] for row in own], abs=1e-5)
        if each.masking == "none":
            assert each.more is None
        else:
            assert each.more.values == pytest.approx([row["more_than_unmasked"]["value"] for row in own], abs=1e-5)
            assert each.more.estimate.items == 10 and each.more.estimate.population == "new items"
    assert written[0]["weights"] != written[1]["weights"]
    text = (folder / "table.md").read_text()
    assert "**Cross-modal ablation** (the synthetic world's Flickr30k Entities, test)" in text and NOTE in text
    assert "masked words, cross-entropy: all regions masked" in text and "… more than unmasked" in text
    assert StudyResults.from_dict(json.loads((folder / "table.json").read_text())) == results


def test_every_number_is_in_the_csv_and_the_table_in_latex(measured):
    _, folder, results = measured
    lines = (folder / "table.csv").read_text().splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("table,arm,direction"))
    rows = list(csv.DictReader(lines[start:]))
    (found,) = results.ablation
    assert len(rows) == 2 * len(found.losses)
    for each, pair in zip(found.losses, zip(rows[::2], rows[1::2], strict=True), strict=True):
        for seed, row in enumerate(pair):
            assert [row[name] for name in ("arm", "split", "seed")] == ["ctrl_uniter", "test", str(seed)]
            assert [row[name] for name in ("direction", "masking", "loss")] == [each.direction, each.masking, each.loss]
            assert (float(row["nats"]), int(row["phrases"])) == (each.mean.values[seed], each.phrases)
            assert row["more_than_unmasked"] == (str(each.more.values[seed]) if each.more else "")
    latex = (folder / "table.tex").read_text()
    assert "% Cross-modal ablation (the synthetic world's Flickr30k Entities, test)\n\\begin{tabular}" in latex
    assert f"$\\pm$ {found.losses[0].mean.estimate.spread:.3f}" in latex


def test_the_report_has_it_and_one_without_says_nothing_of_it(measured):
    study, folder, results = measured
    page = write_report(plan_of(study, folder), results).read_text()
    section = page[page.index('<h2 id="ablation">') : page.index('<h2 id="cost">')]
    assert "the synthetic world&#39;s Flickr30k Entities, test" in section and '<a href="#ablation">' in page
    words = ablation_in_words(results.ablation)
    for line in words.lines:
        assert all(f">{cell}</t" in section for cell in line)
    assert section.count('class="number within"') == len(words.grey)
    without = write_report(plan_of(study, folder), replace(results, ablation=())).read_text()
    assert "ablation" not in without[: without.index('<h2 id="confounds">')]


def test_differences_that_are_not_told_apart_from_none_are_grey():
    first, second = [1.0, 2.0, 4.0], [2.0, 2.0, 5.0]
    reports = {0: report((first, [2.0, 3.1, 5.0])), 1: report((second, [3.1, 3.0, 6.2]))}
    apart = ablation_over_seeds("apart", reports)
    same = ablation_over_seeds("same", {0: report((first, first[::-1])), 1: report((second, second))})
    words = ablation_in_words([apart, same])
    assert words.lines[3][0] == MORE and words.lines[3][1].startswith("+1.") and words.grey == {(3, 1)}


def test_a_finished_one_is_not_run_again_and_another_split_is(measured):
    study, folder, _ = measured
    done = set(finished_runs(folder))
    assert {run.key for run in plan_of(study, folder).runs} <= done
    other = replace(study, ablation=replace(study.ablation, flags={"split": "val"}))
    waiting = [run for run in plan_of(other, folder).runs if run.key not in done]
    assert [run.work for run in waiting] == [ABLATION] * 2
    assert all("seed0-" in str(run.folder) or "seed1-" in str(run.folder) for run in waiting)
    assert "ctrl_uniter/seed0-" in dry_run(other, folder) and "8 cells" not in dry_run(other, folder)


def test_reports_travel(measured, tmp_path):
    study, folder, results = measured
    export_runs(plan_of(study, folder), tmp_path / "runs.gz")
    merge_runs(study, tmp_path / "merged", [tmp_path / "runs.gz"])
    merged = make_tables(plan_of(study, tmp_path / "merged"))
    assert merged.ablation == results.ablation


def report(losses, image=("a", "a", "b"), split="val"):
    columns = {"none": {"mlm": losses[0]}, "all": {"mlm": losses[1]}}
    phrases = {"image": image, "sentence": [0, 1, 0], "first_word": [0, 2, 0], "vis4lang": columns}
    return AblationReport.from_dict({"split": split, "per phrase": phrases})


def test_seeds_and_images_are_random_effects():
    first, second = [1.0, 2.0, 4.0], [2.0, 2.0, 5.0]
    reports = {0: report((first, [2.0, 4.0, 4.5])), 3: report((second, [2.5, 4.0, 7.0]))}
    found = ablation_over_seeds("own", reports)
    none, masked = found.losses
    assert found.seeds == (0, 3) and none.more is None and none.phrases == 3
    assert none.mean.values == pytest.approx([7 / 3, 3])
    more = np.array([[1.0, 2.0, 0.5], [0.5, 2.0, 2.0]])
    expected = estimate_mean(by_group(more, ["a", "a", "b"]))
    assert masked.more.values == pytest.approx(more.mean(1))
    assert masked.more.estimate.interval == pytest.approx(expected.interval())
    assert masked.more.estimate.items == 2


def test_phrases_that_some_seed_could_not_measure_are_left_out():
    reports = {0: report(([1.0, None, 4.0], [2.0, None, 4.5])), 1: report(([2.0, 2.0, 5.0], [2.5, 4.0, 6.0]))}
    none, masked = ablation_over_seeds("own", reports).losses
    assert none.phrases == masked.phrases == 2 and none.mean.values == pytest.approx([2.5, 3.5])


def test_other_phrases_cannot_be_compared():
    with pytest.raises(UserError, match="ablation of own: its seeds were not measured on the same phrases"):
        ablation_over_seeds("own", {0: report(([1.0] * 3,) * 2), 1: report(([1.0] * 3,) * 2, image=("a", "b", "b"))})


def test_in_words():
    found = ablation_over_seeds("own", {0: report(([1.0, 2.0, 4.0], [2.0, 4.0, 4.5]))})
    _, text, _ = ablation_as_markdown([found, replace(found, arm="other", losses=found.losses[:1])])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert cells[0] == ["", "own", "other"] and cells[2] == ["seeds", "1", "1"]
    assert cells[3] == ["masked words, cross-entropy: no region masked", "2.333", "2.333"]
    assert cells[4] == ["masked words, cross-entropy: all regions masked", "3.500", "–"]
    assert cells[5] == ["… more than unmasked", "+1.167", "–"]
    assert ablation_as_markdown([]) == []


@pytest.mark.parametrize(("changes", "said"), [
    ({"ablation": {"split": "val"}}, "ablation: expected arms, a list of those that are measured, found"),
    ({"ablation": {"arms": ["third"]}}, "ablation: third is none of first, second"),
    ({"ablation": {"arms": ["first"]}, "world": {"images": 20}}, "ablation: the world of first has no Flickr30k Ent"),
    ({"ablation": {"arms": ["first"], "task": "18"}}, "ablation: task: the world has its own"),
    ({"ablation": {"arms": ["first"], "out": "x"}}, r"ablation\.out: the study says --out to its runs itself"),
    ({"ablation": {"arms": ["first"], "maskin": "x"}}, r"ablation\.maskin: volta-switch ablate has no flag --maskin"),
    ({"ablation": {"arms": ["first"], "direction": "x"}}, r"ablation\.direction: "),
    ({"ablation": {"arms": ["first"], "seeds": 9}}, "ablation: seeds: 9, but first has 2"),
    ({"ablation": {"arms": ["first"]}, "pretraining": None}, "ablation: first is not pre-trained"),
    ({"ablation": 3}, "ablation: expected a section of settings, found 3"),
])  # fmt: skip
def test_a_section_that_cannot_be_is_refused(study_of, changes, said):
    with pytest.raises(UserError, match=said):
        study_of({**SHARED, "world": WORLD, "arms": ARMS, **changes})


def test_a_study_without_the_section_is_planned_as_before(study_of, world, tmp_path):
    (tmp_path / "world").mkdir()
    shutil.copy(world.tasks_file, tmp_path / "world")
    plain = {**SHARED, "world": {**WORLD}, "arms": ARMS}
    before = RunPlan(study_of(plain), tmp_path)
    after = RunPlan(study_of({**plain, "ablation": {"arms": ["second"]}}), tmp_path)
    kept = {run.key: run for run in after.runs if run.work != ABLATION}
    assert kept == {run.key: run for run in before.runs}
    (own,) = (run for run in after.runs if run.work == ABLATION)
    # both arms are alike: their pre-training is one run, the first arm's
    assert own.needs == before.run_of("second", 0, PRETRAINING).name
    assert own.typed[0].startswith("volta-switch ablate ")
