"""Where pictures come from: a folder, a list, JSON lines or tar files; each with the id that its features get.

| given | pictures | id |
|---|---|---|
| a folder | all below it, in the order of their paths; in ``.tar`` files, too | the file's name; COCO's number |
| a ``.tar`` | its members | the same |
| a ``.jsonl`` | ``{"image": path, "id": ..., "boxes": [[x1, y1, x2, y2], ...]}`` a line | ``id``, else as above |
| any other text | a path a line | as above |

Paths in a list begin in its folder.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.files.json_files import read_json, read_json_lines
from volta_switch.data.image_ids import id_text, image_key
from volta_switch.detector.pictures import SUFFIXES, is_picture
from volta_switch.errors import UserError, first_line

TAR = ".tar"
_LISTS = (".txt", ".lst", ".list")
_CORNERS = "expected x1, y1, x2, y2 in pixels for each box"


@dataclass(frozen=True)
class PictureFile:
    """One picture, not yet opened.

    Attributes:
        image_id: of its features.
        path: the file, or the tar in which it is a member.
        member: its name there; "" for a file of its own.
        offset, size: bytes; of a file of its own the offset is 0.
        boxes: (n, 4), pixels, where they are given.
    """

    image_id: str
    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0
    boxes: np.ndarray | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.path}, member {self.member}" if self.member else str(self.path)

    def content(self) -> Path | bytes:
        """Returns the file, or what the tar holds of the member."""
        if not self.member:
            return self.path
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True)
class Pictures:
    """Pictures in an order that is always the same.

    Attributes:
        source: what was given.
        files: of the whole source, or a part.
        part: "" or "2/8": which part.
    """

    source: Path
    files: tuple[PictureFile, ...]
    part: str = ""

    def share(self, number: int, count: int) -> Pictures:
        """Returns the part ``number`` of ``count``, counted from 1; all parts one after the other are the whole."""
        first, last = ((number - 1) * len(self.files) // count, number * len(self.files) // count)
        return Pictures(self.source, self.files[first:last], f"{number}/{count}")

    def fingerprint(self) -> dict[str, Any]:
        """Says which pictures these are: ids, names, sizes and boxes, not what the files hold."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(repr((file.image_id, file.path.name, file.member, file.size)).encode())
            if file.boxes is not None:
                digest.update(np.ascontiguousarray(file.boxes).tobytes())
        found = {"format": "pictures", "records": len(self.files), "fingerprint": digest.hexdigest()}
        return {**found, "name": self.source.name, **({"part": self.part} if self.part else {})}


def find_pictures(source: str | Path, boxes: str | Path | None = None) -> Pictures:
    """Returns the pictures of a folder, list or tar; ``boxes``: a file that ``read_boxes`` reads.

    Raises:
        UserError: there are none, two have one id, a file is not there, or has no boxes where these are given.
    """
    source = Path(source)
    files = tuple(_found(source))
    if not files:
        raise UserError(f"{source}: no pictures; expected files that end in {', '.join(SUFFIXES)}, or in {TAR}")
    seen: dict[str, PictureFile] = {}
    for file in files:
        if other := seen.get(file.image_id):
            raise UserError(
                f"{file.name} and {other.name} would both be image {file.image_id!r}; give each an id of its own in a "
                '.jsonl: {"image": path, "id": ...}'
            )
        seen[file.image_id] = file
    if boxes is not None:
        files = tuple(_with_boxes(files, read_boxes(boxes), boxes))
    elif any(file.boxes is not None for file in files):
        bare = next((file for file in files if file.boxes is None), None)
        if bare is not None:
            raise UserError(f"{source}: {bare.name} has no boxes, others have; give boxes for all of them, or for none")
    return Pictures(source, files)


def _found(source: Path) -> Iterator[PictureFile]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() == TAR:
                yield from _members(path)
            elif is_picture(path):
                yield _file(path)
    elif not source.is_file():
        raise UserError(f"{source}: no such folder, list or tar of pictures; check the path")
    elif source.suffix.lower() == TAR:
        yield from _members(source)
    elif source.suffix.lower() in SUFFIXES:
        yield _file(source)
    elif source.suffix == ".jsonl":
        yield from _lines(source)
    else:
        yield from _listed(source)


