"""The parser of every command line, and its help: flags are written out, unknown ones are refused.

A mistake is one line. The help has a short usage line, each flag once under its heading, and every default.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from volta_switch.errors import nearest
from volta_switch.ranges import PATH, SHOWN, Choice, Number, Text, Truth

FEW = 4  # flags that a usage line names; more are written as [flags]


class FlagHelp(argparse.HelpFormatter):
    """A parser's help: values named by their ranges, one spelling of each flag, defaults where they say something."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 26, **settings})

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        match action.type:
            case Number() as number:
                return "N" if number.whole else "X"
            case Choice() as choice:
                return f"{{{','.join(map(str, choice.values))}}}"
            case Truth():
                return "true|false"
            case Text() as text:
                return "PATH" if text is PATH else "TEXT"
        return super()._get_default_metavar_for_optional(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Returns ``--config_file, --config PATH``; of spellings that differ in - and _ alone, the first."""
        if not action.option_strings:
            return super()._format_action_invocation(action)
        spellings = {name.replace("_", "-"): name for name in reversed(action.option_strings)}
        names = ", ".join(name for name in action.option_strings if name in spellings.values())
        if action.nargs == 0:
            return names
        return f"{names} {self._format_args(action, self._get_default_metavar_for_optional(action))}"

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        says_nothing = default in (None, argparse.SUPPRESS, "", []) or default is False
        if not action.option_strings or action.nargs == 0 or says_nothing or "default" in text:
            return text
        shown = " ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
        return f"{text} (default: {shown.replace('%', '%%')})"


class FlagParser(argparse.ArgumentParser):
    """An argument parser without abbreviations; its sub-commands' parsers are of this class, too.

    Exits with code 2 and one line, ``error: ...``, for a bad command line. Each flag that takes a value has a range
    (``ranges``) as its type, or choices.
    """

    _exits = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": FlagHelp, **settings})

    def group(self, heading: str) -> argparse._ArgumentGroup:
        """Returns the flags under a heading of the help, which is made where it is not there yet."""
        there = (group for group in self._action_groups if group.title == heading)
        return next(there, None) or self.add_argument_group(heading)

    def format_help(self) -> str:
        """Returns the help, with a short usage line."""
        before, self.usage = self.usage, self.usage or self._short_usage()
        try:
            return super().format_help()
        finally:
            self.usage = before  # sub-commands take their names from it

    def _short_usage(self) -> str | None:
        """Returns a usage line that names few flags; None where argparse's is short."""
        flags = [action for action in self._actions if action.option_strings]
        if len(flags) <= FEW:
            return None
        named = [action for action in self._actions if action.required or not action.option_strings]
        formatter = self._get_formatter()
        formatter.add_usage(None, named, [], prefix="")
        words = formatter.format_help().split()
        own = len(self.prog.split())
        return " ".join([*words[:own], "[flags]", *words[own:]]).replace("%", "%%")

    def ask(self, args: Sequence[str]) -> argparse.Namespace:
        """Parses a command line like ``parse_args``, without exiting.

        Raises:
            ValueError: the command line is bad; the message says why.
        """
        self.exit_on_error = self._exits = False
        try:
            return self.parse_args(args)
        except argparse.ArgumentError as error:
            raise ValueError(error.message) from None
        finally:
            self.exit_on_error = self._exits = True

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parses like argparse, which reads sub-commands with it; the command that was given refuses unknown flags."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Prints the line and exits with code 2."""
        if not self._exits:
            raise ValueError(message)
        line = " ".join(message.removeprefix("argument ").splitlines())
        mark = "" if line.endswith("?") else ";"
        self.exit(2, f"error: {line}{mark} {self.prog} --help lists all flags\n")

    def _unknown(self, unknown: Sequence[str]) -> str:
        flags = [name.partition("=")[0] for name in unknown if name.startswith("-")]
        if not flags:
            return f"unexpected {_cut(' '.join(unknown))}"
        near = nearest(flags[0], self._option_string_actions)
        return f"unknown flag {_cut(flags[0])}" + (f"; did you mean {near}?" if near else "")


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yields a parser and those of its sub-commands, all levels down."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from all_parsers(below)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
