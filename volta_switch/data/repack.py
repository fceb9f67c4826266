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
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.data.compact_record import RecordCodec, RecordLayout
from volta_switch.data.compact_store import BLOCK, FORMAT, MANIFEST, block_key, image_key, is_compact, record_key
from volta_switch.data.lmdb_environment import Writer
from volta_switch.data.record_source import RecordSource, open_source
from volta_switch.data.regions import Regions, TopScores
from volta_switch.errors import UserError
from volta_switch.files import write_json

_STATE = b"state"
_PLACE_BYTES = 8


@dataclass
class _State:
    """Where a repacking stands, in the unfinished store itself."""

    plan: dict[str, Any]  # sources and options: a continuation must have the same
    records: int = 0
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the records of the inputs, one after the other, as one compact store; returns its manifest.

    inputs: feature files of one kind (images of tasks, or image-caption pairs), all from one detector.
    dtype: "float16" or "float32", of the features. top_classes, top_attributes: scores kept of each region.
    progress: called with (records written, records in all) after every block.
    The store appears whole, at the end. Where `out` already is the result, nothing is written. Raises UserError for
    inputs that are missing, damaged, of different widths or with an image in common, for an `out` that holds anything
    else, and for an unfinished store of other inputs or options.
    """
    out = Path(out)
    sources = [open_source(path) for path in inputs]
    plan = _plan(sources, dtype, top_classes, top_attributes)
    if out.exists():
        return _already_there(out, plan)
    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    with _alone(unfinished):
        manifest = _Repacking(unfinished, plan, sources).run(progress)
        write_json(unfinished / MANIFEST, manifest)
        (unfinished / "lock").unlink()
        os.replace(unfinished, out)
    return manifest


class _Repacking:
    """One run over an unfinished store."""

    def __init__(self, folder: Path, plan: dict[str, Any], sources: list[RecordSource]) -> None:
        self._folder = folder
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
        self._codec = None if self._state.layout is None else RecordCodec(RecordLayout(**self._state.layout))

    def run(self, progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Write what is missing and return the manifest."""
        try:
            records = self._from(self._state.records)
            while self._state.records < self._total:
                self._write_block(records)
                progress(self._state.records, self._total)
            return self._manifest()
        finally:
            self._writer.env.close()

    def _from(self, place: int) -> Iterator[tuple[RecordSource, int]]:
        """Go through all records from a place on, as source and place in it."""
        for source in self._sources:
            for own in range(place, len(source)):
                yield source, own
            place = max(place - len(source), 0)

    def _write_block(self, records: Iterator[tuple[RecordSource, int]]) -> None:
        state, digest = self._state, hashlib.sha256()
        first = state.records
        for source, own in records:
            regions, caption = source[own]
            record = self._encode(regions, caption, source, own)
            digest.update(record)
            self._writer.put(record_key(state.records), record)
            if source.kind == "images":
                self._remember_image(regions.image_id, source)
            state.records += 1
            state.regions += len(regions)
            if state.records % BLOCK == 0:
                break
        self._writer.put(block_key(first // BLOCK), digest.digest())
        self._writer.put(_STATE, json.dumps(asdict(state)).encode())
        self._writer.commit()

    def _encode(self, regions: Regions, caption: str, source: RecordSource, own: int) -> bytes:
        options = self._state.plan
        if self._codec is None:
            layout = RecordLayout.of(regions, options["dtype"], options["top_classes"], options["top_attributes"])
            self._codec, self._state.layout = RecordCodec(layout), layout.to_dict()
        try:
            regions.check()
            record = self._codec.encode(regions, caption)
        except ValueError as error:
            raise UserError(
                f"{source.path}, record {own} (image {regions.image_id!r}): {error}; "
                "a store holds the records of one detector, repack the others into a store of their own"
            ) from None
        _add_losses(self._state.losses, regions, self._codec.decode(record)[0])
        return record

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
            "losses": _means(state.losses),
        }


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
    manifest = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    layout = manifest["layout"]
    kept = {name: min(plan[name], layout[name.removeprefix("top_")]) for name in ("top_classes", "top_attributes")}
    wanted = {"sources": plan["sources"], "feature_dtype": plan["dtype"], **kept}
    found = {"sources": manifest["sources"], **{name: layout[name] for name in wanted if name != "sources"}}
    if found != wanted:
        raise UserError(
            f"{out}: a compact store of other inputs or options ({_difference(found, wanted)}); give another OUT"
        )
    return manifest


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second run off an unfinished store; the lock goes with its process, however that ends."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
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


def remove_unfinished(out: str | Path) -> None:
    """Delete what an interrupted `repack` to `out` left."""
    shutil.rmtree(Path(out).with_name(f"{Path(out).name}.unfinished"), ignore_errors=True)
