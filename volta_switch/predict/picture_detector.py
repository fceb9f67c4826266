"""A detector for a model's pictures: the one that is given, with the selection that the model was trained with."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from volta_switch.checksums import json_digest
from volta_switch.config.model_folder import REGIONS
from volta_switch.data.detector_facts import DETECTOR, GIVEN, described, difference
from volta_switch.data.regions import Regions
from volta_switch.detector.checkpoints import load_detector
from volta_switch.detector.detect import Detector
from volta_switch.detector.flags import KIND, NUMBERS
from volta_switch.detector.pictures import read_picture
from volta_switch.detector.selection import Selection, asked_selection
from volta_switch.errors import UserError
from volta_switch.files import object_in


@dataclass(frozen=True, eq=False)
class SelectingDetector:
    """A detector and a selection: what finds regions in pictures (``region_sources.PictureDetector``)."""

    detector: Detector
    selection: Selection

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.detector.config.name

    @property
    def facts(self) -> dict[str, Any]:
        """What its features are (``Detector.facts``)."""
        return self.detector.facts(self.selection)

    @property
    def identity(self) -> str:
        """What decides its regions beside the picture: the settings, too, which facts that travel leave out."""
        settings = json_digest(self.detector.config.to_dict())
        return json.dumps({**self.facts, "settings": settings}, sort_keys=True)

    def regions_of(self, picture: Path) -> Regions:
        """Returns what it sees; raises UserError for a file that is no picture."""
        (found,) = self.detector([(str(picture), read_picture(picture))], self.selection)
        return found

    def names(self, regions: Regions) -> tuple[str, ...]:
        """Returns what each region shows, "red ball"; "" where the detector has no names for its classes."""
        labels = self.detector.labels
        if not labels.objects or regions.objects_id is None:
            return ("",) * len(regions)
        objects = [labels.objects[number] for number in regions.objects_id.tolist()]
        if not labels.attributes or regions.attrs_id is None:
            return tuple(objects)
        attributes = [labels.attributes[number] for number in regions.attrs_id.tolist()]
        return tuple(f"{attribute} {name}" for attribute, name in zip(attributes, objects, strict=True))


def detector_for(
    model_files: Mapping[str, bytes],
    source: str | Path,
    kind: str | None = None,
    numbers: str | None = None,
    device: str | torch.device = "cpu",
    width: int | None = None,
) -> SelectingDetector:
    """Returns a detector for a model; a difference to the one that the model was trained with is told.

    Args:
        model_files: what lies beside the model's weights, name -> content.
        source: as ``load_detector`` takes it.
        kind, numbers: of the selection; None: the model's, else ``KIND`` and ``NUMBERS``.
        device: where it computes.
        width: of the features that the model takes; None: not compared.

    Raises:
        UserError: there is no such detector or selection, or its features are of another width.
    """
    known = (object_in(model_files.get(REGIONS, b"")) or {}).get(DETECTOR)
    facts = known if isinstance(known, dict) else {}
    kind, numbers = kind or _selection(facts, "selection"), numbers or _selection(facts, "number")
    selection = asked_selection(kind or KIND, numbers or NUMBERS)
    found = SelectingDetector(load_detector(source, device), selection)
    if width not in (None, found.facts["width"]):
        own = f"give {described(facts)}" if facts else "its folder does not say which detector it was trained with"
        raise UserError(
            f"{source}: its features are {found.facts['width']} wide, and the model takes those of {width}; {own} "
            "(docs/pictures.md)"
        )
    if facts and (said := difference(facts, found.facts)):
        print(f"warning: not the regions that the model was trained with: {said}", file=sys.stderr)
    return found


def _selection(facts: Mapping[str, Any], name: str) -> str:
    """Returns what a model says of its selection; "" where it says nothing, or had boxes from outside."""
    value = str(facts.get(name, "")).removesuffix(GIVEN)
    return "" if value == "as given" else value
