"""Notifications of drift: a shell command and a URL. They never stop a schedule, and their secrets are never printed.

Knows nothing of runs: it hands on what it is given.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pcace_dist.progress import logs

HOOK_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0
WEBHOOK_TRIES = 3
ALL_THE_SAME = "the run is published all the same"


@dataclass(frozen=True)
class Hooks:
    """A shell command (PCACE_* in its environment, the content as JSON on its stdin) and a URL (POST)."""

    command: str | None = None
    webhook: str | None = None


def check_url(url: str) -> str:
    """The URL of a webhook. Raises ValueError for one that no request can be sent to; the message does not hold it."""
    parts = urlsplit(url)  # ValueError for half an IPv6 address
    parts.port  # noqa: B018  (ValueError where it is no number)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("is not an http(s) address")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("holds a space or another character that must be written as %20 and the like")
    if parts.username is not None:
        raise ValueError("holds credentials, which would be printed and logged on the way; use --hook with a command")
    return url


def call_hooks(hooks: Hooks, content: Mapping[str, Any]) -> None:
    """Report drift. A hook that fails is a warning on stderr, for the run is published all the same.

    `content`: plain JSON with `path`, `comparison` and `drift` (a list of texts).
    """
    if hooks.command is not None:
        _warn("--hook", _run_command(hooks.command, content))
    if hooks.webhook is not None:
        _warn("--webhook", _post(hooks.webhook, content))


def _warn(hook: str, problem: str | None) -> None:
    if problem is not None:
        logs.say(f"{hook}: {problem}; {ALL_THE_SAME}", prefix="pcace rerank: ", level=logging.WARNING)


def _run_command(command: str, content: Mapping[str, Any]) -> str | None:
    """Run a shell command. Returns what went wrong; None if nothing did. All processes that it started end with it."""
    variables = {
        "PCACE_RUN": content["path"],
        "PCACE_COMPARISON": content["comparison"],
        "PCACE_DRIFT": "; ".join(content["drift"]),
    }
    try:
        hook = subprocess.Popen(
            command, shell=True, stdin=subprocess.PIPE, text=True, env=os.environ | variables, start_new_session=True
        )
    except (OSError, ValueError) as error:  # ValueError: a null character
        return f"cannot be started ({type(error).__name__})"
    try:
        hook.communicate(json.dumps(content), timeout=HOOK_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(hook.pid, signal.SIGKILL)
        hook.wait()
        return f"did not end within {HOOK_SECONDS:g} s"
    return None if hook.returncode == 0 else f"ended with exit code {hook.returncode}"


def _post(url: str, content: Mapping[str, Any]) -> str | None:
    """POST JSON. Returns what went wrong or None. Names only the host, because addresses often hold a secret."""
    problem: str | None = None
    for tries_left in reversed(range(WEBHOOK_TRIES)):
        try:
            request = urllib.request.Request(
                url, data=json.dumps(content).encode(), headers={"Content-Type": "application/json"}, method="POST"
            )
            with urllib.request.urlopen(request, timeout=WEBHOOK_SECONDS):
                return None
        except urllib.error.HTTPError as error:
            problem = f"{_host(url)} answered {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None)
            problem = f"{_host(url)}: {reason if isinstance(reason, OSError) else type(error).__name__}"
        if tries_left:
            time.sleep(1)
    return problem


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "no host"
    except ValueError:
        return "no host"
