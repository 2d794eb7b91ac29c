"""One value at a time: the rules of the row contract, spelled out.

This is the reference. ``core.convert`` does the same for whole arrays; what it accepts, these
functions accept with the same result (a property-based test holds the two together), and
whatever it leaves is decided, and explained, here.

Nothing is ever rounded or guessed: a value that does not fit exactly is refused with the reason.
The one exception is what a binary float is: decimal text becomes the nearest float64.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from decimal import Context, Decimal
from typing import TYPE_CHECKING, Any, Final

from onerow.core.jsontext import check_json, dump_json
from onerow.core.kinds import (
    DAY_US,
    MAX_DAY,
    MAX_US,
    MIN_DAY,
    MIN_US,
    TICKS_A_DAY,
    Instant,
    JsonText,
    Unreadable,
    ValueRefusedError,
    checked_text,
    describe,
)
from onerow.core.partitions import INT64_MAX, INT64_MIN

if TYPE_CHECKING:
    from onerow.core.types import ColumnType

MAX_EXACT_FLOAT_INT: Final = 2**53
INTEGER_TEXT: Final = r"^[+-]?[0-9]+$"
FLOAT_TEXT: Final = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:nan|inf|infinity))$"
DECIMAL_TEXT: Final = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
DATE_TEXT: Final = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
TIME_TEXT: Final = r"[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?"
ZONE_TEXT: Final = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
TRUE_TEXTS: Final = frozenset({"true", "t", "1"})
FALSE_TEXTS: Final = frozenset({"false", "f", "0"})

# Python's $ also matches before a final newline; \Z does not. RE2 in Arrow has it the other way round.
_INTEGER = re.compile(INTEGER_TEXT.removesuffix("$") + r"\Z")
_FLOAT = re.compile(FLOAT_TEXT.removesuffix("$") + r"\Z")
_DECIMAL = re.compile(DECIMAL_TEXT.removesuffix("$") + r"\Z")
_DATE = re.compile(DATE_TEXT.removesuffix("$") + r"\Z")
_TIMESTAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d(?::?\d\d)?)?)?", re.ASCII
)
_MAX_INTEGER_DIGITS = 40


def convert_value(value: object, column_type: ColumnType, *, text_mode: bool) -> Any:
    """Return ``value`` as a column of ``column_type`` holds it.

    Args:
        value: None, bool, int, float, Decimal, str, bytes, Instant, JsonText, Unreadable, a
            mapping or a list.
        column_type: what it is to be.
        text_mode: the source has nothing but text, so text is read as numbers and booleans.

    Returns:
        None for None; str, int, float, Decimal (of exactly the declared scale) or bool; days
        since 1970-01-01 for a date, microseconds since then for a timestamp.

    Raises:
        ValueRefusedError: naming why.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        value = _decoded(value)
    match column_type.kind:
        case "string":
            return _to_string(value)
        case "int64":
            return _to_int64(value, text_mode=text_mode)
        case "float64":
            return _to_float64(value, text_mode=text_mode)
        case "decimal":
            return _to_decimal(value, column_type)
        case "bool":
            return _to_bool(value, text_mode=text_mode)
        case "date":
            return _to_date(value)
        case "timestamp":
            return _to_timestamp(value)
        case "json":
            return _to_json(value)


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueRefusedError(f"is not valid UTF-8 (byte {error.start + 1})") from error


def _mismatch(value: object, kind: str, advice: str = "") -> ValueRefusedError:
    if isinstance(value, Unreadable):
        return ValueRefusedError(f"is {value.what}")
    return ValueRefusedError(f"is {describe(value)}, which is not read as {kind}{advice}")


def _to_string(value: object) -> str:
    if isinstance(value, str):
        return checked_text(value)
    numbers = isinstance(value, int | float | Decimal)
    advice = "; give text: leading zeros and trailing digits would be lost" if numbers else "; give text"
    raise _mismatch(value, "string", advice)


def _to_int64(value: object, *, text_mode: bool) -> int:
    match value:
        case bool():
            raise _mismatch(value, "int64")
        case int():
            number = value
        case float() | Decimal():
            number = _whole(value)
        case str() if text_mode:
            number = _whole_text(value)
        case str():
            raise _mismatch(value, "int64", "; give a number")
        case _:
            raise _mismatch(value, "int64")
    if not INT64_MIN <= number <= INT64_MAX:
        raise ValueRefusedError("is out of the range of int64")
    return number


def _whole(value: float | Decimal) -> int:
    if not math.isfinite(value):
        raise ValueRefusedError("is no whole number")
    if isinstance(value, Decimal) and value and value.adjusted() > _MAX_INTEGER_DIGITS:
        raise ValueRefusedError("is out of the range of int64")
    if value != value.__trunc__():
        raise ValueRefusedError("is no whole number")
    if isinstance(value, float) and abs(value) > MAX_EXACT_FLOAT_INT:
        raise ValueRefusedError("is a float beyond 2^53, where floats skip whole numbers")
    return int(value)


def _whole_text(text: str) -> int:
    if not _INTEGER.match(text):
        raise ValueRefusedError("is no whole number")
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) > _MAX_INTEGER_DIGITS:
        raise ValueRefusedError("is out of the range of int64")
    return int(digits or "0") * (-1 if text[0] == "-" else 1)


def _to_float64(value: object, *, text_mode: bool) -> float:
    match value:
        case bool():
            raise _mismatch(value, "float64")
        case int():
            number = _exact_float(value)
        case float():
            number = value
        case Decimal():
            if not value.is_finite():
                raise ValueRefusedError("is no finite decimal")
            number = _finite(float(value))
        case str() if text_mode:
            if not _FLOAT.match(value):
                raise ValueRefusedError("is no number")
            infinite = "i" in value.lower()
            number = float(value) if infinite else _finite(float(value))
        case str():
            raise _mismatch(value, "float64", "; give a number")
        case _:
            raise _mismatch(value, "float64")
    return math.nan if math.isnan(number) else number + 0.0  # one NaN, one zero


