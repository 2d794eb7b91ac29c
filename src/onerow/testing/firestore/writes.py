"""One write: its precondition, its mask, its transforms.

Rules: the comments of ``google.firestore.v1.Write``, ``Precondition``, ``WriteResult`` and ``DocumentTransform``
(https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#write).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc

from onerow.testing.firestore.messages import Refusal, Value, WriteResult, timestamp, to_us
from onerow.testing.firestore.storage import copy_of, updated_us
from onerow.testing.firestore.values import NAN_RANK, Ordered, field, set_field

if TYPE_CHECKING:
    from collections.abc import Callable

INT64: Final = (-(2**63), 2**63 - 1)
MAX_DOCUMENT_BYTES: Final = 1_048_576
NUMBERS: Final = ("integer_value", "double_value")


def name_of(write: Any) -> str:
    """Return the name of the document that a write is for."""
    operation = write.WhichOneof("operation")
    if operation == "update":
        return str(write.update.name)
    if operation == "delete":
        return str(write.delete)
    if operation == "transform":
        return str(write.transform.document)
    raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "A write has no operation.")


def check(write: Any, current: Any | None, commit_us: int) -> None:
    """Refuse a write whose precondition does not hold: it fails, and with it the whole commit.

    A time that has not come yet is another mistake for the service than one that is not the document's
    (https://github.com/googleapis/google-cloud-dotnet/pull/1538).
    """
    wanted = write.current_document
    condition = wanted.WhichOneof("condition_type")
    name = name_of(write)
    if condition == "exists" and wanted.exists and current is None:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"No document to update: {name}")
    if condition == "exists" and not wanted.exists and current is not None:
        raise Refusal(grpc.StatusCode.ALREADY_EXISTS, f"Document already exists: {name}")
    if condition == "update_time":  # "the target document must exist and have been last updated at that time"
        if wanted.update_time.nanos % 1000:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "Timestamp must be microsecond aligned.")
        if to_us(wanted.update_time) > commit_us:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "The required base version is in the future.")
        if updated_us(current) != to_us(wanted.update_time):
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"the stored version ({updated_us(current)}) does not match the required base version "
                f"({to_us(wanted.update_time)})",
            )


def apply(write: Any, current: Any | None, commit_us: int) -> tuple[Any | None, Any]:
    """Carry a write out.

    Returns:
        The document afterwards, None if there is none, and the result that is told.
    """
    result = WriteResult()
    if write.WhichOneof("operation") == "delete":
        return None, result  # "update_time: not set after a delete"
    made = copy_of(current, name_of(write))
    transforms = list(write.update_transforms)
    if write.WhichOneof("operation") == "transform":
        transforms += write.transform.field_transforms
    elif write.HasField("update_mask"):
        for path in write.update_mask.field_paths:  # "fields in the mask, but not in the document, are deleted"
            set_field(made.fields, path, field(write.update.fields, path))
    else:
        made.fields.clear()
        for name, value in write.update.fields.items():
            made.fields[name].CopyFrom(value)
    for transform in transforms:
        _transform(made.fields, transform, commit_us, result)
    if current is None:
        made.create_time.CopyFrom(timestamp(commit_us))
    if current is None or dict(made.fields) != dict(current.fields):
        made.update_time.CopyFrom(timestamp(commit_us))
    # "If the write did not actually change the document, this will be the previous update_time."
    result.update_time.CopyFrom(made.update_time)
    if made.ByteSize() > MAX_DOCUMENT_BYTES:  # https://firebase.google.com/docs/firestore/quotas
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "Document exceeds the maximum size of 1,048,576 bytes.")
    return made, result


def _transform(fields: Any, transform: Any, commit_us: int, result: Any) -> None:
    kind = transform.WhichOneof("transform_type")
    held = field(fields, transform.field_path)
    if kind == "set_to_server_value":  # "The time at which the server processed the request"
        value = Value(timestamp_value=timestamp(commit_us))
        result.transform_results.append(value)
    elif kind in {"increment", "maximum", "minimum"}:
        value = _number(kind, held, getattr(transform, kind))
        result.transform_results.append(value)
    elif kind in {"append_missing_elements", "remove_all_from_array"}:
        value = _array(kind, held, getattr(transform, kind).values)
        result.transform_results.append(Value(null_value=0))
    else:
        raise Refusal(grpc.StatusCode.UNIMPLEMENTED, f"This double does not know the transform {kind}.")
    set_field(fields, transform.field_path, value)


def _number(kind: str, held: Any | None, operand: Any) -> Any:
    """Return what an increment, maximum or minimum makes; a field that is no number becomes the operand."""
    if held is None or held.WhichOneof("value_type") not in NUMBERS:
        return operand
    if kind != "increment":
        choose: Callable[..., Ordered] = max if kind == "maximum" else min
        left, right = Ordered(held), Ordered(operand)
        if NAN_RANK in (left.rank, right.rank):
            return held if left.rank == NAN_RANK else operand
        return held if choose(left, right) is left else operand
    one, other = (getattr(value, value.WhichOneof("value_type")) for value in (held, operand))
    if isinstance(one, int) and isinstance(other, int):  # an overflow stops at the largest or smallest
        return Value(integer_value=min(max(one + other, INT64[0]), INT64[1]))
    return Value(double_value=float(one) + float(other))


def _array(kind: str, held: Any | None, operands: Any) -> Any:
    value = Value(array_value={})
    kept = [] if held is None or held.WhichOneof("value_type") != "array_value" else list(held.array_value.values)
    if kind == "remove_all_from_array":
        gone = [Ordered(one) for one in operands]
        kept = [one for one in kept if Ordered(one) not in gone]
    else:
        for operand in operands:
            if Ordered(operand) not in [Ordered(one) for one in kept]:
                kept.append(operand)
    value.array_value.values.extend(kept)
    return value
