"""Log lines of drivers and workers: readable text, or with PCACE_LOG_FORMAT=json one JSON object a line.

    {"time": "2026-01-31T09:30:00.125+00:00", "level": "WARNING", "logger": "pcace_dist.executors.ray_executor",
     "message": "worker a0003 is lost: ...", "run": "s3://bucket/runs/x", "actor": "a0003"}

`time` is ISO 8601 in UTC; the FIELDS are optional. PCACE_LOG is the level (default WARNING). Progress and error lines
are printed whatever the level, by `say`. A leaf: standard library only, no Ray.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

from pcace_dist.errors import JobError
from pcace_dist.progress.terminal import visible

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS = ("text", "json")
FIELDS = (
    "run",
    "actor",
    "unit",
    "attempt",
    "stage",
    "images",
    "rows",
    "share",
    "workers",
    "images_per_second",
    "exit_code",
)
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
HEADERS_AT_DEBUG = ("boto3", "botocore", "s3transfer", "urllib3")  # at DEBUG they log headers with session tokens


@dataclass(frozen=True)
class LogSettings:
    """Level and format of log lines; the workers get them with the job."""

    level: str = "WARNING"
    format: str = "text"

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> LogSettings:
        """PCACE_LOG and PCACE_LOG_FORMAT. Raises JobError that names the variable, its value and what would do."""
        level = environment.get("PCACE_LOG", "WARNING").upper()
        format = environment.get("PCACE_LOG_FORMAT", "text").lower()
        if level not in LEVELS:
            raise JobError(f"PCACE_LOG {environment['PCACE_LOG']!r}: is not one of {', '.join(LEVELS)}")
        if format not in FORMATS:
            raise JobError(f"PCACE_LOG_FORMAT {environment['PCACE_LOG_FORMAT']!r}: is not one of {', '.join(FORMATS)}")
        return LogSettings(level, format)


class JsonFormatter(logging.Formatter):
    """One JSON object for a record, on one line whatever the message holds; ASCII only."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= _context
        line |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A line for people: control characters in a message are printed as escapes."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes each line to the current sys.stderr."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter(TEXT))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


_settings = LogSettings()
_context: dict[str, str] = {}  # fields of every line of this process


def configure(settings: LogSettings, **context: str) -> None:
    """Set up this process's log lines; each has the fields `context` (run, actor). Calling it again replaces the
    set-up.

    With `json`, warnings and uncaught exceptions become log lines too.
    """
    global _settings
    _settings = settings
    _context.clear()
    _context.update(context)
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, _Handler)]
    root.addHandler(_Handler(settings))
    root.setLevel(settings.level)
    for name in HEADERS_AT_DEBUG:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    if settings.format == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_exception
        threading.excepthook = _log_thread_exception


def is_json() -> bool:
    """Whether this process's log lines are JSON objects."""
    return _settings.format == "json"


def set_run(url: str) -> None:
    """Name the run that this process works for; from now on it is a field of every line."""
    _context["run"] = url


def adopt(name: str) -> None:
    """Set this process's format on the handlers of a library's own logger."""
    if is_json():
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonFormatter())


def say(message: str, *, prefix: str = "", level: int = logging.INFO, stream: TextIO | None = None, **f: Any) -> None:
    """Print a line for the user, whatever the level: `prefix` and message, or one JSON object with the fields `f`."""
    text = visible(prefix + message)
    if is_json():
        record = logging.LogRecord("pcace_dist", level, "", 0, message, (), None)
        record.__dict__.update(f)
        text = JsonFormatter().format(record)
    print(text, file=sys.stderr if stream is None else stream, flush=True)


def _log_exception(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger("pcace_dist").critical("%s: %s", kind.__name__, error, exc_info=(kind, error, trace))


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        _log_exception(args.exc_type, args.exc_value, args.exc_traceback)


@contextlib.contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """While it lasts, loggers of other people's libraries say nothing below ERROR."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
