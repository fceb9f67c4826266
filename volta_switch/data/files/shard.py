"""Writing shards of image-caption pairs from feature files of any format, resumable wherever it was interrupted.

While it is being written the folder's index.json says where things stand; it is replaced after every shard, so that a
killed run continues after the last whole one, and by the true index at the end.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal

from volta_switch.checksums import json_digest
from volta_switch.data.files.packing import (
    PackedRecord,
    Packing,
    PackingState,
    Result,
    open_sources,
    packing_plan,
)
from volta_switch.data.files.pair_files import FOLDERS, INDEX
from volta_switch.data.files.shard_index import (
    BLOCK,
    FORMAT,
    Shard,
    member_key,
    padded_length,
    read_index,
    shard_name,
)
from volta_switch.errors import UserError
from volta_switch.files import replacing, write_json

_UNFINISHED = f"{FORMAT}, unfinished"
_EVERY = 128  # records between two calls of progress


def shard(
    inputs: Sequence[str | Path],
    out: str | Path,
    split: Literal["train", "valid"],
    *,
    shard_size: int = 256 << 20,
    dtype: str = "float16",
    top_classes: int = 100,
    top_attributes: int = 16,
    max_bad_records: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the pairs of the inputs, one after the other, as shards in `<out>/training` or `<out>/validation`.

    shard_size: bytes; a shard ends with the pair that reaches them. The other options, the errors and how an
    interrupted run goes on are those of `repack`. Returns what the split's index.json says.
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
    result = Result(Path(out) / FOLDERS[split], "set of shards", "set of shards", INDEX, read_index)

    def write(folder: Path) -> dict[str, Any]:
        stored = _stored(folder)
        if stored is not None and stored["format"] == FORMAT:  # killed when all was written but the folder's name
            result.continued({"sources": stored["sources"], **stored["options"]}, plan)
            return stored
        state = PackingState(plan) if stored is None else PackingState(**stored["state"])
        shards = [] if stored is None else [Shard(**entry) for entry in stored["shards"]]
        result.continued(state.plan, plan)
        return _Shards(folder, Packing(sources, state, max_bad_records), shards).write(progress)

    return result.make(plan, write)


def _stored(folder: Path) -> dict[str, Any] | None:
    """Return where an interrupted run stood; None where there was none."""
    file = folder / INDEX
    if not file.exists():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        if stored["format"] not in (FORMAT, _UNFINISHED):
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
        """Write what is missing and return the index."""
        packed, state = iter(self._packing), self._packing.state
        while state.position < self._packing.total:
            first = next(packed, None)
            if first is not None:  # else there were bad records alone
                self._shards.append(self._write_shard(first, packed, progress))
            self._write_state()
            progress(state.position, self._packing.total)
        shards = [asdict(shard) for shard in self._shards]
        return {"format": FORMAT, "split": state.plan["split"], **self._packing.described(), "shards": shards}

    def _write_state(self) -> None:
        shards = [asdict(shard) for shard in self._shards]
        content = {"format": _UNFINISHED, "state": asdict(self._packing.state), "shards": shards}
        write_json(self._folder / INDEX, content | {"sha256": json_digest(content)})

    def _write_shard(
        self, first: PackedRecord, packed: Iterator[PackedRecord], progress: Callable[[int, int], None]
    ) -> Shard:
        """Write one shard that begins with a pair, taking the others as long as there is room."""
        path = self._folder / shard_name(len(self._shards))
        state, one, size = self._packing.state, first, 0
        with replacing(path) as temporary, temporary.open("wb") as file:
            hashed = _Hashed(file)
            with _tar_writer(hashed) as tar:
                while True:
                    caption = one.caption.encode()
                    tar.write({"__key__": member_key(one.place), "record": one.record, "txt": caption})
                    size += 2 * BLOCK + padded_length(len(one.record)) + padded_length(len(caption))
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
        """Write some bytes more."""
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)


def _tar_writer(file: _Hashed) -> Any:
    """Return WebDataset's writer, set so that the same pairs give the same bytes."""
    try:
        from webdataset import TarWriter
    except ImportError:
        raise UserError("webdataset is not installed; pip install 'volta-switch[stream]'") from None
    return TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False)