def _file(path: Path, image_id: str | None = None) -> PictureFile:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: no picture there ({error.strerror}); check the list") from None
    return PictureFile(image_key(path.stem) if image_id is None else image_id, path, size=size)


def _members(path: Path) -> Iterator[PictureFile]:
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = Path(member.name)
                if member.isreg() and name.suffix.lower() in SUFFIXES:
                    yield PictureFile(image_key(name.stem), path, member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a whole tar without compression ({reason}); copy or unpack it") from None


def _listed(source: Path) -> Iterator[PictureFile]:
    try:
        lines = source.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        expected = f"a folder, a {TAR}, a .jsonl, or a text with a path a line"
        raise UserError(f"{source}: neither text nor a picture's suffix; expected {expected}") from None
    for line in lines:
        if line.strip():
            yield _file(source.parent / line.strip())


def _lines(source: Path) -> Iterator[PictureFile]:
    for number, line in enumerate(read_json_lines(source), start=1):
        where = f"{source}, picture {number}"
        if not isinstance(line, dict) or not isinstance(line.get("image"), str):
            raise UserError(f'{where}: expected an object with "image", the path of a picture')
        try:
            image_id = id_text(line["id"]) if line.get("id") is not None else None
        except (TypeError, UnicodeDecodeError) as error:
            raise UserError(f"{where}: {error}") from None
        file = _file(source.parent / line["image"], image_id)
        yield file if line.get("boxes") is None else replace(file, boxes=_boxes(line["boxes"], where))


def read_boxes(path: str | Path) -> dict[str, np.ndarray]:
    """Returns boxes (n, 4) by image id: x1, y1, x2, y2 in pixels.

    The file is JSON: ``{id: [[x1, y1, x2, y2], ...]}``; or COCO's, as RefCOCO's ``instances.json``, whose annotations
    have ``image_id`` and ``bbox``, x, y, width and height; or a list of such, as VOLTA's detections for RefCOCO, which
    call it ``box``.

    Raises:
        UserError: it is none of them.
    """
    content = read_json(path)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if isinstance(content, dict):
        return {image_key(key): _boxes(value, f"{path}, image {key!r:.60}") for key, value in content.items()}
    if not isinstance(content, list):
        raise UserError(f"{path}: expected {{image id: boxes}}, or COCO's annotations")
    found: dict[str, list[list[float]]] = {}
    for number, entry in enumerate(content, start=1):
        where = f"{path}, annotation {number}"
        box = entry.get("bbox", entry.get("box")) if isinstance(entry, Mapping) else None
        if box is None or entry.get("image_id") is None:
            raise UserError(f"{where}: expected image_id and bbox, which is x, y, width, height")
        x, y, width, height = _boxes([box], where)[0].tolist()
        try:
            found.setdefault(id_text(entry["image_id"]), []).append([x, y, x + width, y + height])
        except TypeError as error:
            raise UserError(f"{where}: {error}") from None
    return {key: np.array(boxes, np.float32) for key, boxes in found.items()}


def _boxes(value: Any, where: str) -> np.ndarray:
    try:
        boxes = np.array(value, dtype=np.float32).reshape(-1, 4) if len(value) else np.empty((0, 4), np.float32)
        if not np.isfinite(boxes).all() or len(boxes) != len(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where}: {_CORNERS}") from None
    return boxes


def _with_boxes(
    files: Iterable[PictureFile], boxes: Mapping[str, np.ndarray], source: str | Path
) -> Iterator[PictureFile]:
    for file in files:
        if file.image_id not in boxes:
            raise UserError(
                f"{source}: no boxes of image {file.image_id!r} ({file.name}); give a list of the pictures that have "
                "some, a path a line"
            )
        yield replace(file, boxes=boxes[file.image_id])
