"""A detector's folder, written and read; the .pkl of py-bottom-up-attention; what is refused, in one line."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from small_detectors import patterned, small_detector
from volta_switch.detector import foreign
from volta_switch.detector.checkpoints import ATTRIBUTES, OBJECTS, load_detector, save_detector
from volta_switch.detector.detect import digest_of
from volta_switch.detector.selection import Selection
from volta_switch.detector.settings import DetectorConfig
from volta_switch.errors import UserError
from volta_switch.hub_models import OF_A_DETECTOR

TWELVE = Selection("maxnms", 12, 12)


@pytest.fixture
def folder(tmp_path):
    save_detector(small_detector(), tmp_path / "detector")
    return tmp_path / "detector"


def test_the_hub_is_asked_for_all_files_of_a_detector():
    assert {*OF_A_DETECTOR} == {foreign.YAML, OBJECTS, ATTRIBUTES}


def test_what_is_written_is_read(folder):
    detector, found = small_detector(), load_detector(folder)
    assert (found.config, found.labels, found.weights) == (detector.config, detector.labels, detector.weights)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("attributes_vocab.txt", "config.json", "model.safetensors", "objects_vocab.txt", "volta_switch.sums"),
    ]
    picture = [("1", patterned(128, 96))]
    assert (found(picture, TWELVE)[0].features == detector(picture, TWELVE)[0].features).all()
    with pytest.raises(UserError, match="is there already"):
        save_detector(detector, folder)


def test_weights_have_one_hash_whatever_file_they_lie_in():
    state = small_detector().network.state_dict()
    plain = {name: tensor.clone() for name, tensor in reversed(state.items()) if "num_batches" not in name}
    assert digest_of(state) == digest_of(plain)
    plain["roi_heads.box_predictor.cls_score.bias"][3] += 1e-3
    assert digest_of(state) != digest_of(plain)


@pytest.fixture
def sixteenth(monkeypatch):
    """As if detectron2's detector were a sixteenth as wide: the real one's file has 260 MB."""
    config = small_detector().config
    monkeypatch.setattr(foreign, "DetectorConfig", lambda **values: DetectorConfig(**{**vars(config), **values}))


def pickled(path, state, **more) -> None:
    arrays = {name: tensor.numpy() for name, tensor in state.items() if "num_batches" not in name}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "someone", **more}, protocol=2))


def test_a_pickle_of_detectron2_is_read(tmp_path, sixteenth):
    detector = small_detector()
    pickled(tmp_path / "faster_rcnn_from_caffe_attr.pkl", detector.network.state_dict())
    (tmp_path / "objects_vocab.txt").write_text("".join(f"thing {n},other word\n" for n in range(20)))
    for source in (tmp_path, tmp_path / "faster_rcnn_from_caffe_attr.pkl"):
        found = load_detector(source)
        assert (found.weights, found.config) == (detector.weights, detector.config)
        assert found.labels.objects[3] == "thing 3" and found.labels.attributes == ()


def test_a_pickle_without_statistics_has_them_folded_in(tmp_path, sixteenth):
    state = small_detector().network.state_dict()
    pickled(tmp_path / "x.pkl", {name: tensor for name, tensor in state.items() if "running" not in name})
    found = load_detector(tmp_path / "x.pkl").network.state_dict()
    assert (found["backbone.stem.conv1.norm.running_mean"] == 0).all()
    assert (found["backbone.stem.conv1.norm.running_var"] == 1).all()


class Runs:
    def __reduce__(self):
        return print, ("code of a file was run",)


def test_no_code_in_a_pickle_is_run(tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"model": Runs()}))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.yaml").write_text("resnets: {depth: 101}\nroi_box_head: {attr: true}\n")
    torch.save({"a": Runs()}, tmp_path / "hf" / "pytorch_model.bin")
    for source in (tmp_path / "x.pkl", tmp_path / "hf"):
        with pytest.raises(UserError, match=r"not run|nothing in it was run"):
            load_detector(source)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("roi_heads.box_predictor.attr_score.weight"), "a detector without attributes"),
        (lambda state: state.pop("backbone.res4.5.conv2.weight"), r"backbone\.res4\.5\.conv2\.weight missing"),
        (lambda state: state.update({"mask_head.weight": torch.zeros(2)}), r"mask_head\.weight unexpected"),
        (
            lambda state: state.update({"roi_heads.box_predictor.cls_score.bias": torch.zeros(7)}),
            r"has shape \[7\], the model expects \[21\]",
        ),
        (
            lambda state: state.update({"backbone.stem.conv1.norm.bias": torch.full((4,), float("nan"))}),
            "not finite",
        ),
    ],
)
def test_wrong_weights_are_named(tmp_path, sixteenth, change, said):
    state = dict(small_detector().network.state_dict())
    change(state)
    pickled(tmp_path / "x.pkl", state)
    with pytest.raises(UserError, match=said) as refused:
        load_detector(tmp_path / "x.pkl")
    assert str(tmp_path / "x.pkl") in str(refused.value)


def test_what_is_no_detector_is_refused(tmp_path, folder):
    with pytest.raises(UserError, match=r"nowhere: no such detector; give a folder"):
        load_detector(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no detector; expected config\.json of this project, config\.yaml"):
        load_detector(tmp_path / "empty")
    for name in ("a.pkl", "b.pkl"):
        (tmp_path / "empty" / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"several \.pkl files"):
        load_detector(tmp_path / "empty")
    with pytest.raises(UserError, match=r"a\.pkl: not a readable pickle"):
        load_detector(tmp_path / "empty" / "a.pkl")


def test_a_changed_folder_is_refused(folder):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "pooled": 7}))
    with pytest.raises(UserError, match=r"config\.json: not what was written"):
        load_detector(folder)
    (folder / "volta_switch.sums").unlink()
    for change, said in (
        ({"volta_switch_detector": 2}, "volta_switch_detector is 2, expected 1"),
        ({"poled": 7}, "unknown poled"),
        ({"pooled": 0}, r"pooled: expected a whole number from 1"),
        ({"blocks": [1, 2]}, "blocks: expected 4 numbers, found 2"),
        ({"anchor_sizes": []}, "anchor_sizes and anchor_ratios: expected at least one"),
        ({"long_side": 5}, "long_side is 5, below short_side"),
        ({"classes": 30}, r"objects_vocab|has shape"),
    ):
        (folder / "config.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=said):
            load_detector(folder)


def test_damaged_weights_are_refused(folder):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match=r"model\.safetensors: not what was written"):
        load_detector(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("just: text", "expected the sections resnets and roi_box_head"),
        ("resnets: {depth: 18}\nroi_box_head: {}", r"resnets\.depth is 18, expected one of 50, 101, 152"),
        ("RESNETS: {STRIDE_IN_1X1: false}\nROI_BOX_HEAD: {}", r"resnets\.stride_in_1x1 is False, only True"),
        ("resnets: {}\nroi_box_head: {attr: false}", r"roi_box_head\.attr is False"),
        ("resnets: {}\nroi_box_head: {num_attrs: -3}", r"attributes: expected a whole number"),
        ("resnets: {}\nroi_box_head: {}\nanchor_generator: {sizes: [[32], [64]]}", r"expected one list in a list"),
    ],
)
def test_configurations_of_other_networks_are_refused(tmp_path, text, said):
    (tmp_path / "config.yaml").write_text(text)
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=said):
        load_detector(tmp_path)


def test_labels_must_be_as_many_as_the_classes(folder):
    (folder / "volta_switch.sums").unlink()
    (folder / "attributes_vocab.txt").write_text("red\nblue\n")
    with pytest.raises(UserError, match=r"attributes_vocab\.txt: 2 names, the detector has 8"):
        load_detector(folder)


def test_detectron2s_and_hugging_faces_inputs_differ():
    """The one resizes bytes with a filter that fits the scale, the other numbers between four pixels."""
    plain = foreign.config_of({"resnets": {"depth": 50}, "roi_box_head": {}}, "x")
    assert plain.resizing == "points" and DetectorConfig().resizing == "pillow"
    assert plain.blocks == (3, 4, 6, 3) and np.prod(plain.anchors) == 12
