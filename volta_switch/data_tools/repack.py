"""Writing feature files of any format anew, as one compact store or as shards, resumable wherever it was interrupted.

A compact store: every transaction writes one block of records with its checksum and where things stand, so that a
killed run continues at the last whole block.

Shards: while they are being written the folder's index.json says where things stand; it is replaced after every shard,
so that a killed run continues after the last whole one, and by the true index at the end.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from volta_switch.checksums import json_digest
from volta_switch.data.files.lmdb_environment import Writer
from volta_switch.data.files.pair_files import FOLDERS, INDEX, Split
from volta_switch.data.files.shard_cache import Shard
from volta_switch.data.formats import compact
from volta_switch.data.formats import shards as shard_format
from volta_switch.data.formats.shards import member_key, padded_length, shard_name
from volta_switch.data_tools.packing import (
    PackedRecord,
    Packing,
    PackingState,
    Result,
    Source,
    open_sources,
    packing_plan,
)
from volta_switch.errors import UserError
from volta_switch.files import replacing, write_json

_STATE = b"state"
_PLACE_BYTES = 8
_UNFINISHED = f"{shard_format.VERSION}, unfinished"
_EVERY = 128  # records between two calls of progress


def repack(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    dtype: str = "float16",
    top_classes: int = 100,
    top_attributes: int = 16,
    max_bad_records: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the records of the inputs, one after the other, as one compact store; returns its manifest.

    The store appears whole, at the end. Where ``out`` already is the result, nothing is written.

    Args:
        inputs: feature files of one kind (images of tasks, or image-caption pairs), all from one detector.
        out: the store's folder.
        dtype: "float16" or "float32", of features and kept scores.
        top_classes, top_attributes: scores kept of each region.
        max_bad_records: records that cannot be read or stored (other widths, numbers not finite) and are left out; each
            is named on stderr and in the manifest.
        progress: called with (records read, records in all) after every block.

    Raises:
        UserError: inputs are missing or have an image in common; there are more bad records than allowed; ``out`` holds
            anything else, or an unfinished store of other inputs or options, or another process is writing it; the disk
            is full. The same call then resumes after the last whole block.
    """
    sources = open_sources(inputs)
    plan = packing_plan(sources, dtype, top_classes, top_attributes)
    return write_store(sources, Path(out), plan, max_bad_records, progress)


def write_store(
    sources: Sequence[Source],
    out: Path,
    plan: dict[str, Any],
    max_bad_records: int,
    progress: Callable[[int, int], None],
    seconds: float = math.inf,
) -> dict[str, Any]:
    """Writes the records of some sources as a compact store; returns its manifest.

    Args:
        sources: their records, one after the other.
        out, max_bad_records, progress: as in ``repack``, as are the errors.
        plan: what decides the result: an unfinished store of another plan is not continued.
        seconds: after which what is there is made safe, in the middle of a block, too.
    """
    result = Result(out, "store", "compact store", compact.MANIFEST, compact.read_manifest)

    def write(folder: Path) -> dict[str, Any]:
        writer = Writer(folder / "data.mdb", durable=True)
        try:
            stored = writer.get(_STATE)
            state = PackingState(plan) if stored is None else _state(stored, folder)
            result.continued(state.plan, plan)
            return _Blocks(writer, Packing(sources, state, max_bad_records), seconds).write(progress)
        finally:
            writer.env.close()

    return result.make(plan, write)


def _state(stored: bytes, folder: Path) -> PackingState:
    """Returns where an interrupted run stood; raises UserError where that cannot be known."""
    try:
        values = json.loads(stored)
        digest = values.pop("sha256", None)  # earlier versions had none
        if digest is not None and digest != json_digest(values):
            raise ValueError("its checksum is not its content's")
        return PackingState(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder}: not an unfinished store ({error}); delete it to start anew") from None


