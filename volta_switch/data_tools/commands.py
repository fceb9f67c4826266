"""``volta-switch data``: checking, converting, extracting, repacking and sharding data files."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from volta_switch.data import formats
from volta_switch.data.files.pair_files import FOLDERS
from volta_switch.data_tools.extract_commands import add_extract
from volta_switch.ranges import ANY_TEXT, COUNT, COUNT_OR_NONE, PATH, Text, whole


def target_names() -> list[str]:
    """Returns what ``convert --to`` may name: the targets of all formats, and a compact store.

    Formats are read as text here, not imported: they import NumPy, which help does without.
    """
    texts = (path.read_text(encoding="utf-8") for folder in formats.__path__ for path in Path(folder).glob("*.py"))
    return sorted({"compact", *(name for text in texts for name in re.findall(r'\bTarget\(\s*"([^"]+)"', text))})


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands below ``volta-switch data``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_check(commands.add_parser("check", help="say what data files hold, and what is wrong with them"))
    _add_convert(commands.add_parser("convert", help="turn one feature format into another, and measure what is lost"))
    extracted = commands.add_parser("extract", help="write the region features of pictures; resumable")
    add_extract(extracted, target_names())
    _add_repack(commands.add_parser("repack", help="write a compact store, a quarter of the size; resumable"))
    _add_shard(commands.add_parser("shard", help="write WebDataset shards of image-caption pairs; resumable"))
    _add_targets(commands.add_parser("vqa-targets", help="make VQAv2's soft targets from its official annotations"))


def _add_check(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "paths",
        type=PATH,
        nargs="+",
        metavar="PATH",
        help="feature files, annotation files or directories, task files (.yml); compared with each other",
    )
    command.add_argument("--sample", type=COUNT, metavar="N", help="read N records of each feature file (default: all)")
    command.add_argument(
        "--task",
        action="append",
        type=Text(),
        default=[],
        metavar="TASK",
        help="of a task file only this one, by number, key or name; may be given again (default: all that are there)",
    )
    command.add_argument(
        "--data-root", type=ANY_TEXT, default="", help="the folder in which a task file's relative paths begin"
    )
    full = "read every byte, and keep a checksum beside each file, by which runs know it from then on"
    command.add_argument("--full", action="store_true", help=full)
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=_run_check)


def _run_check(args: argparse.Namespace) -> None:
    from volta_switch.data_tools.check import reports_text
    from volta_switch.data_tools.check_tasks import check_paths, keep_checksums

    reports = check_paths(args.paths, args.sample, args.task, args.data_root)
    if args.full:
        keep_checksums(reports)
    print(json.dumps([report.to_dict() for report in reports], indent=2) if args.json else reports_text(reports))
    if not all(report.fine for report in reports):
        raise SystemExit(2)


def _add_convert(command: argparse.ArgumentParser) -> None:
    command.add_argument("input", type=PATH, metavar="IN", help="a feature file of any format")
    command.add_argument("out", type=PATH, metavar="OUT", help="must not exist")
    command.add_argument(
        "--to", required=True, choices=target_names(), metavar="FORMAT", help="what OUT is to be: %(choices)s"
    )
    command.add_argument(
        "--captions", type=PATH, metavar="FILE", help="JSON {image id: caption}, for concap from images"
    )
    command.add_argument("--dtype", default="float16", choices=("float16", "float32"), help="of a compact store")
    command.add_argument(
        "--max-bad-records",
        type=COUNT_OR_NONE,
        default=0,
        help="records left out before nothing is written (default: 0)",
    )
    command.set_defaults(run=_run_convert)


def _run_convert(args: argparse.Namespace) -> None:
    from volta_switch.data_tools.convert import conversion_text, convert

    result = convert(
        args.input,
        args.out,
        args.to,
        captions=args.captions,
        dtype=args.dtype,
        max_bad_records=args.max_bad_records,
    )
    print(conversion_text(result))


def _add_repack(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "inputs", type=PATH, nargs="+", metavar="IN", help="feature files of one kind and one detector"
    )
    command.add_argument("out", type=PATH, metavar="OUT", help="the store's directory")
    _add_packing_flags(command)
    command.set_defaults(run=_run_repack)


def _add_shard(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "inputs", type=PATH, nargs="+", metavar="IN", help="files of image-caption pairs of one detector"
    )
    command.add_argument("out", type=PATH, metavar="OUT", help="gets the folder training or validation")
    command.add_argument("--split", required=True, choices=sorted(FOLDERS.values()), help="what the pairs are for")
    command.add_argument(
        "--shard-size", type=whole(1, 1 << 20), default=256, metavar="MIB", help="of one shard (default: 256)"
    )
    _add_packing_flags(command)
    command.set_defaults(run=_run_shard)


def _add_packing_flags(command: argparse.ArgumentParser) -> None:
    dtypes = ("float16", "float32")
    command.add_argument("--dtype", default="float16", choices=dtypes, help="of the features and the scores")
    command.add_argument("--top-classes", type=COUNT, default=100, help="class scores kept of a region (default: 100)")
    command.add_argument("--top-attributes", type=COUNT, default=16, help="attribute scores kept (default: 16)")
    command.add_argument(
        "--max-bad-records",
        type=COUNT_OR_NONE,
        default=0,
        help="records left out before the run is stopped (default: 0)",
    )


def _run_repack(args: argparse.Namespace) -> None:
    from volta_switch.data_tools.repack import repack

    finished = Path(args.out).exists()
    manifest = _packed(args, partial(repack, args.inputs, args.out))
    print(f"{args.out}: {manifest['records']} records, {manifest['regions']} regions, sha256 {manifest['sha256']}")
    _print_packed(manifest, finished)


def _run_shard(args: argparse.Namespace) -> None:
    from volta_switch.data_tools.repack import shard

    split = next(split for split, folder in FOLDERS.items() if folder == args.split)
    out = Path(args.out) / args.split
    finished = out.exists()
    manifest = _packed(args, partial(shard, args.inputs, args.out, split, shard_size=args.shard_size << 20))
    print(f"{out}: {manifest['records']} records, {manifest['regions']} regions, {len(manifest['shards'])} shards")
    _print_packed(manifest, finished)


def _packed(args: argparse.Namespace, write: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """Writes with the flags that ``repack`` and ``shard`` have in common, and a bar; returns the manifest."""
    from tqdm import tqdm

    with tqdm(unit="record", leave=False, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return write(
            dtype=args.dtype,
            top_classes=args.top_classes,
            top_attributes=args.top_attributes,
            max_bad_records=args.max_bad_records,
            progress=progress,
        )


def _print_packed(manifest: dict[str, Any], finished: bool) -> None:
    if finished:
        print("  it was there already; nothing was written")
    for name, value in manifest["losses"].items():
        print(f"  {name.replace('_', ' ')}: {value:.3g}")
    if manifest["passed_over"]:
        print(f"  bad records passed over: {len(manifest['passed_over'])}")


def _add_targets(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "dataroot", type=PATH, metavar="DATAROOT", help="the folder of VQAv2's questions and annotations"
    )
    command.add_argument(
        "--min-occurrences", type=COUNT, default=9, help="answers given less often have no label (default: 9)"
    )
    command.add_argument("--new-labels", action="store_true", help="make the label maps anew where they are there")
    command.set_defaults(run=_run_targets)


def _run_targets(args: argparse.Namespace) -> None:
    from volta_switch.tasks.vqa_files import make_vqa_targets

    counts = make_vqa_targets(args.dataroot, args.min_occurrences, keep_labels=not args.new_labels)
    print(f"{args.dataroot}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()))
