"""The verb serve: a local page over many runs. Imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys

from pcace_dist.cli.parser import AddVerb

HOST = "127.0.0.1"
PORT = 8777


def add_verb(add: AddVerb) -> None:
    """Add the verb serve."""
    verb = add(
        "serve",
        "a local, read-only page over many runs: their states, rankings and reports, two side by side",
        "pcace serve runs --open\n  pcace serve s3://bucket/runs --port 9000",
    )
    verb.add_argument("path", metavar="DIR", help="the folder or s3:// prefix below which the runs lie")
    verb.add_argument("--host", default=HOST, help=f"the address to listen on (default {HOST}: this machine only)")
    verb.add_argument(
        "--port", type=_port, default=PORT, metavar="N", help=f"the port (default {PORT}; 0: any that is free)"
    )
    verb.add_argument(
        "--public",
        action="store_true",
        help="let --host be an address that others can reach; whoever reaches it can read the runs",
    )
    verb.add_argument("--open", action="store_true", help="open the page in the browser")
    verb.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> int:
    from pcace_dist.serving.server import serve

    return serve(
        arguments.path,
        arguments.host,
        arguments.port,
        public=arguments.public,
        open_browser=arguments.open,
        tell=_tell,
    )


def _tell(line: str) -> None:
    """Print a line at once, also into a pipe."""
    from pcace_dist.progress.terminal import tell, visible

    tell(visible(line))
    sys.stdout.flush()


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: is not a whole number from 0 to 65535")
    return int(text)
