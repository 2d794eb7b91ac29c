"""JSON as text: checked but never changed, or made with every digit that the source has."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from onerow.core.kinds import Instant, ValueRefusedError, checked_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_ZERO_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_json(text: str) -> str:
    """Return ``text`` as it is, if it is JSON that every engine can hold.

    Raises:
        ValueRefusedError: it is not.
    """
    checked_text(text)
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueRefusedError("is nested too deeply") from error
    except ValueError as error:
        raise ValueRefusedError("is not valid JSON") from error
    if "\\u" in text:
        if _ZERO_ESCAPE.search(text):
            raise ValueRefusedError("has the character U+0000, which no engine can hold")
        checked_text(json.dumps(value, ensure_ascii=False))
    return text


def _refuse_constant(name: str) -> None:
    raise ValueRefusedError(f"has {name}, which is not JSON")


def dump_json(value: object) -> str:
    """Return ``value`` as compact JSON; keys keep their order, decimals every digit.

    Raises:
        ValueRefusedError: it holds something that JSON cannot.
        RecursionError: it is nested too deeply.
    """
    match value:
        case None | bool() | int() | str():
            return json.dumps(value, ensure_ascii=False)
        case float():
            if math.isfinite(value):
                return json.dumps(value)
        case Decimal():
            if value.is_finite():
                return str(value)
        case Instant():
            return json.dumps(str(value))
        case dt.date() | dt.time():
            return json.dumps(value.isoformat())
        case dict():
            return "{" + ",".join(_dump_member(key, value) for key in value) + "}"
        case list() | tuple():
            return "[" + ",".join(dump_json(item) for item in value) + "]"
        case _:
            raise ValueRefusedError(f"holds a value of type {type(value).__name__}, which JSON has not")
    raise ValueRefusedError(f"holds {value}, which JSON has not")


def _dump_member(key: object, members: Mapping[Any, object]) -> str:
    if not isinstance(key, str):
        raise ValueRefusedError(f"has a key of type {type(key).__name__}; JSON keys are text")
    return f"{json.dumps(key, ensure_ascii=False)}:{dump_json(members[key])}"
