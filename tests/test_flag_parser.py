"""Every parser of every command: no abbreviations, a range for every flag, one line for a mistake, nothing written."""

import argparse
import ast
from pathlib import Path

import pytest

from synthetic_world import refusal
from volta_switch import cli
from volta_switch.flag_parser import FlagParser, all_parsers
from volta_switch.ranges import Choice, Number, Range, Text, Truth
from volta_switch.train.entry_points import ENTRY_POINTS, read_flags
from volta_switch.train.flags import FIXED, WITHOUT_EFFECT

PACKAGE = Path(cli.__file__).parent
DIGITS = 5000 * "9"
# What none of a kind may be, whatever its bounds.
BAD = {
    Number: ("nan", "inf", "-inf", "-1", "1e30", DIGITS, "", "text", "1,5", "true", "[1]"),
    Choice: ("nan", "nosuch", DIGITS),
    Truth: ("2", "perhaps", "nan"),
    Text: ("a\0b",),
    Range: ("nan", "inf", "-1", "1e30", DIGITS, "", "text"),  # spelt in a way of their own
}


def commands():
    """(what runs it, its words, its parser) of every command."""
    for name, entry in ENTRY_POINTS.items():
        yield (lambda argv, name=name: read_flags(name, argv)), [], entry.parser()
    for parser in all_parsers(cli.command_parser()):
        yield cli._run, parser.prog.split()[1:], parser


COMMANDS = [(run, words, parser) for run, words, parser in commands()]
NAMES = [*ENTRY_POINTS, *("-".join(words) or "volta-switch" for _, words, _ in COMMANDS[len(ENTRY_POINTS) :])]


def valued(parser):
    """The arguments of a parser that take a value; sub-commands are no values."""
    without = (argparse._StoreTrueAction, argparse._StoreFalseAction, argparse._HelpAction, argparse._VersionAction)
    return [a for a in parser._actions if not isinstance(a, (*without, argparse._SubParsersAction))]


def test_no_parser_is_made_in_another_way():
    made = {}
    for path in PACKAGE.rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = [getattr(call, "attr", getattr(call, "id", "")) for call in calls]
        if "ArgumentParser" in names or "parse_known_args" in names:
            made[path.name] = names
    assert set(made) == {"flag_parser.py"}


@pytest.mark.parametrize(("run", "words", "parser"), COMMANDS, ids=NAMES)
def test_flags_are_not_abbreviated_and_have_ranges(run, words, parser):
    assert isinstance(parser, FlagParser) and parser.allow_abbrev is False
    without = [action.dest for action in valued(parser) if not (isinstance(action.type, Range) or action.choices)]
    assert not without, f"give a range as type: {without}"


@pytest.mark.parametrize(("run", "words", "parser"), COMMANDS, ids=NAMES)
def test_values_outside_are_one_line_and_nothing_is_written(run, words, parser, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for action in valued(parser):
        if not action.option_strings:
            continue
        kind = type(action.type) if type(action.type) in BAD else Range
        for text in BAD[Choice] if action.choices else BAD[kind]:
            values = [f"{action.option_strings[-1]}={text}"]
            if action.nargs == 2:
                values = [action.option_strings[-1], text, "0.9"]
                if text.startswith("-i"):
                    continue  # argparse takes it for a flag
            message = refusal(run, [*words, *values], capsys)
            assert message.startswith("/".join(action.option_strings)), (message, text)
            assert " found " in message or "choose from" in message
            assert len(message) < 6000 if action.choices else len(message) < 400
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entry", "argv", "said"),
    [
        ("train_task", ["--tasks", "1-2"], "unknown flag --tasks; did you mean --task?"),
        ("train_task", ["--tasks_config", "x.yml"], "unknown flag --tasks_config; did you mean --tasks_config_file?"),
        ("eval_task", ["--batch-size", "3"], "unknown flag --batch-size; did you mean --batch_size?"),
        ("train_concap", ["--learning_rat=1"], "unknown flag --learning_rat; did you mean --learning_rate?"),
        ("train_concap", ["--xyzzy"], "unknown flag --xyzzy; "), ("train_concap", ["words"], "unexpected words; "),
        ("eval_retrieval", ["--a\nb"], "unknown flag --a b; "),
        ("train_concap", ["--" + 500 * "x"], "unknown flag --" + 78 * "x" + "...; "),
    ],
)  # fmt: skip
def test_an_unknown_flag_suggests_the_nearest(entry, argv, said, capsys):
    assert refusal(lambda given: read_flags(entry, given), argv, capsys).startswith(said)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["study", "run", "x.yaml", "--job", "2"], "unknown flag --job; did you mean --jobs? volta-switch study run"),
        (["flops", "switchbert", "--js"], "unknown flag --js; did you mean --json? volta-switch flops --help"),
        (["data", "convert", "a", "b", "--to", "h5", "--max_bad_records", "1"], "did you mean --max-bad-records?"),
        (["--verson"], "the following arguments are required: COMMAND"),
    ],
)
def test_a_command_below_suggests_its_own_flags(argv, said, capsys):
    assert said in refusal(cli._run, argv, capsys)


