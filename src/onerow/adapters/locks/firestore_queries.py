"""Queries for what begins with a text: strings and names are ordered by their UTF-8 bytes.

Source: https://firebase.google.com/docs/firestore/manage-data/data-types#value_type_ordering.
"""

from __future__ import annotations

from typing import Final

from google.cloud.firestore_v1.types import StructuredQuery, Value

from onerow.adapters.locks.firestore_documents import text_value

_LAST_CHARACTER: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)
_OPERATOR: Final = StructuredQuery.FieldFilter.Operator
_AND: Final = StructuredQuery.CompositeFilter.Operator.AND


def keys_with(prefix: str) -> StructuredQuery:
    """Return the query for documents whose field ``key`` begins with ``prefix``, in order."""
    behind = _behind(prefix)
    return _between("key", text_value(prefix), text_value(behind) if behind else None)


def names_with(prefix: str) -> StructuredQuery:
    """Return the query for documents whose full name begins with ``prefix``; "": for all of a collection."""
    if not prefix:
        return StructuredQuery(order_by=[_ascending("__name__")])
    return _between("__name__", Value(reference_value=prefix), Value(reference_value=_behind(prefix)))


def _between(path: str, least: Value, behind: Value | None) -> StructuredQuery:
    filters = [_filter(path, _OPERATOR.GREATER_THAN_OR_EQUAL, least)]
    if behind is not None:
        filters.append(_filter(path, _OPERATOR.LESS_THAN, behind))
    both = StructuredQuery.CompositeFilter(op=_AND, filters=filters)
    return StructuredQuery(
        where=StructuredQuery.Filter(composite_filter=both), order_by=[_ascending(path)]
    )


def _filter(path: str, operator: int, value: Value) -> StructuredQuery.Filter:
    return StructuredQuery.Filter(
        field_filter=StructuredQuery.FieldFilter(field=_field(path), op=operator, value=value)
    )


def _ascending(path: str) -> StructuredQuery.Order:
    return StructuredQuery.Order(field=_field(path), direction=StructuredQuery.Direction.ASCENDING)


def _field(path: str) -> StructuredQuery.FieldReference:
    return StructuredQuery.FieldReference(field_path=path)


def _behind(prefix: str) -> str:
    """Return the first text behind all that begin with ``prefix``; "" if there is none."""
    while prefix and ord(prefix[-1]) == _LAST_CHARACTER:
        prefix = prefix[:-1]
    if not prefix:
        return ""
    code = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(_SURROGATES.stop if code in _SURROGATES else code)
