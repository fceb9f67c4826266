"""Training from shards beside training from the files that they were made of."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

from file_server import serving
from synthetic_world import SyntheticWorld, interrupted_at, log_of, refusal
from train.run_ends import same_end, samples_by_step
from volta_switch.checksums import SUMS
from volta_switch.command import run_command
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.loader import make_loader, start_epoch
from volta_switch.data.batches.sampling import BatchSampler
from volta_switch.data.feature_files import open_pairs
from volta_switch.data.files.pair_files import FOLDERS
from volta_switch.data.formats.shards import WINDOW
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.data_tools.repack import repack, shard
from volta_switch.train import pretraining

FLAGS = ("--train_batch_size", 4, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--save_every", 1, "--log_ids")
FILES = {"train": "training_feat_all.lmdb", "valid": "validation_feat_all.lmdb"}


@pytest.fixture(scope="module")
def sources(world, tmp_path_factory) -> dict[str, Path]:
    """The same pairs as a compact store, in few shards (one window) and in a shard for each pair (two)."""
    volta = world.captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    folder = tmp_path_factory.mktemp("shards")
    for split, name in FILES.items():
        repack([volta / name], folder / "store" / name)
        shard([volta / name], folder / "few", split, shard_size=20_000)
        shard([volta / name], folder / "many", split, shard_size=1)
    found = {name: folder / name for name in ("store", "few", "many")}
    assert 1 < len(open_pairs(found["few"], "train").blocks) <= WINDOW < len(open_pairs(found["many"], "train")) == 20
    return found


def run(world: SyntheticWorld, out: Path, features, *flags) -> Path:
    cache = ("--shard_cache", out / "cache", "--features_path", features)
    return world.run("train_concap", out, "ctrl_uniter", *FLAGS, *cache, *flags)


def test_shards_of_one_window_train_the_model_of_the_compact_store(world, sources, tmp_path) -> None:
    stored = run(world, tmp_path / "store", sources["store"])
    with serving(sources["few"]) as server:
        fetched = run(world, tmp_path / "fetched", server.url, "--num_workers", 2)
    assert same_end(run(world, tmp_path / "few", sources["few"]), stored) and same_end(fetched, stored)


def test_a_sample_is_the_same_from_whatever_file(world, sources) -> None:
    config = world.config("ctrl_uniter")
    tokenizer = Tokenizer(config.bert_model)
    batches = []
    for name in ("store", "many"):
        dataset = ConcapDataset(sources[name], world.captions / "annotations", "train", tokenizer, num_locs=5, seed=3)
        sampler = BatchSampler(dataset.text_lengths, 1, seed=0, shuffle=False, group_by_length=False)
        loader = make_loader(dataset, sampler, partial(dataset.collate, layout=BatchLayout(config.add_global_imgfeat)))
        start_epoch(loader, 1)
        batches.append([batch.to("cpu") for batch in loader])
    for mine, theirs in zip(*batches, strict=True):
        assert mine.ids == theirs.ids and mine.inputs.keys() == theirs.inputs.keys()
        assert all(torch.equal(tensor, theirs.inputs[name]) for name, tensor in mine.inputs.items())


def test_training_from_an_address_sees_every_pair_once_an_epoch_and_fetches_it_once(world, sources, tmp_path) -> None:
    with serving(sources["many"]) as server:
        server.faults = {"shard-000003.tar": [500], "shard-000007.tar": ["wrong"]}
        ended = run(world, tmp_path, server.url, "--num_workers", 2)
        asked = dict(server.asked)
    steps = samples_by_step(ended)
    for epoch in range(2):
        seen = [name for (of, _), names in steps.items() if of == epoch for name in names]
        assert len(set(seen)) == len(seen) == 20
    assert [asked.pop(f"/training/shard-00000{number}.tar") for number in (3, 7)] == [2, 2]
    indices = [asked.pop(f"/{split}/index.json") for split in ("training", "validation")]
    assert indices == [2, 2]  # to be read, and for the record of what was read
    assert set(asked.values()) == {1} and len(log_of(ended, "valid")) == 2


def test_a_run_goes_on_in_the_middle_of_an_epoch_and_fetches_only_what_is_left(world, sources, tmp_path) -> None:
    one_epoch = ("--num_train_epochs", 1)
    whole = run(world, tmp_path / "whole", sources["many"], *one_epoch)
    places = {open_pairs(sources["many"], "train")[place][0].image_id: place for place in range(20)}
    with serving(sources["many"]) as server:
        with interrupted_at(3):
            run(world, tmp_path / "run", server.url, *one_epoch)
        shutil.rmtree(tmp_path / "run" / "cache")  # as on another machine
        server.asked.clear()
        resumed = run(world, tmp_path / "run", server.url, *one_epoch, "--resume")
        fetched = {path for path in server.asked if path.startswith("/training/shard")}
    assert same_end(resumed, whole)
    left = [places[name] for (_, step), names in samples_by_step(whole).items() if step > 3 for name in names]
    assert len(left) == 8 and fetched == {f"/training/shard-{place:06d}.tar" for place in left}


def test_a_share_of_the_pairs_is_the_same_from_shards(world, sources, tmp_path) -> None:
    share = ("--data-fraction", 0.5, "--num_train_epochs", 1)
    ends = [run(world, tmp_path / name, sources[name], *share) for name in ("store", "few", "many")]
    assert same_end(*ends[:2])
    seen = [sorted(name for names in samples_by_step(end).values() for name in names) for end in ends]
    assert len(seen[0]) == 10 and seen[0] == seen[2]


def argv(world: SyntheticWorld, out: Path, features, *flags) -> list:
    plain = world.flags("train_concap", out, "ctrl_uniter")
    return [*plain, *FLAGS, "--shard_cache", out / "cache", "--features_path", features, *flags]


def test_a_run_is_not_resumed_in_another_order(world, sources, tmp_path, capsys) -> None:
    with interrupted_at(3):
        run(world, tmp_path, sources["store"])
    message = refusal(pretraining.main, argv(world, tmp_path, sources["many"], "--resume"), capsys)
    assert "the run was started with shards = None, now it is 20 of " in message


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_be_fetched_ends_the_run_in_one_line(world, sources, tmp_path, capsys, workers) -> None:
    with serving(sources["many"]) as server:
        server.faults = {"shard-000011.tar": [404, 404]}
        flags = argv(world, tmp_path, server.url, "--num_workers", workers)
        with pytest.raises(SystemExit) as caught:
            run_command(pretraining.main, list(map(str, flags)))
        last = capsys.readouterr().err.splitlines()[-1]  # after the line that says that the run begins
        assert caught.value.code == 2 and "Traceback" not in last
        assert last.startswith(f"error: {server.url}/training/shard-000011.tar: cannot be fetched (HTTP Error 404")


def test_a_missing_or_damaged_index_is_refused_before_the_run(world, sources, tmp_path, capsys) -> None:
    with serving(sources["many"]) as server:
        message = refusal(pretraining.main, argv(world, tmp_path, f"{server.url}/other"), capsys)
        assert message.startswith(f"{server.url}/other/training/index.json: cannot be fetched (HTTP Error 404")
    shutil.copytree(sources["few"], tmp_path / "shards")
    (tmp_path / "shards" / FOLDERS["train"] / "index.json").write_text("{}")
    (tmp_path / "shards" / FOLDERS["train"] / SUMS).unlink()
    flags = argv(world, tmp_path, tmp_path / "shards")
    assert "format is None, expected 'volta_switch shards 1'" in refusal(pretraining.main, flags, capsys)
