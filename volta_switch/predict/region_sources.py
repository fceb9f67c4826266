"""Where the regions of an image come from: a feature file and an id, or a picture and a detector.

The detector is given from outside (``PictureDetector``, of which ``picture_detector`` makes one). Pictures take tens of
seconds each on a CPU, so that what is found is kept (``region_cache``), and the wait is announced.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Protocol

from volta_switch.config.model_folder import DETECTOR, REGIONS
from volta_switch.data.detector_facts import described, difference, facts_of
from volta_switch.data.feature_files import open_features
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.regions import Regions
from volta_switch.errors import UserError
from volta_switch.files import measured, object_in, require_file
from volta_switch.predict.region_cache import RegionCache, default_folder, without_scores


class PictureDetector(Protocol):
    """What finds regions in pictures."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def identity(self) -> str:
        """What decides its regions beside the picture: its weights' hash, selection and sizes."""

    def regions_of(self, picture: Path) -> Regions:
        """Returns what it sees; raises UserError for a file that is no picture."""

    def names(self, regions: Regions) -> tuple[str, ...]:
        """Returns what each region shows; "" where that is not known."""


class RegionSources:
    """Regions by image.

    Args:
        feature_size: the width F that the model expects.
        model_files: what lies beside the model's weights, name -> content; tells which detector it was trained with.
        detector: for pictures; None where there is none.
        cache: the folder of detected regions; None: the default one.
    """

    def __init__(
        self,
        feature_size: int,
        model_files: Mapping[str, bytes] | None = None,
        detector: PictureDetector | None = None,
        cache: Path | None = None,
    ) -> None:
        self.feature_size = feature_size
        self._facts = object_in((model_files or {}).get(REGIONS, b"")) or {}
        self._detector, self._folder = detector, cache or default_folder()
        self._stores: dict[str, FeatureStore] = {}
        self._announced = False

    def with_detector(self, detector: PictureDetector) -> RegionSources:
        """Returns the same sources with a detector for pictures."""
        other = copy(self)
        other._detector = detector
        return other

    def names(self, regions: Regions) -> tuple[str, ...]:
        """Returns what each region of a picture shows; "" where that is not known."""
        return ("",) * len(regions) if self._detector is None else self._detector.names(regions)

    @property
    def has_detector(self) -> bool:
        """Whether pictures can be asked about."""
        return self._detector is not None

    @property
    def own_pictures(self) -> str:
        """What a model without a detector needs to see a picture, in a sentence or two."""
        said = self._trained_on()
        trained = f": it was trained with regions {said}" if said else ""
        needed = f"Own pictures need the model's detector (--detector){trained}."
        drawn = "A model that was trained on a drawn world has none: it cannot see photographs (docs/pictures.md)."
        return needed if DETECTOR in self._facts else f"{needed} {drawn}"

    def images_of(self, features: str) -> list[str]:
        """Returns the ids of a feature file; raises UserError where it cannot be read."""
        return list(self._store(features))

    def check(self, images: Sequence[str], features: str = "") -> None:
        """Looks whether images are there, without reading or detecting any.

        Raises:
            UserError: an image is not there, or is a picture and there is no detector.
        """
        if features:
            store = self._store(features)
            for image in images:
                if image not in store:
                    store[image]  # which says why not
            return
        for image in images:
            if self._detector is None:
                raise UserError(self._without_detector(image))
            require_file(Path(image), "picture", "check the path")

    def regions(self, image: str, features: str = "") -> Regions:
        """Returns the regions of an image.

        Args:
            image: a picture's path; with ``features`` an id.
            features: the feature file.

        Raises:
            UserError: it is not there, or cannot be used.
        """
        if features:
            return self._store(features)[image]
        self.check([image])
        return self._detected(Path(image))

    def _store(self, path: str) -> FeatureStore:
        if path not in self._stores:
            self._stores[path] = open_features(path, self.feature_size)
            known, facts = self._facts.get(DETECTOR), facts_of(path)
            if isinstance(known, dict) and facts is not None and (said := difference(known, facts)):
                print(f"warning: {path} holds other features than the model was trained on: {said}", file=sys.stderr)
        return self._stores[path]

    def _detected(self, picture: Path) -> Regions:
        """Returns a picture's regions, kept from before or found now."""
        assert self._detector is not None
        try:
            digest = measured(picture)["sha256"]
        except OSError as error:
            raise UserError(f"{picture}: cannot be read ({error.strerror}); check its permissions") from None
        cache = RegionCache(self._folder, self._detector.identity)
        found = cache.find(digest)
        if found is None:
            self._announce(picture)
            found = self._detector.regions_of(picture)
            cache.keep(digest, found)
        return without_scores(found, str(picture))

    def _announce(self, picture: Path) -> None:
        """Says once what takes so long, and then which picture it is."""
        assert self._detector is not None
        if not self._announced:
            print(
                f"{self._detector.name}: finds the regions of pictures, tens of seconds each on a CPU; "
                f"they are kept in {self._folder}",
                file=sys.stderr,
            )
        self._announced = True
        print(f"{picture}: looking for regions", file=sys.stderr, flush=True)

    def _trained_on(self) -> str:
        """Says which regions the model's folder names; "" where it names none."""
        facts = self._facts.get(DETECTOR)
        if isinstance(facts, dict):
            return f"of {described(facts)}"
        said = facts or self._facts.get("regions")
        return f"{'of ' if facts else ''}{said!s:.200}" if said else ""

    def _without_detector(self, image: str) -> str:
        said = self._trained_on()
        trained = f"; the model was trained with regions {said} ({REGIONS})" if said else ""
        return (
            f"{image}: a picture needs a detector that finds its regions, and none is given{trained}: give one "
            "(--detector), or the features that it has written (--features FILE), and the image by its id there"
        )
