"""``volta-switch data extract``: features of pictures, and the detector's self-test."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from volta_switch.detector.flags import add_detector_arguments
from volta_switch.ranges import BATCH_SIZE, COUNT, COUNT_OR_NONE, PART, PATH, Text, whole

SAID_EVERY = 30.0  # seconds between two lines about the progress, where there is no terminal


def add_extract(command: argparse.ArgumentParser, targets: list[str]) -> None:
    """Adds the command's flags; ``targets``: what ``--to`` may name."""
    images = "a folder, a .tar, a .jsonl or a list of pictures"
    command.add_argument("images", type=PATH, nargs="?", metavar="IMAGES", help=images)
    command.add_argument("out", type=PATH, nargs="?", metavar="OUT", help="the features; the same command continues it")
    add_detector_arguments(command, required=True)
    command.add_argument(
        "--to", default="compact", choices=targets, metavar="FORMAT", help="what OUT is to be: %(choices)s"
    )
    command.add_argument(
        "--boxes", type=PATH, metavar="FILE", help="JSON {image id: boxes} or COCO's annotations, in place of proposals"
    )
    command.add_argument("--captions", type=PATH, metavar="FILE", help="JSON {image id: caption}, for --to concap")
    command.add_argument("--device", type=Text(), default="auto", metavar="NAME", help="cpu, cuda (all GPUs), cuda:N")
    command.add_argument("--jobs", type=whole(1, 256), default=1, help="processes that compute, on GPUs in turn")
    command.add_argument("--batch", type=BATCH_SIZE, default=1, help="pictures that go through the network together")
    command.add_argument(
        "--part", type=PART, default=(1, 1), metavar="K/N", help="only a part of IMAGES (default: all)"
    )
    dtypes = ("float16", "float32")
    command.add_argument("--dtype", default="float16", choices=dtypes, help="of a compact store")
    command.add_argument("--top-classes", type=COUNT, default=100, help="class scores that a compact store keeps")
    command.add_argument("--top-attributes", type=COUNT, default=16, help="attribute scores that it keeps")
    command.add_argument(
        "--max-bad-records",
        type=COUNT_OR_NONE,
        default=0,
        help="unusable pictures left out before the run is stopped (default: 0)",
    )
    test = "compare the detector with the features in --photos; IMAGES and OUT are left out"
    command.add_argument("--self-test", action="store_true", help=test)
    command.add_argument(
        "--photos", type=PATH, metavar="FOLDER", help="images/ and one TSV with Caffe's features of them"
    )
    command.set_defaults(run=run_extract)


def run_extract(args: argparse.Namespace) -> None:
    """Does what the flags say.

    Raises:
        UserError: see ``extract.extract``; or the self-test misses its marks.
    """
    from volta_switch.errors import UserError

    if args.self_test or args.photos:
        _run_self_test(args)
    elif args.images is None or args.out is None:
        raise UserError("data extract: expected IMAGES and OUT; volta-switch data extract --help lists all flags")
    else:
        try:
            _run(args)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; the same command continues where it stopped") from None


def _run_self_test(args: argparse.Namespace) -> None:
    from volta_switch.data_tools.extract import devices_of
    from volta_switch.data_tools.self_test import self_test, self_test_text
    from volta_switch.detector.checkpoints import load_detector
    from volta_switch.errors import UserError

    if not (args.self_test and args.photos) or args.images is not None:
        raise UserError("data extract: --self-test needs --photos FOLDER, and neither IMAGES nor OUT")
    found = self_test(load_detector(args.detector, devices_of(args.device, 1)[0]), args.photos)
    print(self_test_text(found))
    if not all(each.fine for each in found):
        raise SystemExit(2)


def _run(args: argparse.Namespace) -> None:
    from volta_switch.data_tools.detected import Work
    from volta_switch.data_tools.extract import Output, devices_of, extract, is_whole
    from volta_switch.data_tools.picture_sources import find_pictures
    from volta_switch.detector.checkpoints import load_detector
    from volta_switch.detector.selection import asked_selection
    from volta_switch.hub_models import is_address, pinned

    selection = asked_selection(args.select, args.regions)
    devices = devices_of(args.device, args.jobs)
    pictures = find_pictures(args.images, args.boxes)
    if args.part != (1, 1):
        pictures = pictures.share(*args.part)
    alone = len(devices) == 1
    source = pinned(args.detector) if is_address(args.detector) else args.detector  # all processes read one commit
    detector = load_detector(source, devices[0] if alone else "cpu")
    output = Output(args.to, args.dtype, args.top_classes, args.top_attributes, args.captions, args.max_bad_records)
    there = is_whole(Path(args.out))
    if not there:
        where = f"{len(devices)} processes on {', '.join(sorted(set(devices)))}" if not alone else devices[0]
        print(
            f"{len(pictures.files)} pictures, {detector.config.name} ({where}); first all are read once",
            file=sys.stderr,
        )
    with _Progress() as progress:
        work = Work(source, selection, args.batch)
        manifest = extract(pictures, args.out, detector, work, output, devices, progress)
    print(f"{args.out}: {manifest['records']} pictures, {manifest['regions']} regions, {selection.kind}")
    missing = manifest["records"] * selection.least - manifest["regions"]
    if missing > 0 and all(file.boxes is None for file in pictures.files):
        print(f"  {missing} regions fewer than {selection.least} a picture: some pictures do not give so many")
    if there:
        print("  it was there already; nothing was computed")
    if manifest["passed_over"]:
        print(f"  unusable pictures left out: {len(manifest['passed_over'])}")


class _Progress:
    """A bar with the time left on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = self._said = time.monotonic()
        self._first: int | None = None  # pictures that an earlier run has done

    def __enter__(self) -> Callable[[int, int], None]:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(unit="picture", leave=False)
        return self._tell

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _tell(self, done: int, total: int) -> None:
        if self._bar is not None:
            if self._bar.total is None:
                self._bar.total, self._bar.initial, self._bar.n = total, done - 1, done - 1
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if self._first is None:
            self._first, self._begun = done, now  # what came before took the time of loading, too
        elif now - self._said >= SAID_EVERY or done == total:
            left = (now - self._begun) / max(done - self._first, 1) * (total - done)
            print(f"{done} of {total} pictures, {_shown(left)} left", file=sys.stderr)
            self._said = now


def _shown(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
