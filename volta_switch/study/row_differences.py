"""In how many things finished runs differ: one thing makes a controlled comparison, two make none.

Runs are compared by what they recorded, every two of them, and so are the runs that they started from (their
pre-training), and their tests. What differs counts as things:

| thing | what belongs to it |
|---|---|
| the model | everything in the configuration, one field or all of them |
| each hyperparameter, each setting, the precision, the results version | itself |
| the data | fingerprints of the training and validation data; paths where a record has none |
| the vocabulary | its fingerprint, and ``vocab_size`` with it |
| the start | random weights, a BERT, or a run's weights; and which |
| each of these of pre-training; each of these of the test | itself, unless it follows |

No thing of its own is what follows from another one:

- the seed: runs that differ in it alone, here and in the runs that they started from, are one row;
- the start from another run's weights, where that run is compared instead, or where the model differs;
- what differs in the same way in the test, or in the pre-training, and in the training (one decision for the whole
  chain): another model is pre-trained as that model, long texts are cut off in training and test alike. Of
  hyperparameters this is not said: each stage has its own;
- widths in the configuration that come from the data, where the data differ, and the vocabulary's size likewise;
- fingerprints of a split that another one takes the place of (``train_split``), and of the features that ``boxes``
  chooses; the seed of a share of the data that is all of them.

Three rows that differ in pairs in one thing each, but not in the same one, are refused, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from volta_switch.identities import WHOLE, differences
from volta_switch.study.confounds import SECTIONS, compared_sections
from volta_switch.study.finished_folders import FoundRun
from volta_switch.study.planned_runs import RunRecord
from volta_switch.train.evaluation import is_of_training
from volta_switch.train.run_data import deciding_config

MODEL, DATA, VOCABULARY, START, TRAINING = "the model", "the data", "the vocabulary", "the start", "the training"
TEST, BEFORE = "test", "pre-training"
_OF_DATA = ("v_feature_size", "v_num_classes", "v_num_attributes", "v_coordinate_embeddings_dim")
_PARTS = ("bytes", "sha256", "format", "records", "fingerprint")  # of a fingerprint
_STATED = ("weights", "config", "task", "split")  # of a test's identity, and compared otherwise or in other places
_NAMES_SHOWN = 4
_LONGEST = 200  # characters of a value that is shown
Stage = tuple[str, ...]  # (): training; ("test",); ("pre-training",), the run before; and so on
Change = tuple[str, Any, Any]  # name of a setting, one run's value, the other's
Changes = dict[tuple[Stage, str], list[Change]]  # (stage, thing) -> its settings


@dataclass
class Thing:
    """Something in which rows differ."""

    name: str
    """``learning_rate``, ``the model``, ``the model of pre-training``."""
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Setting -> row -> its value."""

    @property
    def brief(self) -> str:
        """Its name, and the values that a line has room for."""
        return self._in_words(_NAMES_SHOWN)

    @property
    def whole(self) -> str:
        """Its name, and every setting that belongs to it, with its values."""
        return self._in_words(None)

    def _in_words(self, most: int | None) -> str:
        settings = [_shown(setting, values, self.name) for setting, values in self.values.items()]
        more = [] if most is None or len(settings) <= most else [f"and {len(settings) - most} more"]
        return f"{self.name} ({'; '.join([*settings[:most], *more])})"


def _shown(setting: str, values: Mapping[str, Any], thing: str) -> str:
    """Returns a setting with each row's value; checksums and what is long are left out."""
    texts = {row: str(value) for row, value in values.items()}
    is_named = setting == thing or thing.startswith(f"{setting} of ")
    if thing.startswith((DATA, VOCABULARY)) or any(len(text) > _LONGEST for text in texts.values()):
        return setting
    said = ", ".join(f"{text} for {row}" for row, text in texts.items())
    return said if is_named else f"{setting}: {said}"


def things_between(rows: Mapping[str, Sequence[FoundRun]]) -> list[Thing]:
    """Returns in what rows differ, every two of their runs compared.

    Args:
        rows: name -> its runs.
    """
    found: dict[str, Thing] = {}
    for left, right in combinations(rows, 2):
        for one in rows[left]:
            for other in rows[right]:
                for (stage, thing), changes in differing(one, other).items():
                    name = f"{thing}{_of_stage(stage)}"
                    at = found.setdefault(name, Thing(name))
                    for setting, of_left, of_right in changes:
                        at.values.setdefault(setting, {}).update({left: of_left, right: of_right})
    return list(found.values())


def _of_stage(stage: Stage) -> str:
    return "".join(" of the test" if each == TEST else f" of {each}" for each in reversed(stage))


def differing(one: FoundRun, other: FoundRun) -> Changes:
    """Returns the things in which two runs differ, but for their seeds; each with its settings and both values."""
    found = _changes(one, other)
    for stage, thing in list(found):
        if stage and _follows(found, stage, thing):
            del found[stage, thing]
    return found


def _follows(found: Changes, stage: Stage, thing: str) -> bool:
    """Returns whether what differs in a test, or in the run before, is what differs in the training."""
    of_training = found.get((stage[:-1], thing))
    if of_training is None:
        return False
    if thing == DATA:  # other files: that they are of one kind cannot be known of pre-training's
        return stage[-1] == TEST
    is_hyperparameter = stage[-1] != TEST and thing not in (MODEL, VOCABULARY, *_ONE_DECISION)
    return not is_hyperparameter and all(change in of_training for change in found[stage, thing])


_ONE_DECISION = ("precision", "volta_compat", "deterministic", "boxes", "results_version")