def test_what_follows_voltas_script_is_left_to_it():
    args = cli.command_parser().parse_args(["volta", "train_task.py", "--tasks", "1", "--lr", "nan"])
    assert (args.script, args.arguments) == ("train_task.py", ["--tasks", "1", "--lr", "nan"])


@pytest.mark.parametrize("name", FIXED)
def test_a_choice_of_voltas_that_is_not_built_is_refused(name, capsys):
    message = refusal(lambda argv: read_flags("train_task", argv), [f"--{name}", "other"], capsys)
    assert message.startswith(f"--{name}: expected {FIXED[name] or 'nothing'}, found 'other'")


@pytest.fixture
def told(world, capsys):
    def run(*flags, entry="train_concap", task=""):
        capsys.readouterr()
        read_flags(entry, [*world.flags(entry, world.path / "none", "ctrl_uniter", task), *flags])
        return capsys.readouterr().err

    return run


def test_flags_that_do_nothing_are_told_once(told):
    assert told() == ""
    reasons = f"--cache ({WITHOUT_EFFECT['cache']}), --drop_last ({WITHOUT_EFFECT['drop_last']})"
    assert told("--cache", "5000", "--drop_last") == f"without effect here: {reasons}\n"
    for name in WITHOUT_EFFECT:
        assert told(f"--{name}").count("\n") == (name != "adam_correct_bias")


def test_flags_that_do_nothing_for_a_model_or_without_another_flag_are_told(told, tmp_path):
    assert told("--data_fraction_seed", "3") == "without effect here: --data_fraction_seed (all samples are taken)\n"
    assert told("--data_fraction_seed", "3", "--data_fraction", "0.5") == ""
    weights = tmp_path / "weights.bin"
    weights.touch()
    start = ("--from_pretrained", str(weights), "--routing", "soft")
    said = "without effect here: --routing soft (the model switches nothing)\n"
    assert told(*start, entry="eval_task", task="refer") == said
    assert told(*start, "--config", "demo/switchbert", entry="eval_task", task="refer") == ""


def test_what_torchrun_does_is_not_told_and_the_first_process_speaks_alone(told, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert told("--distributed", "--local_rank", "0") == "" and "--cache" in told("--cache")
    monkeypatch.setenv("RANK", "1")
    assert told("--cache") == ""


def test_settings_of_a_task_that_do_nothing_are_told(world, tmp_path, capsys):
    other = world.copy(tmp_path / "world", embed_clf=True, format="lmdb")
    read_flags("train_task", other.flags("train_task", tmp_path / "out", "ctrl_uniter", "refer"))
    said = "embed_clf of TASK10 (VOLTA does not read it, either)"
    assert capsys.readouterr().err == f"without effect here: {said}\n"
