"""Switch-BERT beside VOLTA's architectures: pre-training, fine-tuning, evaluation, and whole comparisons.

``volta-switch``: its commands, and the script by which a shell completes them. What a command needs is imported
when it runs: no parser takes PyTorch, NumPy or SciPy.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from volta_switch import __version__
from volta_switch.ablation import ablation_flags
from volta_switch.command import run_command
from volta_switch.controls.commands import add_controls_arguments, run_controls
from volta_switch.cost.commands import add_flops_arguments, run_flops
from volta_switch.data_tools.commands import add_data_commands
from volta_switch.explain.commands import add_explain_arguments, run_explain
from volta_switch.flag_parser import FlagParser, all_parsers
from volta_switch.play.commands import add_play_arguments, run_play
from volta_switch.plugin.commands import add_volta_arguments, run_volta
from volta_switch.predict.commands import add_predict_arguments, run_predict
from volta_switch.quick import add_quick_arguments, run_quick
from volta_switch.routes import route_flags
from volta_switch.study.commands import add_compare_arguments, add_study_commands
from volta_switch.train.command_names import COMMANDS
from volta_switch.train.entry_points import ENTRY_POINTS, entry_main
from volta_switch.weight_tools.commands import add_weights_commands
from volta_switch.world.photograph_commands import add_photograph_arguments, run_photographs
from volta_switch.world.spec import add_world_arguments, run_world

# VOLTA's name of a command -> what it does.
_ENTRIES = {
    "train_concap": "pre-train a model on image-caption pairs (train_concap.py)",
    "train_task": "fine-tune a model on a task (train_task.py)",
    "eval_task": "evaluate a model on a task (eval_task.py)",
    "eval_retrieval": "evaluate image-text retrieval over all pairs (eval_retrieval.py)",
}
# Command -> what VOLTA calls it, and what it does.
ENTRY_COMMANDS = {COMMANDS[name]: (name, about) for name, about in _ENTRIES.items()}
# Completion: after a command its flags and the commands below it, after a flag with choices these, else file names.
SHELLS = ("bash", "zsh")
_BASH = """\
_volta_switch() {{
    local command="" words="" index
    COMPREPLY=()
    for ((index = 1; index < COMP_CWORD; index++)); do
        _volta_switch_command "$command ${{COMP_WORDS[index]}}"
    done
    _volta_switch_words "$command" "${{COMP_WORDS[COMP_CWORD - 1]}}" "${{COMP_WORDS[COMP_CWORD]}}"
    if [ -n "$words" ]; then
        COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    fi
}}
{functions}
complete -o default -F _volta_switch volta-switch
"""
_ZSH = """\
#compdef volta-switch
_volta_switch() {{
    local command="" word last="${{words[CURRENT - 1]}}" typed="${{words[CURRENT]}}"
    for word in "${{(@)words[2, CURRENT - 1]}}"; do
        _volta_switch_command "$command $word"
    done
    local words=""
    _volta_switch_words "$command" "$last" "$typed"
    if [ -n "$words" ]; then
        compadd -- ${{=words}}
    else
        _files
    fi
}}
{functions}
compdef _volta_switch volta-switch
"""
# Both set variables of their caller: the command that was typed so far, and the words that may follow.
_FUNCTIONS = """\
_volta_switch_command() {{
    case "$1" in
        {commands}) command="$1" ;;
    esac
}}
_volta_switch_words() {{
    words=""
    case "$1 $2" in
{choices}
    esac
    case "$3" in
        -*) case "$1" in
{flags}
        esac ;;
        *) case "$1" in
{below}
        esac ;;
    esac
}}"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits."""
    run_command(_run, argv)


def _run(argv: Sequence[str]) -> None:
    if argv and argv[0] in ENTRY_COMMANDS:  # whose flags are read with more care than one parser can take
        entry, _ = ENTRY_COMMANDS[argv[0]]
        entry_main(entry, f"volta-switch {argv[0]}")(argv[1:])
        return
    args = command_parser().parse_args(argv)
    args.run(args)


