"""Turning one feature format into another, and measuring what is lost on the way by reading the result back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from volta_switch.data.detector_facts import facts_of, keep_facts
from volta_switch.data.feature_files import RecordSource, Target, formats, holds_pairs, open_features, open_source
from volta_switch.data.files.feature_records import dense
from volta_switch.data.files.json_files import read_json
from volta_switch.data.files.stores import FeatureStore
from volta_switch.data.regions import Regions
from volta_switch.data_tools.repack import repack
from volta_switch.errors import BadRecord, UserError
from volta_switch.files import remove

_MEASURED = ("features", "boxes", "objects_conf", "attrs_conf", "cls_prob", "attr_scores")
_LABELS = ("objects_id", "attrs_id")
_COMPACT = "compact"  # which ``repack`` writes


class Targets:
    """What ``--to`` may name: every target of a format, and a compact store. Formats are imported when it is asked."""

    def __iter__(self) -> Iterator[str]:
        return iter((*_targets(), _COMPACT))

    def __contains__(self, name: object) -> bool:
        return name in tuple(self)

    @staticmethod
    def of_pairs(name: str) -> bool:
        """Returns whether a target holds images with captions."""
        return name != _COMPACT and _targets()[name].pairs


def _targets() -> dict[str, Target]:
    """Returns the targets that formats register, by name: first those of images, then those of pairs."""
    found = [target for each in formats() for target in each.targets]
    return {target.name: target for target in sorted(found, key=lambda target: target.pairs)}


TARGETS = Targets()


@dataclass
class Loss:
    """How far one field of the result is from the source's: over all values, and where it has none.

    The total variation distance of a region is half the summed differences of its class probabilities; kept are its sum
    over regions and the largest.
    """

    values: int = 0
    max_error: float = 0.0
    error_sum: float = 0.0
    missing_records: int = 0
    total_variation_sum: float = 0.0
    total_variation_max: float = 0.0
    regions: int = 0

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Compares one record's field, rows of regions."""
        if before.shape != after.shape:
            self.missing_records += 1
            return
        error = np.abs(before.astype(np.float64) - after.astype(np.float64))
        self.values += error.size
        self.error_sum += float(error.sum())
        self.max_error = max(self.max_error, float(error.max(initial=0.0)))
        if error.ndim == 2 and len(error):
            distance = error.sum(axis=1) / 2  # (n,)
            self.regions += len(distance)
            self.total_variation_sum += float(distance.sum())
            self.total_variation_max = max(self.total_variation_max, float(distance.max()))

    def to_dict(self, distribution: bool) -> dict[str, float]:
        """Returns the measures by name; the total variation distance only of distributions."""
        measures = {"max": self.max_error, "mean": self.error_sum / max(self.values, 1)}
        if distribution:
            measures["total_variation_mean"] = self.total_variation_sum / max(self.regions, 1)
            measures["total_variation_max"] = self.total_variation_max
        return {**measures, "missing_records": self.missing_records}


