"""The protocol's messages as plain protobuf classes, from the client library's own types.

The library wraps them (proto-plus) for comfort; a server is better off with what goes over the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from google.cloud.firestore_v1 import types
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.status_pb2 import Status

if TYPE_CHECKING:
    import grpc

BatchGetDocumentsRequest: Any = types.BatchGetDocumentsRequest.pb()
BatchGetDocumentsResponse: Any = types.BatchGetDocumentsResponse.pb()
BatchWriteRequest: Any = types.BatchWriteRequest.pb()
BatchWriteResponse: Any = types.BatchWriteResponse.pb()
BeginTransactionRequest: Any = types.BeginTransactionRequest.pb()
BeginTransactionResponse: Any = types.BeginTransactionResponse.pb()
CommitRequest: Any = types.CommitRequest.pb()
CommitResponse: Any = types.CommitResponse.pb()
Document: Any = types.Document.pb()
GetDocumentRequest: Any = types.GetDocumentRequest.pb()
ListDocumentsRequest: Any = types.ListDocumentsRequest.pb()
ListDocumentsResponse: Any = types.ListDocumentsResponse.pb()
ListenRequest: Any = types.ListenRequest.pb()
ListenResponse: Any = types.ListenResponse.pb()
RollbackRequest: Any = types.RollbackRequest.pb()
RunQueryRequest: Any = types.RunQueryRequest.pb()
RunQueryResponse: Any = types.RunQueryResponse.pb()
StructuredQuery: Any = types.StructuredQuery.pb()
TargetChange: Any = types.TargetChange.pb()
TransactionOptions: Any = types.TransactionOptions.pb()
Value: Any = types.Value.pb()
Write: Any = types.Write.pb()
WriteResult: Any = types.WriteResult.pb()

__all__ = ["Empty", "Refusal", "Status", "refuse", "timestamp", "to_us"]


class Refusal(Exception):  # noqa: N818 -- an answer of the server, not a mistake in it
    """What a request is answered with instead of a result.

    Attributes:
        status: the gRPC status.
    """

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


def refuse(context: grpc.ServicerContext, refusal: Refusal) -> NoReturn:
    """Answer a call with a refusal."""
    context.abort(refusal.status, str(refusal))
    raise refusal  # never reached: abort raises


def timestamp(us: int) -> Timestamp:
    """Return microseconds since the epoch as the protocol has them."""
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1000)


def to_us(time: Any) -> int:
    """Return a timestamp of the protocol as microseconds since the epoch."""
    return int(time.seconds) * 1_000_000 + int(time.nanos) // 1000
