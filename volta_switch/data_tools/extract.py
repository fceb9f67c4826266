"""Features of pictures: what ``volta-switch data extract`` does.

They become a compact store first, picture by picture, which a killed run continues. Any other format is then made of
it; for that it holds float32 numbers and all scores, and is removed at the end.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from volta_switch.checksums import json_digest
from volta_switch.data.detector_facts import DETECTOR, facts_file, keep_facts
from volta_switch.data.files.json_files import read_object
from volta_switch.data.formats import compact
from volta_switch.data_tools.convert import TARGETS, convert, refuse_ids
from volta_switch.data_tools.detected import DetectedPictures, Work
from volta_switch.data_tools.packing import check_options
from volta_switch.data_tools.picture_sources import Pictures
from volta_switch.data_tools.repack import write_store
from volta_switch.detector.detect import Detector
from volta_switch.errors import UserError
from volta_switch.files import measured, remove

SAFE_AFTER = 1.0  # seconds of work that a kill may cost, and the picture that is computed then
EVERY_SCORE = 1 << 15  # more than a detector has
COMPACT = "compact"
_PLAN = "plan"
_WORK = ".extracting"
_OWN = re.compile(r"data\.mdb(\.unfinished-\d+)?|lock\.mdb")  # of an LMDB's folder, finished or not


@dataclass(frozen=True)
class Output:
    """What is written.

    Attributes:
        to: a format, as ``data convert --to`` names it.
        dtype, top_classes, top_attributes: of a compact store.
        captions: JSON {image id: caption}, for a format of pairs.
        max_bad_records: pictures that cannot be used and are left out.
    """

    to: str = COMPACT
    dtype: str = "float16"
    top_classes: int = 100
    top_attributes: int = 16
    captions: str | None = None
    max_bad_records: int = 0


def extract(
    pictures: Pictures,
    out: str | Path,
    detector: Detector,
    work: Work,
    output: Output,
    devices: list[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the features of pictures to ``out``, which appears whole, at the end.

    The same call continues a run that was killed. Where ``out`` is the result already, nothing is computed.

    Args:
        pictures: in the order of the result.
        out: a file or folder, by the format.
        detector: loaded from ``work.source``.
        work: what is computed.
        output: what is written.
        devices: one for each process that computes, as ``devices_of`` gives them.
        progress: called with (pictures looked at, pictures in all).

    Returns:
        Of a compact store its manifest, else ``records``, ``regions`` and ``passed_over`` alone.

    Raises:
        UserError: ``out`` holds anything else, or an unfinished result of other pictures or options; there are more
            unusable pictures than allowed; the disk is full.
    """
    out = Path(out)
    if output.to not in TARGETS:
        raise UserError(f"--to {output.to}: expected one of {', '.join(TARGETS)}")
    _check_captions(pictures, output)
    refuse_ids(output.to, (file.image_id for file in pictures.files))
    pictures = pictures.with_digests()
    facts = detector.facts(work.selection, given=any(file.boxes is not None for file in pictures.files))
    straight = output.to == COMPACT
    sizes = (output.dtype, output.top_classes, output.top_attributes)
    dtype, top_classes, top_attributes = sizes if straight else ("float32", EVERY_SCORE, EVERY_SCORE)
    check_options(dtype, top_classes, top_attributes)
    plan = {
        "sources": [pictures.fingerprint()],
        "dtype": dtype,
        "top_classes": top_classes,
        "top_attributes": top_attributes,
        DETECTOR: facts,
        "batch": work.batch,
        "settings": json_digest(detector.config.to_dict()),
    }
    if not straight and out.exists() and (found := _there(out, plan, output)) is not None:
        return found
    store = out if straight else out.with_name(out.name + _WORK)
    source = DetectedPictures(pictures, work, detector, devices)
    try:
        manifest = write_store([source], store, plan, output.max_bad_records, progress, SAFE_AFTER)
    finally:
        source.close()
    if straight:
        return manifest
    keep_facts(out, facts, **{_PLAN: _digest(plan, output)}, **_counts(manifest))
    convert(store, out, output.to, captions=output.captions)
    remove(store)
    return _counts(manifest)


def is_whole(out: Path) -> bool:
    """Returns whether a result is there, and not the folder alone that a killed run had made for it."""
    return out.is_file() or any((out / name).is_file() for name in ("data.mdb", compact.MANIFEST))


def _check_captions(pictures: Pictures, output: Output) -> None:
    """Raises UserError, before a picture is looked at, where captions are missing or have no place."""
    pairs = TARGETS.of_pairs(output.to)
    if output.captions is None:
        if pairs:
            raise UserError(f"--to {output.to}: needs --captions FILE, a JSON object {{image id: caption}}")
        return
    if not pairs:
        what = "a compact store of pictures" if output.to == COMPACT else output.to
        raise UserError(f"--captions: {what} holds none; leave it out, or use --to concap")
    known = read_object(Path(output.captions))
    bare = next((file.image_id for file in pictures.files if not isinstance(known.get(file.image_id), str)), None)
    if bare is not None:
        raise UserError(f"{output.captions}: no caption of image {bare!r}; expected {{image id: caption}} of every one")


def _there(out: Path, plan: dict[str, Any], output: Output) -> dict[str, Any] | None:
    """Returns what ``extract`` does where ``out`` is there; None where a killed run had only made its folder.

    Raises:
        UserError: it is something else.
    """
    kept = read_object(facts_file(out)) if facts_file(out).is_file() else {}
    if kept.get(_PLAN) != _digest(plan, output):
        raise UserError(f"{out}: exists, and not as these features of these pictures; delete it, or give another OUT")
    store = out.with_name(out.name + _WORK)
    if not is_whole(out):
        if strange := [path.name for path in out.iterdir() if not _OWN.fullmatch(path.name)]:
            raise UserError(
                f"{out}: holds {strange[0]}, which is no part of features; move it away, or give another OUT"
            )
        shutil.rmtree(out)
        return None
    if (store / compact.MANIFEST).is_file():  # of a run that was killed at its very end
        shutil.rmtree(store)
    return {name: kept[name] for name in ("records", "regions", "passed_over")}


def _counts(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: manifest[name] for name in ("records", "regions", "passed_over")}


def _digest(plan: dict[str, Any], output: Output) -> str:
    captions = None if output.captions is None else measured(Path(output.captions))["sha256"]
    return json_digest({**plan, "to": output.to, "captions": captions})


def devices_of(name: str, jobs: int) -> list[str]:
    """Returns the device of each process: "cpu"; "cuda": all GPUs in turn; "cuda:1"; "auto": GPUs where there are some.

    Raises:
        UserError: there is no such device.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if count else "cpu"
    if name == "cpu":
        return ["cpu"] * jobs
    kind, _, number = name.partition(":")
    if kind != "cuda" or not (number.isdecimal() or not number):
        raise UserError(f"--device {name}: expected auto, cpu, cuda or cuda:N")
    if not count or (number and int(number) >= count):
        raise UserError(f"--device {name}: this machine has {count} GPUs that PyTorch can use; take --device cpu")
    return [f"cuda:{number or job % count}" for job in range(jobs)]
