"""Records that cannot be used: an error in one line, or left out of their batches and counted, with any workers."""

import functools
import json

import pytest

from small_regions import some_regions
from synthetic_world import ENTRY_POINTS, refusal
from volta_switch.command import run_command
from volta_switch.data.batches.collate import BatchLayout
from volta_switch.data.batches.concap_dataset import ConcapDataset
from volta_switch.data.batches.loader import make_loader
from volta_switch.data.batches.sampling import BatchSampler
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.lmdb_environment import Writer
from volta_switch.data.formats.concap import write_concap
from volta_switch.data.formats.task_lmdb import LmdbFeatures
from volta_switch.errors import UserError
from volta_switch.weights import to_volta, write_weights

BAD = (3, 8, 9, 10, 11)  # of 18 pairs; 8 to 11 are a whole batch of four


def corrupt(path, keys):
    """Empties records of an LMDB file."""
    writer = Writer(path)
    for key in keys:
        writer.put(key, b"")
    writer.commit()
    writer.env.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs")
    write_concap(path / "training_feat_all.lmdb", [(some_regions(str(i), i, 2), f"a dog {i}") for i in range(18)])
    (path / "caption_train.json").write_text(json.dumps({str(i): f"a red dog {i}" for i in range(18)}))
    corrupt(path / "training_feat_all.lmdb", [b"%08d" % place for place in BAD])
    return path


@pytest.fixture
def loader_of(folder, tokenizer):
    def build(workers, allowed):
        dataset = ConcapDataset(folder, folder, "train", tokenizer, num_locs=5, seed=1, objective=2)  # no mismatched
        sampler = BatchSampler(dataset.text_lengths, 4, seed=1, shuffle=False, group_by_length=False)
        collate = functools.partial(dataset.collate, layout=BatchLayout("first"))
        return make_loader(dataset, sampler, collate, workers, max_bad_records=allowed)

    return build


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_one_bad_record_stops_a_run_in_one_line(loader_of, workers) -> None:
    with pytest.raises(UserError, match=r"training_feat_all\.lmdb: record b'00000003' .*--max-bad-records") as caught:
        list(loader_of(workers, 0))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_lose_the_bad_samples_and_no_other(loader_of, workers, capsys) -> None:
    loader = loader_of(workers, len(BAD))
    for _ in range(2):  # the second epoch meets the same records
        batches = list(loader)
        assert [len(batch) for batch in batches] == [3, 4, 0, 4, 2]
        assert [name for batch in batches for name in batch.ids] == [str(i) for i in range(18) if i not in BAD]
        assert all(len(batch.inputs["input_ids"]) == len(batch) for batch in batches if len(batch))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bad record passed over")]
    assert len(said) == len(set(said)) == len(loader.bad_records) == len(BAD)
    assert said[-1].startswith("bad record passed over (5 of at most 5): ") and "b'00000011'" in said[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_one_more_than_allowed_stops_a_run(loader_of, workers) -> None:
    with pytest.raises(UserError, match=r"b'00000011' .*\(4 were passed over before\); --max-bad-records"):
        list(loader_of(workers, len(BAD) - 1))


# --- Through the entry points ---------------------------------------------------------------------------------------


QUICK = {
    "train_concap": ["--train_batch_size", "10", "--num_train_epochs", "1"],
    "train_task": ["--num_epoch", "1"],
    "eval_task": [],
}
FILES = {  # of an entry point; both the first record and another that the run meets later are corrupted in turn
    "train_concap": "conceptual_captions/resnet101_faster_rcnn_genome_imgfeats/volta/training_feat_all.lmdb",
    "train_task": "refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta/refcoco+_unc_dets36_feat.lmdb/data.mdb",
    "eval_task": "refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta/refcoco+_unc_dets36_feat.lmdb/data.mdb",
}


@pytest.fixture(scope="module")
def weights(world, tmp_path_factory):
    """Random weights of the task's model."""
    path = tmp_path_factory.mktemp("weights") / "weights.bin"
    config = world.config("ctrl_uniter")
    write_weights(path, to_volta(world.task_model(world.task("refer", config))))
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("entry", FILES)
def test_entry_points_pass_over_as_many_as_they_are_told_to(world, weights, tmp_path, capsys, entry, workers) -> None:
    bad = world.copy(tmp_path / "world")
    path = bad.path / "datasets" / FILES[entry]
    task = "" if entry == "train_concap" else "refer"
    key = b"00000001" if entry == "train_concap" else _image_of_validation(bad).encode()
    corrupt(path, [key])
    number = ["--num_val_workers" if entry == "eval_task" else "--num_workers", str(workers)]
    argv = [*bad.flags(entry, tmp_path / "out", "ctrl_uniter", task), *QUICK[entry], *number]
    if entry == "eval_task":
        argv += ["--from_pretrained", str(weights), "--split", "val"]
    with pytest.raises(SystemExit) as caught:
        run_command(ENTRY_POINTS[entry], argv)
    err = capsys.readouterr().err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert caught.value.code == 2 and len(errors) == 1 and "Traceback" not in err
    assert key.decode() in errors[0] and "--max-bad-records" in errors[0] and err.splitlines()[-1] == errors[0]
    if entry == "eval_task":
        assert not (tmp_path / "out").exists()

    result = ENTRY_POINTS[entry]([*argv, "--output_dir", str(tmp_path / "other"), "--max-bad-records", "1"])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bad record passed over")]
    assert said and all(key.decode() in line for line in said)
    if entry == "eval_task":
        image = key.decode()
        whole = ENTRY_POINTS[entry]([*argv, *world.data_flags(entry, task), "--output_dir", str(tmp_path / "whole")])
        capsys.readouterr()
        assert 0 < len(result.results) < len(whole.results) and image not in str(said[1:])


def _image_of_validation(world) -> str:
    refs = safe_pickle.load(world.path / "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p")
    return str(next(ref["image_id"] for ref in refs if ref["split"] == "val"))


@pytest.mark.parametrize("entry", ["train_concap", "train_task"])
def test_a_first_record_that_is_bad_stops_a_run_before_it_writes(world, tmp_path, capsys, entry) -> None:
    bad = world.copy(tmp_path / "world")
    path = bad.path / "datasets" / FILES[entry]
    keys = LmdbFeatures(path.parent).keys() if entry == "train_task" else ["00000000"]
    corrupt(path, [key.encode() for key in keys])
    argv = bad.flags(entry, tmp_path / "out", "ctrl_uniter", "" if entry == "train_concap" else "refer")
    assert (
        "--max-bad-records" in refusal(ENTRY_POINTS[entry], [*argv, *QUICK[entry]], capsys) or entry == "train_concap"
    )
    assert not (tmp_path / "out").exists()
