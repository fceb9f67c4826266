"""Going through feature files and annotations, and saying what is wrong with them and how to mend it.

Functions return a ``Report``, which ``reports_text`` prints. A damaged file is not raised but reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from volta_switch.checksums import verify
from volta_switch.data.detector_facts import described, facts_of
from volta_switch.data.feature_files import find_format, has_feature_suffix, known_format, open_features
from volta_switch.data.files.stores import FeatureStore, Inspection, Records
from volta_switch.data.geometry import Geometry
from volta_switch.data.image_ids import ImageIndex
from volta_switch.data.regions import Regions
from volta_switch.errors import BadRecord, UserError

EXAMPLES = 5  # bad records and ids that a report names


@dataclass
class Report:
    """What one file holds, and what is wrong with it.

    Attributes:
        counts: records, regions, widths.
        statistics: of all feature values.
        bad_records: unusable ones.
        bad_examples: the first errors.
        problems: one line each, with the fix.
        notes: worth knowing, not wrong.
        looked_at: False where it only says that nothing was read.
        image_ids: of a feature file, its images (None for pairs); of annotations, the images of each split.
    """

    path: str
    format: str
    counts: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    bad_records: int = 0
    bad_examples: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked_at: bool = True
    image_ids: dict[str, set[str]] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not self.bad_records

    def add_bad(self, error: str) -> None:
        """Counts an unusable record."""
        self.bad_records += 1
        if len(self.bad_examples) < EXAMPLES:
            self.bad_examples.append(error)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the ids, for JSON."""
        return {name: value for name, value in vars(self).items() if name != "image_ids"} | {"fine": self.fine}


def is_feature_file(path: Path) -> bool:
    """Whether a path holds region features or image-caption pairs, whole or damaged."""
    try:
        if find_format(path) is not None:
            return True
    except UserError:  # damaged, or of a kind that is known and not read
        pass
    return has_feature_suffix(path)


def check_features(path: Path, sample: int | None = None) -> Report:
    """Reads the records of a feature file of any format: all, or ``sample`` of them spread evenly."""
    try:
        verify(path)
        found = known_format(path)
        facts = facts_of(path)
        notes = [] if facts is None else [f"made by {described(facts)}"]
        if found.kind_of(path) == "pairs":
            return _check_pairs(found.open_records(path), path, f"{found.title}, image-caption pairs", sample, notes)
        report = Report(str(path), found.title, notes=notes)
        store = open_features(path, detections=True)
    except UserError as error:
        return Report(str(path), "unreadable", problems=[str(error)])
    keys = store.keys()
    report.image_ids[""] = set(keys)
    report.counts["images"] = len(keys)
    inspection = _inspected(store, report, sample)
    chosen = _spread(keys, sample)
    _measure(report, (_image(store, key, report) for key in chosen))
    _note_sample(report, len(chosen), len(keys), inspection)
    return report


def cross_check(annotations: Report, features: list[Report], setting: str = "", splits: Iterable[str] = ()) -> None:
    """Adds to an annotation report which of its images no feature file has, and how many features go unused.

    Args:
        features: reports of task features, together.
        setting: where a task file names them, such as "features_h5path1 of TASK1".
        splits: those that matter; all where there are none.
    """
    wanted = set(splits) or set(annotations.image_ids)
    needed = set().union(*(ids for split, ids in annotations.image_ids.items() if split in wanted))
    present = set().union(*(report.image_ids.get("", set()) for report in features))
    if not needed or not features:
        return
    names = ", ".join(Path(report.path).name for report in features)
    index = ImageIndex(present)
    used = {name: index.find(name) for name in needed}
    missing = sorted(name for name, found in used.items() if len(found) != 1)
    if missing:
        where = setting or "the command"
        fix = f"extract features of {', '.join(missing[:EXAMPLES])}{', ...' if len(missing) > EXAMPLES else ''}"
        if len(missing) == len(needed):
            example = f" (it has {', '.join(sorted(present)[:3])}, ...)" if present else ""
            fix = f"point {where} at the feature file that belongs to these annotations{example}"
        annotations.problems.append(f"{len(missing)} of {len(needed)} images have no features in {names}; {fix}")
    unused = len(present.difference(*used.values()))
    annotations.notes.append(f"{len(needed)} images needed, {unused} of the {len(present)} in {names} not among them")


def _check_pairs(source: Records, path: Path, title: str, sample: int | None, notes: list[str]) -> Report:
    report = Report(str(path), title, notes=notes)
    inspection = _inspected(source, report, sample)
    places = range(len(source)) if inspection.usable is None else inspection.usable
    chosen = _spread(places, sample)
    empty = 0

    def regions() -> Iterator[Regions]:
        nonlocal empty
        for place in chosen:
            try:
                image, caption = source[place]
                image.check()
            except (BadRecord, ValueError) as error:
                report.add_bad(str(error) if isinstance(error, BadRecord) else f"{path}, record {place}: {error}")
                continue
            empty += not caption.strip()
            yield image

    report.counts["pairs"] = len(source)
    _measure(report, regions())
    if empty:
        report.problems.append(f"{empty} records have an empty caption; leave these pairs out")
    _note_sample(report, len(chosen), len(places), inspection)
    return report


