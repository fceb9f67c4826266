"""``volta-switch``: the four entry points, and the commands beside them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from volta_switch import __version__
from volta_switch.command import run_command
from volta_switch.cost.commands import add_flops_arguments, run_flops
from volta_switch.data_tools.commands import add_data_commands
from volta_switch.errors import UserError
from volta_switch.flag_parser import FlagParser
from volta_switch.plugin.commands import add_volta_arguments, run_volta
from volta_switch.quick import add_quick_arguments, run_quick
from volta_switch.ranges import ANY_TEXT, PATH, PROBABILITY, Number, Text, whole
from volta_switch.routes.commands import route_flags, run_routes
from volta_switch.study.finished import plan_of
from volta_switch.study.forecast import dry_run
from volta_switch.study.gpus import chosen_gpus
from volta_switch.study.plan import Study, load_study
from volta_switch.study.report.page import write_report
from volta_switch.study.run import run_study
from volta_switch.study.sizing import sizing, sizing_text
from volta_switch.study.table import make_tables, tables_of, tables_text
from volta_switch.study.travel import export_cells, merge_cells
from volta_switch.tasks.shares import WHOLE
from volta_switch.train.entry_points import run_entry_point
from volta_switch.train.flags import SHARD
from volta_switch.world import add_world_arguments, run_world

EFFECT = Number(0.0, 100.0, above=True)  # points


# The four entry points, which a wheel has no scripts of: command -> what VOLTA calls it, and what it does.
ENTRY_COMMANDS = {
    "pretrain": ("train_concap", "pre-train a model on image-caption pairs (train_concap.py)"),
    "finetune": ("train_task", "fine-tune a model on a task (train_task.py)"),
    "evaluate": ("eval_task", "evaluate a model on a task (eval_task.py)"),
    "retrieve": ("eval_retrieval", "evaluate image-text retrieval over all pairs (eval_retrieval.py)"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in ENTRY_COMMANDS:
        run_entry_point(ENTRY_COMMANDS[given[0]][0], given[1:], f"volta-switch {given[0]}")
    else:
        run_command(_run, given)


def _run(argv: Sequence[str]) -> None:
    args = command_parser().parse_args(argv)
    args.run(args)


def command_parser() -> FlagParser:
    """The parser of ``volta-switch`` and of all commands below it."""
    parser = FlagParser(prog="volta-switch", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, about) in ENTRY_COMMANDS.items():  # ``main`` runs them; they stand in the list of commands
        commands.add_parser(name, help=about, add_help=False)
    world = commands.add_parser("world", help="write a small synthetic world in VOLTA's file formats")
    add_world_arguments(world)
    world.set_defaults(run=run_world)
    quick = commands.add_parser("quick", help="train one small model on one task, and draw what it saw and answered")
    add_quick_arguments(quick)
    quick.set_defaults(run=run_quick)
    _add_study_commands(commands.add_parser("study", help="run a controlled comparison and print its table"))
    add_data_commands(commands.add_parser("data", help="check, convert, repack and shard data files"))
    flops = commands.add_parser("flops", help="print what a configuration costs: operations, parameters, memory")
    add_flops_arguments(flops)
    flops.set_defaults(run=run_flops)
    about = "record the routes that Switch-BERT takes on a task, and try others"
    routes = commands.add_parser("routes", help=about, parents=[route_flags()], add_help=False)
    routes.set_defaults(run=run_routes)
    volta = commands.add_parser("volta", help="run a script of a VOLTA checkout with Switch-BERT")
    add_volta_arguments(volta)
    volta.set_defaults(run=run_volta)
    return parser


def _add_study_commands(parser: argparse.ArgumentParser) -> None:
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


def _run_study(args: argparse.Namespace) -> None:
    study = _study(args)
    if args.dry_run:
        print(dry_run(study, _folder(args, study), args.cells or WHOLE))
        return
    gpus = chosen_gpus(args.gpus)
    jobs = args.jobs if args.jobs is not None else len(gpus) or os.cpu_count() or 1
    run_study(study, _folder(args, study), jobs, args.retries, gpus=gpus, share=args.cells or WHOLE)
    if args.cells is None:
        _print_table(args)
    else:
        print(
            f"the share is finished; when all are: volta-switch study table {args.study} --out {_folder(args, study)}"
        )


def _export_cells(args: argparse.Namespace) -> None:
    study = _study(args)
    to = Path(args.to or f"{study.name}.cells")
    count = export_cells(plan_of(study, _folder(args, study)), to)
    size = to.stat().st_size
    print(f"{to}: {count} cells, {size / 1000:.1f} kB ({size / 1000 / count:.1f} kB a cell)")


def _merge_cells(args: argparse.Namespace) -> None:
    study = _study(args)
    found = merge_cells(study, _folder(args, study), [Path(name) for name in args.files])
    print(
        f"{found['merged']} cells merged, {found['there']} there before, {found['use']} not of this study as it is now"
    )


def _print_table(args: argparse.Namespace) -> None:
    study = _study(args)
    plan = plan_of(study, _folder(args, study))
    made = make_tables(plan, finished_only=getattr(args, "partial", False))
    print(tables_text(made))
    print(f"{plan.folder / 'table.md'}, .json, .csv and .tex; {write_report(plan, made)}")


def _print_power(args: argparse.Namespace) -> None:
    study = _study(args)
    effect = study.minimum_effect if args.effect is None else args.effect
    made = tables_of(plan_of(study, _folder(args, study)), finished_only=True)["tables"]
    print(sizing_text(sizing(made, effect, args.target), effect, args.target))


def _study(args: argparse.Namespace) -> Study:
    study = load_study(args.study)
    return study.only(args.tables) if args.tables else study


def _folder(args: argparse.Namespace, study: Study) -> Path:
    """The study's folder: what ``--out`` names, else one of its name below ``runs``."""
    if args.out:
        return Path(args.out)
    name = study.name
    if not name.strip() or name != name.strip() or name.startswith(".") or "/" in name or "\0" in name:
        raise UserError(f"{args.study}: name: {name!r} is no name of a folder below runs/; change it, or give --out")
    return Path("runs") / name


if __name__ == "__main__":
    main()
