"""What is looked for before a command begins is what its readers open, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from volta_switch import UserError
from volta_switch.checksums import SUMS
from volta_switch.data.files import safe_pickle
from volta_switch.data.files.pair_files import find_pairs
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.tasks import DataOptions, annotation_files, build_task, data_set_modules, features_path, load_task
from volta_switch.tasks.dataset import chosen
from volta_switch.tasks.gqa import gqa_files
from volta_switch.tasks.nlvr2 import nlvr2_files
from volta_switch.tasks.snli_ve import snli_ve_files
from volta_switch.tasks.vqa_files import targets_file, vqa_files
from volta_switch.train import needed_files as sources
from volta_switch.train.entry_points import ENTRY_POINTS
from volta_switch.train.flags import pretraining_flags
from volta_switch.train.needed_files import NeededFiles, require
from volta_switch.train.pretraining import split_loader

ROOT = Path(__file__).parents[2]
NAMES = sorted(sources.DATA_SETS)
_opened: list[str] | None = None


def _note(event, given):
    if event == "open" and _opened is not None and isinstance(given[0], str | Path) and Path(given[0]).name != SUMS:
        _opened.append(str(given[0]))


sys.addaudithook(_note)


def opened_below(folder, work):
    """The files below a folder that a function opens; an LMDB's folder for its data file."""
    global _opened
    _opened = []
    try:
        work()
    finally:
        found, _opened = _opened, None
    paths = {Path(path) for path in found if str(path).startswith(str(folder))}
    return {path.parent if path.name == "data.mdb" else path for path in paths}


@pytest.mark.parametrize("boxes", ["detected", "gt"])
@pytest.mark.parametrize("name", NAMES)
def test_a_task_opens_the_files_that_are_looked_for(world, name, boxes):
    spec, config = load_task(world.tasks_file, name), world.config("ctrl_uniter")
    if boxes == "gt" and not name.startswith("refcoco"):
        with pytest.raises(UserError, match="--boxes gt is for RefCOCO's tasks"):
            features_path(spec, "train", boxes=boxes)
        return
    task = build_task(spec, config, Tokenizer(config.bert_model), DataOptions(boxes=boxes))
    for split, training in ((spec.train_split, True), (spec.val_split, False)):
        opened = opened_below(world.path / "datasets", lambda: task.dataset(split, training))  # noqa: B023
        needed = {chosen(choice) for choice in annotation_files(spec, split, training)}
        assert opened == needed | {features_path(spec, split, boxes=boxes)}


def test_pretraining_opens_the_files_that_are_looked_for(world):
    config = world.config("ctrl_uniter")
    flags = [*world.model_flags("ctrl_uniter"), *world.data_flags("train_concap")]
    args = pretraining_flags().parse_args([*flags, "--from_pretrained", ""])
    tokenizer = Tokenizer(config.bert_model)
    opened = opened_below(
        world.path / "datasets", lambda: [split_loader(args, config, tokenizer, each, 4) for each in ("train", "valid")]
    )
    needed = ENTRY_POINTS["train_concap"].needed(args)
    assert {path for (path,) in needed.data} == opened and len(opened) == 4


def test_every_kind_of_task_says_what_it_reads_and_where_to_get_it():
    assert set(data_set_modules()) == set(sources.DATA_SETS)
    shipped = {load_task(ROOT / "config_tasks" / "ctrl_trainval_tasks.yml", name).name for name in NAMES}
    assert shipped == set(sources.DATA_SETS)
    table = (ROOT / "docs" / "real-data.md").read_text()
    for data_set in (sources.CONCEPTUAL_CAPTIONS, *sources.DATA_SETS.values()):
        (row,) = re.findall(rf"^\|.*`examples/{re.escape(data_set.examples)}`.*$", table, re.M)
        assert data_set.shared[0] in row and all(name in table for name in data_set.shared)


@pytest.mark.parametrize("split", ["train", "val", "trainval", "minval", "mteval", "test", "test-dev"])
def test_vqas_splits_are_made_of_these_files(world, tmp_path, split):
    files = vqa_files(tmp_path, split)
    assert (tmp_path / "trainval_ans2label.pkl",) in files
    assert any("questions" in str(choice[0]) for choice in files)
    assert any("target" in str(choice[0]) for choice in files) == (not split.startswith("test"))
    assert (tmp_path / "cache" / "coco_test_ids.npy",) in files or split != "mteval"


