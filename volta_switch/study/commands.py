"""``volta-switch study`` and ``compare``: their flags; what they need is imported when they run."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from volta_switch.errors import UserError
from volta_switch.play.commands import play_command
from volta_switch.ranges import ANY_TEXT, PATH, PROBABILITY, Number, Text, whole
from volta_switch.tasks.task import WHOLE
from volta_switch.train.flags import SHARD

if TYPE_CHECKING:
    from volta_switch.study.plan import Study
    from volta_switch.study.run_plan import RunPlan

FORMATS = ("text", "md", "csv", "tex", "json")
EFFECT = Number(0.0, 100.0, above=True)  # points


def add_study_commands(parser: argparse.ArgumentParser) -> None:
    """Adds the commands below ``volta-switch study``."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text, action in (
        ("run", "run what is not finished yet, then print the tables", _run_study),
        ("table", "print the tables of finished runs", _print_table),
        ("export", "write its finished cells to one small file, without weights", _export_cells),
        ("merge", "take finished cells from files of export", _merge_cells),
        ("power", "print how many seeds its claims need, by the spread of the finished runs", _print_power),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("study", type=PATH, help="a YAML file, such as studies/demo.yaml")
        command.add_argument("--out", type=ANY_TEXT, default="", help="the study's folder (default: runs/<name>)")
        command.add_argument("--tables", nargs="+", type=Text(), default=[], metavar="TABLE", help="these tables alone")
        command.set_defaults(run=action)
        if name == "export":
            command.add_argument(
                "--to", type=ANY_TEXT, default="", metavar="FILE", help="the file to write (default: <name>.cells)"
            )
        if name == "merge":
            command.add_argument("files", type=PATH, nargs="+", metavar="FILE", help="written by export")
        if name == "table":
            command.add_argument("--partial", action="store_true", help="of the seeds that all arms have finished")
        if name == "power":
            command.add_argument("--effect", type=EFFECT, help="in points (default: the study's minimum_effect)")
            command.add_argument("--target", type=PROBABILITY, default=0.8, help="the chance of finding it")
        if name == "run":
            jobs = "cells at once (default: as many as there are GPUs, or CPU cores without)"
            command.add_argument("--jobs", type=whole(1, 1024), default=None, help=jobs)
            gpus = "how many GPUs, or which (0,2 or 3,), for the jobs, one each (default: all that PyTorch sees)"
            command.add_argument("--gpus", type=ANY_TEXT, default="", metavar="N|LIST", help=gpus)
            of = "run the i-th of n shares of the cells alone, for job arrays; the tables are made without it"
            command.add_argument("--cells", type=SHARD, default=None, metavar="i/n", help=of)
            command.add_argument(
                "--retries", type=whole(0, 1000), default=1, help="how often a failed cell is tried again"
            )
            command.add_argument("--dry-run", action="store_true", help="list the cells and their hours, run nothing")


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of ``volta-switch compare``."""
    of = "a folder that a training run or an evaluation has written; runs that differ only in the seed are one row"
    parser.add_argument("runs", type=PATH, nargs="+", metavar="RUN", help=of)
    tests = "folders of evaluations, matched by their weights (default: the runs' own folders, and those below results)"
    parser.add_argument("--results", type=PATH, nargs="+", default=[], metavar="FOLDER", help=tests)
    parser.add_argument("--format", choices=FORMATS, default="text", help="what is printed")
    several = "make the table although its rows differ in several things; it names them"
    parser.add_argument("--anyway", action="store_true", help=several)
    parser.set_defaults(run=_print_comparison)


def _print_comparison(args: argparse.Namespace) -> None:
    from volta_switch.study.compare import compare_runs

    found = compare_runs(args.runs, args.results, args.anyway)
    for remark in found.remarks:
        print(f"note: {remark}", file=sys.stderr)
    print(found.text(args.format))


def _run_study(args: argparse.Namespace) -> None:
    from volta_switch.study.forecast import dry_run
    from volta_switch.study.run import chosen_gpus, run_study

    study = _study(args)
    if args.dry_run:
        print(dry_run(study, _folder(args, study), args.cells or WHOLE))
        return
    gpus = chosen_gpus(args.gpus)
    jobs = args.jobs if args.jobs is not None else len(gpus) or os.cpu_count() or 1
    run_study(study, _folder(args, study), jobs, args.retries, gpus=gpus, share=args.cells or WHOLE)
    if args.cells is None:
        plan = _print_table(args)
        if command := _next_command(plan):
            print(f"next: {command}")
    else:
        print(
            f"the share is finished; when all are: volta-switch study table {args.study} --out {_folder(args, study)}"
        )


def _export_cells(args: argparse.Namespace) -> None:
    from volta_switch.study.exports import export_runs
    from volta_switch.study.run_plan import plan_of

    study = _study(args)
    to = Path(args.to or f"{study.name}.cells")
    count = export_runs(plan_of(study, _folder(args, study)), to)
    size = to.stat().st_size
    print(f"{to}: {count} cells, {size / 1000:.1f} kB ({size / 1000 / count:.1f} kB a cell)")


def _merge_cells(args: argparse.Namespace) -> None:
    from volta_switch.study.exports import merge_runs

    study = _study(args)
    found = merge_runs(study, _folder(args, study), [Path(name) for name in args.files])
    print(f"{found.merged} cells merged, {found.present} there before, {found.unused} not of this study as it is now")


def _print_table(args: argparse.Namespace) -> RunPlan:
    from volta_switch.study.report.page import write_report
    from volta_switch.study.run_plan import plan_of
    from volta_switch.study.table import make_tables
    from volta_switch.study.written_tables import tables_text

    study = _study(args)
    plan = plan_of(study, _folder(args, study))
    made = make_tables(plan, finished_only=getattr(args, "partial", False))
    print(tables_text(made))
    print(f"{plan.folder / 'table.md'}, .json, .csv and .tex; {write_report(plan, made)}")
    return plan


def _next_command(plan: RunPlan) -> str:
    """Returns the command that opens a page to ask a fine-tuned model, one that switches if there is any."""
    from volta_switch.config.model_folder import is_model_folder
    from volta_switch.study.planned_runs import RunKind

    tuned = [run for run in plan.runs if run.work.kind is RunKind.FINE_TUNING and is_model_folder(run.folder)]
    tuned.sort(key=lambda run: plan.config(run.arm).switch is None)
    if not tuned:
        return ""
    places = plan.places(tuned[0].arm)
    return play_command(tuned[0].folder, places.tasks_config_file, places.data_root)


def _print_power(args: argparse.Namespace) -> None:
    from volta_switch.study.run_plan import plan_of
    from volta_switch.study.sizing import sizing, sizing_text
    from volta_switch.study.table import tables_of

    study = _study(args)
    effect = study.minimum_effect if args.effect is None else args.effect
    planned = {table.name: len(table.seeds_of(study.arms[table.arms[0]])) for table in study.tables}
    made = tables_of(plan_of(study.pilot(), _folder(args, study)), finished_only=True).tables
    print(sizing_text(sizing(made, effect, args.target, planned), effect, args.target))


def _study(args: argparse.Namespace) -> Study:
    from volta_switch.study.plan import load_study

    study = load_study(args.study)
    return study.only(args.tables) if args.tables else study


def _folder(args: argparse.Namespace, study: Study) -> Path:
    """Returns the study's folder: what ``--out`` names, else one of its name below ``runs``."""
    if args.out:
        return Path(args.out)
    name = study.name
    if not name.strip() or name != name.strip() or name.startswith(".") or "/" in name or "\0" in name:
        raise UserError(f"{args.study}: name: {name!r} is no name of a folder below runs/; change it, or give --out")
    return Path("runs") / name