@dataclass
class Conversion:
    """What ``convert`` did.

    Attributes:
        out: the file that was written.
        records: how many it has.
        losses: by field, as ``Loss.to_dict``.
        changed: records whose ids, labels, sizes or captions differ, by field.
        passed_over: the errors of records that were left out.
    """

    out: str
    records: int
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    captions: str | Path | None = None,
    dtype: str = "float16",
    max_bad_records: int = 0,
) -> Conversion:
    """Writes a feature file of any format as one of ``TARGETS``, whole or not at all; one record in memory at a time.

    Args:
        source: the file to read.
        out: must not exist.
        to: a name of ``TARGETS``.
        captions: for "concap" from images without captions, VOLTA's JSON {image id: caption}.
        dtype: of the features of a compact store.
        max_bad_records: records that cannot be read or written and are left out before nothing is written; 0 for
            "compact" (see ``repack``).

    Raises:
        UserError: ``out`` exists, the target is unknown or has no use for an option, or there are more bad records than
            allowed, which are named.
    """
    out = Path(out)
    if to not in TARGETS:
        raise UserError(f"--to {to}: expected one of {', '.join(TARGETS)}")
    target = _targets().get(to)
    if captions is not None and not (target and target.pairs):
        raise UserError(f"--captions: {to} holds none of its own; leave it out, or use --to concap")
    if max_bad_records and target is None:
        raise UserError("--max-bad-records: give it to `volta-switch data repack`, which writes compact stores")
    if out.exists():
        raise UserError(f"{out}: exists; delete it, or give another OUT")
    records = _Records(open_source(source), target, captions, max_bad_records)
    if not len(records.source):
        raise UserError(f"{source}: no records to convert")
    try:
        _write(records, out, target, dtype)
        if target is not None and facts_of(source) != facts_of(out):
            keep_facts(out, facts_of(source))
    except BaseException:
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()  # made for an LMDB that did not come to be
        raise
    result = Conversion(str(out), len(records.places), passed_over=records.failed)
    try:
        _measure(records, out, result)
    except _UnreadableResult:
        remove(out)
        keep_facts(out, None)
        raise
    return result


def refuse_ids(to: str, ids: Iterable[str]) -> None:
    """Raises UserError where a target has no place for an image's id, before anything is computed."""
    target = _targets().get(to)
    if target is None:
        return
    for image_id in ids:
        try:
            target.refuse_id(image_id)
        except ValueError as error:
            cure = f"give the image another id, in a .jsonl of the pictures (id), or take --to {_COMPACT}"
            raise UserError(f"--to {to}: {error}; {cure}") from None


def _write(records: _Records, out: Path, target: Target | None, dtype: str) -> None:
    if target is None:
        repack([records.source.path], out, dtype=dtype)
        records.places = list(range(len(records.source)))
    elif target.pairs:
        target.write(out, iter(records))
    else:
        target.write(out, (regions for regions, _ in records))


class _Records:
    """The records of a source that a target can hold, as the target wants them; the others are gathered by name."""

    def __init__(
        self, source: RecordSource, target: Target | None, captions: str | Path | None, max_bad_records: int
    ) -> None:
        self.source = source
        self.places: list[int] = []  # of the records that were written, in their order
        self.failed: list[str] = []
        self._target = target
        self._limit = max_bad_records
        self._captions: dict[str, str] | None = None
        if captions is not None:
            self._captions = read_json(captions)
            if not isinstance(self._captions, dict):
                raise UserError(f"{captions}: expected a JSON object {{image id: caption}}")
        elif target and target.pairs and source.kind == "images":
            raise UserError(f"{source.path}: holds no captions; name a JSON file {{image id: caption}} with --captions")

    def __iter__(self) -> Iterator[tuple[Regions, str]]:
        self.places, self.failed = [], []
        seen: set[str] = set()
        for place in tqdm(range(len(self.source)), desc="writing", unit="record", leave=False, disable=None):
            try:
                regions, caption = self[place]
                self._refuse(regions, seen)
            except (BadRecord, ValueError) as error:
                named = isinstance(error, BadRecord)
                self._fail(str(error) if named else f"{self.source.path}, record {place}: {error}")
                continue
            seen.add(regions.image_id)
            self.places.append(place)
            yield regions, caption
        if not self.places:
            raise UserError(f"{self.source.path}: no record can be converted, first error: {self.failed[0]}")

    def __getitem__(self, place: int) -> tuple[Regions, str]:
        """Returns a record with full arrays and its caption."""
        regions, caption = self.source[place]
        regions.check()
        if self._captions is not None:
            if not isinstance(self._captions.get(regions.image_id), str):
                raise ValueError(f"no caption of image {regions.image_id!r} in the --captions file")
            caption = self._captions[regions.image_id]
        whole: dict[str, Any] = {name: dense(array) for name, array in regions.arrays().items()}
        return replace(regions, **whole), caption

    def _refuse(self, regions: Regions, seen: set[str]) -> None:
        """Raises ValueError for a record that the target has no place for."""
        assert self._target is not None  # ``repack`` goes through the source itself
        if not self._target.pairs and regions.image_id in seen:
            raise ValueError(f"image {regions.image_id!r} stands twice; {self._target.name} holds every image once")
        self._target.refuse_id(regions.image_id)
        self._target.refuse(regions)

    def _fail(self, error: str) -> None:
        self.failed.append(error)
        if len(self.failed) > self._limit:
            named = "; ".join(self.failed)
            raise UserError(
                f"more than {self._limit} bad records (--max-bad-records), nothing was written: {named}; "
                "`volta-switch data check` names all of them"
            )


