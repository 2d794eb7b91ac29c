"""Log lines on standard error: for people, or one JSON object a line for programs."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from onerow.services.events import FACTS_ATTRIBUTE, logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LogFormat = Literal["human", "json"]

TOLD_ANYWAY: Final = frozenset(
    {
        "onerow.part_refused",
        "onerow.merge_failed",
        "onerow.merge_fenced",
        "onerow.merge_unknown",
        "onerow.verify_failed",
        "onerow.lock_force_released",
        "onerow.lock_timed_out",
        "onerow.lock_skipped",
    }
)
"""Events whose story a command's own report tells in full."""


def facts_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the facts that a record carries, {} for none."""
    facts = getattr(record, FACTS_ATTRIBUTE, None)
    return facts if isinstance(facts, dict) else {}


class HumanFormatter(logging.Formatter):
    """``12:00:01 warning onerow.merge_conflict_retried table=predictions attempt=2``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        facts = " ".join(f"{name}={_plain(value)}" for name, value in facts_of(record).items() if value is not None)
        line = f"{time} {record.levelname.lower()} {record.getMessage()} {facts}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One object a line: ``time``, ``level``, ``event``, and the facts as fields of their own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        data: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **facts_of(record),
        }
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=True, default=str)


class _Stderr(logging.Handler):
    """Writes to whatever standard error is now: a progress bar may have put itself in front of it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201
        except OSError:
            return  # nobody reads; the work goes on


class _Listener(logging.Handler):
    def __init__(self, heard: Callable[[str, Mapping[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        self._heard(record.getMessage(), facts_of(record))


@contextmanager
def on_stderr(*, log_format: LogFormat, verbosity: int, quiet: bool) -> Iterator[None]:
    """Show events on standard error until the block ends: warnings; with -v all; with -vv renewals too."""
    handler = _Stderr()
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    levels = [logging.ERROR if quiet else logging.WARNING, logging.INFO, logging.DEBUG]
    handler.setLevel(levels[min(verbosity, 2)])
    if log_format == "human" and verbosity == 0:
        handler.addFilter(lambda record: record.getMessage() not in TOLD_ANYWAY)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(min(handler.level, logging.INFO))  # a progress bar listens to what is not shown
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@contextmanager
def listening(heard: Callable[[str, Mapping[str, Any]], None]) -> Iterator[None]:
    """Have ``heard`` called with each event and its facts until the block ends."""
    handler = _Listener(heard)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or not text.isprintable() or " " in text else text
