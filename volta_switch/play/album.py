"""The pictures at hand, and texts about them: of a task's data, of a feature file, of a folder, dropped on the page."""

from __future__ import annotations

import hashlib
import shlex
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.regions import Regions
from volta_switch.detector.pictures import SUFFIXES, is_picture
from volta_switch.errors import UserError
from volta_switch.explain.pictures import Shown, picture_address, shown_image
from volta_switch.model.bert import BertForVLTasks
from volta_switch.model.predictions import BOXES
from volta_switch.predict.predictor import Predictor
from volta_switch.tasks import build_task, features_path
from volta_switch.tasks.task import DataOptions
from volta_switch.tasks.task_file import load_model_task

SHOWN = 24  # examples of a task's data, or ids of a feature file, that are offered
THUMBNAIL = 240  # pixels of a picture to choose from
MOST_DROPPED = 64  # pictures that are kept; of more the first are forgotten
_DRAWING = threading.Lock()  # the scenes of a split are drawn once


@dataclass(frozen=True, eq=False)
class Picture:
    """An image that can be asked about.

    Attributes:
        regions: what the detector saw.
        draw: makes what the page shows of it.
    """

    regions: Regions
    draw: Callable[[], Shown]

    @cached_property
    def shown(self) -> Shown:
        """What the page shows; raises UserError where the picture is another image's."""
        with _DRAWING:
            return self.draw()


@dataclass(frozen=True)
class Offer:
    """What the page offers to ask.

    Attributes:
        pictures: by their keys.
        texts: about them; () of none.
        title: a file's name or an id.
        truth: of the data, right ``answers`` or ``regions``, the best first; {} where they say none that the page can
            show.
    """

    pictures: tuple[str, ...]
    texts: tuple[str, ...] = ()
    title: str = ""
    truth: dict[str, list] = field(default_factory=dict)


