"""The verb completion, and what a shell is answered when it asks for the words that may come next.

argcomplete does both: of the libraries it is the one that has bash, zsh and fish, and it asks the parser itself, so
that its answers are never older than the command.
"""

from __future__ import annotations

import argparse
import sys

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

    sys.stdout.write(shellcode(["pcace"], shell=arguments.shell) + "\n")
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
    }
    for verb in parser.verbs().values():
        for action in verb._actions:  # argparse has no public list of them
            if action.metavar in by_metavar:
                vars(action)["completer"] = by_metavar[action.metavar]  # where argcomplete looks for it
    argcomplete.autocomplete(parser)
