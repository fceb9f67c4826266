"""All pairs: an interrupted evaluation ends as an undisturbed one does; what is said on the way, what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from synthetic_world import refusal
from tasks.all_pairs import PARTS, RUN, annotations_of_the_test_split, check_finished, scores_in, stop_in_part
from volta_switch.command import run_command
from volta_switch.tasks import retrieval_scores
from volta_switch.tasks.retrieval_scores import block_sides
from volta_switch.train import evaluation

pytestmark = pytest.mark.usefixtures("small_parts")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("CUDA out of memory")])
@pytest.mark.parametrize("number", [0, 2])
def test_an_interrupted_run_goes_on_with_the_part_that_it_was_in(
    evaluate, whole, tmp_path, monkeypatch, scored, number, error
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        stop_in_part(number, error, patch)
        with pytest.raises(type(error) if isinstance(error, Exception) else error):
            evaluate(out)
    files = {path.name for path in (out / RUN / "test_scores").iterdir()}
    parts = {f"part_{done:05d}.npy" for done in range(number)}
    assert {re.sub("_.*_", "_", name) for name in files} == {"identity.json", ".lock", *parts}
    assert not (out / RUN / "test_metrics.json").exists()
    scored.clear()
    check_finished(out, evaluate(out), whole)
    assert scored == [3 * part for part in range(number, PARTS)]


def test_ctrl_c_says_that_finished_parts_are_kept(command, tmp_path, monkeypatch, capsys):
    stop_in_part(1, KeyboardInterrupt(), monkeypatch)
    with pytest.raises(SystemExit) as caught:
        run_command(evaluation.main_retrieval, command(tmp_path))
    assert caught.value.code == 130
    folder = tmp_path / RUN / "test_scores"
    said = f"interrupted; finished parts are kept in {folder}, and the same command goes on"
    assert capsys.readouterr().err.splitlines()[-1] == said
    assert len(list(folder.glob("part_*_00000.npy"))) == 1


def test_ctrl_c_in_another_task_promises_nothing(world, tmp_path, weights, monkeypatch, capsys):
    stop_in_part(0, KeyboardInterrupt(), monkeypatch)
    argv = world.flags("eval_task", tmp_path, "ctrl_uniter", "retrieval")
    with pytest.raises(SystemExit):
        run_command(evaluation.main, [*argv, "--from_pretrained", str(weights), "--batch_size", "16"])
    assert capsys.readouterr().err == "interrupted; nothing was written\n" and not list(tmp_path.iterdir())


def test_another_batch_size_goes_on_from_the_same_parts(evaluate, whole, tmp_path, monkeypatch, scored):
    with monkeypatch.context() as patch:
        stop_in_part(2, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            evaluate(tmp_path)
    scored.clear()
    evaluate(tmp_path, "--batch_size", 3)
    assert scored == [6, 9]
    np.testing.assert_allclose(scores_in(tmp_path), whole.scores, rtol=1e-5, atol=1e-5)


def test_the_time_left_is_of_the_pairs_that_are_left(evaluate, begun, whole, monkeypatch, capsys):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(retrieval_scores.time, "monotonic", lambda: float(next(clock)))
    captions = len(whole.scores)
    capsys.readouterr()
    evaluate(begun)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{begun / RUN / 'test_scores'}: 2 of 4 parts are finished"
    rate = captions * 3 / 10  # three images in ten seconds; the six before them took none of this run's time
    left = round(captions / rate)
    pairs = f"{captions * 9:,} of {captions * 10:,} scored"
    assert lines[1] == f"all pairs: {pairs}, {rate:,.1f} pairs per second, 00:{left:02d} left"


def test_lines_grow_rarer(evaluate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 1)
    clock = iter(range(1000))
    monkeypatch.setattr(retrieval_scores.time, "monotonic", lambda: float(next(clock)))
    evaluate(tmp_path)
    assert capsys.readouterr().err.count("pairs per second") == 4  # after one part, two, four and eight of ten


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16, 100, 128, 256, 1024, 5000])
def test_blocks_are_near_square_and_no_larger_than_the_batch(batch_size, monkeypatch):
    monkeypatch.setattr(retrieval_scores, "PART_IMAGES", 16)
    captions, images = block_sides(batch_size)
    assert 1 <= images <= 16 and batch_size - images < captions * images <= batch_size
    assert images == 16 or images <= captions <= 4 * images


def test_scores_in_bf16_are_kept_as_float32(evaluate, whole, tmp_path):
    evaluate(tmp_path, "--precision", "bf16")
    scores = scores_in(tmp_path)
    assert scores.dtype == np.float32 and not np.array_equal(scores, whole.scores)
    assert np.abs(scores - whole.scores).mean() < 0.1 * whole.scores.std()
    rounded = torch.from_numpy(scores).bfloat16().float().numpy()
    assert (scores == rounded).mean() < 0.1  # rounded scores would be equal where a model tells pairs apart


def test_scores_that_are_no_numbers_are_refused(world, weights, command, tmp_path, capsys):
    state = torch.load(weights, weights_only=True)
    for name in (name for name in state if "pooler" in name or name.startswith("clfs_dict")):
        state[name] = state[name] * 1e25  # finite, and products of products with it are not
    torch.save(state, tmp_path / "vast.bin")
    argv = command(tmp_path / "out", "--from_pretrained", tmp_path / "vast.bin")
    first = world.task("retrieval", world.config("ctrl_uniter")).pairs("test").image_ids[0]
    message = refusal(evaluation.main_retrieval, argv, capsys)
    assert message == f"image '{first}': a score is no finite number; are the weights or the features damaged?"


def test_an_image_without_features_is_named_before_anything_is_scored(world, command, tmp_path, capsys, scored):
    lines = annotations_of_the_test_split(world).read_text().splitlines()
    last = json.loads(lines[-1]) | {"id": 99999, "img_path": "99999.jpg"}
    (tmp_path / "more.jsonl").write_text("\n".join([*lines, json.dumps(last)]))
    argv = command(tmp_path / "out", "--val_annotations_jsonpath", tmp_path / "more.jsonl")
    assert "no image '99999'" in refusal(evaluation.main_retrieval, argv, capsys)
    assert scored == [] and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_scored(command, tmp_path, capsys, scored):
    (tmp_path / "file").write_text("")
    message = refusal(evaluation.main_retrieval, command(tmp_path / "file"), capsys)
    assert message.startswith(f"{tmp_path / 'file' / RUN / 'test_scores'}: ") and "another --output_dir" in message
    assert scored == []


def test_a_batch_holds_a_pair_or_more(command, tmp_path, capsys):
    argv = command(tmp_path, "--batch_size", 0)
    assert refusal(evaluation.main_retrieval, argv, capsys).startswith("--batch_size: expected a whole number from 1")