def _exact_float(value: int) -> float:
    try:
        number = float(value)
    except OverflowError as error:
        raise ValueRefusedError("is out of the range of float64") from error
    if int(number) != value:
        raise ValueRefusedError("is a whole number that float64 cannot hold exactly")
    return number


def _finite(number: float) -> float:
    if math.isinf(number):
        raise ValueRefusedError("is out of the range of float64")
    return number


def _to_decimal(value: object, column_type: ColumnType) -> Decimal:
    match value:
        case bool():
            raise _mismatch(value, str(column_type))
        case int():
            if abs(value) >= 10**_MAX_INTEGER_DIGITS:
                raise ValueRefusedError(f"does not fit {column_type}")
            number = Decimal(value)
        case float():
            if not math.isfinite(value):
                raise ValueRefusedError(f"is not finite, which {column_type} cannot hold")
            number = Decimal(repr(value))
        case Decimal():
            if not value.is_finite():
                raise ValueRefusedError(f"is not finite, which {column_type} cannot hold")
            number = value
        case str():
            if not _DECIMAL.match(value):
                raise ValueRefusedError("is no decimal number")
            number = Decimal(value)
        case _:
            raise _mismatch(value, str(column_type))
    return _rescaled(number, column_type)


def _rescaled(number: Decimal, column_type: ColumnType) -> Decimal:
    if not number:
        return Decimal(0).scaleb(-column_type.scale)
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):  # pragma: no cover -- only finite numbers come here
        raise ValueRefusedError("is not finite")
    zeros = 0
    while digits[-1 - zeros] == 0:
        zeros += 1
    if -(exponent + zeros) > column_type.scale:
        raise ValueRefusedError(f"has more than {column_type.scale} digits behind the point; it is not rounded")
    if number.adjusted() + 1 > column_type.precision - column_type.scale:
        raise ValueRefusedError(f"does not fit {column_type}")
    return number.quantize(Decimal(1).scaleb(-column_type.scale), context=Context(prec=len(digits) + 80))


def _to_bool(value: object, *, text_mode: bool) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and text_mode:
        # Only ASCII letters fold: some other letters have a lower case of a plain one.
        folded = value.lower() if value.isascii() else value
        if folded in TRUE_TEXTS:
            return True
        if folded in FALSE_TEXTS:
            return False
        raise ValueRefusedError("is none of true, false, t, f, 1, 0")
    raise _mismatch(value, "bool", "; give true or false")


def _to_date(value: object) -> int:
    match value:
        case Instant(ticks=ticks, unit=unit):
            day, rest = divmod(ticks, TICKS_A_DAY[unit])
            if rest:
                raise ValueRefusedError("is a timestamp that is not exactly midnight in UTC")
        case str():
            if not _DATE.match(value):
                raise ValueRefusedError("is no date written YYYY-MM-DD")
            day = _day_of(value)
        case _:
            raise _mismatch(value, "date")
    if not MIN_DAY <= day <= MAX_DAY:
        raise ValueRefusedError("is outside the years 1 to 9999")
    return day


def _day_of(text: str) -> int:
    try:
        return dt.date.fromisoformat(text).toordinal() - dt.date(1970, 1, 1).toordinal()
    except ValueError as error:
        raise ValueRefusedError("is no day of the calendar") from error


def _to_timestamp(value: object) -> int:
    match value:
        case Instant(ticks=ticks, unit="ns"):
            micros, rest = divmod(ticks, 1000)
            if rest:
                raise ValueRefusedError("is finer than microseconds; it is not rounded")
        case Instant(ticks=ticks, unit=unit):
            micros = ticks * (DAY_US // TICKS_A_DAY[unit])
        case str():
            micros = _micros_of(value)
        case _:
            raise _mismatch(value, "timestamp")
    if not MIN_US <= micros <= MAX_US:
        raise ValueRefusedError("is outside the years 1 to 9999")
    return micros


def _micros_of(text: str) -> int:
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueRefusedError("is no timestamp written YYYY-MM-DDThh:mm:ss")
    date, hours, minutes, seconds, fraction, zone = match.groups()
    micros = _day_of(date) * DAY_US
    if hours is None:
        return micros
    hour, minute, second = int(hours), int(minutes), int(seconds or 0)
    if hour > 23 or minute > 59 or second > 59:  # noqa: PLR2004 -- a clock's own numbers
        raise ValueRefusedError("is no time of the day")
    if fraction and fraction[6:].strip("0"):
        raise ValueRefusedError("is finer than microseconds; it is not rounded")
    micros += ((hour * 60 + minute) * 60 + second) * 1_000_000 + int((fraction or "0").ljust(6, "0")[:6])
    return micros - _offset_us(zone)


def _offset_us(zone: str | None) -> int:
    if zone is None or zone == "Z":
        return 0
    hour, minute = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
    if hour > 23 or minute > 59:  # noqa: PLR2004 -- a clock's own numbers
        raise ValueRefusedError("has no such offset from UTC")
    return (hour * 60 + minute) * 60_000_000 * (-1 if zone[0] == "-" else 1)


def _to_json(value: object) -> str:
    match value:
        case JsonText(text=text):
            return check_json(text)
        case str():
            return check_json(value)
        case dict() | list():
            try:
                return check_json(dump_json(value))
            except RecursionError as error:
                raise ValueRefusedError("is nested too deeply") from error
        case _:
            raise _mismatch(value, "json", "; give JSON text, an object or a list")
