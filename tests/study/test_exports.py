"""Finished cells travel: another machine's study goes on from a file of them, without weights."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from synthetic_world import refusal
from volta_switch import UserError
from volta_switch.cli import _run, main
from volta_switch.study import exports
from volta_switch.study.exports import MergeCounts, export_runs, merge_runs, read_exported
from volta_switch.study.forecast import dry_run
from volta_switch.study.planned_runs import PRETRAINING, Work, finished_runs, scores_in
from volta_switch.study.report.page import write_report
from volta_switch.study.run import _plan_with_weights, run_study
from volta_switch.study.run_plan import plan_of
from volta_switch.study.table import make_tables
from volta_switch.tasks.task import WHOLE


@pytest.fixture(scope="module")
def travelled(finished, tmp_path_factory):
    """The finished study's cells in a file; read-only."""
    study, folder = finished
    to = tmp_path_factory.mktemp("travelled") / "small.cells"
    assert export_runs(plan_of(study, folder), to) == 5
    return to


@pytest.fixture
def merged(finished, travelled, tmp_path):
    """The same study in another folder, merged from the file alone."""
    study, _ = finished
    assert merge_runs(study, tmp_path / "there", [travelled]) == MergeCounts(merged=5, present=0, unused=0)
    return study, tmp_path / "there"


def rewritten(path, to, change):
    """A file of cells with other content and a right checksum."""
    said = json.loads(exports.lzma.decompress(path.read_bytes().split(b"\n", 1)[1]))
    change(said)
    packed = exports.lzma.compress(json.dumps(said).encode())
    to.write_bytes(b"volta-switch study cells 1 %s\n" % exports._digest(packed) + packed)
    return to


def test_merged_cells_are_finished_and_give_the_same_tables_and_verdicts(finished, merged, capsys, monkeypatch):
    study, folder = merged
    monkeypatch.setattr("volta_switch.study.run._work_on", lambda folder, cell: pytest.fail(cell.name))
    plan = run_study(study, folder, jobs=1)
    assert "5 cells, 5 finished before" in capsys.readouterr().err
    assert dry_run(study, folder).endswith("5 cells, 0 to run")
    here, there = make_tables(plan), make_tables(plan_of(*finished))
    assert here == there and here.tables[0].rows[0].scores[0].estimate.items > 0  # items travel, too
    page = write_report(plan, here).read_text()
    assert "Routes" in page and "While they train" in page  # validations travel with what they say of switchers
    assert not list((folder / "merged").rglob("*.bin")) and not list(folder.rglob("*_result.json"))


def test_a_cell_takes_little_room(travelled):
    assert travelled.stat().st_size / 5 < 20_000
    logs = [each.run.files[exports.LOG] for each in read_exported(travelled) if exports.LOG in each.run.files]
    assert logs and all(any(line["kind"] == "valid" for line in log) for log in logs)


def test_a_long_log_keeps_its_validations_and_some_of_its_steps():
    lines = [{"kind": "train", "step": step} for step in range(5000)]
    lines[1000:1000] = [{"kind": "valid", "step": 1000}]
    kept = exports._summary(lines)
    assert len(kept) == exports.TRAIN_LINES + 1 and {"kind": "valid", "step": 1000} in kept
    assert [line["step"] for line in kept] == sorted(line["step"] for line in kept)
    assert (kept[0]["step"], kept[-1]["step"]) == (0, 4999)


def test_exported_again_the_file_is_the_same_but_for_where_it_was(merged, travelled, tmp_path):
    study, folder = merged
    export_runs(plan_of(study, folder), tmp_path / "again.cells")
    first, again = (
        {each.run.key: each.run for each in read_exported(path)} for path in (travelled, tmp_path / "again.cells")
    )
    assert first.keys() == again.keys()
    for key, cell in first.items():
        assert scores_in(finished_runs(folder)[key].folder) == exports.scores_of(cell.files)
        same = {name for name in cell.files if name != "run.json"}
        assert {name: cell.files[name] for name in same} == {name: again[key].files[name] for name in same}


