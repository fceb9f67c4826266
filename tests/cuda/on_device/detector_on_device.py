"""The detector on a CUDA device: what it says there is what it says on the CPU, and `data extract` takes it."""

import numpy as np
import pytest

from small_detectors import QUICK, patterned, small_detector, write_pictures
from volta_switch.cli import main
from volta_switch.data.feature_files import open_features
from volta_switch.data_tools.extract import devices_of
from volta_switch.detector.checkpoints import load_detector, save_detector
from volta_switch.detector.selection import Selection

PICTURES = [("1", patterned(128, 96)), ("2", patterned(90, 150))]
BOXES = [np.array([[3, 4, 90, 80]]), np.array([[0, 0, 90, 150], [5, 5, 30, 40]])]


@pytest.fixture
def folder(tmp_path):
    save_detector(small_detector(**QUICK), tmp_path / "detector")
    return tmp_path / "detector"


@pytest.mark.parametrize("kind", ["caffe", "maxnms"])
@pytest.mark.parametrize("boxes", [None, BOXES], ids=["proposals", "given"])
def test_regions_are_those_of_the_cpu(folder, kind, boxes):
    selection = Selection(kind, 12, 12)
    here, there = (load_detector(folder, device)(PICTURES, selection, boxes) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        for name, array in one.arrays().items():
            np.testing.assert_allclose(getattr(other, name), array, rtol=1e-4, atol=1e-4, err_msg=name)


def test_extraction_takes_the_device(folder, tmp_path):
    assert devices_of("auto", 2) == ["cuda:0", "cuda:0"] and devices_of("cpu", 1) == ["cpu"]
    write_pictures(tmp_path / "pictures", 2)
    given = ["data", "extract", str(tmp_path / "pictures"), str(tmp_path / "out"), "--detector", str(folder)]
    main([*given, "--regions", "5", "--device", "cuda"])
    assert len(open_features(tmp_path / "out")["100"]) == 5
