"""Going through feature files of any format and packing their records, resumable wherever it was interrupted.

What ``repack`` (a compact store) and ``shard`` (shards of pairs) have in common: the unfinished result is a directory
beside it, ``<name>.unfinished``, which takes its place when everything is in it. What comes out does not depend on how
often the run was interrupted.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from volta_switch.checksums import record_tree
from volta_switch.data.batches.loader import BadRecords
from volta_switch.data.detector_facts import DETECTOR, common_facts
from volta_switch.data.feature_files import RecordSource, open_source
from volta_switch.data.files.compact_record import RecordCodec, RecordLayout
from volta_switch.data.files.stores import Kind
from volta_switch.data.formats.compact import LONGEST_ID
from volta_switch.data.regions import Regions, TopScores
from volta_switch.errors import BadRecord, UserError
from volta_switch.files import lock_alone, remove_unfinished, write_json

_LOCK = "lock"


class Source(Protocol):
    """Records by their place: a file's, or what a detector says of pictures."""

    path: Path
    kind: Kind

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Returns one record; raises BadRecord where it cannot be used."""


@dataclass
class PackingState:
    """Where a packing stands, in the unfinished result itself."""

    plan: dict[str, Any]  # sources and options: a continuation must have the same
    position: int = 0  # records of the sources that were read
    records: int = 0  # and packed
    passed_over: list[str] = field(default_factory=list)  # what was wrong with the others
    regions: int = 0
    layout: dict[str, Any] | None = None
    losses: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PackedRecord:
    """A record, its place in the result, and what it was made of."""

    place: int
    regions: Regions
    caption: str
    record: bytes
    source: Source


class Packing:
    """The records of the sources from where a state stands, packed; the state goes along with them."""

    def __init__(self, sources: Sequence[Source], state: PackingState, max_bad_records: int) -> None:
        self._sources = sources
        self.state = state
        self.total = sum(map(len, sources))
        self._bad_records = BadRecords(max_bad_records, state.passed_over)
        if state.layout is None:
            state.layout = self._first_layout().to_dict()
        self._codec = RecordCodec(RecordLayout(**state.layout))

    def __iter__(self) -> Iterator[PackedRecord]:
        """Packs what is missing; raises UserError for more bad records than allowed."""
        state = self.state
        for source, own in self._from(state.position):
            state.position += 1
            try:
                regions, caption = _good(source, own)
                record = _encoded(self._codec, regions, caption, state.records, source, own)
            except BadRecord as error:
                self._bad_records.pass_over(str(error))
                state.passed_over = list(self._bad_records)
                continue
            _add_losses(state.losses, regions, self._codec.decode(record, state.records)[0])
            state.records += 1
            state.regions += len(regions)
            yield PackedRecord(state.records - 1, regions, caption, record, source)

    def _from(self, place: int) -> Iterator[tuple[Source, int]]:
        """Goes through all records from a place on, as source and place in it."""
        for source in self._sources:
            for own in range(place, len(source)):
                yield source, own
            place = max(place - len(source), 0)

    def _first_layout(self) -> RecordLayout:
        """Returns the layout of the first good record that has regions: only they say how wide they are."""
        plan, empty, first_error = self.state.plan, None, ""
        for source, own in self._from(0):
            try:
                regions, caption = _good(source, own)
                layout = RecordLayout.of(regions, plan["dtype"], plan["top_classes"], plan["top_attributes"])
                seed = 1 + zlib.crc32(RecordCodec(layout).encode(regions, caption))  # the same for the same records
                layout = replace(layout, checksum_seed=seed)
            except (BadRecord, ValueError) as error:
                first_error = first_error or str(error)
                continue
            if len(regions):
                return layout
            empty = empty or layout
        if empty is None:
            raise UserError(f"{first_error}; no record can be used")
        return empty

    def described(self) -> dict[str, Any]:
        """Returns what a manifest says of everything that was packed."""
        state = self.state
        return {
            "kind": self._sources[0].kind,
            "records": state.records,
            "regions": state.regions,
            "layout": state.layout,
            "sources": state.plan["sources"],
            "options": {name: value for name, value in state.plan.items() if name != "sources"},
            "losses": _means(state.losses),
            "passed_over": state.passed_over,
        }


@dataclass(frozen=True)
class Result:
    """The directory that a packing makes.

    Attributes:
        out: where it is when it is whole.
        what: "store" or "shards", as errors name it.
        full_name: the same with its article.
        manifest: the file that says what is in it, written last.
        read_manifest: of the directory; raises UserError.
    """

    out: Path
    what: str
    full_name: str
    manifest: str
    read_manifest: Callable[[Path], dict[str, Any]]

    @property
    def unfinished(self) -> Path:
        """Where it is until it is whole."""
        return self.out.with_name(f"{self.out.name}.unfinished")

    def make(self, plan: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Returns the manifest that ``write`` gives for the unfinished directory, which it fills; nobody else does so.

        Where the result is there already, nothing is written.

        Raises:
            UserError: ``out`` holds anything else, another process is writing it, or the disk is full.
        """
        if self.out.exists():
            return self._already_there(plan)
        unfinished = self.unfinished
        try:
            unfinished.mkdir(parents=True, exist_ok=True)
            with _alone(unfinished, self.what):
                if self.out.exists():  # another process has just finished it
                    (unfinished / _LOCK).unlink(missing_ok=True)
                    unfinished.rmdir()
                    return self._already_there(plan)
                remove_unfinished(unfinished)
                manifest = write(unfinished)
                write_json(unfinished / self.manifest, manifest)
                record_tree(unfinished, [unfinished / self.manifest])
                os.replace(unfinished, self.out)  # with the lock in it: until here nobody else may write
                (self.out / _LOCK).unlink()
        except OSError as error:
            raise UserError(
                f"{error.filename or unfinished}: cannot be written ({error.strerror}); "
                "give the command again when it can"
            ) from error
        return manifest

    def continued(self, stored: dict[str, Any], plan: dict[str, Any]) -> None:
        """Raises UserError unless an unfinished result was begun with the same inputs and options."""
        if stored != plan:
            raise UserError(
                f"{self.unfinished}: an unfinished {self.what} of other inputs or options "
                f"({_difference(stored, plan)}); give the same as before, delete it to start anew, or give another OUT"
            )

    def _already_there(self, plan: dict[str, Any]) -> dict[str, Any]:
        if not (self.out / self.manifest).is_file():
            raise UserError(f"{self.out}: exists and is no {self.full_name}; give another OUT")
        manifest = self.read_manifest(self.out)
        found = {"sources": manifest.get("sources"), **manifest.get("options", {})}
        if found != plan:
            raise UserError(
                f"{self.out}: a {self.full_name} of other inputs or options ({_difference(found, plan)}); "
                "give another OUT"
            )
        (self.out / _LOCK).unlink(missing_ok=True)  # of a run that was killed right after the end
        return manifest