class _UnreadableResult(UserError):
    """What was written cannot be read back, so that it is no result."""


@contextmanager
def _reading_back() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise _UnreadableResult(str(error)) from error


def _measure(records: _Records, out: Path, result: Conversion) -> None:
    """Reads both files and adds up how they differ; raises _UnreadableResult where the new one cannot be read."""
    with _reading_back():
        after: FeatureStore | RecordSource
        after = open_source(out) if holds_pairs(out) else open_features(out, detections=True)
        if len(after) != len(records.places):
            raise UserError(f"{after.path}: holds {len(after)} of the {len(records.places)} records; convert again")
    losses: dict[str, Loss] = {}
    for own, place in enumerate(tqdm(records.places, desc="reading back", unit="record", leave=False, disable=None)):
        before, caption = records[place]
        with _reading_back():
            there, caption_there = (after[before.image_id], "") if isinstance(after, FeatureStore) else after[own]
        for name in (*_MEASURED, *_LABELS):
            if getattr(before, name) is not None:
                _compare(name, before, there, losses, result.changed)
        for name, same in (
            ("image_id", before.image_id == there.image_id),
            ("image_size", (before.image_w, before.image_h) == (there.image_w, there.image_h)),
            ("caption", caption == caption_there),
        ):
            result.changed[name] = result.changed.get(name, 0) + (not same)
    result.losses = {name: loss.to_dict(name == "cls_prob") for name, loss in losses.items()}


def _compare(name: str, before: Regions, after: Regions, losses: dict[str, Loss], changed: dict[str, int]) -> None:
    values, there = getattr(before, name), getattr(after, name)
    if name not in _MEASURED:
        same = there is not None and np.array_equal(values, there)
        changed[name] = changed.get(name, 0) + (not same)
        return
    loss = losses.setdefault(name, Loss())
    if there is None:
        loss.missing_records += 1
    else:
        loss.add(values, dense(there))


def conversion_text(result: Conversion) -> str:
    """Returns what was written, what is lost, and what was passed over."""
    lines = [f"{result.out}: {result.records} records"]
    for name, measures in result.losses.items():
        lines += _loss_lines(name, measures, result.records)
    lines += [f"  {name}: not kept in {count} records" for name, count in result.changed.items() if count]
    if len(lines) == 1:
        lines[0] += ", read back bit for bit: nothing is lost"
    if result.passed_over:
        lines.append(f"  passed over {len(result.passed_over)} bad records:")
        lines += [f"    {error}" for error in result.passed_over]
    return "\n".join(lines)


def _loss_lines(name: str, measures: dict[str, Any], records: int) -> list[str]:
    lines = []
    missing = int(measures["missing_records"])
    if missing:
        lines.append(f"  {name}: the format has no place for it (lost in {missing} of {records} records)")
    if measures["max"]:
        text = f"  {name}: off by {measures['mean']:.3g} in the mean, {measures['max']:.3g} at most"
        if "total_variation_mean" in measures:
            mean, most = measures["total_variation_mean"], measures["total_variation_max"]
            text += f"; total variation distance {mean:.3g} in the mean, {most:.3g} at most"
        lines.append(text)
    return lines
