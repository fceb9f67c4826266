"""A detector in one folder, written and read; the files of other programs are read by ``foreign``.

| file | content |
|---|---|
| ``config.json`` | ``DetectorConfig`` |
| ``model.safetensors`` | the weights, under the names of Hugging Face's code |
| ``objects_vocab.txt``, ``attributes_vocab.txt`` | names of the classes, a line each; synonyms after commas |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from volta_switch.checksums import is_there, read_recorded, record_json, record_tree, verify
from volta_switch.data.files.json_files import read_object
from volta_switch.detector import foreign
from volta_switch.detector.detect import Detector, Labels
from volta_switch.detector.network import Network
from volta_switch.detector.settings import VERSION_KEY, DetectorConfig, config_from
from volta_switch.errors import UserError
from volta_switch.files import writing_folder
from volta_switch.hub_models import is_address, weights_of
from volta_switch.weights.files import read_tensors, write_weights
from volta_switch.weights.loading import fitted, some

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OBJECTS, ATTRIBUTES = "objects_vocab.txt", "attributes_vocab.txt"
_TRACKED = "num_batches_tracked"  # of training's batch norms; detectron2's files have none


def load_detector(source: str | Path, device: str | torch.device = "cpu") -> Detector:
    """Returns a detector, ready to be used.

    Args:
        source: a folder that ``save_detector`` has written, Hugging Face's ``unc-nlp/frcnn-vg-finetuned`` as a folder
            or an address (``hf://owner/name``), or a ``.pkl`` of py-bottom-up-attention, alone or in a folder. Names of
            classes are read where ``OBJECTS`` and ``ATTRIBUTES`` lie beside the weights.
        device: where it computes.

    Raises:
        UserError: it is missing, damaged, holds something else, or the hub does not give it.
    """
    folder = weights_of(str(source)).parent if is_address(source) else Path(source)
    if not folder.exists():
        raise UserError(
            f"{source}: no such detector; give a folder, a .pkl of py-bottom-up-attention, or hf://owner/name"
        )
    if folder.is_dir() and is_there(folder / CONFIG) and VERSION_KEY in (values := read_object(folder / CONFIG)):
        config = config_from(values, str(folder / CONFIG))
        weights, state = folder / WEIGHTS, _own_state(folder / WEIGHTS)
    else:
        weights, config, state = foreign.read_foreign(folder)
    return Detector(_filled(config, state, str(weights)), _labels(weights.parent, config), device)


def save_detector(detector: Detector, folder: str | Path) -> None:
    """Writes a detector's folder, whole or not at all; raises UserError where one is there already."""
    with writing_folder(Path(folder)) as unfinished:
        record_json(unfinished / CONFIG, detector.config.to_dict())
        write_weights(unfinished / WEIGHTS, detector.network.state_dict(), recorded=True)
        names = {OBJECTS: detector.labels.objects, ATTRIBUTES: detector.labels.attributes}
        written = [unfinished / CONFIG, unfinished / WEIGHTS]
        for file, labels in names.items():
            if labels:
                (unfinished / file).write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
                written.append(unfinished / file)
        record_tree(unfinished, written)


def _own_state(path: Path) -> dict[str, Tensor]:
    verify(path)
    return read_tensors(path)


def _filled(config: DetectorConfig, state: Mapping[str, Tensor], source: str) -> Network:
    """Returns the network with weights; every name is accounted for."""
    with torch.device("meta"):
        network = Network(config)
    expected = network.state_dict()
    state = {name: torch.zeros((), dtype=torch.int64) for name in expected if name.endswith(_TRACKED)} | dict(state)
    if lost := [name for name in expected if name not in state]:
        raise UserError(f"{source}: {some(lost)} missing; expected the weights of a detector with attributes")
    if strange := [name for name in state if name not in expected]:
        raise UserError(f"{source}: {some(strange)} unexpected; is it a ResNet-101 C4 detector with attributes?")
    network.load_state_dict(fitted(expected, state, source, "is the configuration another detector's?"), assign=True)
    return network


def _labels(folder: Path, config: DetectorConfig) -> Labels:
    """Returns the names that lie in a folder; none where there are no files."""
    found = {}
    for file, count in ((OBJECTS, config.classes), (ATTRIBUTES, config.attributes)):
        if not is_there(folder / file):
            continue
        lines = read_recorded(folder / file).decode("utf-8", "replace").splitlines()
        found[file] = tuple(line.split(",")[0].strip() for line in lines if line.strip())
        if len(found[file]) != count:
            raise UserError(f"{folder / file}: {len(found[file])} names, the detector has {count} classes of this kind")
    return Labels(found.get(OBJECTS, ()), found.get(ATTRIBUTES, ()))