def open_sources(inputs: Sequence[str | Path]) -> list[RecordSource]:
    """Opens files of one kind; raises UserError where one is missing, of no format or of another kind, or all empty."""
    sources = [open_source(path) for path in inputs]
    kinds = {source.kind: source for source in sources}
    if len(kinds) > 1:
        images, pairs = kinds["images"].path, kinds["pairs"].path
        raise UserError(f"{images} holds images of a task, {pairs} image-caption pairs; repack them into two stores")
    if not sum(map(len, sources)):
        raise UserError(f"{', '.join(str(source.path) for source in sources)}: no records to repack")
    return sources


def packing_plan(sources: list[RecordSource], dtype: str, top_classes: int, top_attributes: int) -> dict[str, Any]:
    """Returns what decides the result; raises UserError for options that mean nothing, or features of two detectors."""
    check_options(dtype, top_classes, top_attributes)
    described = [{**source.fingerprint(), "name": source.path.name} for source in sources]
    plan = {"sources": described, "dtype": dtype, "top_classes": top_classes, "top_attributes": top_attributes}
    facts = common_facts(source.path for source in sources)
    return plan if facts is None else plan | {DETECTOR: facts}


def check_options(dtype: str, top_classes: int, top_attributes: int) -> None:
    """Raises UserError for options that mean nothing."""
    if dtype not in ("float16", "float32"):
        raise UserError(f"--dtype {dtype}: expected float16 or float32")
    if top_classes < 1 or top_attributes < 1:
        raise UserError("--top-classes and --top-attributes: expected 1 or more scores to keep")


def _good(source: Source, own: int) -> tuple[Regions, str]:
    """Reads a record of a source; raises BadRecord where it cannot be used."""
    regions, caption = source[own]
    try:
        regions.check()
        if source.kind == "images" and not 0 < len(regions.image_id.encode()) <= LONGEST_ID:
            raise ValueError(f"an image id has 1 to {LONGEST_ID} bytes here")
    except ValueError as error:
        raise BadRecord(_named(source, own, regions, error)) from None
    return regions, caption


def _encoded(codec: RecordCodec, regions: Regions, caption: str, place: int, source: Source, own: int) -> bytes:
    try:
        return codec.encode(regions, caption, place)
    except ValueError as error:
        raise BadRecord(_named(source, own, regions, error)) from None


def _named(source: Source, own: int, regions: Regions, error: ValueError) -> str:
    return f"{source.path}, record {own} (image {regions.image_id!r}): {error}"


@contextmanager
def _alone(folder: Path, what: str) -> Iterator[None]:
    """Keeps a second run off an unfinished result; the lock goes with its process, however that ends."""
    with (folder / _LOCK).open("w") as lock:
        lock_alone(lock, f"{folder}: another process is writing this {what}; wait for it")
        yield


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Says what differs first, one value and not a whole section."""
    name = next((name for name in now if before.get(name) != now[name]), "format")
    old, new = before.get(name), now.get(name)
    if name == "sources":
        return "the inputs are not the same files"
    if isinstance(old, dict) and isinstance(new, dict) and not old.keys() - new.keys():
        return f"{name}: {_difference(old, new)}"
    return f"{name} was {old}, now it is {new}"


def _add_losses(losses: dict[str, float], before: Regions, after: Regions) -> None:
    """Adds up what one image loses: the largest error of a feature, the class and attribute mass that is not kept."""
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
    """Turns sums into means per region."""
    regions = max(losses.get("regions", 0), 1)
    named = {name: value for name, value in losses.items() if name != "regions"}
    return {
        name.replace("_sum", "_mean"): value / regions if name.endswith("_sum") else value
        for name, value in named.items()
    }
