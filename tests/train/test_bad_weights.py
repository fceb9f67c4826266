"""Commands that are given weights which cannot be used, or only in part, say so in one line and begin nothing."""

import os

import pytest
import torch

from synthetic_world import ENTRY_POINTS, refusal, weights_of
from train.stored_checkpoints import content, store_of
from volta_switch import UserError
from volta_switch.train.checkpoints import CheckpointStore
from weights.layouts import OTHERS, hugging_face_state


@pytest.fixture
def corrupted(pretrained, tmp_path):
    """A pre-training run's best weights with one number that is none."""
    state = weights_of(pretrained("ctrl_uniter"))
    state["bert.embeddings.image_embeddings.bias"][3] = float("nan")
    torch.save(state, tmp_path / "corrupted.bin")
    return tmp_path / "corrupted.bin"


@pytest.mark.parametrize("entry", ["train_concap", "train_task", "eval_retrieval"])
def test_no_command_computes_with_weights_that_are_not_finite(world, corrupted, entry, tmp_path, capsys):
    flags = world.flags(entry, tmp_path / "out", "ctrl_uniter", "" if entry == "train_concap" else "retrieval")
    flags += ["--from_pretrained", corrupted, *(["--zero_shot"] if entry == "eval_retrieval" else [])]
    message = refusal(ENTRY_POINTS[entry], flags, capsys)
    assert message.startswith(f"{corrupted}: bert.embeddings.image_embeddings.bias holds numbers that are not finite")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("entry", ["train_concap", "train_task", "eval_task"])
@pytest.mark.parametrize("layout", ["UNITER under bert", "LXMERT in a module", "ViLBERT", "VisualBERT of transformers"])
def test_no_command_takes_the_text_side_of_another_projects_weights(world, layout, entry, tmp_path, capsys):
    project, made = OTHERS[layout]
    torch.save(made(), tmp_path / "weights.pth")
    flags = world.flags(entry, tmp_path / "out", "ctrl_vilbert", "" if entry == "train_concap" else "vqa")
    message = refusal(ENTRY_POINTS[entry], [*flags, "--from_pretrained", tmp_path / "weights.pth"], capsys)
    assert message.startswith(f"{tmp_path / 'weights.pth'}: these are weights of {project}")
    assert not (tmp_path / "out").exists()


def test_a_bert_is_no_model_to_evaluate(world, tmp_path, capsys):
    torch.save(hugging_face_state(), tmp_path / "pytorch_model.bin")
    flags = world.flags("eval_task", tmp_path / "out", "ctrl_uniter", "vqa")
    message = refusal(ENTRY_POINTS["eval_task"], [*flags, "--from_pretrained", tmp_path / "pytorch_model.bin"], capsys)
    assert "these are a BERT's weights" in message and "give weights of a run" in message


ODD = {
    "pipe.bin": "a pipe or device, no weight file",
    "device.bin": "a pipe or device, no weight file",
    "itself.bin": "cannot be looked up (Too many levels",
    "x" * 300 + ".bin": "cannot be looked up (File name too long)",
    "empty.bin/x.bin": "no such weight file",
    "empty.bin": "could not be read as weights",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("entry", ["train_concap", "eval_retrieval"])
def test_what_is_no_weight_file_is_one_line(world, name, entry, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.bin")
    (tmp_path / "device.bin").symlink_to("/dev/zero")
    (tmp_path / "itself.bin").symlink_to("itself.bin")
    (tmp_path / "empty.bin").write_text("")
    flags = world.flags(entry, tmp_path / "out", "ctrl_uniter", "" if entry == "train_concap" else "retrieval")
    message = refusal(ENTRY_POINTS[entry], [*flags, "--from_pretrained", tmp_path / name], capsys)
    assert message.startswith(f"{tmp_path / name}: {ODD[name]}") and not (tmp_path / "out").exists()


def test_a_folder_is_no_file_whatever_its_name(world, tmp_path, capsys):
    folder = tmp_path / "folder.bin"
    folder.mkdir()
    for path, told in ((folder, "holds neither model.safetensors"), ("/dev/null", "no BERT there")):
        flags = [*world.flags("train_concap", tmp_path / "out", "ctrl_uniter"), "--from_pretrained", path]
        assert refusal(ENTRY_POINTS["train_concap"], flags, capsys).startswith(f"{path}: {told}")
    flags = [*world.flags("eval_task", tmp_path / "out", "ctrl_uniter", "vqa"), "--from_pretrained", folder]
    assert refusal(ENTRY_POINTS["eval_task"], flags, capsys).startswith(f"{folder}: a folder without a model")


def test_a_checkpoint_whose_weights_are_not_finite_is_refused_and_an_earlier_one_offered(tmp_path):
    store = store_of(tmp_path, 1)
    progress, identity, plain, model, training = content(2)
    model["bert.encoder.layer.0.weight"][1, 1] = float("inf")
    store.save(progress, identity, plain, model, training)
    with pytest.raises(UserError) as caught:
        store.load(store.newest())
    assert str(caught.value) == (
        f"{store.newest()}: model.safetensors: bert.encoder.layer.0.weight holds numbers that are not finite (NaN, or "
        f"beyond float32); step-00000001 is good: add --resume_file {store.folder / 'step-00000001'}"
    )


def test_a_checkpoint_may_hold_moments_that_are_infinite(tmp_path):
    progress, identity, plain, model, training = content(2)
    training["exp_avg/bert.encoder.layer.0.weight"][0, 0] = float("inf")
    store = CheckpointStore(tmp_path)
    assert store.load(store.save(progress, identity, plain, model, training)).progress == progress