def test_every_damaged_byte_is_found_and_nothing_is_merged(finished, travelled, tmp_path):
    study, _ = finished
    content = travelled.read_bytes()
    places = {*range(120), *np.random.default_rng(0).integers(0, len(content), 200).tolist(), len(content) - 1}
    damaged = tmp_path / "damaged.cells"
    for place in places:
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"damaged\.cells: (damaged|no file of cells|of format)"):
            read_exported(damaged)
    for wrong in (b"", content[:-1], content + b"\n", b"{}", content[:60]):
        damaged.write_bytes(wrong)
        with pytest.raises(UserError, match=r"damaged\.cells: (damaged|no file of cells)"):
            merge_runs(study, tmp_path / "out", [travelled, damaged])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda said: said.update(results_version=99), "of results version 99, expected 1"),
        (lambda said: said["cells"][0].update(key="../../x"), "not as study export writes it"),
        (lambda said: said["cells"][0]["files"].update({"../evil_metrics.json": {}}), "not as study export writes it"),
        (lambda said: said["cells"][0]["files"]["run.json"].pop("data"), "not as study export writes it"),
        (lambda said: said.pop("cells"), "not as study export writes it"),
        (lambda said: [cell.update(key="0" * 64) for cell in said["cells"]], "no cell is of study small"),
    ],
)
def test_what_is_no_cell_of_the_study_is_refused(finished, travelled, tmp_path, change, said):
    wrong = rewritten(travelled, tmp_path / "wrong.cells", change)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        merge_runs(finished[0], tmp_path / "out", [wrong])
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_runs_of_versions_that_did_not_watch_the_switchers_are_no_conflict(finished, travelled, tmp_path):
    study, folder = finished
    watched = []

    def before(said):
        for cell in said["cells"]:
            for name in ("best_validation", "last_validation"):
                found = cell["files"].get("metrics.json", {}).get(name, {}).pop("switchers", None)
                watched.append(found is not None)

    earlier = rewritten(travelled, tmp_path / "earlier.cells", before)
    assert any(watched)
    assert merge_runs(study, folder, [earlier]) == MergeCounts(merged=0, present=5, unused=0)


def test_two_runs_of_one_cell_with_other_scores_are_a_conflict(finished, travelled, tmp_path, capsys):
    study, folder = finished

    def other(said):
        [cell] = [cell for cell in said["cells"] if cell["name"] == "switchbert/seed0/refcoco+"]
        cell["files"]["test_metrics.json"]["accuracy"] = 99.0

    conflict = rewritten(travelled, tmp_path / "other.cells", other)
    assert merge_runs(study, folder, [travelled]) == MergeCounts(merged=0, present=5, unused=0)
    with pytest.raises(
        UserError, match=r"switchbert/seed0/refcoco\+: test_metrics.json: accuracy is 99.0, and .* two runs"
    ):
        merge_runs(study, folder, [conflict])
    with pytest.raises(UserError, match=r"two runs of one cell; nothing was merged"):
        merge_runs(study, tmp_path / "out", [travelled, conflict])
    assert not (tmp_path / "out").exists()
    twice = merge_runs(study, tmp_path / "out", [travelled, travelled])
    assert twice == MergeCounts(merged=5, present=0, unused=0)