def _image(store: FeatureStore, key: str, report: Report) -> Regions | None:
    """Reads one image; counts it where it cannot be used, and the numbers that are not finite."""
    try:
        return store[key]
    except BadRecord as error:
        report.add_bad(str(error))
    try:
        values = store._decode(key).features
        report.statistics["non_finite"] = report.statistics.get("non_finite", 0) + int((~np.isfinite(values)).sum())
    except BadRecord:
        pass  # counted already
    return None


def _measure(report: Report, images: Iterable[Regions | None]) -> None:
    """Adds counts and feature statistics, one image in memory at a time."""
    boxes: list[int] = []
    widths: dict[str, set[int]] = {"feature_width": set(), "classes": set(), "attributes": set()}
    values, zeros, total, squares = 0, 0, 0.0, 0.0
    low, high = np.inf, -np.inf
    geometry = Geometry()
    for regions in tqdm(images, desc=Path(report.path).name, unit="record", leave=False, disable=None):
        if regions is None:
            continue
        boxes.append(len(regions))
        if not len(regions):
            continue
        geometry.add(regions.boxes, regions.image_w, regions.image_h)
        features = np.asarray(regions.features, dtype=np.float32)
        widths["feature_width"].add(features.shape[1])
        for name, scores in (("classes", regions.cls_prob), ("attributes", regions.attr_scores)):
            if scores is not None:
                widths[name].add(scores.shape[1])
        values += features.size
        zeros += features.size - int(np.count_nonzero(features))
        total += float(features.sum(dtype=np.float64))
        squares += float(np.square(features, dtype=np.float64).sum())
        low, high = min(low, float(features.min())), max(high, float(features.max()))
    if boxes:
        report.counts["boxes"] = {"min": min(boxes), "mean": sum(boxes) / len(boxes), "max": max(boxes)}
    for name, found in widths.items():
        if len(found) > 1:
            report.problems.append(f"{name} differ between records: {sorted(found)}; extract all with one detector")
        if found:
            report.counts[name] = max(found)
    add_geometry(report, geometry)
    if 0 in boxes:
        report.notes.append(f"{boxes.count(0)} images have no region")
    if values:
        mean = total / values
        deviation = max(squares / values - mean * mean, 0.0) ** 0.5
        numbers = {"mean": mean, "std": deviation, "min": low, "max": high, "zeros": zeros / values}
        report.statistics = {**numbers, "non_finite": report.statistics.get("non_finite", 0)}
        if zeros == values:
            report.problems.append("every feature value is 0; extract the features again")


def add_geometry(report: Report, geometry: Geometry) -> None:
    """Reports what is strange about boxes: as wrong where most images are so."""
    problem = geometry.problem()
    report.problems += [problem] if problem else []
    report.notes += geometry.notes()
    if geometry.strange:
        report.counts["strange_boxes"] = geometry.shares()


def _inspected(source: FeatureStore | Records, report: Report, sample: int | None) -> Inspection:
    """Reports what a format says of the whole file: of every byte of it, unless only a sample is wanted."""
    found = source.inspect(whole=sample is None)
    report.counts.update(found.counts)
    report.problems += found.problems
    report.notes += found.notes
    return found


def _spread(items: Any, sample: int | None) -> Any:
    """Chooses ``sample`` of the items, evenly spread."""
    count = len(items)
    if sample is None or sample >= count:
        return items
    return [items[int(place)] for place in np.linspace(0, count - 1, sample)]


def _note_sample(report: Report, read: int, total: int, inspection: Inspection) -> None:
    if read < total:
        report.notes.append(f"read {read} of {total} records (--sample)")
    if inspection.left_out:
        report.notes.append(f"{inspection.left_out} (--sample)")
    if total == 0:
        report.problems.append("no records; write the file again")


def reports_text(reports: list[Report]) -> str:
    """Returns all reports, one paragraph each, and a last line that says how many files are fine."""
    wrong = sum(not report.fine for report in reports)
    read = [report for report in reports if report.looked_at]
    last = f"{len(read)} checked: " + (f"{wrong} with something wrong" if wrong else "all fine")
    if len(read) < len(reports):
        last += f"; {len(reports) - len(read)} notes say what was not looked at"
    return "\n\n".join([*(_paragraph(report) for report in reports), last])


def _paragraph(report: Report) -> str:
    return "\n".join([f"{report.path}: {report.format}", *(f"  {line}" for line in _lines(report))])


def _lines(report: Report) -> Iterable[str]:
    if report.counts:
        yield ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in report.counts.items())
    for split, ids in report.image_ids.items():
        if split:
            yield f"images of {split}: {len(ids)}"
    if report.statistics:
        yield "feature values: " + ", ".join(
            f"{name.replace('_', ' ')} {_statistic(name, value)}" for name, value in report.statistics.items()
        )
    for note in report.notes:
        yield f"note: {note}"
    for problem in report.problems:
        yield f"WRONG: {problem}"
    if report.bad_records:
        yield f"WRONG: {report.bad_records} bad records"
        yield from (f"  {example}" for example in report.bad_examples)
        if report.bad_records > len(report.bad_examples):
            yield f"  ... and {report.bad_records - len(report.bad_examples)} more"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_value(part)}" for name, part in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _statistic(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "zeros" else _value(value)
