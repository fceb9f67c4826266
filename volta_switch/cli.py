"""``volta-switch``: the commands beside the four VOLTA entry points."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from volta_switch import __version__
from volta_switch.cost.commands import add_flops_arguments, run_flops
from volta_switch.data.files.commands import add_data_commands
from volta_switch.plugin.commands import add_volta_arguments, run_volta
from volta_switch.routes.commands import route_flags, run_routes
from volta_switch.study.curves import draw_curves
from volta_switch.study.plan import Study, load_study
from volta_switch.study.run import dry_run, plan_of, run_study
from volta_switch.study.table import make_tables
from volta_switch.train.arguments import run_command
from volta_switch.world import add_world_arguments, run_world


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits."""
    run_command(_run, argv)


def _run(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="volta-switch", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    world = commands.add_parser("world", help="write a small synthetic world in VOLTA's file formats")
    add_world_arguments(world)
    world.set_defaults(run=run_world)
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
    args = parser.parse_args(argv)
    args.run(args)


def _add_study_commands(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, text, action in (
        ("run", "run what is not finished yet, then print the tables", _run_study),
        ("table", "print the tables of finished runs", _print_table),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("study", help="a YAML file, such as studies/demo.yaml")
        command.add_argument("--out", default="", help="the study's folder (default: runs/<name>)")
        command.set_defaults(run=action)
        if name == "run":
            command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells at once")
            command.add_argument("--retries", type=int, default=1, help="how often a failed cell is tried again")
            command.add_argument("--dry-run", action="store_true", help="list the cells and their hours, run nothing")


def _run_study(args: argparse.Namespace) -> None:
    study = load_study(args.study)
    if args.dry_run:
        print(dry_run(study, _folder(args, study)))
        return
    run_study(study, _folder(args, study), args.jobs, args.retries)
    _print_table(args)


def _print_table(args: argparse.Namespace) -> None:
    study = load_study(args.study)
    plan = plan_of(study, _folder(args, study))
    print(make_tables(plan))
    print(f"{plan.folder / 'table.md'}, .json, .csv and .tex; {draw_curves(plan)}")


def _folder(args: argparse.Namespace, study: Study) -> Path:
    return Path(args.out) if args.out else Path("runs") / study.name


if __name__ == "__main__":
    main()
