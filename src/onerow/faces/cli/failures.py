"""From whatever ended a command to words and an exit code."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from onerow.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    BatchNotFoundError,
    DuplicatesError,
    OnerowError,
    PartRefusedError,
    UsageError,
)
from onerow.faces.cli.output import Printer

if TYPE_CHECKING:
    from onerow.faces.cli.shared import Invocation


def problems_of(error: OnerowError) -> list[str]:
    """Return the lines that go with an error: bad rows, duplicate keys or near names."""
    match error:
        case PartRefusedError():
            return list(error.problems)
        case DuplicatesError():
            return list(error.keys)
        case BatchNotFoundError():
            return list(error.near)
        case _:
            return []


def to_json(error: OnerowError) -> dict[str, Any]:
    """Return the object that ``--output json`` prints for an error."""
    return {
        "error": error.message,
        "kind": error.kind,
        "hint": error.hint,
        "problems": problems_of(error),
        "exit_code": error.exit_code,
    }


def tell(printer: Printer, error: OnerowError) -> None:
    """Print an error for people, on standard error."""
    printer.error(f"error: {error.message}")
    for line in problems_of(error) if not isinstance(error, BatchNotFoundError) else []:
        printer.error(f"  {line}")
    if error.hint:
        printer.note(f"hint: {error.hint}", style="")


def report(asked: Invocation, error: BaseException) -> int:
    """Tell what ended a command, and return the exit code."""
    printer = Printer(asked)
    if asked.interrupted or isinstance(error, KeyboardInterrupt | click.Abort):
        message = "Interrupted."
        if asked.json:
            printer.document(_plain(message, "interrupted", asked.kept, EXIT_INTERRUPTED))
        printer.error(f"{message.lower().rstrip('.')}: {asked.kept}")
        return EXIT_INTERRUPTED
    if isinstance(error, click.UsageError):
        if asked.json:
            printer.document(_plain(error.format_message(), UsageError.kind, "", EXIT_USAGE))
        error.show(file=sys.stderr)
        return EXIT_USAGE
    if isinstance(error, OnerowError):
        if asked.json:
            printer.document(to_json(error))
        tell(printer, error)
        if asked.verbosity and error.__cause__ is not None:
            printer.note("".join(traceback.format_exception(error)))
        return error.exit_code
    return _defect(asked, printer, error)


def _defect(asked: Invocation, printer: Printer, error: BaseException) -> int:
    """Tell of what nobody has foreseen."""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    message = f"Unexpected {what}"
    hint = "This is a defect of onerow or of what it stands on. " + (
        "" if asked.verbosity else "Run it again with --verbose for the traceback. "
    )
    if asked.json:
        printer.document(_plain(message, "unexpected", hint.strip(), EXIT_FAILED))
    printer.error(f"error: {message}")
    printer.error(f"hint: {hint}{asked.kept}")
    if asked.verbosity:
        printer.error("".join(traceback.format_exception(error)))
    return EXIT_FAILED


def _plain(message: str, kind: str, hint: str, exit_code: int) -> dict[str, Any]:
    return {"error": message, "kind": kind, "hint": hint, "problems": [], "exit_code": exit_code}