@pytest.mark.parametrize(
    ("load", "splits"),
    [(vqa_files, "VQA"), (gqa_files, "GQA"), (nlvr2_files, "NLVR2"), (snli_ve_files, "SNLI-VE")],
)
def test_an_unknown_split_is_told_before_a_file_is_opened(tmp_path, load, splits):
    with pytest.raises(UserError, match=f"{splits} has no split 'nowhere'; expected train"):
        load(tmp_path, "nowhere")


@pytest.mark.parametrize("place", ["cache/train_target.pkl", "train_target.pkl"])
def test_a_file_may_lie_in_either_of_its_places(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    safe_pickle.dump(tmp_path / place, [])
    choice = targets_file(tmp_path, "train")
    assert chosen(choice) == tmp_path / place
    require(NeededFiles([choice], None, str(ROOT / "tests/fixtures/volta_data/bert-tiny-tok"), lambda fetch: None))


@pytest.mark.parametrize("address", ["https://nowhere.example/x", "s3://bucket/x", "pipe:cat x"])
def test_of_an_address_nothing_is_looked_for(address):
    found = find_pairs(address, "train") if address.count("/") else None
    assert found is None or (found.shards.endswith("/training") and found.needed() == [])


def test_shards_and_parts_are_looked_for_where_they_are_read(tmp_path):
    assert find_pairs(tmp_path, "train").needed() == [tmp_path / "training_feat_all.lmdb"]
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "index.json").write_text("{}")
    folder = find_pairs(tmp_path, "train")
    assert folder.needed() == [tmp_path / "training" / "index.json"] and folder.shards == str(tmp_path / "training")
    assert find_pairs(f"file://{tmp_path}", "train").needed() == folder.needed()
    for number in (0, 1):
        (tmp_path / f"training_feat_part_{number}.lmdb").write_text("")
    assert [path.name[-6] for path in find_pairs(tmp_path, "train").needed()] == ["0", "1"]
    (tmp_path / "training_feat_part_0.lmdb").unlink()
    with pytest.raises(UserError, match=r"training_feat_part_0\.lmdb is missing; copy all parts"):
        find_pairs(tmp_path, "train")


def lacking(*, data=(), data_set=None, vocabulary="", weights=lambda fetch: None):
    with pytest.raises(UserError) as caught:
        require(NeededFiles([(Path(path),) for path in data], data_set, vocabulary, weights))
    return [str(caught.value), *caught.value.details]


def test_one_thing_that_is_missing_is_one_line(tmp_path):
    (tmp_path / "vocab.txt").write_text("")
    (line,) = lacking(data=["none.json"], data_set=sources.DATA_SETS["GQA"], vocabulary=str(tmp_path))
    assert line.startswith("none.json: no such file or folder; check the path, or get GQA as VOLTA's data guide says (")
    assert "https://sid.erda.dk/sharelink/erYmVzgpny" in line and "; --world tries the command" in line
    (line,) = lacking(data=["none.json"], vocabulary=str(tmp_path))
    assert sources.GUIDE in line  # a task of somebody's own
    (line,) = lacking(vocabulary=str(tmp_path / "none"))
    assert line.startswith(f"{tmp_path / 'none'}: no vocabulary there") and "--world" not in line


def test_all_that_is_missing_stands_in_the_order_in_which_it_is_got(tmp_path):
    asked = []

    def weights(fetch):
        asked.append(fetch)
        raise UserError("weights.bin: no such weight file; train them")

    first, second, vocabulary, start, world = lacking(data=["a", "b", "a"], vocabulary="a-bert", weights=weights)
    assert first.startswith("a: no such file") and second == "not there, either: b"
    assert vocabulary.startswith("then the vocabulary: a-bert is neither a folder here nor in the hub's cache")
    assert start == "then weights: weights.bin: no such weight file; train them" and world.startswith("--world tries")
    assert asked == [False]  # nothing is fetched for a command that cannot run


def test_paths_that_cannot_be_looked_at_are_missing(tmp_path):
    (tmp_path / "vocab.txt").write_text("")
    for path in (f"{tmp_path}/vocab.txt/below", "x" * 5000, "nul\0byte"):
        (line,) = lacking(data=[path], vocabulary=str(tmp_path))
        assert "no such file or folder" in line
