"""Training and evaluation on compact stores beside VOLTA's files."""

from __future__ import annotations

import shutil
from functools import partial

import numpy as np
import pytest
import torch

from synthetic_world import TASKS, SyntheticWorld, log_of
from volta_switch import BertForVLPreTraining, UserError
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.loader import Loader, make_loader, start_epoch
from volta_switch.data.batches.sampling import BatchSampler
from volta_switch.data.feature_files import open_pairs
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.data_tools.repack import repack
from volta_switch.tasks import features_path, load_task
from volta_switch.train.pretraining import Pretraining

TARGETS = {"0": 1, "1": 1, "3": 1}  # class scores, features, the highest class


@pytest.fixture(scope="module")
def stores(world, tmp_path_factory):
    """Folders like VOLTA's --features_path: VOLTA's own, and compact stores of the same records."""
    volta = world.captions / "resnet101_faster_rcnn_genome_imgfeats" / "volta"
    folder = tmp_path_factory.mktemp("stores")
    classes = world.overrides["v_num_classes"]
    for name, options in {
        "exact": {"dtype": "float32", "top_classes": classes},
        "half": {"dtype": "float16"},
        "few": {"dtype": "float16", "top_classes": 5},
    }.items():
        for file in ("training_feat_all.lmdb", "validation_feat_all.lmdb"):
            repack([volta / file], folder / name / file, **options)
    return {"volta": volta, **{name: folder / name for name in ("exact", "half", "few")}}


def loader_of(world: SyntheticWorld, features, config) -> Loader:
    tokenizer = Tokenizer(config.bert_model)
    dataset = ConcapDataset(features, world.captions / "annotations", "train", tokenizer, num_locs=config.num_locs)
    sampler = BatchSampler(dataset.text_lengths, 5, seed=0)
    loader = make_loader(dataset, sampler, partial(dataset.collate, layout=BatchLayout(config.add_global_imgfeat)))
    start_epoch(loader, 1)
    return loader


def losses(world: SyntheticWorld, features, config) -> list[dict[str, float]]:
    torch.manual_seed(0)
    model = BertForVLPreTraining(config).eval()
    loader = loader_of(world, features, config)
    with torch.no_grad():
        found = [Pretraining(model, 1)(batch.to("cpu")) for batch in loader]
    return [{name: float(loss) for name, loss in named.items()} for named in found]


@pytest.mark.parametrize("model", ["ctrl_uniter", "switchbert"])
def test_a_lossless_store_gives_the_losses_of_voltas_file(world, stores, model) -> None:
    config = world.config(model, visual_target_weights=TARGETS)
    expected = losses(world, stores["volta"], config)
    assert len(expected) == 4
    assert sum(named["vision"] > 1 for named in expected) >= 2  # in some batches no box is hidden
    for mine, theirs in zip(losses(world, stores["exact"], config), expected, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("store", "tolerance"), [("half", 1e-3), ("few", 0.1)])
def test_a_compact_store_gives_the_losses_but_for_what_it_rounds(world, stores, store, tolerance) -> None:
    config = world.config("ctrl_uniter", visual_target_weights=TARGETS)
    expected = losses(world, stores["volta"], config)
    for mine, theirs in zip(losses(world, stores[store], config), expected, strict=True):
        assert mine != theirs and mine == pytest.approx(theirs, rel=tolerance)
        assert mine["mlm"] == pytest.approx(theirs["mlm"], rel=1e-3)


