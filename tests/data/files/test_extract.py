"""``data extract``: every format, several processes, bad pictures, given boxes, parts, facts, the self-test."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from peer_frcnn import peer_settings
from small_detectors import QUICK, patterned, small_detector, write_pictures
from stored_records import content
from volta_switch.cli import main
from volta_switch.data.detector_facts import facts_file, facts_of
from volta_switch.data.feature_files import open_features, open_source
from volta_switch.data.formats.tsv import write_tsv
from volta_switch.data_tools import convert, detected
from volta_switch.detector.checkpoints import load_detector, save_detector
from volta_switch.detector.selection import Selection
from volta_switch.errors import UserError

PICTURES = 5
COMMON = ["--regions", "12", "--dtype", "float32"]
PHOTOS, WEIGHTS = os.environ.get("REAL_PHOTOS", ""), os.environ.get("DETECTOR_WEIGHTS", "")


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder with pictures and a quick detector."""
    folder = tmp_path_factory.mktemp("desk")
    write_pictures(folder / "pictures", PICTURES)
    save_detector(small_detector(**QUICK), folder / "detector")
    return folder


def extract(desk: Path, out: Path, *flags: str, images: Path | None = None) -> None:
    given = [str(images or desk / "pictures"), str(out), "--detector", str(desk / "detector")]
    main(["data", "extract", *given, *COMMON, *flags])