class _Blocks:
    """One run over an unfinished store."""

    def __init__(self, writer: Writer, packing: Packing, seconds: float) -> None:
        self._writer = writer
        self._packing = packing
        self._seconds = seconds

    def write(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Writes what is missing and returns the manifest."""
        packed, state = iter(self._packing), self._packing.state
        while state.position < self._packing.total:
            self._write_some(packed)
            progress(state.position, self._packing.total)
        return self._manifest()

    def _write_some(self, packed: Iterator[PackedRecord]) -> None:
        """Writes the records that are missing of a block or, if its time is up before, some of them."""
        state, begun = self._packing.state, time.monotonic()
        for one in packed:
            self._writer.put(compact.record_key(one.place), one.record)
            if one.source.kind == "images":
                self._remember_image(one)
            if state.records % compact.BLOCK == 0 or time.monotonic() - begun > self._seconds:
                break
        whole = state.records % compact.BLOCK == 0 or state.position == self._packing.total
        if whole and state.records:
            block = (state.records - 1) // compact.BLOCK
            self._writer.put(compact.block_key(block), self._digest(block, state.records))
        self._writer.put(_STATE, json.dumps({**asdict(state), "sha256": json_digest(asdict(state))}).encode())
        self._writer.commit()

    def _digest(self, block: int, end: int) -> bytes:
        """Returns the checksum of a block's records, which earlier runs may have written; ``end``: of all records."""
        digest = hashlib.sha256()
        for place in range(block * compact.BLOCK, min((block + 1) * compact.BLOCK, end)):
            digest.update(self._writer.get(compact.record_key(place)) or b"")
        return digest.digest()

    def _remember_image(self, one: PackedRecord) -> None:
        key = compact.image_key(one.regions.image_id)
        if self._writer.get(key) is not None:
            raise UserError(
                f"{one.source.path}: image {one.regions.image_id!r} stands in another input too, or twice; "
                "leave one of them out"
            )
        self._writer.put(key, one.place.to_bytes(_PLACE_BYTES, "big"))

    def _manifest(self) -> dict[str, Any]:
        root = hashlib.sha256()
        for block in range(-(-self._packing.state.records // compact.BLOCK)):
            root.update(self._writer.get(compact.block_key(block)) or b"")
        return {"format": compact.VERSION, **self._packing.described(), "sha256": root.hexdigest()}


def shard(
    inputs: Sequence[str | Path],
    out: str | Path,
    split: Split,
    *,
    shard_size: int = 256 << 20,
    dtype: str = "float16",
    top_classes: int = 100,
    top_attributes: int = 16,
    max_bad_records: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the pairs of the inputs, one after the other, as shards in ``<out>/training`` or ``<out>/validation``.

    Args:
        inputs: files of image-caption pairs, all from one detector.
        out: the folder in which the split's is made.
        split: what the pairs are for.
        shard_size: bytes; a shard ends with the pair that reaches them.
        dtype, top_classes, top_attributes, max_bad_records, progress: as in ``repack``, as are the errors and how an
            interrupted run is resumed.

    Returns:
        What the split's index.json says.
    """
    sources = open_sources(inputs)
    for source in sources:
        if source.kind != "pairs":
            raise UserError(
                f"{source.path}: holds images of a task, shards hold image-caption pairs; add captions first "
                "(volta-switch data convert --to concap --captions FILE)"
            )
    if shard_size < 1:
        raise UserError("--shard-size: expected 1 MiB or more")
    plan = packing_plan(sources, dtype, top_classes, top_attributes)
    plan |= {"split": FOLDERS[split], "shard_size": shard_size}
    result = Result(Path(out) / FOLDERS[split], "set of shards", "set of shards", INDEX, shard_format.read_index)

    def write(folder: Path) -> dict[str, Any]:
        stored = _stored(folder)
        if stored is not None and stored["format"] == shard_format.VERSION:  # killed before the folder got its name
            result.continued({"sources": stored["sources"], **stored["options"]}, plan)
            return stored
        state = PackingState(plan) if stored is None else PackingState(**stored["state"])
        written = [] if stored is None else [Shard(**entry) for entry in stored["shards"]]
        result.continued(state.plan, plan)
        return _Shards(folder, Packing(sources, state, max_bad_records), written).write(progress)

    return result.make(plan, write)


def _stored(folder: Path) -> dict[str, Any] | None:
    """Returns where an interrupted run stood; None where there was none."""
    file = folder / INDEX
    if not file.exists():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["format"] not in (shard_format.VERSION, _UNFINISHED):
            raise ValueError(stored["format"])
        digest = stored.pop("sha256", None)  # earlier versions had none
        if digest is not None and digest != json_digest(stored):
            raise ValueError("its checksum is not its content's")
        for entry in stored["shards"]:
            if (folder / entry["name"]).stat().st_size != entry["bytes"]:
                raise ValueError(f"{entry['name']} has another size")
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{folder}: not an unfinished set of shards ({error}); delete it to start anew") from None
    return stored


class _Shards:
    """One run over an unfinished set of shards."""

    def __init__(self, folder: Path, packing: Packing, shards: list[Shard]) -> None:
        self._folder = folder
        self._packing = packing
        self._shards = shards

    def write(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Writes what is missing and returns the index."""
        packed, state = iter(self._packing), self._packing.state
        while state.position < self._packing.total:
            first = next(packed, None)
            if first is not None:  # else there were bad records alone
                self._shards.append(self._write_shard(first, packed, progress))
            self._write_state()
            progress(state.position, self._packing.total)
        shards = [asdict(shard) for shard in self._shards]
        return {
            "format": shard_format.VERSION,
            "split": state.plan["split"],
            **self._packing.described(),
            "shards": shards,
        }

    def _write_state(self) -> None:
        shards = [asdict(shard) for shard in self._shards]
        content = {"format": _UNFINISHED, "state": asdict(self._packing.state), "shards": shards}
        write_json(self._folder / INDEX, content | {"sha256": json_digest(content)})

    def _write_shard(
        self, first: PackedRecord, packed: Iterator[PackedRecord], progress: Callable[[int, int], None]
    ) -> Shard:
        """Writes one shard that begins with a pair, taking the others as long as there is room."""
        path = self._folder / shard_name(len(self._shards))
        state, one, size = self._packing.state, first, 0
        with replacing(path) as temporary, temporary.open("wb") as file:
            hashed = _Hashed(file)
            with _tar_writer(hashed) as tar:
                while True:
                    caption = one.caption.encode()
                    tar.write({"__key__": member_key(one.place), "record": one.record, "txt": caption})
                    size += 2 * shard_format.BLOCK + padded_length(len(one.record)) + padded_length(len(caption))
                    if state.records % _EVERY == 0:
                        progress(state.position, self._packing.total)
                    following = None if size >= state.plan["shard_size"] else next(packed, None)
                    if following is None:
                        break
                    one = following
        return Shard(path.name, one.place - first.place + 1, hashed.bytes, hashed.digest.hexdigest())


class _Hashed:
    """A file that knows the checksum of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        """Writes some bytes more."""
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)


def _tar_writer(file: _Hashed) -> Any:
    """Returns WebDataset's writer, set so that the same pairs give the same bytes."""
    try:
        from webdataset import TarWriter
    except ImportError:
        raise UserError("webdataset is not installed; pip install 'volta-switch[stream]'") from None
    return TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False)
