"""What a single value of a source can be, beyond what Python has, and why one is refused."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

MIN_DAY: Final = dt.date.min.toordinal() - dt.date(1970, 1, 1).toordinal()
MAX_DAY: Final = dt.date.max.toordinal() - dt.date(1970, 1, 1).toordinal()
DAY_US: Final = 86_400_000_000
MIN_US: Final = MIN_DAY * DAY_US
MAX_US: Final = (MAX_DAY + 1) * DAY_US - 1

TICKS_A_DAY: Final = {
    "D": 1,
    "s": 86_400,
    "ms": 86_400_000,
    "us": DAY_US,
    "ns": 86_400_000_000_000,
}
_SHOWN_CHARS = 40


class ValueRefusedError(Exception):
    """A value breaks the row contract; the one argument is the reason, without the value."""


@dataclass(frozen=True, slots=True)
class Instant:
    """A date or timestamp as ticks since 1970-01-01T00:00Z; unit is one of ``D s ms us ns``."""

    ticks: int
    unit: str

    def __str__(self) -> str:
        day, rest = divmod(self.ticks, TICKS_A_DAY[self.unit])
        if not MIN_DAY <= day <= MAX_DAY:
            return f"day {day} from 1970-01-01"
        date = dt.date.fromordinal(day + dt.date(1970, 1, 1).toordinal()).isoformat()
        if self.unit == "D":
            return date
        seconds, fraction = divmod(rest, TICKS_A_DAY[self.unit] // 86_400)
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[self.unit]
        behind = f".{fraction:0{digits}d}" if fraction else ""
        return f"{date}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{behind}Z"


@dataclass(frozen=True, slots=True)
class JsonText:
    """An object or a list that is JSON text already, made with its numbers digit by digit."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that no column can hold; ``what`` says what it is."""

    what: str


def shorten(value: object) -> str:
    """Return ``value`` for the eyes of the person who staged it, at most 40 characters; "" for none."""
    if isinstance(value, Unreadable):
        return ""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
    if isinstance(text, str):
        return repr(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "...")
    shown = str(text)
    return shown if len(shown) <= _SHOWN_CHARS else shown[: _SHOWN_CHARS - 3] + "..."


def checked_text(text: str) -> str:
    """Return ``text`` if every engine can hold it.

    Raises:
        ValueRefusedError: it has U+0000 or half of a surrogate pair.
    """
    if "\x00" in text:
        raise ValueRefusedError("has the character U+0000, which no engine can hold")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueRefusedError("has half of a surrogate pair, which is no character") from error
    return text


def describe(value: object) -> str:
    """Return what sort of value this is, in words."""
    match value:
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a float"
        case Decimal():
            return "a decimal"
        case str() | bytes():
            return "text"
        case Instant(unit="D"):
            return "a date"
        case Instant():
            return "a timestamp"
        case _:
            return "an object or a list"
