"""The verb completion, and what a shell is answered when it asks for the words that may come next.

argcomplete does both: of the libraries it is the one that has bash, zsh and fish, and it asks the parser itself, so
that its answers are never older than the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from pcace_dist.cli.parser import AddVerb, Parser

SHELLS = {
    "bash": 'eval "$(pcace completion bash)"     in ~/.bashrc',
    "zsh": 'eval "$(pcace completion zsh)"      in ~/.zshrc, after compinit',
    "fish": "pcace completion fish | source      in ~/.config/fish/config.fish",
}


def add_verb(add: AddVerb) -> None:
    """Add the verb."""
    verb = add("completion", "print the script that completes words with the TAB key", "\n  ".join(SHELLS.values()))
    verb.add_argument("shell", choices=list(SHELLS), help="the shell that reads it")
    verb.set_defaults(run=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["pcace"], shell=arguments.shell))
    return 0


def answer(parser: Parser) -> None:
    """Write the words that may come next to where the shell's script reads them, and end the process."""
    import argcomplete
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    by_metavar = {
        "JOB.yaml": FilesCompleter(("yaml", "yml")),
        "RUN": DirectoriesCompleter(),
        "RUN_A": DirectoriesCompleter(),
        "RUN_B": DirectoriesCompleter(),
        "KEY=VALUE": _settings,
    }
    for verb in parser.verbs().values():
        for action in verb._actions:  # argparse has no public list of them
            if action.metavar in by_metavar:
                vars(action)["completer"] = by_metavar[action.metavar]  # where argcomplete looks for it
    argcomplete.autocomplete(parser)


def _settings(prefix: str, **_further: object) -> list[str]:
    """What may follow --set: the job file's keys, and after `=` the values of those that have few."""
    from pcace_dist.config.schema import job_keys, job_schema

    schema = job_schema()
    name, separator, _ = prefix.partition("=")
    if not separator:
        return [f"{key}=" for key, node in job_keys(schema) if "$ref" not in node]
    return [f"{name}={value}" for value in _few_values(dict(job_keys(schema)).get(name, {}))]


def _few_values(node: Mapping[str, Any]) -> list[str]:
    """The values of a key that has few; empty for numbers and free text."""
    if "anyOf" in node:
        return [value for choice in node["anyOf"] for value in _few_values(choice)]
    values = node.get("enum", [node["const"]] if "const" in node else [])
    return ["true", "false"] if node.get("type") == "boolean" else [value for value in values if isinstance(value, str)]
