"""Pictures themselves: by a small detector, the same as by the features that ``data extract`` writes of them."""

import json
import shutil

import numpy as np
import pytest

from small_detectors import patterned, small_detector
from synthetic_world import refusal
from volta_switch.checksums import SUMS
from volta_switch.cli import _run, main
from volta_switch.data.feature_files import open_features
from volta_switch.detector.checkpoints import save_detector
from volta_switch.detector.selection import Selection
from volta_switch.errors import UserError
from volta_switch.predict import Predictor
from volta_switch.predict.picture_detector import detector_for

TEXT = "the red cube"


@pytest.fixture(scope="module")
def detector(world, tmp_path_factory):
    """A detector's folder, whose features are as wide as the models'."""
    folder = tmp_path_factory.mktemp("detectors") / "detector"
    width = world.overrides["v_feature_size"]
    save_detector(small_detector(stage_width=width // 8), folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    patterned(120, 90).save(tmp_path / "one.png")
    return tmp_path / "one.png"


def facts(folder, **changes):
    """What a model says that was trained on the detector's features."""
    known = detector_for({}, folder).facts | changes
    return {"preprocessor.json": json.dumps({"detector": known}).encode()}


def test_a_picture_is_answered_as_its_extracted_features_are(asked, detector, picture, tmp_path, capsys):
    model, cache = asked("TASK10").folder, ("--cache", str(tmp_path / "cache"))
    out = tmp_path / "out"
    main(["data", "extract", str(picture.parent), str(out), "--detector", str(detector), "--dtype", "float32"])
    capsys.readouterr()
    asking = ["predict", str(model), "--text", TEXT, "--json"]
    main([*asking, "--image", str(picture), "--detector", str(detector), *cache])
    seen = json.loads(capsys.readouterr().out)
    (name,) = open_features(out)
    main([*asking, "--image", name, "--features", str(out)])
    stored = json.loads(capsys.readouterr().out)
    assert seen["region"] == stored["region"] and seen["box"] == stored["box"]
    assert seen["probability"] == pytest.approx(stored["probability"], abs=1e-5)
    found = Predictor.load(model, detector=detector, cache=tmp_path / "cache")([TEXT], [picture])
    assert found[0].region == seen["region"]


def test_the_models_own_selection_is_taken_and_a_difference_told(detector, capsys):
    trained = facts(detector, selection="caffe", number="10-12")
    assert detector_for(trained, detector).selection == Selection("caffe", 10, 12) and not capsys.readouterr().err
    other = detector_for(trained, detector, "maxnms", "36")
    assert other.selection == Selection() and "regions are chosen by maxnms, not caffe" in capsys.readouterr().err
    given = facts(detector, selection="caffe, given boxes", number="as given")
    assert detector_for(given, detector).selection == Selection("caffe", 36, 36)
    detector_for(facts(detector, weights="0" * 64), detector)
    (line,) = capsys.readouterr().err.splitlines()
    assert "not the regions that the model was trained with: the detector is a sixteenth" in line
    detector_for({}, detector)
    assert not capsys.readouterr().err  # a model that says nothing


def test_regions_are_called_by_the_detectors_names(detector, picture):
    found = detector_for({}, detector)
    regions = found.regions_of(picture)
    names = found.names(regions)
    assert names[0] == f"trait {regions.attrs_id[0]} thing {regions.objects_id[0]}" and len(names) == len(regions)
    assert np.isfinite(regions.features).all()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--select", "caffe"), "--select and --regions: say how a detector chooses; give --detector"),
        (("--detector", "nowhere"), "nowhere: no such detector"),
        (("--detector", "DETECTOR", "--regions", "ten"), "--select, --regions: 'ten' regions: expected a number"),
        (("--detector", "DETECTOR", "--regions", "10-36"), "maxnms keeps one number"),
        (("--detector", "DETECTOR", "--image", "no.png"), "no.png: no such picture"),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(asked, detector, picture, flags, told, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(picture.parent)
    given = [str(detector) if flag == "DETECTOR" else flag for flag in flags]
    images = [] if "--image" in given else ["--image", "one.png"]
    model = str(asked("TASK10").folder)
    command = ["predict", model, "--text", TEXT, *images, *given, "--cache", str(tmp_path / "cache")]
    assert told in refusal(_run, command, capsys)


def test_what_is_no_picture_is_told(asked, detector, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    flags = ["--text", TEXT, "--image", tmp_path / "text.png", "--detector", detector, "--cache", tmp_path / "cache"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", *map(str, [asked("TASK10").folder, *flags])])
    assert ended.value.code == 2 and not list((tmp_path / "cache").glob("*"))
    assert "text.png: not a picture; expected one of JPEG, PNG" in capsys.readouterr().err.splitlines()[-1]


def test_a_detector_of_other_settings_looks_again(detector, tmp_path):
    """Settings that a model's facts leave out, such as the suppression of proposals, decide the regions, too."""
    shutil.copytree(detector, tmp_path / "other")
    (tmp_path / "other" / SUMS).unlink()
    settings = json.loads((tmp_path / "other" / "config.json").read_text())
    settings["after_nms"] = settings["after_nms"] - 1
    (tmp_path / "other" / "config.json").write_text(json.dumps(settings))
    one, other = detector_for({}, detector), detector_for({}, tmp_path / "other")
    assert one.facts == other.facts and one.identity != other.identity
    assert one.identity == detector_for({}, detector).identity


def test_a_detector_of_another_width_is_refused_before_it_looks(asked, tmp_path, capsys, monkeypatch):
    save_detector(small_detector(stage_width=4), tmp_path / "narrow")
    monkeypatch.setattr("volta_switch.detector.detect.Detector.__call__", lambda *given: pytest.fail("it looks"))
    flags = ["--detector", tmp_path / "narrow", "--image", tmp_path / "x.jpg", "--text", TEXT]
    said = refusal(main, ["predict", asked("TASK10").folder, *flags], capsys)
    assert "narrow: its features are 32 wide, and the model takes those of 64" in said and "does not say" in said
    with pytest.raises(UserError, match=r"give a sixteenth \(weights"):
        detector_for(facts(tmp_path / "narrow"), tmp_path / "narrow", width=64)
