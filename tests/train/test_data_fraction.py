"""Training on a share of the data, through the real entry points."""

import math

import pytest

from synthetic_world import json_of, log_of, refusal
from volta_switch.train import finetuning, pretraining

PRETRAINING = ("--train_batch_size", 5, "--num_train_epochs", 2, "--learning_rate", 5e-3)
FINETUNING = ("--batch_size", 4, "--num_epoch", 1, "--lr", 5e-3)


def steps(run) -> int:
    return log_of(run, "train")[-1]["step"]


def test_pretraining_takes_a_share_and_says_so(world, tmp_path) -> None:
    whole = world.run("train_concap", tmp_path / "whole", "ctrl_uniter", *PRETRAINING)
    run = world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING, "--data-fraction", 0.5)
    settings = json_of(run / "run.json")["settings"]
    assert (settings["data_fraction"], settings["data_fraction_seed"]) == (0.5, 0)
    assert json_of(whole / "run.json")["settings"]["data_fraction"] == 1.0
    assert (steps(whole), steps(run)) == (8, 4)  # 20 pairs, 10 pairs, in batches of 5, twice
    assert log_of(run, "train")[-1]["samples"] == 20


@pytest.mark.parametrize("task", ["refer", "vqa", "retrieval"])
def test_fine_tuning_takes_a_share_and_says_so(world, tmp_path, task) -> None:
    whole = len(world.task(task, world.config("ctrl_uniter")).dataset("train", training=True))
    run = world.run(
        "train_task", tmp_path, "ctrl_uniter", *FINETUNING, "--data-fraction", 0.1, "--data-fraction-seed", 3, task=task
    )
    settings = json_of(run / "run.json")["settings"]
    assert (settings["data_fraction"], settings["data_fraction_seed"]) == (0.1, 3)
    assert steps(run) == math.ceil(round(0.1 * whole) / 4) < whole // 8


@pytest.mark.parametrize(("change", "name"), [("--data-fraction", "data_fraction"), ("--data-fraction-seed", "seed")])
def test_a_run_does_not_go_on_with_another_share(world, tmp_path, capsys, change, name) -> None:
    share = {"--data-fraction": 0.5, "--data-fraction-seed": 1}
    flags = [*PRETRAINING, *(part for pair in share.items() for part in pair)]
    run = world.run("train_concap", tmp_path, "ctrl_uniter", *flags)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    flags += ["--resume", change, 2 if name == "seed" else 0.75]
    other = [*world.flags("train_concap", tmp_path, "ctrl_uniter"), *flags]
    message = refusal(pretraining.main, other, capsys)
    assert name in message
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("share", ["0", "-0.5", "1.01"])
def test_shares_that_are_none_are_refused(world, tmp_path, capsys, share) -> None:
    for main, entry, task in ((pretraining.main, "train_concap", ""), (finetuning.main, "train_task", "vqa")):
        with pytest.raises(SystemExit) as caught:
            main([*world.flags(entry, tmp_path, "ctrl_uniter", task), f"--data-fraction={share}"])
        assert caught.value.code == 2
        assert f"--data_fraction: expected a number above 0 to 1, found {share}" in capsys.readouterr().err


def test_retrieval_draws_negatives_from_all_images_whatever_the_share(world) -> None:
    config = world.config("ctrl_uniter")
    task = world.task("retrieval", config, data_fraction=0.2)
    annotations = task.dataset("train", training=True).annotations
    loader = task.loader("train", 4, training=True)
    dataset = loader.dataset
    positives, captions = set(), set()
    for epoch in range(12):
        dataset.set_epoch(epoch)
        for index in range(len(dataset)):
            first, *others = dataset[index]
            positives.add(int(first["id"]))
            captions |= {int(row["id"]) for row in others[::2]}  # random and hard captions
    images = {int(annotations.caption_image[caption]) for caption in captions}
    assert len(positives) == len(dataset) == round(0.2 * len(annotations.captions))
    assert images == set(range(len(annotations.image_ids)))
    assert len({int(annotations.caption_image[caption]) for caption in positives}) < len(images)


def test_the_share_is_the_same_for_every_seed_of_training_and_part_of_larger_ones(world) -> None:
    config = world.config("ctrl_uniter")

    def chosen(**options) -> set[str]:
        loader = world.task("vqa", config, **options).loader("train", 8, training=True)
        return {name for batch in loader for name in batch.ids}

    quarter = chosen(data_fraction=0.25)
    assert quarter == chosen(data_fraction=0.25, seed=9) < chosen(data_fraction=0.5)
    assert quarter != chosen(data_fraction=0.25, data_fraction_seed=1)
    validation = world.task("vqa", config, data_fraction=0.25).loader("minval", 8, training=False)
    assert len(validation.dataset) == len(world.task("vqa", config).loader("minval", 8, training=False).dataset)
