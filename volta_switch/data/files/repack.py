"""Writing a compact store from feature files of any format, resumable wherever it was interrupted.

Every transaction writes one block of records with its checksum and where things stand, so that a killed run continues
at the last whole block.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from volta_switch.checksums import json_digest
from volta_switch.data.files.compact_store import (
    BLOCK,
    FORMAT,
    MANIFEST,
    block_key,
    image_key,
    read_manifest,
    record_key,
)
from volta_switch.data.files.lmdb_environment import Writer
from volta_switch.data.files.packing import (
    PackedRecord,
    Packing,
    PackingState,
    Result,
    open_sources,
    packing_plan,
)
from volta_switch.errors import UserError

_STATE = b"state"
_PLACE_BYTES = 8


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
    """Write the records of the inputs, one after the other, as one compact store; returns its manifest.

    inputs: feature files of one kind (images of tasks, or image-caption pairs), all from one detector.
    dtype: "float16" or "float32", of features and kept scores. top_classes, top_attributes: scores kept of each region.
    max_bad_records: records that cannot be read or stored (other widths, numbers not finite) and are left out; each is
    named on stderr and in the manifest. progress: called with (records read, records in all) after every block.
    The store appears whole, at the end. Where `out` already is the result, nothing is written. Raises UserError for
    inputs that are missing or with an image in common, for more bad records than allowed, for an `out` that holds
    anything else, for an unfinished store of other inputs or options, or that another process is writing, and where
    the disk is full; the same call then goes on from the last whole block.
    """
    sources = open_sources(inputs)
    plan = packing_plan(sources, dtype, top_classes, top_attributes)
    result = Result(Path(out), "store", "compact store", MANIFEST, read_manifest)

    def write(folder: Path) -> dict[str, Any]:
        writer = Writer(folder / "data.mdb", durable=True)
        try:
            stored = writer.get(_STATE)
            state = PackingState(plan) if stored is None else _state(stored, folder)
            result.continued(state.plan, plan)
            return _Blocks(writer, Packing(sources, state, max_bad_records)).write(progress)
        finally:
            writer.env.close()

    return result.make(plan, write)


def _state(stored: bytes, folder: Path) -> PackingState:
    """Where an interrupted run stood; raises UserError where that cannot be known."""
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

    def __init__(self, writer: Writer, packing: Packing) -> None:
        self._writer = writer
        self._packing = packing

    def write(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Write what is missing and return the manifest."""
        packed, state = iter(self._packing), self._packing.state
        while state.position < self._packing.total:
            self._write_block(packed)
            progress(state.position, self._packing.total)
        return self._manifest()

    def _write_block(self, packed: Iterator[PackedRecord]) -> None:
        state, digest = self._packing.state, hashlib.sha256()
        first = state.records
        for one in packed:
            digest.update(one.record)
            self._writer.put(record_key(one.place), one.record)
            if one.source.kind == "images":
                self._remember_image(one)
            if state.records % BLOCK == 0:
                break
        if state.records > first:  # after the last whole block there may be bad records alone
            self._writer.put(block_key(first // BLOCK), digest.digest())
        self._writer.put(_STATE, json.dumps({**asdict(state), "sha256": json_digest(asdict(state))}).encode())
        self._writer.commit()

    def _remember_image(self, one: PackedRecord) -> None:
        key = image_key(one.regions.image_id)
        if self._writer.get(key) is not None:
            raise UserError(
                f"{one.source.path}: image {one.regions.image_id!r} stands in another input too, or twice; "
                "leave one of them out"
            )
        self._writer.put(key, one.place.to_bytes(_PLACE_BYTES, "big"))

    def _manifest(self) -> dict[str, Any]:
        root = hashlib.sha256()
        for block in range(-(-self._packing.state.records // BLOCK)):
            root.update(self._writer.get(block_key(block)) or b"")
        return {"format": FORMAT, **self._packing.described(), "sha256": root.hexdigest()}
