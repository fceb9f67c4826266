"""Detectors of a sixteenth of the widths, with weights and pictures that follow from a formula, the same for ever."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from volta_switch.detector.detect import Detector, Labels
from volta_switch.detector.network import Network
from volta_switch.detector.selection import Selection
from volta_switch.detector.settings import DetectorConfig

SIXTEENTH = {
    "name": "a sixteenth",
    "classes": 20,
    "attributes": 8,
    "stem_width": 4,
    "bottleneck_width": 4,
    "stage_width": 16,
    "proposal_width": 32,
    "short_side": 96,
    "long_side": 160,
}
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def shares(count: int, seed: int) -> np.ndarray:
    """Numbers from 0 to 1, (count,), by the mixing function of SplitMix64: no library's generator can change them."""
    with np.errstate(over="ignore"):
        x = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed * 1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * _MIX[0]
        x = (x ^ (x >> np.uint64(27))) * _MIX[1]
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) / 2**53


def formula_weights(expected: Mapping[str, Tensor], seed: int = 17) -> dict[str, Tensor]:
    """Weights of a network under the names of its state: activations neither vanish nor explode."""
    found = {}
    for place, name in enumerate(sorted(expected)):
        tensor = expected[name]
        if not tensor.is_floating_point() or "cell_anchors" in name:
            found[name] = tensor.clone()
            continue
        signed = torch.from_numpy(2 * shares(tensor.numel(), seed * 10_000 + place) - 1).float().reshape(tensor.shape)
        if name.endswith("stem.conv1.norm.running_var"):
            found[name] = 80.0**2 * (1 + 0.2 * signed)  # the input is bytes
        elif name.endswith("running_var"):
            found[name] = 1 + 0.2 * signed
        elif name.endswith("norm.weight"):
            found[name] = (0.2 if "conv3" in name else 1.0) * (1 + 0.2 * signed)
        elif tensor.ndim == 1:
            found[name] = 0.1 * signed
        else:
            found[name] = math.sqrt(6 / tensor[0].numel()) * signed * (0.2 if "deltas" in name or "bbox" in name else 1)
            if "score" in name:  # what all features have in common decides nothing
                found[name] = 2 * (found[name] - found[name].mean(dim=1, keepdim=True))
    return found


def small_detector(seed: int = 17, **changes: object) -> Detector:
    """A detector of a sixteenth of the widths."""
    network = Network(DetectorConfig(**{**SIXTEENTH, **changes}))  # type: ignore[arg-type]
    network.load_state_dict(formula_weights(network.state_dict(), seed))
    config = network.config
    objects = tuple(f"thing {number}" for number in range(config.classes))
    return Detector(network, Labels(objects, tuple(f"trait {number}" for number in range(config.attributes))))


def patterned(width: int, height: int, seed: int = 1) -> Image.Image:
    """A picture of coloured rectangles and stripes."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([(x * 3 + y) % 256, (x + y * 5) % 256, (x * y // 7) % 256], axis=-1).astype(np.uint8)
    drawn = shares(60, seed).reshape(10, 6)
    for left, top, across, down, bright, channel in drawn:
        rows = slice(int(top * height), int((top + 0.6 * down) * height) + 1)
        columns = slice(int(left * width), int((left + 0.6 * across) * width) + 1)
        pixels[rows, columns, int(channel * 3)] = int(bright * 255)
    return Image.fromarray(pixels)


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (128, 96)) -> None:
    """Pictures 100.png, 101.png and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        patterned(*size, seed=number).save(folder / f"{100 + number}.png")


# Few blocks and proposals: a tenth of a second a picture.
QUICK = {"blocks": (1, 1, 1, 1), "after_nms": 40, "pooled": 7}
GOLDEN = Path(__file__).parent / "golden" / "detector_sixteenth.safetensors"
GOLDEN_SIZES = ((128, 96), (96, 150))  # of which nothing is resized
GOLDEN_SELECTIONS = (Selection("caffe", 12, 12), Selection("maxnms", 12, 12))


def golden_regions() -> dict[str, Tensor]:
    """What the detector of the golden file says, by picture, selection and field."""
    detector = small_detector()
    found = {}
    for width, height in GOLDEN_SIZES:
        for selection in GOLDEN_SELECTIONS:
            (regions,) = detector([("1", patterned(width, height))], selection)
            for name, array in regions.arrays().items():
                found[f"{width}x{height}/{selection.kind}/{name}"] = torch.from_numpy(array)
    return found


if __name__ == "__main__":  # PYTHONPATH=.:tests python tests/small_detectors.py, after a deliberate change
    from safetensors.torch import save_file

    save_file(golden_regions(), GOLDEN)
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes")