def command_parser() -> FlagParser:
    """Returns the parser of ``volta-switch`` and of all commands below it."""
    description = (__doc__ or "").partition("\n")[0]
    parser = FlagParser(prog="volta-switch", description=description)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (entry, about) in ENTRY_COMMANDS.items():
        flags = ENTRY_POINTS[entry].parser()
        commands.add_parser(name, help=about, description=flags.description, parents=[flags], add_help=False)
    add_study_commands(commands.add_parser("study", help="run a controlled comparison and print its table"))
    compare = commands.add_parser("compare", help="print the table of finished runs, side by side")
    add_compare_arguments(compare)
    world = commands.add_parser("world", help="write a small synthetic world in VOLTA's file formats")
    add_world_arguments(world)
    world.set_defaults(run=run_world)
    about = "draw a world's scenes as pictures, and train a small detector on them"
    photographs = commands.add_parser("world-detector", help=about)
    add_photograph_arguments(photographs)
    photographs.set_defaults(run=run_photographs)
    quick = commands.add_parser("quick", help="train one small model on one task, and draw what it saw and answered")
    add_quick_arguments(quick)
    quick.set_defaults(run=run_quick)
    predict = commands.add_parser("predict", help="answer texts about images with a trained model")
    add_predict_arguments(predict)
    predict.set_defaults(run=run_predict)
    explain = commands.add_parser("explain", help="show on a page why a model answers what it answers")
    add_explain_arguments(explain)
    explain.set_defaults(run=run_explain)
    play = commands.add_parser("play", help="open a page to ask a model about pictures, and to force its routes")
    add_play_arguments(play)
    play.set_defaults(run=run_play)
    add_data_commands(commands.add_parser("data", help="check, convert, repack and shard data files"))
    about = "inspect, import and export weights; fetch and verify published ones"
    add_weights_commands(commands.add_parser("weights", help=about))
    flops = commands.add_parser("flops", help="print what a configuration costs: operations, parameters, memory")
    add_flops_arguments(flops)
    flops.set_defaults(run=run_flops)
    controls = commands.add_parser("controls", help="check that training finds routes that are known to be there")
    add_controls_arguments(controls)
    controls.set_defaults(run=run_controls)
    about = "record the routes that Switch-BERT takes on a task, and try others"
    routes = commands.add_parser("routes", help=about, parents=[route_flags()], add_help=False)
    routes.set_defaults(run=_run_routes)
    about = "measure what a pre-trained model's masked words and regions lose without the other modality"
    ablate = commands.add_parser("ablate", help=about, parents=[ablation_flags()], add_help=False)
    ablate.set_defaults(run=_run_ablation)
    volta = commands.add_parser("volta", help="run a script of a VOLTA checkout with Switch-BERT")
    add_volta_arguments(volta)
    volta.set_defaults(run=run_volta)
    completion = commands.add_parser("completion", help="print a script by which a shell completes these commands")
    completion.add_argument("shell", choices=SHELLS, help="source <(volta-switch completion bash)")
    completion.set_defaults(run=lambda args: print(completion_script(command_parser(), args.shell)))
    return parser


def _run_routes(args: argparse.Namespace) -> None:
    from volta_switch.routes.run import run_routes  # here, not above: it imports PyTorch

    run_routes(args)


def _run_ablation(args: argparse.Namespace) -> None:
    from volta_switch.ablation.run import run_ablation  # here, not above: it imports PyTorch

    run_ablation(args)


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Returns the script for one of ``SHELLS``.

    Args:
        parser: ``volta-switch``'s own.
        shell: "bash" or "zsh".
    """
    parsers = {" ".join(["", *one.prog.split()[1:]]): one for one in all_parsers(parser)}
    choices = {
        f"{command} {name}": map(str, action.choices)
        for command, one in parsers.items()
        for action in one._actions
        if action.choices and not isinstance(action, argparse._SubParsersAction)
        for name in action.option_strings
    }
    flags = {command: _flags(one) for command, one in parsers.items()}
    below = {command: _words(one) for command, one in parsers.items()}
    functions = _FUNCTIONS.format(
        commands=" | ".join(shlex.quote(command) for command in parsers if command),
        choices=_cases(choices, " return ;;"),
        flags=_cases(flags),
        below=_cases(below),
    )
    return {"bash": _BASH, "zsh": _ZSH}[shell].format(functions=functions)


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields a parser's flags but for VOLTA's inert ones; of two spellings that differ in - and _, the first."""
    for action in parser._actions:
        if action.default is argparse.SUPPRESS and action.nargs != 0:
            continue
        names = {name.replace("_", "-"): name for name in reversed(action.option_strings)}
        yield from (name for name in names.values() if name.startswith("--"))


def _words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yields what may stand in a positional argument's place: commands and choices."""
    for action in parser._actions:
        if action.choices and not action.option_strings:
            yield from map(str, action.choices)


def _cases(words: Mapping[str, Iterable[str]], end: str = " ;;") -> str:
    """Returns a shell's cases that set ``words``; a command without words has none."""
    lists = ((command, " ".join(found)) for command, found in words.items())
    mark = ";" if "return" in end else ""
    cases = [
        f"        {shlex.quote(command)}) words={shlex.quote(found)}{mark}{end}" for command, found in lists if found
    ]
    return "\n".join(cases)
