"""Results that are there are not replaced, and what a run read is what it goes on with."""

import json
import shutil
from functools import partial

import pytest

from synthetic_world import json_of, refusal
from train.run_ends import same_end
from train.short_runs import FINETUNING
from volta_switch import UserError
from volta_switch.checksums import SUMS, record_json
from volta_switch.train import evaluation, finetuning, pretraining

SHORT = ("--train_batch_size", 20, "--num_train_epochs", 1)
MAINS = {"train_concap": pretraining.main, "train_task": finetuning.main, "eval_task": evaluation.main}


def content_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def command(world):
    """An entry point's command line, on the small world or another one."""

    def made(entry, out, *flags, of=world, model="ctrl_uniter", task="refer"):
        return [*map(str, of.flags(entry, out, model, task)), *map(str, flags)]

    return made


@pytest.mark.parametrize(
    "other", [(), ("--seed", 3), ("--learning_rate", 5e-4), ("--set", "layer_norm_eps=1e-6"), ("--precision", "bf16")]
)
def test_a_finished_run_is_not_touched_by_another_with_its_name(command, tmp_path, capsys, other):
    pretraining.main(command("train_concap", tmp_path, *SHORT))
    before = content_of(tmp_path)
    said = refusal(pretraining.main, command("train_concap", tmp_path, *SHORT, *other), capsys)
    assert "holds a run that has ended (after" in said and "--overwrite discards it" in said
    if other:
        said = refusal(pretraining.main, command("train_concap", tmp_path, *SHORT, *other, "--resume"), capsys)
        assert "the run was started with" in said
    assert content_of(tmp_path) == before


def test_resuming_a_finished_run_says_so_and_changes_nothing(command, tmp_path, capsys):
    run = pretraining.main(command("train_concap", tmp_path, *SHORT))
    before = content_of(tmp_path)
    capsys.readouterr()
    assert pretraining.main(command("train_concap", tmp_path, *SHORT, "--resume")) == run
    assert f"{run}: already finished, after step " in capsys.readouterr().err
    assert content_of(tmp_path) == before


def test_overwriting_leaves_nothing_of_the_run_before(command, world, tmp_path):
    flags = ("--batch_size", 20, "--lr", 1e-3, "--from_pretrained", "")
    finetuning.main(command("train_task", tmp_path, *flags, "--num_epoch", 3))
    run = tmp_path / "refcoco+_ctrl_uniter"
    best = ("--from_pretrained", run / "pytorch_model_best.bin", "--split", "test")
    evaluation.main(command("eval_task", tmp_path, *best))
    (run / "notes.txt").write_text("mine")
    finetuning.main(command("train_task", tmp_path, *flags, "--num_epoch", 1, "--overwrite"))
    names = {path.name for path in run.iterdir()}
    assert names.isdisjoint({"pytorch_model_1.bin", "pytorch_model_2.bin", "test_metrics.json", "test_result.json"})
    assert {"pytorch_model_0.bin", "pytorch_model_best.bin", "notes.txt"} < names
    assert len(list((run / "checkpoints").iterdir())) == 1


def test_a_refused_command_discards_nothing(command, tmp_path, capsys):
    pretraining.main(command("train_concap", tmp_path, *SHORT))
    before = content_of(tmp_path)
    bad = command("train_concap", tmp_path, "--train_batch_size", 20, "--gradient_accumulation_steps", 33)
    refusal(pretraining.main, [*bad, "--overwrite"], capsys)
    assert content_of(tmp_path) == before


def test_weights_without_a_checkpoint_are_not_overwritten_by_resume(command, tmp_path, capsys):
    run = pretraining.main(command("train_concap", tmp_path, *SHORT))
    shutil.rmtree(run / "checkpoints")
    before = content_of(tmp_path)
    said = refusal(pretraining.main, command("train_concap", tmp_path, *SHORT, "--resume"), capsys)
    assert "--resume finds no checkpoint to go on from" in said and content_of(tmp_path) == before


