"""``volta-switch volta``: runs a script of a VOLTA checkout with Switch-BERT and the repairs that it needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from volta_switch.errors import UserError
from volta_switch.flag_parser import FlagParser
from volta_switch.ranges import ANY_TEXT, PATH, Text

EXAMPLE = "volta-switch volta --home DIR train_concap.py --config_file switchbert.json ..."


def main(argv: Sequence[str]) -> None:
    """Runs the command by itself."""
    parser = FlagParser(prog="python -m volta_switch.plugin", description=__doc__)
    add_volta_arguments(parser)
    run_volta(parser.parse_args(argv))


def add_volta_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that come before the script's name; those after it are the script's own."""
    parser.description, parser.epilog = __doc__, f"example: {EXAMPLE}"
    parser.add_argument("--home", type=PATH, help="the checkout of github.com/e-bug/volta; by default VOLTA_HOME")
    parser.add_argument("--list-repairs", action="store_true", help="print every repair, with VOLTA's file and line")
    for flag, help in (("--without", "leave out a repair"), ("--fix", "mend also an error that changes numbers")):
        parser.add_argument(
            flag, metavar="NAME", type=Text(), action="append", default=[], help=f"{help}; several times if needed"
        )
    parser.add_argument("--no-plugin", action="store_true", help="repair VOLTA, but leave its models alone")
    parser.add_argument("script", nargs="?", type=PATH, help="train_concap.py, train_task.py, eval_task.py, ...")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, type=ANY_TEXT, help="the script's own flags")


def run_volta(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: no checkout, no such script or repair, or VOLTA cannot be imported.
    """
    from volta_switch.plugin.checkout import find_checkout  # here, not above: the repairs import PyTorch
    from volta_switch.plugin.repairs import choose
    from volta_switch.plugin.script import Script

    repairs = choose(args.without, args.fix)
    if args.list_repairs:
        print(repair_tables())
        return
    if not args.script:
        raise UserError(f"which script? For example: {EXAMPLE}")
    Script(find_checkout(args.home), args.script).run(repairs, args.arguments, plugin=not args.no_plugin)


def repair_tables() -> str:
    """Returns two tables: what is mended unless left out, and what is mended on request."""
    from tabulate import tabulate

    from volta_switch.plugin.repairs import REPAIRS

    tables = []
    titles = {False: "Mended by default; --without NAME leaves one out", True: "Mended with --fix NAME"}
    for fixes_numbers, title in titles.items():
        rows = [(one.name, one.where, one.problem) for one in REPAIRS if one.fixes_numbers == fixes_numbers]
        tables.append(f"{title}:\n\n{tabulate(rows, ('name', 'in VOLTA', 'what is wrong'), tablefmt='github')}")
    return "\n\n".join(tables)
