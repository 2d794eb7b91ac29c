"""Queries on collections: filters, orders, cursors, limits, projections.

Rules: the comments of ``google.firestore.v1.StructuredQuery``, and
https://firebase.google.com/docs/firestore/query-data/queries. A document without a field that is filtered or ordered
by is not in the result. Without an order results stand by name; inequality fields come first.
"""

from __future__ import annotations

from functools import cmp_to_key
from typing import TYPE_CHECKING, Any, Final

import grpc

from onerow.testing.firestore.messages import Document, Refusal, StructuredQuery, Value
from onerow.testing.firestore.storage import parent_of
from onerow.testing.firestore.values import NAN_RANK, Ordered, field, set_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NAME: Final = "__name__"
_FIELD: Final = StructuredQuery.FieldFilter
_UNARY: Final = StructuredQuery.UnaryFilter
_INEQUALITIES: Final = {
    _FIELD.LESS_THAN,
    _FIELD.LESS_THAN_OR_EQUAL,
    _FIELD.GREATER_THAN,
    _FIELD.GREATER_THAN_OR_EQUAL,
    _FIELD.NOT_EQUAL,
    _FIELD.NOT_IN,
}


def run(documents: Iterable[Any], parent: str, query: Any) -> list[Any]:
    """Return the documents below ``parent`` that a query finds, in order, as it projects them."""
    _refuse_unknown(query)
    found = [one for one in documents if _is_from(one, parent, query.from_) and _holds(one, query.where)]
    orders = _orders(query)
    found = [one for one in found if all(_value(one, path) is not None for path, _ in orders)]
    found.sort(key=cmp_to_key(lambda left, right: _compare(left, right, orders)))
    if query.HasField("start_at"):
        found = [one for one in found if _beside(one, query.start_at, orders) >= (0 if query.start_at.before else 1)]
    if query.HasField("end_at"):
        found = [one for one in found if _beside(one, query.end_at, orders) <= (-1 if query.end_at.before else 0)]
    found = found[query.offset :]
    if query.HasField("limit"):
        found = found[: query.limit.value]
    return [_projected(one, query.select) if query.HasField("select") else one for one in found]


def _refuse_unknown(query: Any) -> None:
    if query.HasField("find_nearest"):
        raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "This double has no vector search.")
    if len(query.from_) != 1:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "A query names one collection.")


def _is_from(document: Any, parent: str, selectors: Any) -> bool:
    above, collection = parent_of(document.name)
    (selector,) = selectors
    if selector.collection_id and collection != selector.collection_id:
        return False
    return above == parent or (selector.all_descendants and above.startswith(f"{parent}/"))


def _value(document: Any, path: str) -> Any | None:
    return Value(reference_value=document.name) if path == NAME else field(document.fields, path)


def _holds(document: Any, where: Any) -> bool:
    kind = where.WhichOneof("filter_type")
    if kind is None:
        return True
    if kind == "composite_filter":
        results = [_holds(document, one) for one in where.composite_filter.filters]
        is_or = where.composite_filter.op == StructuredQuery.CompositeFilter.OR
        return any(results) if is_or else all(results)
    if kind == "unary_filter":
        return _holds_unary(_value(document, where.unary_filter.field.field_path), where.unary_filter.op)
    wanted = where.field_filter
    return _holds_field(_value(document, wanted.field.field_path), wanted.op, wanted.value)


def _holds_unary(value: Any | None, op: int) -> bool:
    if value is None:
        return False
    rank = Ordered(value).rank
    tests = {
        _UNARY.IS_NULL: rank == 0,
        _UNARY.IS_NOT_NULL: rank != 0,
        _UNARY.IS_NAN: rank == NAN_RANK,
        _UNARY.IS_NOT_NAN: rank not in {0, NAN_RANK},
    }
    return tests[op]


def _holds_field(value: Any | None, op: int, operand: Any) -> bool:
    """Say whether a field's value fits; comparisons find values of the operand's type only."""
    if value is None:
        return False
    held = Ordered(value)
    if op in {_FIELD.IN, _FIELD.NOT_IN, _FIELD.ARRAY_CONTAINS_ANY}:
        wanted = [Ordered(one) for one in operand.array_value.values]
        if op == _FIELD.ARRAY_CONTAINS_ANY:
            return any(Ordered(one) in wanted for one in value.array_value.values)
        return held.rank != 0 and held not in wanted if op == _FIELD.NOT_IN else held in wanted
    limit = Ordered(operand)
    if op == _FIELD.ARRAY_CONTAINS:
        return any(Ordered(one) == limit for one in value.array_value.values)
    if op == _FIELD.NOT_EQUAL:
        return held.rank != 0 and held != limit
    same = held.rank == limit.rank
    tests = {
        _FIELD.EQUAL: lambda: held == limit,
        _FIELD.LESS_THAN: lambda: same and held < limit,
        _FIELD.LESS_THAN_OR_EQUAL: lambda: same and held <= limit,
        _FIELD.GREATER_THAN: lambda: same and held > limit,
        _FIELD.GREATER_THAN_OR_EQUAL: lambda: same and held >= limit,
    }
    if op not in tests:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "A field filter has no operator.")
    return bool(tests[op]())


def _orders(query: Any) -> list[tuple[str, bool]]:
    """Return the paths that results are ordered by, each with whether it descends; the name is always the last."""
    orders = [(one.field.field_path, one.direction == StructuredQuery.DESCENDING) for one in query.order_by]
    descends = orders[-1][1] if orders else False
    named = {path for path, _ in orders}
    extra = sorted({path for path in _inequalities(query.where) if path not in named and path != NAME})
    orders += [(path, descends) for path in extra]
    return orders if NAME in named else [*orders, (NAME, descends)]


def _inequalities(where: Any) -> list[str]:
    kind = where.WhichOneof("filter_type")
    if kind == "composite_filter":
        return [path for one in where.composite_filter.filters for path in _inequalities(one)]
    if kind == "field_filter" and where.field_filter.op in _INEQUALITIES:
        return [where.field_filter.field.field_path]
    return []


def _compare(left: Any, right: Any, orders: Sequence[tuple[str, bool]]) -> int:
    first, second = ([_value(one, path) for path, _ in orders] for one in (left, right))
    return _compare_keys(first, second, orders)


def _beside(document: Any, cursor: Any, orders: Sequence[tuple[str, bool]]) -> int:
    """Say whether a document stands before (-1), at (0) or behind (1) a cursor."""
    orders = orders[: len(cursor.values)]
    return _compare_keys([_value(document, path) for path, _ in orders], list(cursor.values), orders)


def _compare_keys(left: Sequence[Any], right: Sequence[Any], orders: Sequence[tuple[str, bool]]) -> int:
    for one, other, (_, descends) in zip(left, right, orders, strict=True):
        first, second = Ordered(one), Ordered(other)
        if first != second:
            return -1 if (first < second) != descends else 1
    return 0


def _projected(document: Any, select: Any) -> Any:
    made = Document(name=document.name, create_time=document.create_time, update_time=document.update_time)
    for one in select.fields:
        value = None if one.field_path == NAME else field(document.fields, one.field_path)
        if value is not None:
            set_field(made.fields, one.field_path, value)
    return made
