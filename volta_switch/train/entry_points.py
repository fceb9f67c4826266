"""The four entry points: what each is called, its flags, what it reads, and what does its work.

Nothing here imports PyTorch: ``--help``, a bad flag, an unknown task or configuration, and a file that is not there are
told at once. Only then is the module imported that does the work.
"""

from __future__ import annotations

import argparse
import importlib
import io
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass

from volta_switch.command import environment_number, is_in_environment, run_command
from volta_switch.config.model_folder import take_model
from volta_switch.errors import UserError
from volta_switch.flag_parser import FlagParser
from volta_switch.train import flags, needed_files
from volta_switch.train.flag_values import print_ineffective_settings
from volta_switch.train.needed_files import NeededFiles
from volta_switch.train.next_command import given_flags, next_command
from volta_switch.train.world_runs import on_world


@dataclass(frozen=True)
class EntryPoint:
    """One command of VOLTA's.

    ``needed``: what it reads, by its flags. ``work``: the module and the function that do it, called with the flags and
    the command line. ``several_processes``: whether they may share it.
    """

    flags: Callable[[], FlagParser]
    needed: Callable[[argparse.Namespace], NeededFiles]
    work: tuple[str, str]
    several_processes: bool = True

    def parser(self) -> FlagParser:
        """Its flags, ``--world`` among them."""
        parser = self.flags()
        flags.add_world_flag(parser)
        return parser


WAIT = 3  # seconds; torchrun looks at its processes ten times a second
_TRAIN = "volta_switch.train"
ENTRY_POINTS = {
    "train_concap": EntryPoint(
        flags.pretraining_flags, needed_files.needed_by_pretraining, (f"{_TRAIN}.pretraining", "pretrain")
    ),
    "train_task": EntryPoint(
        flags.finetuning_flags, needed_files.needed_by_finetuning, (f"{_TRAIN}.finetuning", "fine_tune")
    ),
    "eval_task": EntryPoint(
        flags.evaluation_flags, needed_files.needed_by_evaluation, (f"{_TRAIN}.evaluation", "evaluate_task"), False
    ),
    "eval_retrieval": EntryPoint(
        flags.retrieval_flags, needed_files.needed_by_evaluation, (f"{_TRAIN}.evaluation", "evaluate_retrieval")
    ),
}


def run_entry_point(name: str) -> None:
    """Runs a root script, one of VOLTA's names for an entry point, and exits as ``run_command`` does."""
    run_command(entry_main(name))


def entry_main(name: str, typed: str = "") -> Callable[[Sequence[str]], None]:
    """Returns the function that runs an entry point with a command line, and says at the end how to go on.

    Args:
        name: the entry point, ``train_task``.
        typed: what its help calls it; empty: the script's name.
    """
    entry = ENTRY_POINTS[name]

    def main(argv: Sequence[str]) -> None:
        with _missing_package_explained():
            with _meeting_others_on_error(entry), _first_process_reports():
                args = read_flags(name, argv, typed)
            module, function = entry.work
            work = getattr(importlib.import_module(module), function)
        result = work(args, argv)
        if environment_number("RANK", 0) == 0:
            with suppress(UserError):  # what it names may be gone by now; the run has ended all the same
                said = next_command(name, args, given_flags(entry.parser(), argv), result, typed)
                if said:
                    print(f"next: {said}", file=sys.stderr)

    return main


def read_flags(name: str, argv: Sequence[str], typed: str = "") -> argparse.Namespace:
    """Reads an entry point's flags, with ``--world`` those of the synthetic world, once all is there.

    Raises:
        UserError: they name something that is not there, or contradict each other.
        SystemExit: of argparse, for bad flags and ``--help``.
    """
    entry = ENTRY_POINTS[name]
    parser = entry.parser()
    parser.prog = typed or parser.prog
    args = parser.parse_args(argv)
    if args.world:
        args = on_world(name, entry.parser, argv)
    else:
        take_model(args)
    needed_files.require(entry.needed(args))
    print_ineffective_settings(args)
    return args


@contextmanager
def _missing_package_explained() -> Iterator[None]:
    """Tells in one line that this is not the Python into which the project was installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "volta_switch":
            raise
        raise UserError(
            f"{sys.executable} lacks the package {error.name}; `make setup` makes an environment that has it: "
            "`source .venv/bin/activate`, or name its Python"
        ) from None


@contextmanager
def _first_process_reports() -> Iterator[None]:
    """Lets the first of several processes on one machine, which find the same, report it.

    The others wait before they do: torchrun stops them when the first has ended.
    """
    if environment_number("LOCAL_RANK", 0) == 0:
        yield
        return
    held = io.StringIO()
    try:
        with redirect_stderr(held):
            yield
    except (UserError, SystemExit):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
        time.sleep(WAIT)
        sys.stderr.write(held.getvalue())
        raise


@contextmanager
def _meeting_others_on_error(entry: EntryPoint) -> Iterator[None]:
    """Lets a process that lacks something meet those that lack nothing, and would wait for it, before it leaves.

    Under torchrun there is no need: it stops them.
    """
    try:
        yield
    except UserError:
        several = environment_number("WORLD_SIZE", 1) > 1 and not is_in_environment("TORCHELASTIC_RUN_ID")
        if several and entry.several_processes:
            from volta_switch.train.ranks import ranks  # which takes PyTorch

            with suppress(UserError), ranks():
                pass
        raise
