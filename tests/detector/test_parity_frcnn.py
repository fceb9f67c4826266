"""The whole detector equals Hugging Face's on the same weights, at three sizes, where its code is present."""

from __future__ import annotations

import pytest
import torch
import yaml

from peer_frcnn import peer, peer_settings
from small_detectors import SIXTEENTH, formula_weights, patterned, small_detector
from volta_switch.detector.checkpoints import load_detector
from volta_switch.detector.detect import Detector
from volta_switch.detector.network import Network
from volta_switch.detector.pictures import network_input
from volta_switch.detector.selection import Selection
from volta_switch.detector.settings import DetectorConfig

COUNT = 12


@pytest.mark.parametrize(("width", "height"), [(128, 96), (200, 96), (90, 150)])
def test_boxes_features_classes_and_confidences_are_equal(width, height):
    detector = small_detector(resizing="points")
    with peer() as frcnn:
        compare(frcnn, detector, patterned(width, height))


@pytest.mark.long
def test_the_full_width_is_equal():
    config = DetectorConfig(resizing="points", short_side=96, long_side=160, after_nms=40)
    network = Network(config)
    network.load_state_dict(formula_weights(network.state_dict()))
    with peer() as frcnn:
        compare(frcnn, Detector(network), patterned(128, 96))


def compare(frcnn, detector, image) -> None:
    config = detector.config
    theirs = frcnn.GeneralizedRCNN(frcnn.Config(peer_settings(config, COUNT)))
    theirs.load_state_dict(detector.network.state_dict())  # the same names and shapes, all of them
    theirs.eval()
    x = network_input(image, config)
    sizes = torch.tensor([x.shape[1:]])
    scales = torch.true_divide(torch.tensor([[image.height, image.width]]), sizes)
    expected = theirs(
        x[None], sizes, scales_yx=scales, padding="max_detections", max_detections=COUNT, return_tensors="pt"
    )
    (found,) = detector([("1", image)], Selection("maxnms", COUNT, COUNT))
    assert len(found) == COUNT
    assert found.objects_id.tolist() == expected["obj_ids"][0].tolist()
    assert found.attrs_id.tolist() == expected["attr_ids"][0].tolist()
    for ours, name in (
        (found.boxes, "boxes"),
        (found.features, "roi_features"),
        (found.objects_conf, "obj_probs"),
        (found.attrs_conf, "attr_probs"),
    ):
        difference = (torch.from_numpy(ours) - expected[name][0]).abs().max()
        assert difference <= 1e-5 * (1 + expected[name].abs().max()), name


def test_a_folder_of_theirs_is_read(tmp_path):
    """Its configuration, letters large or small, and its weights."""
    detector = small_detector(resizing="points")
    settings = peer_settings(detector.config, 36)
    settings["roi_box_head"] = {key.upper(): value for key, value in settings["roi_box_head"].items()}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    torch.save(detector.network.state_dict(), tmp_path / "pytorch_model.bin")
    found = load_detector(tmp_path)
    assert found.weights == detector.weights
    assert found.config == DetectorConfig(**{**SIXTEENTH, "name": "visual-genome-r101-c4", "resizing": "points"})