@dataclass
class Album:
    """Pictures by their keys; those of folders and feature files are looked at when they are asked for.

    Attributes:
        predictor: whose sources of regions are taken.
        explained_by: the beginning of a command that explains the model's answers; (): none is shown.
        offers: what the page shows to choose from.
    """

    predictor: Predictor
    explained_by: Sequence[str] = ()
    offers: list[Offer] = field(default_factory=list)
    _places: dict[str, tuple[str, str]] = field(default_factory=dict)  # key -> image id or path, and feature file
    _known: dict[str, Picture] = field(default_factory=dict)
    _dropped: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of what stands here
    _looking: threading.Lock = field(default_factory=threading.Lock)  # at pictures, one at a time
    _dropping: threading.Lock = field(default_factory=threading.Lock)

    def __getitem__(self, key: str) -> Picture:
        """Returns a picture; raises UserError where there is none of this key, or its regions cannot be had."""
        with self._lock:
            if key in self._known:
                return self._known[key]
            if key not in self._places:
                raise UserError(f"no picture {key!r:.60}; reload the page")
            image, features = self._places[key]
        with self._looking:  # others may ask about pictures that are known
            regions = self.predictor.sources.regions(image, features)
        names = () if features else self.predictor.sources.names(regions)
        file = None if features else Path(image)
        found = Picture(regions, lambda: shown_image(regions, features, file, names))
        with self._lock:
            return self._known.setdefault(key, found)

    def add_task(self, tasks_file: str, split: str, data_root: str) -> None:
        """Offers samples of the model's task, spread over a split.

        Raises:
            UserError: the model has no single task, or its data cannot be read.
        """
        model = self.predictor.model
        if not isinstance(model, BertForVLTasks):
            raise UserError(
                "--tasks_config_file: is for fine-tuned models; give a pre-trained one --features FILE, whose images "
                "it compares with texts"
            )
        key = self.predictor.task or next(iter(model.tasks))
        spec = load_model_task(tasks_file, key, model.tasks[key], data_root)
        task = build_task(spec, model.config, model.tokenizer, DataOptions())
        split = split or spec.val_split
        features = str(features_path(spec, split))
        data = task.dataset(split, training=False)
        rows = list(data.sample_rows.values())
        for place in _spread(range(len(rows)), SHOWN):
            sample = rows[place]
            ((_, text), *_) = sample
            wanted = self.predictor.question.images
            names = [image for image, _ in sample] if len(sample) >= wanted else sample[0][0].split()  # both in one row
            images = names[:wanted]
            truth = self._truth(data, place, len(rows))
            self.offers.append(Offer(tuple(self._place(image, features) for image in images), (text,), truth=truth))

    def _truth(self, data: Any, place: int, samples: int) -> dict[str, list]:
        """Returns what counts as right by a task's data, of heads that answer with a label or a region."""
        question = self.predictor.question
        if len(data) != samples or question.compares:
            return {}
        try:
            target = data[place].get("target")
        except UserError:  # the picture is told when it is chosen
            return {}
        least = 0.5 if question.kind == BOXES else 0.0  # overlap with the box that is meant; score of a label
        right = [] if target is None else [each for each in np.argsort(-target).tolist() if target[each] > least]
        if question.kind == BOXES:
            return {"regions": right} if right else {}
        return {"answers": [question.labels[each] for each in right]} if right and question.labels else {}

    def thumbnail(self, key: str) -> str:
        """Returns a picture as ``data:`` address, "" where there is none to show; a file's regions are not looked for.

        Raises:
            UserError: there is no picture of this key, or it cannot be read.
        """
        with self._lock:
            image, features = self._places.get(key, ("", ""))
            known = key in self._known
        if known or features or not image:
            return self[key].shown.address
        return picture_address(Path(image), widest=THUMBNAIL)

    def explaining(self, keys: Sequence[str], text: str) -> str:
        """Returns the command that explains the answer to a text; "" where a picture has no place of its own."""
        with self._lock:
            places = [self._places.get(key, ("", "")) for key in keys]
        files = dict.fromkeys(features for _, features in places)
        if len(files) > 1 or any(key in self._dropped for key in keys) or not self.explained_by:
            return ""
        (features,) = files
        images = [part for image, _ in places for part in ("--image", image)]
        given = ["--features", features] if features else []
        return shlex.join([*self.explained_by, *images, f"--text={text}", *given, "--out", "why.html", "--overwrite"])

    def add_features(self, features: str) -> None:
        """Offers some images of a feature file; raises UserError where it cannot be read."""
        ids = self.predictor.sources.images_of(features)
        self.offers += [Offer((self._place(each, features),), (), each) for each in _spread(ids, SHOWN)]

    def add_folder(self, folder: Path) -> None:
        """Offers the pictures of a folder, by their names.

        Raises:
            UserError: it is no folder, has no picture, or there is no detector.
        """
        if not folder.is_dir():
            raise UserError(f"--images {folder}: no such folder")
        found = sorted(path for path in folder.iterdir() if is_picture(path) and path.is_file())
        if not found:
            raise UserError(f"--images {folder}: holds no picture ({', '.join(SUFFIXES)})")
        self.predictor.sources.check([str(path) for path in found])
        self.offers += [Offer((self._place(str(path), ""),), (), path.name) for path in found]

    def drop(self, content: bytes, folder: Path) -> str:
        """Keeps a picture that was dropped on the page, finds its regions, and returns its key.

        Args:
            content: of the file.
            folder: for its file.

        Raises:
            UserError: it is no picture, or there is no detector.
        """
        digest = hashlib.sha256(content).hexdigest()[:32]
        path = folder / digest
        with self._dropping:
            with self._lock:
                key = self._place(str(path), "")
                if key in self._known:
                    return key
            try:
                path.write_bytes(content)
                shown = self[key].shown  # now, while its file is there
            except UserError as error:
                self._forget(key)
                raise UserError(str(error).replace(str(path), "the picture")) from None
            except OSError as error:
                self._forget(key)
                raise UserError(
                    f"the picture cannot be kept ({error.strerror}); make room in {folder.parent}"
                ) from None
            finally:
                path.unlink(missing_ok=True)
            with self._lock:
                regions = self._known[key].regions
                self._known[key] = Picture(regions, lambda: replace(shown, about="a dropped picture"))
                self._dropped.append(key)
            while len(self._dropped) > MOST_DROPPED:
                self._forget(self._dropped.pop(0))
        return key

    def _forget(self, key: str) -> None:
        with self._lock:
            self._known.pop(key, None)
            self._places.pop(key, None)

    def _place(self, image: str, features: str) -> str:
        key = hashlib.sha256(f"{features}\n{image}".encode(errors="backslashreplace")).hexdigest()[:16]
        self._places[key] = (image, features)
        return key


def _spread(values: Sequence, count: int) -> Iterator:
    """Yields so many of some values, evenly from the first to the last."""
    return (values[place * len(values) // count] for place in range(count)) if len(values) > count else iter(values)
