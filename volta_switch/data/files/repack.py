"""Writing a compact store from feature files of any format, resumable wherever it was interrupted.

The unfinished store is a directory beside the result, `<name>.unfinished`. Every transaction writes one block of
records with its checksum and where things stand, so that a killed run continues at the last whole block, and what
comes out does not depend on how often it was interrupted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.bad_records import BadRecords
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout
from volta_switch.data.files.compact_store import (
    BLOCK,
    FORMAT,
    LONGEST_ID,
    MANIFEST,
    block_key,
    image_key,
    is_compact,
    read_manifest,
    record_key,
)
from volta_switch.data.files.lmdb_environment import Writer
from volta_switch.data.files.record_source import RecordSource, open_source
from volta_switch.data.regions import Regions, TopScores
from volta_switch.errors import BadRecord, UserError
from volta_switch.files import remove_unfinished, write_json

_STATE = b"state"
_PLACE_BYTES = 8
_LOCK = "lock"


@dataclass
class _State:
    """Where a repacking stands, in the unfinished store itself."""

    plan: dict[str, Any]  # sources and options: a continuation must have the same
    position: int = 0  # records of the sources that were read
    records: int = 0  # and written
    passed_over: list[str] = field(default_factory=list)  # what was wrong with the others
    regions: int = 0
    layout: dict[str, Any] | None = None
    losses: dict[str, float] = field(default_factory=dict)


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
    out = Path(out)
    sources = [open_source(path) for path in inputs]
    plan = _plan(sources, dtype, top_classes, top_attributes)
    if out.exists():
        return _already_there(out, plan)
    unfinished = out.with_name(f"{out.name}.unfinished")
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        with _alone(unfinished):
            if out.exists():  # another process has just finished it
                (unfinished / _LOCK).unlink(missing_ok=True)
                unfinished.rmdir()
                return _already_there(out, plan)
            remove_unfinished(unfinished)
            manifest = _Repacking(unfinished, plan, sources, max_bad_records).run(progress)
            write_json(unfinished / MANIFEST, manifest)
            os.replace(unfinished, out)  # with the lock in it: until here nobody else may write
            (out / _LOCK).unlink()
    except OSError as error:
        raise UserError(
            f"{error.filename or unfinished}: cannot be written ({error.strerror}); give the command again when it can"
        ) from error
    return manifest


class _Repacking:
    """One run over an unfinished store."""

    def __init__(self, folder: Path, plan: dict[str, Any], sources: list[RecordSource], max_bad_records: int) -> None:
        self._sources = sources
        self._total = sum(map(len, sources))
        self._writer = Writer(folder / "data.mdb", durable=True)
        stored = self._writer.get(_STATE)
        self._state = _State(plan) if stored is None else _State(**json.loads(stored))
        if self._state.plan != plan:
            self._writer.env.close()
            raise UserError(
                f"{folder}: an unfinished store of other inputs or options ({_difference(self._state.plan, plan)}); "
                "give the same as before, delete it to start anew, or give another OUT"
            )

        self._bad_records = BadRecords(max_bad_records, self._state.passed_over)

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Write what is missing and return the manifest."""
        try:
            if self._state.layout is None:
                self._state.layout = self._first_layout().to_dict()
            self._codec = RecordCodec(RecordLayout(**self._state.layout))
            records = self._from(self._state.position)
            while self._state.position < self._total:
                self._write_block(records)
                progress(self._state.position, self._total)
            return self._manifest()
        finally:
            self._writer.env.close()

    def _from(self, place: int) -> Iterator[tuple[RecordSource, int]]:
        """Go through all records from a place on, as source and place in it."""
        for source in self._sources:
            for own in range(place, len(source)):
                yield source, own
            place = max(place - len(source), 0)

    def _first_layout(self) -> RecordLayout:
        """Return the layout of the first good record that has regions: only they say how wide they are."""
        plan, empty, first_error = self._state.plan, None, ""
        for source, own in self._from(0):
            try:
                regions, _ = _good(source, own)
                layout = RecordLayout.of(regions, plan["dtype"], plan["top_classes"], plan["top_attributes"])
            except (BadRecord, ValueError) as error:
                first_error = first_error or str(error)
                continue
            if len(regions):
                return layout
            empty = empty or layout
        if empty is None:
            raise UserError(f"{first_error}; no record can be used")
        return empty

    def _write_block(self, records: Iterator[tuple[RecordSource, int]]) -> None:
        state, digest = self._state, hashlib.sha256()
        first = state.records
        for source, own in records:
            state.position += 1
            try:
                regions, caption = _good(source, own)
                record = _encoded(self._codec, regions, caption, source, own)
            except BadRecord as error:
                self._bad_records.pass_over(str(error))
                state.passed_over = list(self._bad_records)
                continue
            digest.update(record)
            self._writer.put(record_key(state.records), record)
            if source.kind == "images":
                self._remember_image(regions.image_id, source)
            _add_losses(state.losses, regions, self._codec.decode(record)[0])
            state.records += 1
            state.regions += len(regions)
            if state.records % BLOCK == 0:
                break
        if state.records > first:  # after the last whole block there may be bad records alone
            self._writer.put(block_key(first // BLOCK), digest.digest())
        self._writer.put(_STATE, json.dumps(asdict(state)).encode())
        self._writer.commit()

    def _remember_image(self, image_id: str, source: RecordSource) -> None:
        key = image_key(image_id)
        if self._writer.get(key) is not None:
            raise UserError(
                f"{source.path}: image {image_id!r} stands in another input too, or twice; leave one of them out"
            )
        self._writer.put(key, self._state.records.to_bytes(_PLACE_BYTES, "big"))

    def _manifest(self) -> dict[str, Any]:
        state = self._state
        root = hashlib.sha256()
        for block in range(-(-state.records // BLOCK)):
            root.update(self._writer.get(block_key(block)) or b"")
        return {
            "format": FORMAT,
            "kind": self._sources[0].kind,
            "records": state.records,
            "regions": state.regions,
            "layout": state.layout,
            "sha256": root.hexdigest(),
            "sources": state.plan["sources"],
            "options": {name: value for name, value in state.plan.items() if name != "sources"},
            "losses": _means(state.losses),
            "passed_over": state.passed_over,
        }


def _good(source: RecordSource, own: int) -> tuple[Regions, str]:
    """Read a record of a source; raises BadRecord where it cannot be used."""
    regions, caption = source[own]
    try:
        regions.check()
        if source.kind == "images" and not 0 < len(regions.image_id.encode()) <= LONGEST_ID:
            raise ValueError(f"an image id has 1 to {LONGEST_ID} bytes here")
    except ValueError as error:
        raise BadRecord(_named(source, own, regions, error)) from None
    return regions, caption


def _encoded(codec: RecordCodec, regions: Regions, caption: str, source: RecordSource, own: int) -> bytes:
    try:
        return codec.encode(regions, caption)
    except ValueError as error:
        raise BadRecord(_named(source, own, regions, error)) from None


def _named(source: RecordSource, own: int, regions: Regions, error: ValueError) -> str:
    return f"{source.path}, record {own} (image {regions.image_id!r}): {error}"


def _plan(sources: list[RecordSource], dtype: str, top_classes: int, top_attributes: int) -> dict[str, Any]:
    if dtype not in ("float16", "float32"):
        raise UserError(f"--dtype {dtype}: expected float16 or float32")
    if top_classes < 1 or top_attributes < 1:
        raise UserError("--top-classes and --top-attributes: expected 1 or more scores to keep")
    kinds = {source.kind: source for source in sources}
    if len(kinds) > 1:
        images, pairs = kinds["images"].path, kinds["pairs"].path
        raise UserError(f"{images} holds images of a task, {pairs} image-caption pairs; repack them into two stores")
    if not sum(map(len, sources)):
        raise UserError(f"{', '.join(str(source.path) for source in sources)}: no records to repack")
    described = [{**source.fingerprint(), "name": source.path.name} for source in sources]
    return {"sources": described, "dtype": dtype, "top_classes": top_classes, "top_attributes": top_attributes}


def _already_there(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    if not is_compact(out):
        raise UserError(f"{out}: exists and is no compact store; give another OUT")
    manifest = read_manifest(out)
    found = {"sources": manifest.get("sources"), **manifest.get("options", {})}
    if found != plan:
        raise UserError(
            f"{out}: a compact store of other inputs or options ({_difference(found, plan)}); give another OUT"
        )
    (out / _LOCK).unlink(missing_ok=True)  # of a run that was killed right after the end
    return manifest


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second run off an unfinished store; the lock goes with its process, however that ends."""
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{folder}: another process is writing this store; wait for it") from None
        yield


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    name = next((name for name in now if before.get(name) != now[name]), "format")
    if name == "sources":
        return "the inputs are not the same files"
    return f"{name} was {before.get(name)}, now it is {now[name]}"


def _add_losses(losses: dict[str, float], before: Regions, after: Regions) -> None:
    """Add up what one image loses: the largest error of a feature, the class and attribute mass that is not kept."""
    if len(before) == 0:
        return
    error = np.abs(before.features.astype(np.float32) - after.features.astype(np.float32))
    losses["feature_error_max"] = max(losses.get("feature_error_max", 0.0), float(error.max()))
    losses["feature_error_sum"] = losses.get("feature_error_sum", 0.0) + float(error.mean()) * len(before)
    losses["regions"] = losses.get("regions", 0) + len(before)
    for name, scores in (("class", after.cls_prob), ("attribute", after.attr_scores)):
        if isinstance(scores, TopScores):
            losses[f"{name}_rest_max"] = max(losses.get(f"{name}_rest_max", 0.0), float(scores.rest.max()))
            losses[f"{name}_rest_sum"] = losses.get(f"{name}_rest_sum", 0.0) + float(scores.rest.sum(dtype=np.float64))


def _means(losses: dict[str, float]) -> dict[str, float]:
    """Turn sums into means per region."""
    regions = max(losses.get("regions", 0), 1)
    named = {name: value for name, value in losses.items() if name != "regions"}
    return {
        name.replace("_sum", "_mean"): value / regions if name.endswith("_sum") else value
        for name, value in named.items()
    }