def test_a_run_that_was_killed_before_its_first_checkpoint_is_started_anew_by_resume(command, tmp_path):
    """Weights are written first, so that there may be some."""
    whole = pretraining.main(command("train_concap", tmp_path / "whole", *SHORT))
    killed = pretraining.main(command("train_concap", tmp_path / "killed", *SHORT))
    shutil.rmtree(killed / "checkpoints")
    metrics = json_of(killed / "metrics.json")
    del metrics["finished"]
    record_json(killed / "metrics.json", metrics)
    (killed / "pytorch_model_7.bin").write_bytes(b"of a longer run")
    assert same_end(pretraining.main(command("train_concap", tmp_path / "killed", *SHORT, "--resume")), whole)
    assert not (killed / "pytorch_model_7.bin").exists()


def test_a_checkpoint_of_another_run_does_not_replace_a_finished_one(command, tmp_path, capsys):
    one = pretraining.main(command("train_concap", tmp_path / "one", *SHORT))
    pretraining.main(command("train_concap", tmp_path / "other", *SHORT))
    before = content_of(tmp_path / "other")
    (checkpoint,) = (one / "checkpoints").iterdir()
    said = refusal(
        pretraining.main, command("train_concap", tmp_path / "other", *SHORT, "--resume_file", checkpoint), capsys
    )
    assert "holds a run that has ended" in said and content_of(tmp_path / "other") == before


