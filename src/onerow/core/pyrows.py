"""Rows that are Python dictionaries, as Arrow, without losing what each value is.

Arrow's own inference rounds where types mix and fails where it cannot. Here a column of one
type becomes an array of that type; a column of several becomes a union, whose values the row
converter looks at one by one; objects and lists become JSON text in a box that says so.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from onerow.core.jsontext import dump_json
from onerow.core.kinds import ValueRefusedError
from onerow.core.partitions import INT64_MAX, INT64_MIN
from onerow.core.unpack import DECIMAL_BOX, JSON_BOX, UNREADABLE_BOX
from onerow.core.values import MAX_EXACT_FLOAT_INT
from onerow.errors import PartRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

_JSON: Final = pa.struct([pa.field(JSON_BOX, pa.string())])
_DECIMAL: Final = pa.struct([pa.field(DECIMAL_BOX, pa.string())])
_UNREADABLE: Final = pa.struct([pa.field(UNREADABLE_BOX, pa.string())])

# The Arrow type of each sort of Python value; exact, so that nothing is converted on the way.
_TYPES: Final[dict[str, pa.DataType]] = {
    "str": pa.string(),
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "float32": pa.float32(),
    "bytes": pa.binary(),
    "date": pa.date32(),
    "datetime": pa.timestamp("us", "UTC"),
    "nanoseconds": pa.timestamp("ns", "UTC"),
    "decimal": _DECIMAL,  # as text: Arrow has no type for decimals of any scale
    "json": _JSON,
    "unreadable": _UNREADABLE,
}
_PLAIN: Final[dict[type, str]] = {
    str: "str",
    bool: "bool",
    int: "int",
    float: "float",
    Decimal: "decimal",
    bytes: "bytes",
    dt.date: "date",
    dt.datetime: "datetime",
}


def column_names(rows: Sequence[object]) -> tuple[str, ...]:
    """Return the union of the keys of all rows, in order of appearance.

    Raises:
        PartRefusedError: a row is no mapping, or a key is no text; the row is named.
    """
    names: dict[str, None] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise PartRefusedError(
                f"Row {number} is of type {type(row).__name__}, not a mapping of column names to values.",
                problem_count=1,
            )
        for name in row:
            if name not in names:
                if not isinstance(name, str):
                    raise PartRefusedError(
                        f"Row {number} has a key of type {type(name).__name__}; column names are text.",
                        problem_count=1,
                    )
                names[name] = None
    if rows and not names:
        raise PartRefusedError("The rows have no columns: every one of them is empty.", problem_count=len(rows))
    return tuple(names)


def rows_to_batch(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.RecordBatch:
    """Return ``rows`` as a batch with the columns ``names``; a missing key is NULL."""
    arrays = [array_of([row.get(name) for row in rows]) for name in names]
    fields = [pa.field(name, array.type) for name, array in zip(names, arrays, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def array_of(values: list[Any]) -> pa.Array:
    """Return an array that holds every one of ``values`` exactly.

    Args:
        values: None, str, bool, int, float, Decimal, bytes, date, datetime (naive is UTC), mappings,
            lists; scalars of numpy and pandas, whose NA and NaT are NULL. Anything else becomes a
            value that no column takes.
    """
    sorts = {_PLAIN.get(kind, "") for kind in set(map(type, values)) - {type(None)}}
    if len(sorts) != 1 or "" in sorts:
        tagged = [_tag(value) for value in values]
        sorts = {sort for sort, _ in tagged if sort}
        values = [value for _, value in tagged]
    else:
        tagged = []
    if not sorts:
        return pa.nulls(len(values))
    if len(sorts) == 1:
        found = _try_array(next(iter(sorts)), values)
    elif sorts == {"int", "decimal"}:
        found = _try_array("decimal", [None if value is None else Decimal(value) for value in values])
    elif sorts == {"int", "float"} and all(
        not isinstance(value, int) or abs(value) <= MAX_EXACT_FLOAT_INT for value in values
    ):
        found = _try_array("float", [None if value is None else float(value) for value in values])
    else:
        found = None
    return found if found is not None else _union([_fitted(*pair) for pair in tagged or map(_tag, values)])


def _try_array(sort: str, values: list[Any]) -> pa.Array | None:
    """Return the array of values of one sort, None if one of them does not fit its type."""
    try:
        if sort in {"decimal", "json", "unreadable"}:
            texts = pa.array([None if value is None else str(value) for value in values], pa.string())
            return pa.StructArray.from_arrays([texts], fields=list(_TYPES[sort]))
        return pa.array(values, _TYPES[sort])
    except (pa.ArrowException, OverflowError, ValueError, TypeError):
        return None  # the values are then fitted one by one, and the row that is at fault is named


def _tag(value: Any) -> tuple[str, Any]:
    """Return the sort of a value and the plain value: ("", None) for NULL."""
    if value is None:
        return "", None
    sort = _PLAIN.get(type(value))
    if sort is not None:
        return sort, value
    pandas = sys.modules.get("pandas")  # only who has imported it can have its values
    if pandas is not None and (value is pandas.NA or value is pandas.NaT):
        return "", None
    if type(value).__module__ == "numpy":
        return _tag_numpy(value)
    if isinstance(value, dt.datetime):
        if getattr(value, "nanosecond", 0):
            return "nanoseconds", value.value  # type: ignore[attr-defined]  # a pandas Timestamp
        to_python = getattr(value, "to_pydatetime", None)
        return "datetime", to_python() if to_python is not None else value
    if isinstance(value, Mapping | list | tuple):
        return _tag_nested(value)
    for kind in (bool, int, float, str, bytes, Decimal):  # subclasses, such as enumerations
        if isinstance(value, kind):
            return _PLAIN[kind], _without_subclass(value, kind)
    return "unreadable", f"a value of type {type(value).__name__}"


def _without_subclass(value: Any, kind: type) -> Any:
    """Return the plain value of one whose class derives from ``kind``; ``str()`` of an enum is its name."""
    return "".join(value) if kind is str else kind(value)


def _tag_numpy(value: Any) -> tuple[str, Any]:
    """Return a numpy scalar as what it is in Python, datetime64 in its own precision."""
    kind = getattr(value, "dtype", None)
    code = getattr(kind, "kind", "")
    if code == "M":
        return _tag_datetime64(value)
    if code == "f" and getattr(kind, "itemsize", 0) in {2, 4}:
        return "float32", float(value)
    if code in "biufUS" and getattr(value, "ndim", 1) == 0:
        return _tag(value.item())
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0:
        return _tag_nested(value.tolist())
    return "unreadable", f"a value of type numpy.{type(value).__name__}"


def _tag_datetime64(value: Any) -> tuple[str, Any]:
    if value != value:  # noqa: PLR0124 -- NaT, as numpy has it
        return "", None
    micros = value.astype("datetime64[us]")
    if micros != value:
        nanos = value.astype("datetime64[ns]")
        if nanos != value:
            return "unreadable", "a timestamp finer than nanoseconds"
        return "nanoseconds", int(nanos.astype("int64"))
    moment = micros.item()
    if isinstance(moment, dt.datetime):
        return "datetime", moment
    return "unreadable", "a timestamp outside the years 1 to 9999"


def _tag_nested(value: Any) -> tuple[str, Any]:
    try:
        return "json", dump_json(_thawed(value))
    except (ValueRefusedError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return "unreadable", f"an object or a list that {reason}, not JSON"


def _thawed(value: Any) -> Any:
    """Return nested values with every mapping a dictionary."""
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_thawed(item) for item in value]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _fitted(sort: str, value: Any) -> tuple[str, Any]:
    """Return a value that its Arrow type can hold, or what is to be said of it."""
    if sort == "int" and not INT64_MIN <= value <= INT64_MAX:
        return "decimal", Decimal(value)
    if sort == "str":
        try:
            value.encode()
        except UnicodeEncodeError:
            return "bytes", value.encode("utf-8", "surrogatepass")  # refused as invalid UTF-8, by row
    return sort, value


def _union(tagged: list[tuple[str, Any]]) -> pa.Array:
    """Return a dense union of values of several sorts; NULL stands in a child of its own."""
    children: dict[str, list[Any]] = {}
    codes: list[int] = []
    offsets: list[int] = []
    numbers: dict[str, int] = {}
    for sort, value in tagged:
        child = children.setdefault(sort, [])
        codes.append(numbers.setdefault(sort, len(numbers)))
        offsets.append(len(child))
        child.append(value)
    arrays = [_child(name, values) for name, values in children.items()]
    names = [f"sort{number}" for number in range(len(arrays))]
    return pa.UnionArray.from_dense(pa.array(codes, pa.int8()), pa.array(offsets, pa.int32()), arrays, names)


def _child(name: str, values: list[Any]) -> pa.Array:
    if not name:
        return pa.nulls(len(values))
    found = _try_array(name, values)
    if found is None:
        return _child("unreadable", [f"a value of type {type(value).__name__}" for value in values])
    return found
