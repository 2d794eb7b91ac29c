"""Values: how they are compared, and how a field path leads to one.

Rules: https://firebase.google.com/docs/firestore/manage-data/data-types#value_type_ordering and the comments of
``google.firestore.v1.DocumentMask`` and ``StructuredQuery.FieldReference`` (segments that are no plain identifiers
stand in backticks, in which backtick and backslash are written with a backslash).
"""

from __future__ import annotations

import math
import re
from functools import total_ordering
from typing import Any, Final

import grpc

from onerow.testing.firestore.messages import Refusal, Value, to_us

_SEGMENT: Final = re.compile(r"(?:([A-Za-z_][A-Za-z0-9_]*)|`((?:[^`\\]|\\.)*)`)(\.|$)", re.DOTALL)
_RANKS: Final = {
    "null_value": 0,
    "boolean_value": 1,
    "integer_value": 3,
    "double_value": 3,
    "timestamp_value": 4,
    "string_value": 5,
    "bytes_value": 6,
    "reference_value": 7,
    "geo_point_value": 8,
    "array_value": 9,
    "map_value": 11,
}
NAN_RANK: Final = 2


@total_ordering
class Ordered:
    """A value that compares as the service compares: by type first, then within the type."""

    __slots__ = ("_content", "rank")

    def __init__(self, value: Any) -> None:
        kind = value.WhichOneof("value_type")
        if kind not in _RANKS:
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, f"This double does not compare values of type {kind}.")
        self.rank = _RANKS[kind]
        self._content = _content(value, kind)
        if kind == "double_value" and math.isnan(value.double_value):
            self.rank, self._content = NAN_RANK, 0  # NaN stands before all other numbers and equals itself

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ordered) and (self.rank, self._content) == (other.rank, other._content)

    def __lt__(self, other: Ordered) -> bool:
        if self.rank != other.rank:
            return self.rank < other.rank
        return bool(self._content < other._content)

    def __hash__(self) -> int:
        return hash(self.rank)


def _content(value: Any, kind: str) -> Any:
    content = getattr(value, kind)
    if kind == "null_value":
        return 0
    if kind == "timestamp_value":
        return to_us(content)
    if kind == "string_value":
        return content.encode()  # UTF-8 byte by byte
    if kind == "reference_value":
        return [segment.encode() for segment in content.split("/")]
    if kind == "geo_point_value":
        return (content.latitude, content.longitude)
    if kind == "array_value":
        return [Ordered(one) for one in content.values]
    if kind == "map_value":
        return [(name.encode(), Ordered(content.fields[name])) for name in sorted(content.fields, key=str.encode)]
    return content


def split_path(path: str) -> list[str]:
    """Return the segments of a field path."""
    found, at = [], 0
    while at < len(path):
        match = _SEGMENT.match(path, at)
        if match is None or (match[3] == "." and match.end() == len(path)):
            break
        found.append(match[1] if match[1] is not None else re.sub(r"\\(.)", r"\1", match[2]))
        at = match.end()
    if not found or at < len(path):
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid field path: {path!r}.")
    return found


def field(fields: Any, path: str) -> Any | None:
    """Return the value that a path leads to; None where there is none."""
    *outer, last = split_path(path)
    for name in outer:
        if name not in fields or fields[name].WhichOneof("value_type") != "map_value":
            return None
        fields = fields[name].map_value.fields
    return fields.get(last)


def set_field(fields: Any, path: str, value: Any | None) -> None:
    """Put a value where a path leads, making the maps on the way; None takes the field away."""
    *outer, last = split_path(path)
    for name in outer:
        if name not in fields or fields[name].WhichOneof("value_type") != "map_value":
            if value is None:
                return
            fields[name].CopyFrom(Value(map_value={}))
        fields = fields[name].map_value.fields
    if value is None:
        fields.pop(last, None)
    else:
        fields[last].CopyFrom(value)
