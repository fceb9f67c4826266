"""Where pictures come from: a folder, a list, JSON lines or tar files; each with the id that its features get.

| given | pictures | id |
|---|---|---|
| a folder | all below it, by path; links are followed, ``.tar`` files looked into | the file's name; COCO's number |
| a ``.tar`` | its members | the same |
| a ``.jsonl`` | ``{"image": path, "id": ..., "boxes": [[x1, y1, x2, y2], ...]}`` a line | ``id``, else as above |
| any other text | a path a line | as above |

Paths in a list begin in its folder. What ends as a picture does and is none is refused, and never passed over.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from volta_switch.data.files.json_files import numbered_lines, read_json
from volta_switch.data.image_ids import id_text, image_key
from volta_switch.detector.pictures import SUFFIXES, is_picture
from volta_switch.errors import UserError, first_line, unknown_key
from volta_switch.files import parse_json, require_file
from volta_switch.ranges import shown

TAR = ".tar"
KEYS = ("image", "id", "boxes")  # of a line of JSON
_BLOCK = 1 << 16  # bytes


@dataclass(frozen=True)
class PictureFile:
    """One picture, not yet opened.

    Attributes:
        image_id: of its features.
        path: the file, or the tar in which it is a member.
        member: its name there; "" for a file of its own.
        offset, size: bytes, of a member.
        boxes: (n, 4), pixels, where they are given.
        sha256: of its bytes, as ``digest`` found it; None where nobody looked.
    """

    image_id: str
    path: Path
    member: str = ""
    offset: int = 0
    size: int = 0
    boxes: np.ndarray | None = None
    sha256: str | None = None

    @property
    def name(self) -> str:
        """What errors call it."""
        return f"{self.path}, member {self.member}" if self.member else str(self.path)

    def content(self) -> bytes:
        """Returns the picture's bytes; raises OSError where they cannot be read."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size) if self.member else file.read()

    def digest(self) -> str:
        """Returns the SHA-256 of the picture's bytes; "" where they cannot be read, as the detector's run will say."""
        try:
            return hashlib.sha256(self.content()).hexdigest()
        except OSError:
            return ""


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
        """Returns the part ``number`` of ``count``, counted from 1; all parts one after the other are the whole.

        Raises:
            UserError: there are more parts than pictures.
        """
        if count > len(self.files):
            raise UserError(
                f"--part {number}/{count}: {self.source} has {len(self.files)} pictures; give no more parts than that"
            )
        first, last = ((number - 1) * len(self.files) // count, number * len(self.files) // count)
        return Pictures(self.source, self.files[first:last], f"{number}/{count}")

    def with_digests(self) -> Pictures:
        """Returns the same, each with its SHA-256: all of them are read."""
        shown = tqdm(self.files, desc="reading the pictures", unit="picture", leave=False, disable=None)
        return replace(self, files=tuple(replace(file, sha256=file.digest()) for file in shown))

    def fingerprint(self) -> dict[str, Any]:
        """Says which pictures these are: ids, boxes, and the SHA-256 of what each file holds (``with_digests``)."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(repr((file.image_id, file.path.name, file.member, file.sha256)).encode())
            if file.boxes is not None:
                digest.update(np.ascontiguousarray(file.boxes).tobytes())
        found = {"format": "pictures", "records": len(self.files), "fingerprint": digest.hexdigest()}
        return {**found, "name": self.source.name, **({"part": self.part} if self.part else {})}


def find_pictures(source: str | Path, boxes: str | Path | None = None) -> Pictures:
    """Returns the pictures of a folder, list or tar; ``boxes``: a file that ``read_boxes`` reads.

    Raises:
        UserError: there are none, two have one id, a file is not there or cannot be a picture, a tar is not whole, a
            line has a key that nothing reads, or a file has no boxes where these are given, or two kinds of them.
    """
    source = Path(source)
    files = tuple(_found(source))
    if not files:
        raise UserError(f"{source}: no pictures; expected files that end in {', '.join(SUFFIXES)}, or in {TAR}")
    seen: dict[str, PictureFile] = {}
    for file in files:
        _refuse_strange_id(file)
        if other := seen.get(file.image_id):
            raise UserError(
                f"{file.name} and {other.name} would both be image {file.image_id!r}; give each an id of its own in a "
                '.jsonl: {"image": path, "id": ...}'
            )
        seen[file.image_id] = file
    if boxes is not None:
        if own := next((file for file in files if file.boxes is not None), None):
            raise UserError(
                f"{source}: {own.name} has boxes of its own, and --boxes {boxes} gives others; leave one out"
            )
        files = tuple(_with_boxes(files, read_boxes(boxes), boxes))
    elif any(file.boxes is not None for file in files):
        bare = next((file for file in files if file.boxes is None), None)
        if bare is not None:
            raise UserError(f"{source}: {bare.name} has no boxes, others have; give boxes for all of them, or for none")
    return Pictures(source, files)


def _refuse_strange_id(file: PictureFile) -> None:
    try:
        fine = bool(file.image_id.encode())
    except UnicodeEncodeError:  # a file's name that is not UTF-8
        fine = False
    if not fine:
        raise UserError(
            f"{file.name!r}: {file.image_id!r} cannot be an image's id; name the pictures in a .jsonl: "
            '{"image": path, "id": ...}'
        )


def _found(source: Path) -> Iterator[PictureFile]:
    if source.is_dir():
        for path in sorted(_below(source)):
            if path.suffix.lower() == TAR:
                yield from _members(path)
            else:
                yield _file(path, "move it away, or make it a picture")
        return
    require_file(source, "folder, list or tar of pictures", "check the path")
    if source.suffix.lower() == TAR:
        yield from _members(source)
    elif is_picture(source):
        yield _file(source, "check the path")
    elif source.suffix == ".jsonl":
        yield from _lines(source)
    else:
        yield from _listed(source)


def _below(folder: Path) -> Iterator[Path]:
    """Yields what ends as pictures and tar files do; each folder once, however many links lead to it."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be looked into ({error.strerror}); check its permissions") from None

    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        folders.sort()  # of several links to one folder always the same is followed
        about = os.stat(place)
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        for name in names:
            path = Path(place, name)
            if is_picture(path) or path.suffix.lower() == TAR:
                yield path


