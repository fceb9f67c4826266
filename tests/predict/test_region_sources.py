"""Regions of pictures: what is said without a detector, and what is kept of one by the picture's content."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from asked_tasks import questions
from synthetic_world import refusal
from volta_switch import UserError
from volta_switch.cli import main
from volta_switch.data.detector_facts import keep_facts
from volta_switch.data.regions import Regions
from volta_switch.predict import Predictor
from volta_switch.predict.region_cache import default_folder
from volta_switch.predict.region_sources import RegionSources


@dataclass
class CountingDetector:
    """Sees in a picture what its bytes say; counts how often it looked."""

    width: int
    name: str = "a counting detector"
    identity: str = "weights 1, maxnms, 36"
    looked: list[Path] = field(default_factory=list)

    def regions_of(self, picture):
        self.looked.append(picture)
        numbers = np.random.default_rng(list(picture.read_bytes()))
        corners = numbers.uniform(0, 50, (4, 2))
        boxes = np.concatenate([corners, corners + 20], axis=1).astype(np.float32)
        features = numbers.normal(size=(4, self.width)).astype(np.float32)
        scores = np.full((4, 3), 1 / 3, np.float32)
        ids = np.arange(4) % 2
        return Regions("its own name", features, boxes, 100, 90, objects_id=ids, cls_prob=scores)


@pytest.fixture
def pictures(tmp_path):
    for name, content in (("a.jpg", b"one"), ("b.jpg", b"two"), ("copy of a.jpg", b"one")):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_what_was_found_is_kept_by_the_pictures_content(pictures, capsys):
    detector = CountingDetector(6)
    sources = RegionSources(6, detector=detector, cache=pictures / "kept")
    first = [sources.regions(str(pictures / name)) for name in ("a.jpg", "b.jpg")]
    said = capsys.readouterr().err
    assert said.count("tens of seconds each on a CPU") == 1 and str(pictures / "kept") in said
    assert said.count("looking for regions") == 2
    again = RegionSources(6, detector=detector, cache=pictures / "kept")  # another process
    found = [again.regions(str(pictures / name)) for name in ("a.jpg", "b.jpg", "copy of a.jpg")]
    assert [path.name for path in detector.looked] == ["a.jpg", "b.jpg"] and not capsys.readouterr().err
    for one, other in zip([*first, first[0]], found, strict=True):
        assert one.arrays().keys() == other.arrays().keys() == {"features", "boxes", "objects_id"}
        assert all(np.array_equal(one.arrays()[name], other.arrays()[name]) for name in one.arrays())
        assert (other.image_w, other.image_h) == (100, 90)
    assert [Path(each.image_id).name for each in found] == ["a.jpg", "b.jpg", "copy of a.jpg"]
    (pictures / "a.jpg").write_bytes(b"another picture")
    again.regions(str(pictures / "a.jpg"))
    detector.identity = "weights 2, maxnms, 36"
    again.regions(str(pictures / "b.jpg"))
    assert [path.name for path in detector.looked[2:]] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_is_made_anew(pictures, capsys, damage):
    detector = CountingDetector(6)
    sources = RegionSources(6, detector=detector, cache=pictures / "kept")
    first = sources.regions(str(pictures / "a.jpg"))
    (kept,) = (pictures / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:-30] if damage is None else damage)
    capsys.readouterr()
    again = sources.regions(str(pictures / "a.jpg"))
    assert len(detector.looked) == 2 and "damaged" in capsys.readouterr().err
    assert np.array_equal(first.features, again.features)
    assert len(list((pictures / "kept").iterdir())) == 1


def test_any_one_flipped_bit_costs_a_look_at_most(pictures, capsys):
    """Some make an archive "encrypted", or of an unknown compression."""
    sources = RegionSources(6, detector=CountingDetector(6), cache=pictures / "kept")
    first = sources.regions(str(pictures / "a.jpg"))
    (kept,) = (pictures / "kept").iterdir()
    whole = kept.read_bytes()
    directory = whole.index(b"PK\x01\x02")  # of the archive, behind what it holds
    for place in range(directory, len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        kept.write_bytes(damaged)
        assert np.array_equal(sources.regions(str(pictures / "a.jpg")).features, first.features)
    assert "damaged" in capsys.readouterr().err


def test_features_of_another_detector_are_told_once_a_file(asked, pictures, capsys):
    of = asked("TASK10")
    (own, stored), name = _facts(), "store.lmdb"
    shutil.copytree(of.features, pictures / name)
    keep_facts(pictures / name, stored)
    line = questions(of.task, "test")[0]
    for known, told in ((own, 1), (stored, 0), (None, 0)):
        files = {} if known is None else {"preprocessor.json": json.dumps({"detector": known}).encode()}
        sources = RegionSources(of.task.config.v_feature_size, files)
        for _ in range(2):
            sources.regions(line["image"], str(pictures / name))
        said = capsys.readouterr().err
        assert said.count("holds other features than the model was trained on: the detector is two") == told


def _facts():
    one = {"detector": "one", "weights": "1" * 64, "selection": "maxnms", "number": "36", "input": None, "width": 6}
    return one, {**one, "detector": "two", "weights": "2" * 64}


def test_a_pickle_in_its_place_is_not_loaded(pictures):
    sources = RegionSources(6, detector=CountingDetector(6), cache=pictures / "kept")
    sources.regions(str(pictures / "a.jpg"))
    (kept,) = (pictures / "kept").iterdir()
    with kept.open("wb") as file:
        np.savez(file, size=np.array([1, 1]), features=np.array([print], dtype=object), boxes=np.zeros((1, 4)))
    found = sources.regions(str(pictures / "a.jpg"))
    assert found.features.shape == (4, 6)


def test_a_disk_that_takes_nothing_costs_the_kept_file_alone(pictures, capsys):
    (pictures / "kept").write_text("a file where a folder is needed")
    sources = RegionSources(6, detector=CountingDetector(6), cache=pictures / "kept")
    assert len(sources.regions(str(pictures / "a.jpg"))) == 4
    assert "regions are not kept" in capsys.readouterr().err


def test_the_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "volta-switch" / "regions"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "volta-switch" / "regions"


def test_without_a_detector_a_picture_is_refused_in_one_line(asked, pictures, capsys):
    of = asked("TASK1")
    said = refusal(main, ["predict", of.folder, "--image", pictures / "a.jpg", "--text", "what ?"], capsys)
    assert "a picture needs a detector" in said and "preprocessor.json" in said and "--features FILE" in said
    facts = {"detector": {"detector": "frcnn-vg", "weights": "ab" * 32, "selection": "maxnms", "number": "36"}}
    for files, told in (
        (
            {"preprocessor.json": json.dumps(facts).encode()},
            "trained with regions of frcnn-vg (weights abababab), maxnms",
        ),
        ({}, "none is given: give one (--detector)"),
    ):
        with pytest.raises(UserError, match="a picture needs a detector") as caught:
            RegionSources(6, files).regions("x.jpg")
        assert told in str(caught.value)
    with pytest.raises(UserError, match="no such picture"):
        RegionSources(6, detector=CountingDetector(6)).regions("nowhere.jpg")


def test_pictures_and_features_are_asked_alike(asked, pictures):
    of = asked("TASK10")
    detector = CountingDetector(of.task.config.v_feature_size)
    predictor = Predictor.load(of.folder, detector=detector, cache=pictures / "kept")
    (found,) = predictor("red cube", pictures / "a.jpg")
    own = detector.regions_of(pictures / "a.jpg")
    assert found.box == tuple(own.boxes[found.region].tolist())
    (same,) = predictor("red cube", own)
    assert same.score == found.score
    line = questions(of.task, "test")[0]
    by_id = Predictor.load(of.folder, features=of.features)
    known = of.task.store("test")[line["image"]]
    assert by_id(line["text"], line["image"])[0].score == by_id.model.predict(line["text"], known)[0].score
    pairs = by_id([line["text"], "red"], [line["image"], known])
    assert pairs[0].score == pytest.approx(by_id(line["text"], line["image"])[0].score, abs=1e-5)
