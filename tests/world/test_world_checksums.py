"""A small world holds what was written, but for its task file; every reader refuses a file that has changed."""

import json
import shutil

import pytest

from synthetic_world import SyntheticWorld, refusal
from volta_switch import cli
from volta_switch.checksums import SUMS, Changed, verify
from volta_switch.data.fingerprints import file_fingerprint, store_fingerprint
from volta_switch.train import finetuning
from volta_switch.world import write_world
from volta_switch.world.build import ensure_world

SMALLEST = {"seed": 0, "images": 20, "eval_images": 10, "render": False}
ANNOTATIONS = "datasets/refcoco+_unc/annotations/refcoco+/instances.json"
FEATURES = "datasets/refcoco+_unc/resnet101_faster_rcnn_genome_imgfeats/volta/refcoco+_unc_dets36_feat.lmdb"


@pytest.fixture
def copy(world, tmp_path, monkeypatch):
    """A world with its checksums."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("volta_switch.data.fingerprints._SETTLED", 0.0)
    shutil.copytree(world.path, tmp_path / "world")
    return SyntheticWorld(tmp_path / "world")


def corrupt(path):
    """Changes one byte in the middle."""
    content = bytearray((path / "data.mdb" if path.is_dir() else path).read_bytes())
    content[len(content) // 2] ^= 1
    (path / "data.mdb" if path.is_dir() else path).write_bytes(content)


@pytest.mark.parametrize("name", [ANNOTATIONS, FEATURES, "bert-world/vocab.txt"])
def test_a_changed_file_is_refused_before_anything_is_written(copy, tmp_path, capsys, name):
    corrupt(copy.path / name)
    said = refusal(finetuning.main, copy.flags("train_task", tmp_path / "out", "ctrl_uniter", "refer"), capsys)
    assert str(copy.path / name) in said and "not what was written" in said and "--overwrite" in said
    assert not (tmp_path / "out").exists()


def test_features_are_read_whole_once_and_again_when_they_have_changed(copy, monkeypatch):
    path = copy.path / FEATURES
    found = store_fingerprint(path)
    with monkeypatch.context() as patch:
        patch.setattr("volta_switch.checksums.measured", lambda path: pytest.fail("read again"))
        assert store_fingerprint(path) == found
    corrupt(path)
    with pytest.raises(Changed):
        store_fingerprint(path)


def test_what_was_found_good_by_other_checksums_is_read_again(copy):
    path = copy.path / ANNOTATIONS
    file_fingerprint(path)
    sums = (copy.path / SUMS).read_text()
    (copy.path / SUMS).write_text("".join(_other_sum(line) for line in sums.splitlines(keepends=True)))
    with pytest.raises(Changed):
        file_fingerprint(path)


def _other_sum(line):
    return f"{line[:4]}{line[4:68][::-1]}{line[68:]}" if line.startswith(("new ", "set ")) else line


@pytest.mark.parametrize("name", [ANNOTATIONS, FEATURES])
def test_the_commands_on_data_refuse_it_too(copy, tmp_path, capsys, name):
    corrupt(copy.path / name)
    with pytest.raises(SystemExit):
        cli.main(["data", "check", str(copy.path / name)])
    assert "not what was written" in capsys.readouterr().out
    if name == FEATURES:
        argv = ["data", "repack", copy.path / name, tmp_path / "store"]
        assert "not what was written" in refusal(cli._run, argv, capsys)


def test_the_task_file_may_be_edited(copy):
    text = copy.tasks_file.read_text()
    copy.tasks_file.write_text(text.replace("num_epoch: ", "num_epoch: 1 # "))
    verify(copy.path)


def test_an_edited_summary_is_refused_where_it_is_read(copy):
    path = copy.path / "world.json"
    path.write_text(path.read_text().replace('"refer"', '"rafer"'))
    with pytest.raises(Changed, match=r"world\.json"):
        verify(path)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_writing_the_world_again_mends_it(copy, content):
    path = copy.path / ("world.json" if content else ANNOTATIONS)
    path.write_text(content or "{}")
    with pytest.raises(Changed):
        verify(copy.path)
    write_world(copy.path, overwrite=True, **SMALLEST)
    verify(copy.path)


def test_a_world_that_a_command_keeps_for_itself_is_written_again_where_its_summary_is_damaged(copy):
    path = copy.path / "world.json"
    summary = json.loads(path.read_text())
    path.write_text(json.dumps({**summary, "balance": {}}))
    ensure_world(copy.path, **SMALLEST)
    verify(copy.path)


def test_a_world_of_an_earlier_version_is_read(copy):
    (copy.path / SUMS).unlink()
    corrupt(copy.path / ANNOTATIONS)
    verify(copy.path)
    assert file_fingerprint(copy.path / ANNOTATIONS)["bytes"] > 0
