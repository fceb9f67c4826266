"""Checking whatever paths a user names together, and the data of every task of a task file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from volta_switch.data.entities import DATA_SET, load_entities
from volta_switch.data.fingerprints import WHOLE_SUFFIX, whole_fingerprint
from volta_switch.data.image_ids import ImageIndex
from volta_switch.data_tools.check import EXAMPLES, Report, check_features, cross_check, is_feature_file
from volta_switch.data_tools.check_annotations import (
    ANSWER_MAPS,
    SUFFIXES,
    annotation_files,
    check_annotations,
    splits_in,
)
from volta_switch.errors import UserError
from volta_switch.files import here_or_shipped, read_yaml
from volta_switch.identities import WHOLE
from volta_switch.tasks import TaskSpec, load_task, task_class
from volta_switch.tasks import annotation_files as files_of_split
from volta_switch.tasks.dataset import chosen as file_of


def check_paths(
    paths: Sequence[str | Path], sample: int | None = None, tasks: Sequence[str] = (), data_root: str = ""
) -> list[Report]:
    """Checks feature files, annotation files or directories and task files (.yml), and what they say of each other.

    Annotations are compared with all feature files named, those of a task file with its own.

    Args:
        paths: what a user names.
        sample: records to read of each feature file; None for all.
        tasks: those of the task files that are checked, by number, key or name; without them all whose annotations are
            there.
        data_root: as ``load_task`` takes it.

    Raises:
        UserError: a task file does not have a task that is named.
    """
    features: dict[Path, Report] = {}
    annotations: list[Report] = []
    of_tasks: list[Report] = []
    for path in map(here_or_shipped, paths):
        if not path.exists():
            annotations.append(Report(str(path), "missing", problems=["no such file or directory; check the path"]))
        elif path.suffix in (".yml", ".yaml"):
            of_tasks += _check_task_file(path, sample, features, tasks, data_root)
        elif is_feature_file(path):
            _features(path, sample, features)
        else:
            inside = _feature_files(path)
            for file in inside:
                _features(file, sample, features)
            # a directory of features alone needs no annotations
            found = [r for r in check_annotations(path) if not (inside and r.path == str(path))]
            annotations += found
            notes = _not_looked_at(path.rglob("*"), path, [*inside, *(Path(report.path) for report in found)])
            annotations += [Report(str(path), "directory", notes=notes, looked_at=False)] if notes else []
    if tasks and not any(path.suffix in (".yml", ".yaml") for path in map(Path, paths)):
        raise UserError(f"--task {tasks[0]}: no task file is named; add one (.yml)")
    named = [report for report in features.values() if "" in report.image_ids]
    for report in annotations:
        cross_check(report, named)
    return [*features.values(), *annotations, *of_tasks]


def keep_checksums(reports: Iterable[Report]) -> None:
    """Reads every byte of the files that were checked, and keeps a checksum beside each; says so in the reports.

    Raises:
        UserError: a file cannot be read, or nothing can be written beside it.
    """
    for report in reports:
        path = Path(report.path)
        if report.looked_at and path.exists():
            found = whole_fingerprint(path)[WHOLE]
            report.notes.append(f"SHA-256 of all bytes {found[:16]}..., kept in {path.name}{WHOLE_SUFFIX}")


def _not_looked_at(files: Iterable[Path], folder: Path, looked_at: Iterable[Path]) -> list[str]:
    """Names the files of a folder of which nothing was read; nothing where all were."""
    seen = {path.resolve() for path in looked_at}
    others = [
        path
        for path in sorted(files)
        if path.is_file()
        and not path.name.endswith(("-lock", WHOLE_SUFFIX))
        and not {path.resolve(), *path.resolve().parents} & seen
    ]
    names = ", ".join(str(path.relative_to(folder)) for path in others[:EXAMPLES])
    more = f", and {len(others) - EXAMPLES} more" if len(others) > EXAMPLES else ""
    return [f"not looked at: {names}{more}"] if others else []


def _feature_files(folder: Path) -> list[Path]:
    """Returns the feature files right in a directory, such as VOLTA's of Conceptual Captions."""
    if not folder.is_dir():
        return []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.endswith("-lock"))
    return [
        entry for entry in entries if entry.suffix not in (".json", ".jsonl", ".p", ".pkl") and is_feature_file(entry)
    ]


def _features(path: Path, sample: int | None, checked: dict[Path, Report]) -> Report:
    """Checks a feature file once, however many tasks name it."""
    if path.resolve() not in checked:
        checked[path.resolve()] = check_features(path, sample)
    return checked[path.resolve()]


def _check_task_file(
    path: Path, sample: int | None, features: dict[Path, Report], chosen: Sequence[str], data_root: str
) -> list[Report]:
    if chosen:
        specs = [load_task(path, name, data_root) for name in chosen]
        return [report for spec in specs for report in _check_task(spec, path, sample, features)]
    entries = read_yaml(path, "task file")
    if not isinstance(entries, Mapping):
        return [Report(str(path), "unreadable", problems=["expected entries TASK<n>, each with settings"])]
    reports: list[Report] = []
    specs = []
    for key in map(str, entries):
        try:
            specs.append(load_task(path, key, data_root))
        except UserError as error:
            reports.append(Report(f"{path}, {key}", "task", problems=[str(error)]))
    here = [spec for spec in specs if spec.path(spec.dataroot).exists()]
    for spec in specs:
        if spec in here or not here:
            reports += _check_task(spec, path, sample, features)
        else:  # few people have all data sets
            root = spec.path(spec.dataroot)
            note = f"not looked at: its dataroot {root} is not there; --task {spec.key} says what is missing"
            reports.append(Report(f"{path}, {spec.key}", f"task {spec.name}", notes=[note], looked_at=False))
    return reports


