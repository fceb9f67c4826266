"""The help of every command: what it imports, how it is laid out, and the completion that shells make of it."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from shells import BUFFERED, ROOT
from volta_switch import cli
from volta_switch.data_tools import commands, convert
from volta_switch.flag_parser import all_parsers
from volta_switch.train.entry_points import ENTRY_POINTS
from volta_switch.train.flags import ACCEPTED, FIXED, HEADINGS, WITHOUT_EFFECT

HEAVY = ("torch", "numpy", "scipy")
COMMANDS = [parser.prog.split()[1:] for parser in all_parsers(cli.command_parser())]
# Prints what a program has imported when it has given its help.
WATCHED = f"""
import atexit, runpy, sys
atexit.register(lambda: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr))
"""


def run(*words, **more):
    environment = {**BUFFERED, "PYTHONPATH": str(ROOT)}
    settings = {"cwd": ROOT, "env": environment, "text": True, "timeout": 120, "stderr": subprocess.PIPE, **more}
    return subprocess.run([sys.executable, *words], check=False, **settings)


def help_of(start, argv):
    """The help that a program gives in a process of its own; none of the heavy packages is imported for it."""
    program = f"{WATCHED}\nsys.argv[1:] = {[*argv, '--help']!r}\n{start}"
    done = run("-c", program, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "[]\n"), done.stderr
    return done.stdout


@pytest.mark.parametrize("argv", COMMANDS, ids=[" ".join(argv) or "volta-switch" for argv in COMMANDS])
def test_a_commands_help_imports_nothing_heavy(argv):
    text = help_of("runpy.run_module('volta_switch', run_name='__main__')", argv)
    assert text.startswith(" ".join(["usage: volta-switch", *argv]))


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_a_scripts_help_imports_nothing_heavy_and_is_the_commands(entry):
    text = help_of(f"sys.argv[0] = '{entry}.py'\nrunpy.run_path('{entry}.py', run_name='__main__')", [])
    command = next(name for name, (of, _) in cli.ENTRY_COMMANDS.items() if of == entry)
    below = cli.command_parser()._subparsers._group_actions[0].choices[command]
    assert f"usage: {entry}.py [flags]\n" in text and f"usage: volta-switch {command} [flags]\n" in below.format_help()
    assert text.partition("\n")[2].split() == below.format_help().partition("\n")[2].split()


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_flag_stands_once_and_voltas_inert_ones_at_the_end(entry):
    parser = ENTRY_POINTS[entry].parser()
    headings = [group.title for group in parser._action_groups if group._group_actions]
    assert headings == ["options", *(name for name in HEADINGS if name in headings)] and headings[-1] == ACCEPTED
    grouped = [action for group in parser._action_groups for action in group._group_actions]
    assert len(grouped) == len(set(map(id, grouped))) == len(parser._actions)
    inert = {action.dest for action in parser.group(ACCEPTED)._group_actions}
    assert inert == {*WITHOUT_EFFECT, *FIXED} and all(action.help for action in grouped)


def test_defaults_are_told_where_they_say_something():
    text = " ".join(ENTRY_POINTS["train_concap"].parser().format_help().split())
    assert "of AdamW (default: 0.9 0.999)" in text and "--precision {fp32,bf16,fp16,auto}" in text
    assert "None" not in text and "default: False" not in text and "--max_steps" not in text


@pytest.mark.parametrize("argv", [[], ["study"], ["finetune"], ["data", "check"]])
def test_help_without_a_reader_ends_quietly(argv):
    """As ``| head -0`` does."""
    reading, writing = os.pipe()
    os.close(reading)
    done = run("-m", "volta_switch", *argv, "--help", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def completed(shell, *words):
    """What a shell offers in the place of the last word."""
    script = cli.completion_script(cli.command_parser(), shell)
    typed = " ".join(map(shlex.quote, words))
    ask = f"COMP_WORDS=(volta-switch {typed}); COMP_CWORD={len(words)}; _volta_switch; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("fi",), ["finetune"]),
        (("study", ""), ["run", "table", "export", "merge", "power"]),
        (("study", "run", "a.yaml", "--dr"), ["--dry-run"]),
        (("finetune", "--precision", ""), ["fp32", "bf16", "fp16", "auto"]),
        (("finetune", "--precision", "bf16", "--max-st"), ["--max-steps"]),
        (("finetune", "--loc"), []),
        (("finetune", "ru"), []),
        (("compare", "run", "--format", ""), ["text", "md", "csv", "tex", "json"]),
        (("completion", ""), ["bash", "zsh"]),
    ],
)
def test_bash_offers_what_may_follow(words, offered):
    assert completed("bash", *words) == offered


@pytest.mark.parametrize("shell", cli.SHELLS)
def test_the_script_is_printed_and_understood(shell, capsys):
    cli.main(["completion", shell])
    script = capsys.readouterr().out
    assert all(f"' {' '.join(argv)}'" in script for argv in COMMANDS if argv)
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 and not done.stderr


def test_the_formats_that_help_names_are_those_that_are_written():
    assert set(commands.target_names()) == set(convert.TARGETS)
