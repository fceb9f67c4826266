"""``volta-switch play``: a page on this machine, to ask a model about pictures."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from volta_switch.command import typed_program
from volta_switch.predict.commands import add_model_arguments
from volta_switch.ranges import ANY_TEXT, PATH, whole


def play_command(model: Path, tasks_file: Path, data_root: str = "") -> str:
    """Returns what to type to ask a model about images and texts of its task."""
    root = ["--data_root", data_root] if data_root else []
    return shlex.join([*typed_program(), "play", str(model), "--tasks_config_file", str(tasks_file), *root])


def add_play_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_model_arguments(parser)
    data = "a task file, such as a synthetic world's tasks.yml: images and texts of the model's task are at hand"
    parser.add_argument("--tasks_config_file", "--tasks-config-file", type=ANY_TEXT, metavar="FILE", help=data)
    parser.add_argument("--split", type=ANY_TEXT, default="", help="of the task (default: its validation split)")
    root = "the folder in which a task file's relative paths begin"
    parser.add_argument("--data_root", "--data-root", type=ANY_TEXT, default="", metavar="FOLDER", help=root)
    parser.add_argument("--images", type=PATH, metavar="FOLDER", help="a folder of pictures to choose from")
    port = "of the page's address; 0: one that is free (default)"
    parser.add_argument("--port", type=whole(0, 65535), default=0, metavar="N", help=port)
    closed = "print the page's address and open no browser"
    parser.add_argument("--no-open", dest="open", action="store_false", help=closed)


def run_play(args: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C."""
    from volta_switch.play.server import serve  # here, not above: it imports PyTorch

    serve(args)