def refused(capsys, *argv: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["data", "extract", *map(str, argv)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and line.startswith("error: ")
    return line


def expected(desk: Path, name: str = "100", selection: Selection | None = None):
    detector = load_detector(desk / "detector")
    picture = patterned(128, 96, seed=int(name) - 100)
    return detector([(name, picture)], selection or Selection("maxnms", 12, 12))[0]


def test_a_compact_store_holds_what_the_detector_says(desk, tmp_path, capsys):
    extract(desk, tmp_path / "store")
    assert "store: 5 pictures, 60 regions, maxnms" in capsys.readouterr().out
    store = open_features(tmp_path / "store", detections=True)
    assert store.keys() == [str(100 + number) for number in range(PICTURES)]
    for name in store:
        found, right = store[name], expected(desk, name)
        assert (found.image_w, found.image_h) == (128, 96)
        for field in ("features", "boxes", "objects_id", "objects_conf", "attrs_id", "attrs_conf"):
            np.testing.assert_array_equal(getattr(found, field), getattr(right, field))
        np.testing.assert_allclose(found.cls_prob.dense(), right.cls_prob, atol=1e-6)
    assert main(["data", "check", str(tmp_path / "store")]) is None
    assert "note: made by a sixteenth (weights " in capsys.readouterr().out


def test_features_in_float16_unless_told_otherwise(desk, tmp_path):
    main(
        ["data", "extract", f"{desk}/pictures", f"{tmp_path}/store", "--detector", f"{desk}/detector", "--regions", "4"]
    )
    assert open_features(tmp_path / "store")["100"].features.dtype == np.float16


@pytest.mark.parametrize("to", ["tsv", "h5", "tsv-lmdb", "h5-lmdb", "npy-lmdb", "concap"])
def test_every_format_is_written(desk, tmp_path, capsys, to):
    flags = ["--to", to]
    if to == "concap":
        captions = {str(100 + number): "a picture" for number in range(PICTURES)}
        (tmp_path / "captions.json").write_text(json.dumps(captions))
        flags += ["--captions", f"{tmp_path}/captions.json"]
    extract(desk, tmp_path / "out", *flags)
    source = open_source(tmp_path / "out")
    found, right = source[0][0], expected(desk)
    np.testing.assert_array_equal(found.features, right.features)
    np.testing.assert_array_equal(found.boxes, right.boxes)
    if to in ("tsv", "h5", "concap"):
        np.testing.assert_array_equal(found.cls_prob, right.cls_prob)
        np.testing.assert_array_equal(found.attr_scores, right.attr_scores)
    facts = load_detector(desk / "detector").facts(Selection("maxnms", 12, 12))
    assert facts_of(tmp_path / "out") == facts
    assert {path.name for path in tmp_path.iterdir()} <= {
        *("out", "out.detector.json", "captions.json", "volta_switch.sums", "out-lock"),
    }
    capsys.readouterr()
    extract(desk, tmp_path / "out", *flags)
    assert "it was there already; nothing was computed" in capsys.readouterr().out


def test_several_processes_and_batches_give_the_same_store(desk, tmp_path):
    extract(desk, tmp_path / "one", "--batch", "2")
    extract(desk, tmp_path / "two", "--batch", "2", "--jobs", "2")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_parts_repacked_are_the_whole(desk, tmp_path):
    extract(desk, tmp_path / "whole")
    parts = [str(tmp_path / f"part{number}") for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        extract(desk, Path(part), "--part", f"{number}/2")
    main(["data", "repack", *parts, str(tmp_path / "joined"), "--dtype", "float32"])
    whole, joined = open_features(tmp_path / "whole"), open_features(tmp_path / "joined")
    assert whole.keys() == joined.keys() and facts_of(tmp_path / "joined") == facts_of(tmp_path / "whole")
    for name in whole:
        np.testing.assert_array_equal(whole[name].features, joined[name].features)


def test_bad_pictures_are_named_and_counted_up_to_a_bound(desk, tmp_path, capsys):
    write_pictures(tmp_path / "pictures", 4)
    (tmp_path / "pictures" / "101.png").write_bytes(b"no picture")
    whole = (tmp_path / "pictures" / "103.png").read_bytes()
    (tmp_path / "pictures" / "103.png").write_bytes(whole[: len(whole) // 2])
    given = (tmp_path / "pictures", tmp_path / "store", "--detector", desk / "detector", *COMMON)
    assert "101.png: not a picture" in refused(capsys, *given)
    line = refused(capsys, *given, "--max-bad-records", 1)
    assert "103.png: cannot be read as a picture" in line and "1 were passed over before" in line
    assert not (tmp_path / "store").exists()
    main(["data", "extract", *map(str, given), "--max-bad-records", "2", "--batch", "1"])
    out = capsys.readouterr()
    assert "2 pictures, 24 regions" in out.out and "unusable pictures left out: 2" in out.out
    assert open_features(tmp_path / "store").keys() == ["100", "102"]
    together = tmp_path / "together"
    extract(desk, together, "--max-bad-records", "2", "--batch", "4", images=tmp_path / "pictures")
    assert open_features(together).keys() == ["100", "102"]


def test_boxes_from_outside_take_the_place_of_proposals(desk, tmp_path):
    boxes = {str(100 + number): [[10, 10, 60, 50], [0, 0, 128, 96]][: 1 + number % 2] for number in range(PICTURES)}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    extract(desk, tmp_path / "store", "--boxes", f"{tmp_path}/boxes.json", "--select", "caffe")
    store = open_features(tmp_path / "store")
    assert all(store[name].boxes.tolist() == own for name, own in boxes.items())
    facts = facts_of(tmp_path / "store")
    assert (facts["selection"], facts["number"]) == ("caffe, given boxes", "as given")


def test_a_box_outside_of_its_picture_is_a_picture_that_cannot_be_used(desk, tmp_path, capsys):
    boxes = {str(100 + number): [[10, 10, 60, 50]] for number in range(PICTURES)} | {"102": [[900, 0, 950, 50]]}
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    given = (desk / "pictures", tmp_path / "store", "--detector", desk / "detector", "--boxes", tmp_path / "boxes.json")
    assert "image '102': box 1 is 900, 0, 950, 50; expected x1, y1, x2, y2 within" in refused(capsys, *given)
    main(["data", "extract", *map(str, given), "--max-bad-records", "1"])
    assert open_features(tmp_path / "store").keys() == [name for name in boxes if name != "102"]


def test_a_picture_that_changes_under_the_run_is_not_taken_for_the_one_before(desk, tmp_path, capsys, monkeypatch):
    shutil.copytree(desk / "pictures", tmp_path / "pictures")
    look = detected.detected

    def changing(detector, files, selection):
        (tmp_path / "pictures" / "103.png").write_bytes((tmp_path / "pictures" / "104.png").read_bytes())
        return look(detector, files, selection)

    monkeypatch.setattr(detected, "detected", changing)
    given = (tmp_path / "pictures", tmp_path / "store", "--detector", desk / "detector", *COMMON)
    assert "103.png: has changed since the run began" in refused(capsys, *given)


@pytest.mark.parametrize(("to", "name"), [("tsv-lmdb", "keys"), ("h5-lmdb", "keys"), ("tsv", "a\tb"), ("h5", "a/b")])
def test_an_id_that_a_format_cannot_hold_is_refused_before_the_work(desk, tmp_path, capsys, monkeypatch, to, name):
    monkeypatch.setattr("volta_switch.data_tools.detected.detected", lambda *given: pytest.fail("looked at a picture"))
    (tmp_path / "x.jsonl").write_text(json.dumps({"image": str(desk / "pictures" / "100.png"), "id": name}) + "\n")
    given = (tmp_path / "x.jsonl", tmp_path / "out", "--detector", desk / "detector", "--to", to)
    assert f"--to {to}: " in (said := refused(capsys, *given)) and "give the image another id" in said
    assert {path.name for path in tmp_path.iterdir()} == {"x.jsonl"}


def test_files_of_the_users_own_in_the_results_folder_stay(desk, tmp_path, capsys):
    extract(desk, tmp_path / "out", "--to", "tsv-lmdb")
    (tmp_path / "out" / "data.mdb").unlink()
    (tmp_path / "out" / ".git").mkdir()
    given = (desk / "pictures", tmp_path / "out", "--detector", desk / "detector", *COMMON, "--to", "tsv-lmdb")
    assert "holds .git, which is no part of features; move it away" in refused(capsys, *given)
    (tmp_path / "out" / ".git").rmdir()
    capsys.readouterr()
    extract(desk, tmp_path / "out", "--to", "tsv-lmdb")
    assert "nothing was computed" not in capsys.readouterr().out


def test_a_result_that_cannot_be_read_back_is_none(desk, tmp_path, capsys, monkeypatch):
    def fail(path, **options):
        raise UserError("not what was written")

    monkeypatch.setattr(convert, "open_features", fail)
    given = (desk / "pictures", tmp_path / "out", "--detector", desk / "detector", *COMMON, "--to", "tsv")
    assert "not what was written" in refused(capsys, *given)
    assert not (tmp_path / "out").exists() and not facts_file(tmp_path / "out").exists()


def test_pictures_that_give_too_few_regions_are_told(desk, tmp_path, capsys):
    extract(desk, tmp_path / "store", "--regions", "60")  # of 40 proposals at most
    store = open_features(tmp_path / "store")
    counts = [len(store[name]) for name in store]
    assert max(counts) <= 40
    assert f"{60 * PICTURES - sum(counts)} regions fewer than 60 a picture" in capsys.readouterr().out


def test_pictures_in_a_tar(desk, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(desk / "pictures", ".")
    extract(desk, tmp_path / "store", images=tmp_path / "x.tar")
    np.testing.assert_array_equal(open_features(tmp_path / "store")["103"].features, expected(desk, "103").features)


def test_another_selection_detector_or_picture_is_another_store(desk, tmp_path, capsys):
    extract(desk, tmp_path / "store")
    given = (desk / "pictures", tmp_path / "store", "--detector", desk / "detector", "--dtype", "float32")
    assert "detector: selection was maxnms, now it is caffe" in refused(
        capsys, *given, "--regions", 12, "--select", "caffe"
    )
    assert "detector: number was 12, now it is 8" in refused(capsys, *given, "--regions", 8)
    assert "batch was 1, now it is 2" in refused(capsys, *given, "--regions", 12, "--batch", 2)
    save_detector(small_detector(seed=3, **QUICK), tmp_path / "other")
    other = (*given[:3], tmp_path / "other", *COMMON)
    assert "detector: weights was" in refused(capsys, *other)
    write_pictures(tmp_path / "pictures", 2)
    assert "the inputs are not the same files" in refused(capsys, tmp_path / "pictures", *given[1:], "--regions", 12)
    extract(desk, tmp_path / "x.tsv", "--to", "tsv")
    line = refused(capsys, given[0], tmp_path / "x.tsv", *given[2:], "--to", "tsv", "--regions", 8)
    assert "x.tsv: exists, and not as these features of these pictures" in line


def test_features_of_two_detectors_are_not_repacked_into_one_store(desk, tmp_path, capsys):
    for name, select in (("a", "caffe"), ("b", "maxnms")):
        extract(desk, tmp_path / name, "--select", select)
    with pytest.raises(SystemExit):
        main(["data", "repack", f"{tmp_path}/a", f"{tmp_path}/b", f"{tmp_path}/both"])
    assert "regions are chosen by maxnms, not caffe; extract all with one detector" in capsys.readouterr().err


def test_a_converted_file_keeps_the_facts_and_another_one_in_its_place_does_not(desk, tmp_path):
    extract(desk, tmp_path / "store")
    main(["data", "convert", f"{tmp_path}/store", f"{tmp_path}/x.tsv", "--to", "tsv"])
    assert facts_of(tmp_path / "x.tsv") == facts_of(tmp_path / "store") != None  # noqa: E711
    (tmp_path / "x.tsv").unlink()
    write_tsv(tmp_path / "plain.tsv", [expected(desk)])
    main(["data", "convert", f"{tmp_path}/plain.tsv", f"{tmp_path}/x.tsv", "--to", "tsv"])
    assert facts_of(tmp_path / "x.tsv") is None and not facts_file(tmp_path / "x.tsv").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--regions", "10-100"], "maxnms keeps one number"),
        (["--device", "cuda:77"], "GPUs that PyTorch can use"),
        (["--device", "tpu"], "expected auto, cpu, cuda or cuda:N"),
        (["--part", "3/2"], "expected K/N with K from 1 to N"),
        (["--captions", "x"], "a compact store of pictures holds none"),
        (["--self-test"], "--self-test needs --photos"),
        (["--boxes", "nowhere.json"], "nowhere.json"),
        (["--detector", "nowhere"], "nowhere: no such detector"),
    ],
)
def test_flags_that_mean_nothing(desk, tmp_path, capsys, flags, said):
    given = (desk / "pictures", tmp_path / "store", "--detector", desk / "detector", *flags)
    assert said in refused(capsys, *given)
    assert not list(tmp_path.iterdir())


def test_a_detector_of_the_hub(desk, tmp_path, hub):
    """As Hugging Face's lies there: a configuration in YAML and a PyTorch file, by its address."""
    detector = small_detector(resizing="points")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(peer_settings(detector.config, 36)))
    torch.save(detector.network.state_dict(), tmp_path / "pytorch_model.bin")
    hub.create("me/frcnn", {name: (tmp_path / name).read_bytes() for name in ("config.yaml", "pytorch_model.bin")})
    argv = ("data", "extract", desk / "pictures", tmp_path / "store", "--detector", "hf://me/frcnn", *COMMON)
    done = hub.command(*map(str, argv))
    assert done.returncode == 0, done.stderr
    (right,) = detector([("100", patterned(128, 96, seed=0))], Selection("maxnms", 12, 12))
    np.testing.assert_allclose(open_features(tmp_path / "store")["100"].boxes, right.boxes, atol=1e-3)
    assert facts_of(tmp_path / "store")["weights"] == detector.weights


@pytest.fixture
def photos(desk, tmp_path):
    """As py-bottom-up-attention's: pictures, and features of them by the selection of Caffe."""
    write_pictures(tmp_path / "photos" / "images", 2, size=(180, 130))
    detector = load_detector(desk / "detector")
    pictures = [(str(100 + number), patterned(180, 130, seed=number)) for number in range(2)]
    write_tsv(tmp_path / "photos" / "obj36.tsv", detector(pictures, Selection("caffe", 36, 36)))
    return tmp_path / "photos"


def test_the_self_test_passes_with_the_detector_of_the_features(desk, photos, capsys):
    main(["data", "extract", "--self-test", "--photos", str(photos), "--detector", str(desk / "detector")])
    assert "all marks reached" in capsys.readouterr().out


def test_the_self_test_fails_with_another_detector(photos, tmp_path, capsys):
    save_detector(small_detector(seed=4, **QUICK), tmp_path / "other")
    with pytest.raises(SystemExit) as ended:
        main(["data", "extract", "--self-test", "--photos", str(photos), "--detector", str(tmp_path / "other")])
    assert ended.value.code == 2 and "2 of 2 pictures miss a mark: 100, 101" in capsys.readouterr().out


@pytest.mark.skipif(
    not PHOTOS or not WEIGHTS, reason="needs REAL_PHOTOS (photographs with features) and DETECTOR_WEIGHTS"
)
def test_the_real_detector_on_the_real_photographs():
    main(["data", "extract", "--self-test", "--photos", PHOTOS, "--detector", WEIGHTS])


@pytest.mark.skipif(not PHOTOS, reason="needs REAL_PHOTOS: a folder with photographs and Caffe's features of them")
def test_the_photographs_go_through_the_network(desk, tmp_path):
    """Without the real weights: every picture gives its regions, of its own size."""
    extract(desk, tmp_path / "store", images=Path(PHOTOS, "images"))
    store = open_features(tmp_path / "store")
    theirs = open_features(next(Path(PHOTOS).glob("*.tsv")))
    assert sorted(store.keys()) == sorted(theirs.keys())
    for name in store:
        assert (store[name].image_w, store[name].image_h) == (theirs[name].image_w, theirs[name].image_h)
        assert len(store[name]) == 12