def _check_task(spec: TaskSpec, path: Path, sample: int | None, features: dict[Path, Report]) -> list[Report]:
    task = Report(f"{path}, {spec.key}", f"task {spec.name}")
    annotations = _task_annotations(spec, task)
    _check_head(spec, annotations, task)
    splits = {name: splits_in(name) for name in (spec.train_split, spec.val_split)}
    needed = set().union(*splits.values())
    others = sorted({split for report in annotations for split in report.image_ids if split} - needed)
    if others:
        task.notes.append(f"images of {', '.join(others)} not compared: the task names {', '.join(splits)}")
    for setting in ("features_h5path1", "features_h5path2"):
        name = getattr(spec, setting)
        if not name:
            continue
        if not spec.path(name).exists():
            task.problems.append(
                f"{setting}: {spec.path(name)} not found; extract the features, or point it at the file"
            )
            continue
        report = _features(spec.path(name), sample, features)
        wanted = needed
        if spec.train_split and _absent(annotations, report, splits[spec.train_split] - splits[spec.val_split]):
            task.notes.append(f"{setting} has no image of {spec.train_split}: for testing only")
            wanted = splits[spec.val_split]
        for annotation in annotations:
            cross_check(annotation, [report], f"{setting} of {spec.key}", wanted)
    return [task, *annotations]


def _check_head(spec: TaskSpec, annotations: list[Report], task: Report) -> None:
    """Compares the number of the head's outputs with the answers that there are."""
    for report in annotations:
        answers = report.counts.get("answers")
        if report.format in ANSWER_MAPS and spec.num_labels is not None and answers != spec.num_labels:
            task.problems.append(
                f"num_labels: the head has {spec.num_labels} outputs, {Path(report.path).name} {answers} answers; set "
                f"num_labels to {answers}, or take the answers of another release"
            )
            return


def _absent(annotations: list[Report], features: Report, splits: set[str]) -> bool:
    """Whether a feature file has none of the images of some splits, and some of the others."""
    present = ImageIndex(features.image_ids.get("", ()))
    inside = {
        split: any(map(present.has, ids)) for report in annotations for split, ids in report.image_ids.items() if ids
    }
    others = [found for split, found in inside.items() if split not in splits]
    return any(others) and not any(found for split, found in inside.items() if split in splits)


def _task_annotations(spec: TaskSpec, task: Report) -> list[Report]:
    """Reports the annotation files of a task: those that it names, else those in its data root."""
    own = _told_by_the_task(spec, task)
    if own:
        return own
    reports: list[Report] = []
    named = False
    for part in ("train", "val"):
        setting, split = f"{part}_annotations_jsonpath", getattr(spec, f"{part}_split")
        name = getattr(spec, setting)
        if name and spec.path(name).is_file():
            reports += [_of_split(report, split) for report in check_annotations(spec.path(name))]
        elif name:
            task.problems.append(f"{setting}: {spec.path(name)} not found; copy the annotations there")
        named = named or bool(name)
    root = spec.path(spec.dataroot)
    if (root / spec.name).is_dir():
        root = root / spec.name  # REFER's files of this task, beside other tasks'
    hard_negatives = root / "hard_negative.pkl"
    if not root.is_dir():
        task.problems.append(f"dataroot: {root} not found; copy the annotations there")
    elif not named:
        reports += check_annotations(root)
        present = {split for report in reports for split, ids in report.image_ids.items() if ids}
        for split in (spec.train_split, spec.val_split):
            if not present & splits_in(split):
                task.problems.append(f"dataroot: no annotations of split {split} in {root}; copy them there")
        annotations = (file for file in root.rglob("*") if file.suffix in SUFFIXES)
        task.notes += _not_looked_at(annotations, root, [Path(report.path) for report in reports])
    elif hard_negatives.is_file():
        reports += check_annotations(hard_negatives)
    for folder in {Path(report.path).parent for report in reports} if named else ():
        task.notes += _not_looked_at(annotation_files(folder), folder, [Path(report.path) for report in reports])
    return reports


def _told_by_the_task(spec: TaskSpec, task: Report) -> list[Report]:
    """Report the splits of which the task itself says what images they show; none where their files are known here."""
    if spec.name == DATA_SET:
        return _entities(spec, task)
    try:
        described = task_class(spec)
    except UserError:  # a type that is not built here
        return []
    reports: list[Report] = []
    for split in dict.fromkeys(filter(None, (spec.train_split, spec.val_split))):
        try:
            images = described.shown_images(spec, split)
        except UserError as error:
            task.problems.append(str(error))
            continue
        if images is not None:
            path = file_of(files_of_split(spec, split, training=False)[0])
            ids = {min(splits_in(split)): images}
            reports.append(
                Report(str(path), f"annotations of {spec.name}", counts={"images": len(images)}, image_ids=ids)
            )
    return reports


def _entities(spec: TaskSpec, task: Report) -> list[Report]:
    """Reports the phrases of the cross-modal ablation's split; none where its folder is not there."""
    root, split = spec.path(spec.dataroot), spec.val_split
    if not root.is_dir():
        return []
    try:
        phrases = load_entities(root, split)
    except UserError as error:
        task.problems.append(str(error))
        return [Report(str(root), "Flickr30k Entities", looked_at=False)]
    images = {phrase.image_id for phrase in phrases}
    counts = {"phrases": len(phrases), "images": len(images)}
    return [Report(str(root), "Flickr30k Entities", counts=counts, image_ids={min(splits_in(split)): images})]


def _of_split(report: Report, split: str) -> Report:
    """Says that a file is a split's, whatever its name."""
    if report.image_ids:
        report.image_ids = {min(splits_in(split)): set().union(*report.image_ids.values())}
    return report