def boxes_moved(world):
    path = world.path / "datasets/refcoco+_unc/annotations/refcoco+/instances.json"
    found = json.loads(path.read_text())
    found["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(found))


def vocabulary_changed(world):
    path = world.path / "bert-world" / "vocab.txt"
    words = path.read_text().splitlines()
    words[-1], words[-2] = words[-2], words[-1]
    path.write_text("\n".join(words) + "\n")


CHANGED_DATA = {
    boxes_moved: "data.train: instances.json.",
    vocabulary_changed: "data.vocabulary.",
}


@pytest.mark.parametrize("change", CHANGED_DATA)
def test_a_run_does_not_go_on_with_other_data(world, command, tmp_path, capsys, change):
    copy = world.copy(tmp_path / "world")
    flags = (*FINETUNING, "--from_pretrained", "")
    run = finetuning.main(command("train_task", tmp_path / "runs", *flags, of=copy))
    record = json_of(run / "run.json")["data"]["fingerprints"]
    assert {"vocabulary", "train: features", "val: features", "train: instances.json"} <= record.keys()
    change(copy)
    before = content_of(run)
    said = refusal(finetuning.main, command("train_task", tmp_path / "runs", *flags, "--resume", of=copy), capsys)
    assert f"the run was started with {CHANGED_DATA[change]}" in said and "use the same data" in said
    assert content_of(run) == before


def test_the_same_data_elsewhere_are_the_same(world, tmp_path):
    copy = world.copy(tmp_path / "world")
    flags = (*FINETUNING, "--from_pretrained", "")
    run = world.run("train_task", tmp_path, "ctrl_uniter", *flags, task="refer")
    assert copy.run("train_task", tmp_path, "ctrl_uniter", *flags, "--resume", task="refer") == run
    other = copy.run("train_task", tmp_path / "other", "ctrl_uniter", *flags, task="refer")
    found = [json_of(folder / "run.json")["data"]["fingerprints"] for folder in (run, other)]
    assert found[0] == found[1]


def test_settings_of_the_task_file_are_part_of_what_a_run_goes_on_with(world, command, tmp_path, capsys):
    flags = (*FINETUNING, "--from_pretrained", "")
    copy = world.copy(tmp_path / "world")
    finetuning.main(command("train_task", tmp_path / "runs", *flags, of=copy))
    shorter = world.copy(tmp_path / "shorter", max_seq_length=9)
    said = refusal(finetuning.main, command("train_task", tmp_path / "runs", *flags, "--resume", of=shorter), capsys)
    assert "the run was started with entry.max_seq_length = " in said


@pytest.mark.parametrize("change", ["weights", "routing", "data", "boxes"])
def test_results_of_another_evaluation_are_not_replaced(world, command, finetuned, tmp_path, capsys, change):
    first = finetuned("switchbert", "refer") / "pytorch_model_best.bin"
    switched = partial(command, model="switchbert")
    shutil.copy(first, tmp_path / "moved.bin")
    flags = ("--split", "test", "--from_pretrained")
    evaluation.main(switched("eval_task", tmp_path / "out", *flags, first))
    before = content_of(tmp_path / "out")
    evaluation.main(switched("eval_task", tmp_path / "out", *flags, tmp_path / "moved.bin"))  # the same, from elsewhere
    now = content_of(tmp_path / "out")
    assert {path.name for path in before if before[path] != now[path]} <= {"test_metrics.json", SUMS}  # with the path
    other, of = {
        "weights": (retrained(tmp_path, first), world),
        "routing": ([first, "--routing", "soft"], world),
        "data": ([first], moved(world, tmp_path)),
        "boxes": ([first, "--boxes", "gt"], world),
    }[change]
    said = refusal(evaluation.main, switched("eval_task", tmp_path / "out", *flags, *other, of=of), capsys)
    assert f"holds results of another evaluation, which differs in {change}" in said
    assert content_of(tmp_path / "out") == now
    evaluation.main(switched("eval_task", tmp_path / "out", *flags, *other, "--overwrite", of=of))


def retrained(tmp_path, weights):
    import torch

    state = torch.load(weights, weights_only=True)
    name = next(iter(state))
    torch.save({**state, name: state[name] * 2}, tmp_path / "other.bin")
    return [tmp_path / "other.bin"]


def moved(world, tmp_path):
    copy = world.copy(tmp_path / "world")
    boxes_moved(copy)
    return copy


def test_a_split_without_answers_is_refused_before_training(world, command, tmp_path, capsys):
    copy, out = world.copy(tmp_path / "world"), tmp_path / "out"
    (copy.path / "datasets/vqa/annotations/cache/test_target.pkl").unlink()
    features = copy.path / "datasets/mscoco/resnet101_faster_rcnn_genome_imgfeats/volta/test_feat.lmdb"
    flags = (*FINETUNING, "--from_pretrained", "", "--val_split", "test", "--val_features_lmdbpath", features)
    said = refusal(finetuning.main, command("train_task", out, *flags, task="vqa", of=copy), capsys)
    assert "has no answers; expected one to train on and one to validate by" in said and not out.exists()


def test_two_files_of_one_name_are_refused_by_every_command(world, command, tmp_path, monkeypatch):
    """A folder ``datasets`` in the working directory, as the README tells people to make it, beside another one."""
    plan = world.copy(tmp_path / "plan")
    flags = command("train_task", tmp_path / "out", *FINETUNING, "--from_pretrained", "", of=plan)
    (plan.path / "world.json").unlink()
    other = world.copy(tmp_path / "checkout")
    monkeypatch.chdir(other.path)
    with pytest.raises(UserError, match=r"is there twice: .*checkout.* and .*plan.*; name the data root"):
        finetuning.main(flags)
    run = finetuning.main([*flags, "--data_root", str(plan.path)])
    assert json_of(run / "run.json")["data"]["dataroot"].startswith(str(plan.path))


def test_an_evaluation_under_other_settings_than_the_weights_were_trained_with_says_so(
    command, finetuned, tmp_path, capsys
):
    weights = finetuned("ctrl_uniter", "refer") / "pytorch_model_best.bin"
    flags = ("--split", "test", "--from_pretrained", weights)
    same = ("--set", "hidden_dropout_prob=0.5", "--set", "image_bias_range=0.1")  # decide nothing here
    evaluation.main(command("eval_task", tmp_path / "same", *flags, *same))
    assert "trained with" not in capsys.readouterr().err
    evaluation.main(command("eval_task", tmp_path / "other", *flags, "--set", "layer_norm_eps=0.1"))
    assert f"{weights}: trained with layer_norm_eps = 1e-12, evaluated with 0.1" in capsys.readouterr().err
    shutil.copy(weights, tmp_path / "moved.bin")  # nothing beside it says what it was trained with
    evaluation.main(
        command("eval_task", tmp_path / "moved", "--split", "test", "--from_pretrained", tmp_path / "moved.bin")
    )
    assert "trained with" not in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", '{"finished": ', "\x00"])
def test_damaged_metrics_are_named(command, tmp_path, capsys, content):
    run = tmp_path / "ctrl_uniter"
    run.mkdir()
    (run / "metrics.json").write_text(content)
    said = refusal(pretraining.main, command("train_concap", tmp_path, *SHORT), capsys)
    assert said.startswith(f"{run / 'metrics.json'}: damaged")
    pretraining.main(command("train_concap", tmp_path, *SHORT, "--overwrite"))