def _file(path: Path, advice: str, image_id: str | None = None) -> PictureFile:
    require_file(path, "picture", advice)
    return PictureFile(image_key(path.stem) if image_id is None else image_id, path)


def _members(path: Path) -> Iterator[PictureFile]:
    require_file(path, "tar file", "check the path")
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = Path(member.name)
                if not is_picture(name) or member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    kind = "packed with holes" if member.issparse() else "a link, pipe or device"
                    raise UserError(
                        f"{path}: member {member.name} is {kind}, not a whole picture; pack the tar with the files "
                        "themselves (tar --dereference --hard-dereference, without --sparse)"
                    )
                yield PictureFile(image_key(name.stem), path, member.name, member.offset_data, member.size)
            _require_end(path, tar.offset)
    except (tarfile.TarError, OSError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path}: not one whole tar without compression ({reason}); copy it again, or give what it holds as files"
        ) from None


def _require_end(path: Path, offset: int) -> None:
    """Raises ReadError unless nothing but zeros follow a tar's last member: a damaged header reads as the end."""
    if path.stat().st_size < offset + tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without an end mark, as one that is cut off")
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            if block.strip(b"\0"):
                raise tarfile.ReadError(f"from byte {offset} on it is damaged, or another tar was joined to it")


def _listed(source: Path) -> Iterator[PictureFile]:
    try:
        lines = list(numbered_lines(source))
    except UserError as error:
        raise UserError(f"{error}; expected a folder, a {TAR}, a .jsonl, or a text with a path a line") from None
    for number, line in lines:
        yield _file(source.parent / line.strip(), f"check {source}, line {number}")


def _lines(source: Path) -> Iterator[PictureFile]:
    for number, text in numbered_lines(source):
        where = f"{source}, line {number}"
        try:
            line = parse_json(text)
            if not isinstance(line, dict) or not isinstance(line.get("image"), str):
                raise ValueError('expected an object with "image", the path of a picture')
            for key in line.keys() - set(KEYS):
                raise ValueError(unknown_key(key, KEYS))
            image_id = id_text(line["id"]) if line.get("id") is not None else None
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: {error}; repair or remove it") from None
        file = _file(source.parent / line["image"], f"check {where}", image_id)
        yield file if line.get("boxes") is None else replace(file, boxes=_boxes(line["boxes"], where))


def read_boxes(path: str | Path) -> dict[str, np.ndarray]:
    """Returns boxes (n, 4) by image id: x1, y1, x2, y2 in pixels.

    The file is JSON: ``{id: [[x1, y1, x2, y2], ...]}``; or COCO's, as RefCOCO's ``instances.json``, whose annotations
    have ``image_id`` and ``bbox``, x, y, width and height; or a list of such, as VOLTA's detections for RefCOCO, which
    call it ``box``.

    Raises:
        UserError: it is none of them.
    """
    content = read_json(path, unique=True)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if isinstance(content, dict):
        listed: dict[str, np.ndarray] = {}
        for key, value in content.items():
            if image_key(key) in listed:
                raise UserError(
                    f"{path}: boxes of image {image_key(key)!r} stand there twice, also as {key!r}; keep one"
                )
            listed[image_key(key)] = _boxes(value, f"{path}, image {key!r:.60}")
        return listed
    if not isinstance(content, list):
        raise UserError(f"{path}: expected {{image id: boxes}}, or COCO's annotations")
    found: dict[str, list[list[float]]] = {}
    for number, entry in enumerate(content, start=1):
        where = f"{path}, annotation {number}"
        box = entry.get("bbox", entry.get("box")) if isinstance(entry, Mapping) else None
        if box is None or entry.get("image_id") is None:
            raise UserError(f"{where}: expected image_id and bbox, which is x, y, width, height")
        if not _is_box(box):
            raise UserError(f"{where}: the box is {shown(box)}; expected x, y, width, height in pixels")
        x, y, width, height = box
        try:
            found.setdefault(id_text(entry["image_id"]), []).append([x, y, x + width, y + height])
        except TypeError as error:
            raise UserError(f"{where}: {error}") from None
    return {key: np.array(boxes, np.float32) for key, boxes in found.items()}


def _boxes(value: Any, where: str) -> np.ndarray:
    """Returns boxes as an array (n, 4); whether they are of their picture the detector says, which knows its size."""
    if not isinstance(value, list):
        raise UserError(f"{where}: boxes are {shown(value)}; expected a list of boxes, x1, y1, x2, y2 in pixels")
    for number, box in enumerate(value, start=1):
        if not _is_box(box):
            raise UserError(f"{where}: box {number} is {shown(box)}; expected x1, y1, x2, y2 in pixels")
    return np.array(value, np.float32).reshape(-1, 4)


def _is_box(value: Any) -> bool:
    """Returns whether a value is a list of four finite numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return False
    return all(isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e9 for each in value)


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