def test_what_needs_the_weights_of_a_merged_cell_runs_it_again(finished, travelled, tmp_path, in_this_process, capsys):
    """A fine-tuning run after a merged pre-training; what was merged stays, and other scores are told."""
    study, _ = finished
    study = replace(study, arms={"ctrl_uniter": study.arms["ctrl_uniter"]}, routes=type(study.routes)())
    study = replace(study, tables=(replace(study.tables[0], arms=("ctrl_uniter",)),))

    def pretraining_alone(said):
        said["cells"] = [cell for cell in said["cells"] if cell["name"] == "ctrl_uniter/seed0/pretraining"]
        said["cells"][0]["files"]["metrics.json"]["best_validation"]["loss"] = 0.5

    part = rewritten(travelled, tmp_path / "part.cells", pretraining_alone)
    folder = tmp_path / "out"
    assert merge_runs(study, folder, [part]).merged == 1
    [before] = finished_runs(folder).values()
    assert not before.has_weights and dry_run(study, folder).count("finished") == 1
    plan = run_study(study, folder, jobs=1)
    said = capsys.readouterr().err
    assert "ctrl_uniter/seed0/pretraining: was merged without weights, which others need; run again here" in said
    assert (
        "best_validation.loss is" in said
        and "was 0.5 where it was merged from; this run is the one that counts" in said
    )
    assert all(done.has_weights for done in finished_runs(folder).values()) and len(plan.runs) == 2
    assert before.folder.is_dir() and (plan.run_of("ctrl_uniter", 0).folder / "pytorch_model_best.bin").is_file()
    run_study(study, folder, jobs=1)
    assert "2 cells, 2 finished before" in capsys.readouterr().err


def test_routes_of_a_merged_run_need_the_whole_chain_again(merged):
    study, folder = merged
    (folder / "cells" / "switchbert.seed0.refcoco+.routes.json").unlink()
    plan, again = _plan_with_weights(study, folder, WHOLE)
    chain = [plan.run_of("switchbert", 0, work) for work in (PRETRAINING, Work.fine_tuning("TASK10"))]
    assert set(again) == {cell.key for cell in chain}
    assert [cell.folder.parent for cell in chain] == [folder / "switchbert" / "seed0"] * 2  # not where it was merged
    assert all(place.parent == folder / "merged" for place in again.values())


def test_the_commands_say_how_much_was_exported_and_merged(finished, tmp_path, capsys):
    _, folder = finished
    plan, to = str(folder.parent / "plan.yaml"), tmp_path / "a.cells"
    main(["study", "export", plan, "--out", str(folder), "--to", str(to)])
    assert re.search(r"a\.cells: 5 cells, [\d.]+ kB \([\d.]+ kB a cell\)", capsys.readouterr().out)
    shutil.copytree(folder / "world", tmp_path / "new" / "world")
    main(["study", "merge", plan, str(to), "--out", str(tmp_path / "new")])
    assert "5 cells merged, 0 there before, 0 not of this study" in capsys.readouterr().out
    merge = ["study", "merge", plan, "--out", tmp_path / "new"]
    assert "none.cells: no such file of cells" in refusal(_run, [*merge, "none.cells"], capsys)
    assert "a folder, no file of cells" in refusal(_run, [*merge, tmp_path], capsys)
    assert "no file of cells" in refusal(_run, [*merge, plan], capsys)
    export = ["study", "export", plan, "--out", tmp_path / "new", "--tables", "none"]
    assert "no table none" in refusal(_run, export, capsys)


def test_an_export_does_not_replace_a_file_of_another_kind(finished, travelled, tmp_path):
    study, folder = finished
    for content in (b"name: a study", b"", b"volta-switch study"):
        (tmp_path / "mine.yaml").write_bytes(content)
        with pytest.raises(UserError, match=r"mine\.yaml: is there already, and no file of cells; give another --to"):
            export_runs(plan_of(study, folder), tmp_path / "mine.yaml")
        assert (tmp_path / "mine.yaml").read_bytes() == content
    shutil.copy(travelled, tmp_path / "old.cells")
    assert export_runs(plan_of(study, folder), tmp_path / "old.cells") == 5


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir])
def test_merging_what_is_no_file_ends_at_once(tmp_path, make):
    make(tmp_path / "cells")
    with pytest.raises(UserError, match=r"cells: a (pipe or device|folder), no file of cells"):
        read_exported(tmp_path / "cells")