def test_a_batch_is_expanded_where_it_is_used(world, stores) -> None:
    config = world.config("ctrl_uniter")
    few, volta = (loader_of(world, stores[name], config) for name in ("few", "volta"))
    for sent, theirs in zip(few, volta, strict=True):
        there, expected = sent.to("cpu"), theirs.to("cpu")
        assert "image_cls" not in sent.inputs and sent.top_classes.scores.dtype == torch.float16
        assert there.top_classes is None and there.inputs.keys() == expected.inputs.keys()
        assert {name: tensor.dtype for name, tensor in there.inputs.items()} == {
            name: tensor.dtype for name, tensor in expected.inputs.items()
        }
        scores = there.inputs["image_cls"]
        assert scores.sum(dim=1) == pytest.approx(expected.inputs["image_cls"].sum(dim=1), abs=1e-5)
        assert torch.equal(scores.argmax(dim=1), expected.inputs["image_cls"].argmax(dim=1))
        features = there.inputs["image_feat"]
        assert torch.allclose(features, expected.inputs["image_feat"], rtol=1e-3, atol=1e-3)
        assert torch.equal(features[:, 1:].half().float(), features[:, 1:])  # all but the global one, made of float32
        assert not torch.equal(features[:, 0].half().float(), features[:, 0])


def test_pretraining_reads_a_compact_store(world, stores, tmp_path) -> None:
    flags = ("--train_batch_size", 10, "--num_train_epochs", 1, "--features_path")
    found = []
    for name in ("volta", "exact", "half"):
        run = world.run("train_concap", tmp_path / name, "ctrl_uniter", *flags, stores[name])
        found.append(log_of(run, "valid")[-1]["loss"])
    assert found[1] == pytest.approx(found[0], abs=1e-5) and found[2] == pytest.approx(found[0], rel=1e-2)


@pytest.mark.parametrize(
    ("task", "entry"), [("refer", "eval_task"), ("vqa", "eval_task"), ("retrieval", "eval_retrieval")]
)
def test_evaluation_on_a_compact_store_gives_the_same_score(world, tmp_path, task, entry) -> None:
    config = world.config("ctrl_uniter")
    built = world.task(task, config)
    weights = tmp_path / "weights.bin"
    torch.save(world.task_model(built).state_dict(), weights)
    spec = load_task(world.tasks_file, TASKS[task])
    stores = {"volta": features_path(spec, spec.val_split)}
    for name, dtype in (("exact", "float32"), ("half", "float16")):
        stores[name] = tmp_path / name
        repack([stores["volta"]], stores[name], dtype=dtype)
    found = {
        name: world.run(
            entry, tmp_path / f"out-{name}", "ctrl_uniter", "--from_pretrained", weights,
            "--val_features_lmdbpath", store, task=task,
        )
        for name, store in stores.items()
    }  # fmt: skip
    assert found["exact"].metrics == found["volta"].metrics and found["exact"].results == found["volta"].results
    assert len(found["half"].results) == len(found["volta"].results)
    assert found["half"].metrics.keys() == found["volta"].metrics.keys()
    assert found["half"].score == pytest.approx(found["volta"].score, abs=5)  # a near tie may fall the other way


def test_zero_shot_retrieval_takes_half_precision_features(world, tmp_path) -> None:
    config = world.config("ctrl_uniter")
    torch.manual_seed(0)
    model = BertForVLPreTraining(config).eval()
    scores = []
    for store in ("", str(tmp_path / "store")):
        task = world.task("retrieval", config, features=store)
        if not store:
            repack([features_path(task.spec, "test")], tmp_path / "store")
        scorer = task.scorer(model, task.pairs("test"), 16, torch.device("cpu"))
        scores.append(scorer.whole())
    assert not np.array_equal(*scores) and scores[1] == pytest.approx(scores[0], abs=1e-3)


def test_parts_that_are_stored_in_different_ways_are_refused(stores, tmp_path) -> None:
    for rank, name in enumerate(("volta", "half")):
        source = stores[name] / "validation_feat_all.lmdb"
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / f"validation_feat_part_{rank}.lmdb")
    with pytest.raises(UserError, match="the parts are stored in different ways; repack all"):
        open_pairs(tmp_path, "valid")
    shutil.rmtree(tmp_path / "validation_feat_part_1.lmdb")
    shutil.copy(stores["volta"] / "validation_feat_all.lmdb", tmp_path / "validation_feat_part_1.lmdb")
    one = open_pairs(stores["volta"], "valid")
    assert len(open_pairs(tmp_path, "valid")) == 2 * len(one)
