"""What a detector says of pictures, in their order, computed here or by several processes.

Pictures go through the network in batches that begin at the same places in every run: a run that continues another one
computes the same numbers, to the last bit.
"""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import signal
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from volta_switch.data.files.stores import Kind
from volta_switch.data.regions import Regions
from volta_switch.data_tools.picture_sources import PictureFile, Pictures
from volta_switch.detector.checkpoints import load_detector
from volta_switch.detector.detect import Detector
from volta_switch.detector.pictures import read_picture
from volta_switch.detector.selection import Selection
from volta_switch.errors import BadRecord, UserError

AHEAD = 2  # batches for each process that are asked for before they are needed
_PR_SET_PDEATHSIG = 1
Found = list[Regions | BadRecord]


@dataclass(frozen=True)
class Work:
    """What every process computes.

    Attributes:
        source: the detector, as ``load_detector`` takes it.
        selection: how regions are chosen.
        batch: pictures that go through the network together.
    """

    source: str
    selection: Selection
    batch: int


class DetectedPictures:
    """The regions of pictures by their place, for going through them once, in order.

    Args:
        pictures: what is looked at.
        work: what is computed.
        detector: the detector, loaded.
        devices: one for each process; one device: it is computed here.
    """

    kind: Kind = "images"

    def __init__(self, pictures: Pictures, work: Work, detector: Detector, devices: Sequence[str]) -> None:
        self.path = pictures.source
        self._files = pictures.files
        self._work = work
        self._detector = detector
        self._batches: dict[int, Found | Future[Found]] = {}
        self._pool: ProcessPoolExecutor | None = None
        if len(devices) > 1:
            context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
            places = context.Queue()
            for device in devices:
                places.put(device)
            given = (work, places, os.getpid(), max(1, torch.get_num_threads() // len(devices)))
            self._pool = ProcessPoolExecutor(len(devices), context, _start_worker, given)
        self._ahead = AHEAD * len(devices)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Returns the regions of one picture and no caption; raises BadRecord where it cannot be used."""
        batch = place // self._work.batch
        found = self._batch(batch)[place % self._work.batch]
        for earlier in [each for each in self._batches if each < batch]:
            del self._batches[earlier]
        if isinstance(found, BadRecord):
            raise found
        return found, ""

    def close(self) -> None:
        """Ends the other processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _batch(self, number: int) -> Found:
        if self._pool is None:
            if number not in self._batches:
                self._batches[number] = detected(self._detector, self._files_of(number), self._work.selection)
        else:
            for each in range(number, min(number + self._ahead, -(-len(self) // self._work.batch))):
                if each not in self._batches:
                    self._batches[each] = self._pool.submit(_compute, self._files_of(each))
        found = self._batches[number]
        if isinstance(found, Future):
            try:
                found = self._batches[number] = found.result()
            except BrokenProcessPool:
                raise UserError(
                    "a process that computes features has ended (killed, or out of memory); give the same command "
                    "again, with fewer --jobs or a smaller --batch if memory is short"
                ) from None
        return found

    def _files_of(self, number: int) -> tuple[PictureFile, ...]:
        return self._files[number * self._work.batch : (number + 1) * self._work.batch]


def detected(detector: Detector, files: Sequence[PictureFile], selection: Selection) -> Found:
    """Returns the regions of a batch of pictures, and an error for each that cannot be used."""
    found: dict[int, Regions | BadRecord] = {}
    pictures: dict[int, tuple[str, Image.Image]] = {}
    for place, file in enumerate(files):
        try:
            pictures[place] = file.image_id, read_picture(_unchanged(file), file.name)
        except BadRecord as error:
            found[place] = error
        except OSError as error:
            found[place] = BadRecord(f"{file.name}: cannot be read ({error.strerror})")
    if pictures:
        boxes = [file.boxes for place, file in enumerate(files) if place in pictures and file.boxes is not None]
        try:
            regions = detector(list(pictures.values()), selection, boxes or None)
        except BadRecord as error:
            regions = _one_by_one(detector, pictures, files, selection, error)  # type: ignore[assignment]
        found |= dict(zip(pictures, regions, strict=True))
    return [found[place] for place in range(len(files))]


def _unchanged(file: PictureFile) -> bytes:
    """Returns a picture's bytes; raises BadRecord where they are not those that the run began with, or OSError."""
    content = file.content()
    if file.sha256 not in (None, hashlib.sha256(content).hexdigest()):
        raise BadRecord(f"{file.name}: has changed since the run began; begin anew")
    return content


def _one_by_one(
    detector: Detector,
    pictures: dict[int, tuple[str, Image.Image]],
    files: Sequence[PictureFile],
    selection: Selection,
    error: BadRecord,
) -> Found:
    """Returns what ``detected`` does of pictures of which one cannot be used: the others have their regions."""
    if len(pictures) == 1:
        return [error]
    found: Found = []
    for place, picture in pictures.items():
        boxes = files[place].boxes
        try:
            found += detector([picture], selection, None if boxes is None else [boxes])
        except BadRecord as own:
            found.append(own)
    return found


_worker: dict[str, Any] = {}  # of a process that computes


def _start_worker(work: Work, places: Any, parent: int, threads: int) -> None:
    """Loads the detector in a process that computes; it ends with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when it is over
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was faster
        os.kill(os.getpid(), signal.SIGKILL)
    torch.set_num_threads(threads)
    _worker.update(detector=load_detector(work.source, places.get()), selection=work.selection)


def _compute(files: Sequence[PictureFile]) -> Found:
    return detected(_worker["detector"], files, _worker["selection"])
