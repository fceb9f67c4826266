"""Checkpoints are written whole or not at all, and one that can be gone on from is there at every moment."""

import math
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from train.stored_checkpoints import content, is_content, same_tensors, store_of
from volta_switch import UserError
from volta_switch.train import checkpoints
from volta_switch.train.checkpoints import CheckpointStore, TrainingProgress
from volta_switch.weights import read_weights


def names(store):
    return sorted(os.listdir(store.folder))


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    store = store_of(tmp_path, 120)
    assert names(store) == ["step-00000120"] and store.newest() == store.folder / "step-00000120"
    assert sorted(os.listdir(store.newest())) == ["manifest.json", "model.safetensors", "training.safetensors"]
    saved = store.load(store.newest())
    assert saved.path == store.newest() and is_content(saved, 120)
    assert saved.model["cls.predictions.decoder.weight"] is saved.model["bert.embeddings.word_embeddings.weight"]


def test_the_model_of_a_checkpoint_is_a_weight_file(tmp_path):
    store = store_of(tmp_path, 3)
    assert same_tensors(read_weights(store.newest() / "model.safetensors"), content(3)[3])


def test_a_shared_weight_is_stored_once(tmp_path):
    store = store_of(tmp_path, 3)
    _, identity, plain, model, training = content(3)
    apart = {name: tensor.clone() for name, tensor in model.items()}
    other = CheckpointStore(tmp_path / "other")
    other.save(TrainingProgress(), identity, plain, apart, training)
    sizes = [(one.newest() / "model.safetensors").stat().st_size for one in (store, other)]
    assert sizes[1] - sizes[0] > 0.6 * 8 * 8 * 4  # one table of 8 x 8 numbers, less what is said of it


@pytest.mark.parametrize("score", [math.inf, -math.inf, 0.1, 5, 1e-310])
def test_numbers_come_back_exactly(tmp_path, score):
    store = store_of(tmp_path)
    model, training = content(1)[3:]
    plain = {"scale": score, "nested": [{"x": score}, -0.0, 2**70, True, None]}
    saved = store.load(store.save(TrainingProgress(best_score=score), {"y": score}, plain, model, training))
    assert saved.progress.best_score == score and saved.identity == {"y": score} and saved.plain == plain
    assert math.copysign(1, saved.plain["nested"][1]) == -1


def test_a_score_that_is_no_number_comes_back(tmp_path):
    store = store_of(tmp_path)
    saved = store.load(store.save(TrainingProgress(best_score=math.nan), *content(1)[1:]))
    assert math.isnan(saved.progress.best_score)


def test_what_a_manifest_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    store = store_of(tmp_path, 1)
    progress, identity, plain, model, training = content(2)
    with pytest.raises(TypeError, match="Tensor cannot be written"):
        store.save(progress, identity, {"state": torch.zeros(1)}, model, training)
    with pytest.raises(ValueError, match="not_finite"):
        store.save(progress, {"not_finite": "nan"}, plain, model, training)
    assert names(store) == ["step-00000001"]


# --- Which checkpoints stay ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 2, 3, 5, 6, 7, 8, 20])
def test_the_last_ones_stay(tmp_path, keep):
    steps = range(5, 12)
    store = store_of(tmp_path, *steps, keep=keep)
    assert names(store) == [f"step-{step:08d}" for step in steps][-keep:]


def test_none_to_keep_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least 1 checkpoint must be kept, not 0"):
        CheckpointStore(tmp_path, keep=0)


def test_steps_are_compared_as_numbers(tmp_path):
    store = store_of(tmp_path, 99_999_999, 100_000_000)
    assert store.newest().name == "step-100000000"


def test_the_one_just_written_stays_even_where_later_ones_are_there(tmp_path):
    store = store_of(tmp_path, 10, 20)
    few = CheckpointStore(store.folder, keep=1)
    few.save(*content(5))
    assert names(store) == ["step-00000005"]


def test_abandoned_checkpoints_are_passed_over_and_stay(tmp_path):
    store = store_of(tmp_path, 1, 2, 3, keep=3)
    store.abandon_after(1)
    assert store.newest().name == "step-00000001"
    assert is_content(store.load(store.folder / "abandoned-step-00000003"), 3)  # by name it can still be had
    few = CheckpointStore(store.folder, keep=1)
    for step in (2, 3, 4):
        few.save(*content(step))
    assert names(store) == ["abandoned-step-00000002", "abandoned-step-00000003", "step-00000004"]


def test_the_same_step_may_be_abandoned_again(tmp_path):
    store = store_of(tmp_path, 2)
    for _ in range(2):
        store.abandon_after(-1)
        assert store.newest() is None
        store.save(*content(2))
    store.abandon_after(-1)
    assert names(store) == [f"abandoned-step-00000002{end}" for end in ("", "-2", "-3")]
    assert all(is_content(store.load(store.folder / name), 2) for name in names(store))


def test_other_names_are_no_checkpoints(tmp_path):
    store = store_of(tmp_path, 1)
    for name in ("step-00000002.bak", "step-3", "step-x", ".step-00000004.unfinished", "abandoned-step-00000005"):
        (store.folder / name).mkdir()
    (store.folder / "step-00000006").write_text("a file")
    assert store.newest().name == "step-00000001"
    assert CheckpointStore(tmp_path / "not there").newest() is None


