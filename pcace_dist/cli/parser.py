"""How the command line is parsed: errors of one line that name the verb's own help; examples and exit codes in each."""

from __future__ import annotations

import argparse
import difflib
import logging
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import NoReturn

from pcace_dist.progress import logs

EXIT_CODES = {
    0: "done",
    2: "the job or its input is wrong: one line on stderr says which key or file, and what would do",
    3: "drift above the threshold (compare, rerank)",
    4: "done, but more rows were set aside than max_bad_rows allows, or no channel could be ranked",
    5: "stopped and resumable (SIGTERM, SIGINT, storage away for longer than PCACE_STORAGE_PATIENCE, or another driver "
    "took the run over): the same command goes on",
    1: "anything unforeseen",
}


def exit_codes() -> str:
    """The exit codes as the last part of a help text, 80 columns wide."""
    lines = (textwrap.fill(f"  {code}  {text}", 80, subsequent_indent="     ") for code, text in EXIT_CODES.items())
    return "exit codes:\n" + "\n".join(lines)


AddVerb = Callable[[str, str, str], argparse.ArgumentParser]
"""Name, summary and example of a verb -> its parser."""

Verbs = argparse._SubParsersAction  # the type that add_subparsers returns has no public name


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors: exit 2, no usage dump."""

    def error(self, message: str) -> NoReturn:
        logs.say(f"{message}; see {self.prog} --help", prefix=f"{self.prog}: ", level=logging.ERROR, exit_code=2)
        raise SystemExit(2)

    def verbs(self) -> dict[str, argparse.ArgumentParser]:
        """Its verbs' parsers by name. argparse has no public list of them."""
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        return {name: verb for group in groups for name, verb in group.choices.items()}

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments of a command line; what is wrong is a line that points to the verb's own help, and exit 2."""
        known = list(self.verbs())
        if argv and not argv[0].startswith("-") and argv[0] not in known:
            self.error(f"there is no verb {argv[0]!r}{did_you_mean(argv[0], known)}")
        arguments, unknown = self.parse_known_args(argv)
        if unknown:
            arguments.verb_parser.refuse(unknown[0])
        return arguments

    def refuse(self, unknown: str) -> NoReturn:
        """End with the line about an argument that the verb does not have."""
        options = re.findall(r"--[a-z][a-z-]*", self.format_help())
        self.error(f"unknown argument {unknown}{did_you_mean(unknown, options)}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """ ", did you mean ...?" where a known word is near, else nothing."""
    near = difflib.get_close_matches(word.partition("=")[0], known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def verb_adder(verbs: Verbs[Parser]) -> AddVerb:
    """What adds a verb: with its example, the exit codes and --ok."""

    def add(name: str, summary: str, example: str) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name,
            help=summary,
            description=textwrap.fill(summary[0].upper() + summary[1:] + "." * (summary[-1] not in "?."), 80),
            epilog=f"example:\n  {example}\n\n{exit_codes()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_argument(
            "--ok",
            type=_codes,
            default=(),
            metavar="CODES",
            help="exit codes to turn into 0, for schedulers; for example --ok 3,4",
        )
        verb.set_defaults(verb_parser=verb)
        return verb

    return add


def _codes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write exit codes as 3,4") from None
