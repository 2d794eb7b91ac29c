"""The calls of ``google.firestore.v1.Firestore`` that the double answers; all others are UNIMPLEMENTED."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from onerow.testing.firestore import faults as injected
from onerow.testing.firestore import messages as pb
from onerow.testing.firestore import queries
from onerow.testing.firestore.listening import Stream
from onerow.testing.firestore.messages import Refusal, refuse, timestamp
from onerow.testing.firestore.storage import Storage, parent_of, segments
from onerow.testing.firestore.transactions import Transactions
from onerow.testing.firestore.writes import name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onerow.testing.firestore.faults import Faults, Rule

SERVICE: Final = "google.firestore.v1.Firestore"
PAGE: Final = 300
SILENCE_STEP_S: Final = 0.05


class Firestore:
    """A generic handler of gRPC; each call is a method that takes the request and gives the reply or replies."""

    def __init__(self, faults: Faults) -> None:
        self.storage = Storage()
        self.faults = faults
        self._transactions = Transactions(self.storage)
        self._streams: dict[Stream, str] = {}
        answers: dict[str, tuple[Any, Callable[[Any], Iterator[Any]], bool]] = {
            "BatchGetDocuments": (pb.BatchGetDocumentsRequest, self._batch_get, True),
            "BatchWrite": (pb.BatchWriteRequest, self._batch_write, False),
            "BeginTransaction": (pb.BeginTransactionRequest, self._begin, False),
            "Commit": (pb.CommitRequest, self._commit, False),
            "GetDocument": (pb.GetDocumentRequest, self._get, False),
            "ListDocuments": (pb.ListDocumentsRequest, self._list, False),
            "Rollback": (pb.RollbackRequest, self._rollback, False),
            "RunQuery": (pb.RunQueryRequest, self._query, True),
        }
        self._handlers = {
            name: self._handler(name, request, answer, streams=streams)
            for name, (request, answer, streams) in answers.items()
        }
        self._handlers["Listen"] = grpc.stream_stream_rpc_method_handler(
            self._listen, pb.ListenRequest.FromString, _serialized
        )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a call."""
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        return self._handlers.get(method) if service == SERVICE else None

    def end_streams(self, database: str, refusal: Refusal | None = None) -> int:
        """End all listeners of a database, as a server does that is restarted; return how many."""
        found = [stream for stream, name in list(self._streams.items()) if name == database or not database]
        for stream in found:
            stream.end(refusal)
        return len(found)

    def _handler(
        self, method: str, request: Any, answer: Callable[[Any], Iterator[Any]], *, streams: bool
    ) -> grpc.RpcMethodHandler:
        def replies(asked: Any, context: grpc.ServicerContext) -> list[Any]:
            try:
                return self._disturbed(method, asked, context, answer)
            except Refusal as refusal:
                refuse(context, refusal)

        if streams:
            return grpc.unary_stream_rpc_method_handler(
                lambda asked, context: iter(replies(asked, context)), request.FromString, _serialized
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda asked, context: replies(asked, context)[-1], request.FromString, _serialized
        )

    def _disturbed(
        self, method: str, asked: Any, context: grpc.ServicerContext, answer: Callable[[Any], Iterator[Any]]
    ) -> list[Any]:
        """Answer a call, with what goes wrong on purpose."""
        rule = self.faults.strike(database_of(asked), method, asked)
        action = None if rule is None else rule.action
        if rule is not None and action == "refuse":
            raise rule.refusal()
        if action == "swallow":
            _say_nothing(context)
        if rule is not None and action == "delay":
            time.sleep(rule.seconds)
        replies = list(answer(asked))
        if action == "duplicate":
            replies = list(answer(asked))
        if rule is not None and action == "lose":
            raise rule.refusal()
        if action == "silence":
            _say_nothing(context)
        if rule is not None and action == "late":
            time.sleep(rule.seconds)
        return replies

    # --- reading -----------------------------------------------------------------------

    def _batch_get(self, asked: Any) -> Iterator[Any]:
        """Return each document once, found or missing, "in an order that is not guaranteed"; all at one time."""
        database = database_of(asked)
        self.faults.allow(database, *injected.READING)
        selector = asked.WhichOneof("consistency_selector")
        if selector == "read_time":
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "This double reads what is there now, or in a transaction.")
        transaction = asked.transaction
        if selector == "new_transaction":
            transaction = self._new_transaction(database, asked.new_transaction)
            yield pb.BatchGetDocumentsResponse(transaction=transaction)
        with self.storage.guard:
            read_us = self.storage.read_us()
            found = []
            for name in dict.fromkeys(asked.documents):
                if transaction:
                    found.append((name, *self._transactions.read(transaction, name)))
                else:
                    found.append((name, self.storage.get(name), read_us))
        self.faults.bill(database, reads=len(found))
        for name, document, at_us in found:
            reply = pb.BatchGetDocumentsResponse(read_time=timestamp(at_us))
            if document is None:
                reply.missing = name
            else:
                reply.found.CopyFrom(document)
            yield reply

    def _get(self, asked: Any) -> Iterator[Any]:
        database = database_of(asked)
        self.faults.allow(database, *injected.READING)
        self.faults.bill(database, reads=1)
        document = self.storage.get(asked.name)
        if document is None:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f'Document "{asked.name}" not found.')
        yield document

    def _list(self, asked: Any) -> Iterator[Any]:
        """Return documents of a collection by name, a page at a time."""
        database = database_of(asked)
        self.faults.allow(database, *injected.LISTING)
        wanted = [
            document
            for document in self.storage.documents()
            if parent_of(document.name)[0] == asked.parent
            and asked.collection_id in {"", parent_of(document.name)[1]}
            and segments(document.name) > segments(asked.page_token)
        ]
        page = wanted[: asked.page_size or PAGE]
        self.faults.bill(database, reads=len(page))
        token = page[-1].name if len(page) < len(wanted) else ""
        yield pb.ListDocumentsResponse(documents=page, next_page_token=token)

    def _query(self, asked: Any) -> Iterator[Any]:
        """Return the documents that a query finds, each with the time; without any, the time alone."""
        database = database_of(asked)
        self.faults.allow(database, *injected.LISTING)
        selector = asked.WhichOneof("consistency_selector")
        if selector == "read_time":
            raise Refusal(grpc.StatusCode.UNIMPLEMENTED, "This double reads what is there now, or in a transaction.")
        transaction = asked.transaction
        if selector == "new_transaction":
            transaction = self._new_transaction(database, asked.new_transaction)
            yield pb.RunQueryResponse(transaction=transaction)
        (source,) = asked.structured_query.from_
        with self.storage.guard:
            documents, at_us = list(self.storage.documents()), self.storage.read_us()
            if transaction:
                documents, at_us = self._transactions.read_all(transaction, asked.parent, source.collection_id)
        found = queries.run(documents, asked.parent, asked.structured_query)
        self.faults.bill(database, reads=max(1, len(found)))  # "one document read for a query without results"
        for document in found:
            yield pb.RunQueryResponse(document=document, read_time=timestamp(at_us))
        if not found:
            yield pb.RunQueryResponse(read_time=timestamp(at_us))

    # --- writing -----------------------------------------------------------------------

    def _new_transaction(self, database: str, options: Any) -> bytes:
        return self._transactions.begin(options, optimistic=self.faults.state(database).optimistic)

    def _begin(self, asked: Any) -> Iterator[Any]:
        database = database_of(asked)
        self.faults.allow(database, *injected.READING)
        yield pb.BeginTransactionResponse(transaction=self._new_transaction(database, asked.options))

    def _rollback(self, asked: Any) -> Iterator[Any]:
        self._transactions.end(asked.transaction)
        yield pb.Empty()

    def _commit(self, asked: Any) -> Iterator[Any]:
        commit_us, results = self._write(database_of(asked), asked.writes, asked.transaction)
        yield pb.CommitResponse(write_results=results, commit_time=timestamp(commit_us))

    def _batch_write(self, asked: Any) -> Iterator[Any]:
        """Carry writes out one by one, "not atomically": each succeeds or fails by itself."""
        reply = pb.BatchWriteResponse()
        for write in asked.writes:
            try:
                _, (result,) = self._write(database_of(asked), [write], b"")
            except Refusal as refusal:
                reply.write_results.append(pb.WriteResult())
                reply.status.append(pb.Status(code=refusal.status.value[0], message=str(refusal)))
            else:
                reply.write_results.append(result)
                reply.status.append(pb.Status())
        yield reply

    def _write(self, database: str, wanted: Any, transaction: bytes) -> tuple[int, list[Any]]:
        for write in wanted:
            self.faults.allow(database, *injected.permissions_of(write))
            if not name_of(write).startswith(f"{database}/documents/"):
                raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "A document of another database.")
        heeds = self.faults.state(database).preconditions
        commit_us, results = self._transactions.commit(wanted, transaction, preconditions=heeds)
        deletes = sum(write.WhichOneof("operation") == "delete" for write in wanted)
        self.faults.bill(database, writes=len(wanted) - deletes, deletes=deletes)
        return commit_us, results

    # --- listening ---------------------------------------------------------------------

    def _listen(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        first = next(requests, None)
        if first is None:
            return
        database = first.database
        try:
            self.faults.allow(database, *injected.LISTING)
            rule = self.faults.strike(database, "Listen", first)
            stream = Stream(self.storage, count_reads=lambda reads: self.faults.bill(database, reads=reads))
            self._streams[stream] = database
            context.add_callback(stream.end)
            try:
                yield from self._told(stream, _with(first, requests), database, rule)
            finally:
                del self._streams[stream]
        except Refusal as refusal:
            refuse(context, refusal)

    def _told(self, stream: Stream, requests: Iterator[Any], database: str, rule: Rule | None) -> Iterator[Any]:
        if rule is not None and rule.action == "refuse":
            raise rule.refusal()
        for message in stream.serve(requests):
            if self.faults.is_deaf(database):
                continue
            if rule is not None and rule.action == "delay":
                time.sleep(rule.seconds)
            yield message
            if rule is not None and rule.action == "duplicate":
                yield message


def _with(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def database_of(asked: Any) -> str:
    """Return the database that a request is for: ``projects/P/databases/D``."""
    for name in ("database", "parent", "name"):
        text = getattr(asked, name, "")
        if text:
            return "/".join(text.split("/")[:4])
    raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "The request names no database.")


def _serialized(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def _say_nothing(context: grpc.ServicerContext) -> None:
    """Wait until the caller has given up."""
    while context.is_active():
        time.sleep(SILENCE_STEP_S)
    raise Refusal(grpc.StatusCode.CANCELLED, "nobody waits any more")