def _changes(one: FoundRun, other: FoundRun, stage: Stage = ()) -> Changes:
    """Returns all things in which two runs differ, stage by stage."""
    found: Changes = {}

    def put(thing: str, change: Change) -> None:
        found.setdefault((stage, thing), []).append(change)

    if one.record is None or other.record is None:
        told = ["recorded" if run.record else f"not recorded, of weights {_tested(run)}" for run in (one, other)]
        if told[0] != told[1]:
            put(TRAINING, (TRAINING, told[0], told[1]))
    else:
        _put_recorded(one.record, other.record, put)
    _put_config(deciding_config(one.config), deciding_config(other.config), found, stage, put)
    if one.record is not None and other.record is not None:
        _put_start(one, other, (stage, MODEL) in found, put)
    if one.before is not None and other.before is not None:
        found |= _changes(one.before, other.before, (*stage, BEFORE))
    if not stage:
        for split in one.tests:
            if split in other.tests:
                _add_test(found, one.tests[split].of, other.tests[split].of)
    return found


def _tested(run: FoundRun) -> str:
    return next((str(test.of.get("weights")) for test in run.tests.values()), "unknown")


def _put_recorded(one: RunRecord, other: RunRecord, put: Any) -> None:
    """Adds what two records differ in."""
    left, right = map(_without_inert, compared_sections(one, other, set(SECTIONS)))
    fractions = [of["settings"].get("data_fraction", 1) for of in (left, right)]
    for of in (left, right) if 1 in fractions else ():  # one of them draws no share
        of["settings"].pop("data_fraction_seed", None)
    versions = [record.results_version or 1 for record in (one, other)]
    if versions[0] != versions[1]:
        put("results_version", ("results_version", *versions))
    changed = {name for name, *_ in differences(one.settings or {}, other.settings or {})}
    for name, *values in differences(left, right):
        section, _, setting = name.partition(".")
        if section == "data":
            vocabulary = setting.startswith("vocabulary")
            if vocabulary or not _follows_from_settings(setting, changed):
                put(VOCABULARY if vocabulary else DATA, (_file_of(setting), *values))
        elif name != "hyperparameters.seed":
            short = setting.removeprefix("entry.") or section
            put(short, (short, *values))


def _without_inert(sections: dict[str, Any]) -> dict[str, Any]:
    """Returns sections without the task's number; fingerprints are told by what their split is for.

    "train: features", "validation: features", whatever the splits are called.
    """
    settings = {name: value for name, value in (sections.get("settings") or {}).items() if name != "task"}
    roles = {settings.get("train_split", "train"): "train", settings.get("val_split", "valid"): "validation"}
    data = {_of_role(name, roles): value for name, value in (sections.get("data") or {}).items()}
    return {**sections, "settings": settings, "data": data}


def _of_role(name: str, roles: Mapping[Any, str]) -> str:
    split, mark, rest = name.partition(": ")
    return f"{roles.get(split, split)}: {rest}" if mark else name


def _follows_from_settings(setting: str, changed: Iterable[str]) -> bool:
    """Returns whether data differ because another split, or other boxes, were asked for."""
    role, _, of = setting.partition(": ")
    return {"train": "train_split", "validation": "val_split"}.get(role, "") in changed or (
        "boxes" in changed and of.startswith("features")
    )


def _file_of(setting: str) -> str:
    """Returns of which file a part of a fingerprint is: ``test: features`` of ``test: features.bytes``."""
    file, _, part = setting.rpartition(".")
    return file if part in (*_PARTS, WHOLE) else setting


def _put_config(one: Mapping[str, Any], other: Mapping[str, Any], found: Changes, stage: Stage, put: Any) -> None:
    """Adds what two configurations differ in, but for what their data and vocabularies decide."""
    for name, *values in differences(one, other):
        if name == "vocab_size" and (stage, VOCABULARY) in found:
            continue
        if name in _OF_DATA and (stage, DATA) in found:
            continue
        if stage == (TEST,) and any(map(is_of_training, name.split("."))):
            continue
        put(MODEL, (name, *values))


def _put_start(one: FoundRun, other: FoundRun, models_differ: bool, put: Any) -> None:
    """Adds it where two runs started in other ways, or from other weights that nothing else tells of."""
    (way, source), (other_way, other_source) = one.start, other.start
    sums = [((run.record and run.record.origin) or {}).get("sha256") for run in (one, other)]
    found = sums if None not in sums else [source, other_source]
    if way != other_way:
        put(START, (START, f"{way} {source}".strip(), f"{other_way} {other_source}".strip()))
    elif way == "weights" and (one.before is None) != (other.before is None):
        put(START, (START, *(f"{run.start[1]}{'' if run.before else ' (no record)'}" for run in (one, other))))
    elif way == "weights" and (one.before is not None or models_differ):
        return
    elif found[0] != found[1]:
        put(START, (START, source, other_source))


def _add_test(found: Changes, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Adds what decided two tests on one split in other ways."""
    stage = (TEST,)

    def put(thing: str, change: Change) -> None:
        changes = found.setdefault((stage, thing), [])
        if change not in changes:  # of another split's
            changes.append(change)

    changed = {name for name, *_ in differences(one, other)}
    left, right = ({name: value for name, value in of.items() if name not in _STATED} for of in (one, other))
    for name, *values in differences(left, right):
        section, _, setting = name.partition(".")
        if section != "data":
            short = name.removeprefix("entry.")
            put(short, (short, *values))
        elif setting.startswith("vocabulary"):
            put(VOCABULARY, (_file_of(setting), *values))
        elif not _follows_from_settings(setting, changed):
            put(DATA, (_file_of(setting), *values))
    _put_config(one.get("config") or {}, other.get("config") or {}, found, stage, put)
