"""Printing: one JSON document or text on standard output, everything else on standard error."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from onerow.faces.cli.shared import Invocation

PIPED_WIDTH: Final = 4096
"""Where nobody looks nothing is folded: a name stays in one piece for grep."""

# Control characters, halves of surrogate pairs, line separators and marks that turn text around.
_HARMFUL: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069]")


def safe(text: str) -> str:
    """Return ``text`` with everything that could drive a terminal made visible."""
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def write(stream: TextIO | None, text: str) -> None:
    """Write and flush. A reader that has gone away (``| head``) does not end the work."""
    if stream is None:
        return
    try:
        stream.write(text)
        stream.flush()
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())


def is_terminal(stream: TextIO | None) -> bool:
    """Say whether a person reads ``stream``."""
    return stream is not None and stream.isatty()


def console_of(stream: TextIO) -> Console:
    """Return a console on ``stream``; colours only on a terminal, and not with NO_COLOR."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR")) or not stream.isatty()
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(
        file=stream,
        color_system=None if plain else "auto",
        force_terminal=stream.isatty(),
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
    )


def to_json(data: Any) -> str:
    """Return ``data`` as one JSON document that the encoding of standard output can hold."""
    encoding = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "")
    return json.dumps(data, indent=2, ensure_ascii=encoding != "utf8") + "\n"


@dataclass(frozen=True)
class Column:
    """A column of a table of text."""

    title: str
    number: bool = False


class Printer:
    """Prints for one run of the command line."""

    def __init__(self, asked: Invocation) -> None:
        self._asked = asked

    @property
    def json(self) -> bool:
        """Whether the result is to be one JSON document."""
        return self._asked.json

    def document(self, data: Any) -> None:
        """Print the one JSON document."""
        write(sys.stdout, to_json(data))

    def text(self, text: str) -> None:
        """Print a whole text as the result, as it stands."""
        write(sys.stdout, text)

    def line(self, text: str = "", style: str = "") -> None:
        """Print a line of the result."""
        self._print(sys.stdout, text, style)

    def note(self, text: str, style: str = "dim") -> None:
        """Say something beside the result, unless asked to be quiet."""
        if not self._asked.quiet:
            self._print(sys.stderr, text, style)

    def warn(self, text: str) -> None:
        """Say on standard error what must not be overlooked."""
        self._print(sys.stderr, f"warning: {text}", "bold yellow")

    def error(self, text: str) -> None:
        """Say on standard error what went wrong."""
        self._print(sys.stderr, text, "red")

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
        """Print a table of the result."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        if sys.stdout is None:  # it was closed by whoever started us
            return
        console = console_of(sys.stdout)
        table = Table(
            box=box.SIMPLE_HEAD if console.is_terminal else None,
            show_edge=False,
            pad_edge=False,
            header_style="bold",
        )
        for column in columns:
            table.add_column(
                column.title,
                justify="right" if column.number else "left",
                overflow="fold",
                no_wrap=column.number,
            )
        for row in rows:
            table.add_row(*(Text(_cell(value)) for value in row))
        with console.capture() as captured:
            console.print(table)
        write(sys.stdout, "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")

    def _print(self, stream: TextIO, text: str, style: str) -> None:
        if not is_terminal(stream):  # rich is slow to import, and has nothing to add here
            write(stream, safe(text) + "\n")
            return
        from rich.text import Text

        console = console_of(stream)
        with console.capture() as captured:
            console.print(Text(safe(text), style=style), soft_wrap=True)
        write(stream, captured.get())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.2f}"
    return safe(str(value)).replace("\n", "\\n")


def count(number: int, noun: str, plural: str = "") -> str:
    """Return ``1 row``, ``1,234 rows``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def span(seconds: float) -> str:
    """Return a time as people say it: 0.08 s, 42 s, 5 min, 3 h."""
    for unit_s, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