def test_one_that_cannot_be_removed_is_named_and_the_run_goes_on(tmp_path, monkeypatch, capsys):
    store = store_of(tmp_path, 1, 2, keep=2)

    def refuse(path):
        raise OSError(16, "Device or resource busy", str(path))

    monkeypatch.setattr(checkpoints, "_discard", refuse)
    assert is_content(store.load(store.save(*content(3))), 3)
    assert f"{store.folder / 'step-00000001'}: cannot be removed (Device or resource busy)" in capsys.readouterr().err


# --- Failures and kills -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["write_weights", "write_manifest", "measured", "flush_folder"])
@pytest.mark.parametrize("step", [1, 2])
def test_a_failed_write_says_what_is_whole_and_what_to_do(tmp_path, monkeypatch, name, step):
    store = store_of(tmp_path, 1)

    real = getattr(checkpoints, name)

    def full(path, *rest):
        if ".unfinished" in str(path):
            raise OSError(122, "Disk quota exceeded")
        return real(path, *rest)

    monkeypatch.setattr(checkpoints, name, full)
    with pytest.raises(UserError) as caught:
        store.save(*content(step))
    monkeypatch.undo()
    assert names(store) == ["step-00000001"] and is_content(store.load(store.newest()), 1)
    path = store.folder / "step-00000001"
    target = store.folder / f"step-0000000{step}"
    start = f"{target}: the checkpoint cannot be written (Disk quota exceeded); {path} is whole"
    assert str(caught.value).startswith(start)
    assert "then give the same command with --resume again" in str(caught.value)


def test_one_that_cannot_take_the_place_of_another_leaves_it_there(tmp_path, monkeypatch):
    store = store_of(tmp_path, 1)
    rename = os.rename

    def refuse(source, target):
        if Path(source).name.startswith("."):
            raise OSError(5, "Input/output error", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Input/output error\); .*step-00000001 is whole"):
        store.save(*content(1))
    assert names(store) == ["step-00000001"] and is_content(store.load(store.newest()), 1)


def test_without_an_earlier_one_the_message_does_not_promise_one(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"there is no earlier one; .* then give the same command again"):
        store_of(tmp_path, 1)


def test_a_damaged_checkpoint_is_not_called_whole(tmp_path, monkeypatch):
    store = store_of(tmp_path, 1, 2)
    (store.newest() / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(checkpoints, "write_weights", lambda *_: os.mkdir(tmp_path))
    with pytest.raises(UserError, match="step-00000001 is whole"):
        store.save(*content(3))


CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR


def killed_at(event, action, folder):
    """Runs an action in a process that dies before its nth change of a folder; whether it died."""
    child = os.fork()
    if child == 0:
        seen = 0

        def watch(name, arguments):
            nonlocal seen
            changing = name in CHANGES or (name == "open" and arguments[2] & WRITING)
            if changing and str(folder) in str(arguments):
                seen += 1
                if seen == event:
                    os._exit(9)

        try:
            sys.addaudithook(watch)
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize(("there", "step", "keep"), [((1, 2), 3, 2), ((1,), 1, 1), ((), 1, 1)])
def test_killed_at_any_change_a_whole_checkpoint_is_there(tmp_path, there, step, keep):
    event, died = 0, True
    while died:
        event += 1
        store = store_of(tmp_path / str(event), *there, keep=keep)
        died = killed_at(event, lambda store=store: store.save(*content(step)), store.folder)
        for path in store.folder.glob("step-*"):  # everything with a complete name is whole
            assert is_content(store.load(path), int(path.name[5:13]))
        if there:
            assert store.newest() is not None
        before = {name[5:13] for name in names(store) if name.startswith("step-")} if store.folder.exists() else set()
        store.clear_unfinished()
        if store.folder.exists():
            assert {name.removeprefix("step-") for name in names(store)} == before
        store.save(*content(step + 1))
        assert is_content(store.load(store.newest()), step + 1)
        assert all(name.startswith("step-") and len(name) == 13 for name in names(store))
    assert event > 10


def test_everything_is_on_the_disk_before_an_older_one_goes(tmp_path, monkeypatch):
    store = store_of(tmp_path, 1, keep=1)
    events = []
    fsync, rename = os.fsync, os.rename

    def flushing(handle):
        events.append(f"flush {Path(os.readlink(f'/proc/self/fd/{handle}')).name}")
        fsync(handle)

    def renaming(source, target):
        events.append(f"rename {Path(source).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "rename", renaming)
    store.save(*content(2))
    names = ("model.safetensors", "training.safetensors", "manifest.json")
    assert [re.sub(r"\.(\w+\.\w+)\.\w+\.unfinished", r"\1", event) for event in events] == [
        *(f"flush {name}" for name in names),
        "flush .step-00000002.unfinished",
        "rename .step-00000002.unfinished",
        "flush checkpoints",
        f"flush {tmp_path.name}",
        "rename step-00000001",
    ]


def test_an_unfinished_checkpoint_of_a_killed_process_is_overwritten(tmp_path):
    store = store_of(tmp_path, 1)
    left = store.folder / ".step-00000002.unfinished"
    left.mkdir()
    (left / "model.safetensors").write_text("half")
    store.save(*content(2))
    assert names(store) == ["step-00000001", "step-00000002"] and is_content(store.load(store.newest()), 2)
