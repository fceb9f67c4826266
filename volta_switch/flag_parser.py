"""The parser of every command line: flags are written out, unknown ones are refused, a mistake is one line."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from volta_switch.ranges import SHOWN


class FlagParser(argparse.ArgumentParser):
    """An argument parser without abbreviations; its sub-commands' parsers are of this class, too.

    Exits with code 2 and one line, ``error: ...``, for a bad command line. Each flag that takes a value has a range
    (``ranges``) as its type, or choices.
    """

    _exits = True

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def ask(self, args: Sequence[str]) -> argparse.Namespace:
        """As ``parse_args``, for who wants to know whether a command line is good.

        Raises:
            ValueError: it is not; the message says why.
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
        """As argparse's, which sub-commands are read with; what is unknown is refused by the command that was given."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Exits with code 2 and the line."""
        if not self._exits:
            raise ValueError(message)
        line = " ".join(message.removeprefix("argument ").splitlines())
        mark = "" if line.endswith("?") else ";"
        self.exit(2, f"error: {line}{mark} {self.prog} --help lists all flags\n")

    def _unknown(self, unknown: Sequence[str]) -> str:
        flags = [name.partition("=")[0] for name in unknown if name.startswith("-")]
        if not flags:
            return f"unexpected {_cut(' '.join(unknown))}"
        near = difflib.get_close_matches(flags[0], self._option_string_actions, n=1)
        return f"unknown flag {_cut(flags[0])}" + (f"; did you mean {near[0]}?" if near else "")


def all_parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its sub-commands, all levels down."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from all_parsers(below)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
