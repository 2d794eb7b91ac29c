"""Which document holds a key, and what stands in it.

By default a key has a document of its own in a collection of onerow's. A lease may instead live in a document that
other programs know: the one of the incident's lock, ``consolidation_locks/consolidation_<partition>``, with its fields
``batch_id, holder_id, acquired_at, expires_at, lock_key``. Such a document is deleted when the lease is released, and
what a program of the old kind has written there is a lease until its ``expires_at``.

Every write carries a ``version`` of its own: Firestore leaves ``update_time`` alone where a write changes nothing,
and a writer who has lost the reply finds its own write by it.

Source: https://firebase.google.com/docs/firestore/quotas#collections_documents_and_fields (document ids) and
https://firebase.google.com/docs/firestore/reference/rpc/google.firestore.v1#document.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, unquote

from google.cloud.firestore_v1.types import Document, Value

from onerow.core.leases import MICROSECONDS, LeaseRecord, record_from_json
from onerow.errors import LockStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping

COLLECTION: Final = "onerow_locks"
IDENTITY_ID: Final = "%identity"
"""Never the id of a key: there a percent sign is followed by two hexadecimal digits, or by a tilde."""

GRACE_S: Final = 300
"""How far ahead ``expires_at`` of a held lease stays at least, for programs that compare it with a clock of theirs."""

PARTITION: Final = "{partition}"

_SAFE: Final = ":@=+,;!()'"
_MAX_ID_BYTES: Final = 1400  # Firestore takes 1500
_KEPT_OF_LONG_IDS: Final = 1000
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def document_id(key: str) -> str:
    """Return a document id that stands for ``key`` alone: no '/', neither '.' nor '..', not ``__x__``, short enough.

    Raises:
        LockStoreError: the key is no text that can be stored.
    """
    try:
        text = quote(key, safe=_SAFE)
    except UnicodeEncodeError as error:
        raise LockStoreError(f"The key {key!r} holds characters that Firestore cannot keep.") from error
    if text in {".", ".."} or text.startswith("__"):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if len(text) > _MAX_ID_BYTES:
        digest = hashlib.sha256(key.encode()).hexdigest()
        text = f"{text[:_KEPT_OF_LONG_IDS]}%~{digest}"
    return text or "%~"


class Layout(Protocol):
    """What stands in a document."""

    def fields(self, key: str, value: Mapping[str, Any], *, expected_us: int, version: str) -> dict[str, Value] | None:
        """Return the fields that hold ``value``; None if the document is to be deleted instead.

        Args:
            key: the key that the document holds.
            value: what is to be kept.
            expected_us: when the document that is replaced was written; 0 where there is none.
            version: what tells this write from all others.
        """
        ...

    def value(self, document: Document) -> Mapping[str, Any]:
        """Return the value that a document holds.

        Raises:
            LockStoreError: it is damaged.
        """
        ...


class OwnLayout:
    """A document of onerow's: the value as JSON, with the key in a field so that keys can be listed."""

    def fields(
        self,
        key: str,
        value: Mapping[str, Any],
        *,
        expected_us: int,  # noqa: ARG002 -- the layouts have one form
        version: str,
    ) -> dict[str, Value] | None:
        """Return the fields that hold ``value``."""
        return {"key": text_value(key), "value": text_value(_json(value)), "version": text_value(version)}

    def value(self, document: Document) -> Mapping[str, Any]:
        """Return the value that a document holds."""
        return _value_of(document)


@dataclass(frozen=True, slots=True)
class SharedLayout:
    """A document that programs of the incident's kind read and write too.

    Attributes:
        stem: the key of the table's leases, without the partition.
        collection: where the documents are.
        before: what stands in an id before the partition; ``after``: behind it.
    """

    stem: str
    collection: str
    before: str
    after: str
    per_partition: bool

    def document_id(self, key: str) -> str | None:
        """Return the id of the document that holds ``key``; None if it is not one of these leases."""
        if not self.per_partition:
            return self.before if key == self.stem else None
        if not key.startswith(f"{self.stem}/"):
            return None
        return f"{self.before}{document_id(key[len(self.stem) + 1 :])}{self.after}"

    def key(self, found_id: str) -> str | None:
        """Return the key that a document holds, by its id; None if it holds none of these."""
        if not self.per_partition:
            return self.stem if found_id == self.before else None
        key = f"{self.stem}/{unquote(found_id[len(self.before) : len(found_id) - len(self.after)])}"
        return key if self.document_id(key) == found_id else None

    def fields(
        self, key: str, value: Mapping[str, Any], *, expected_us: int, version: str
    ) -> dict[str, Value] | None:
        """Return the incident's fields beside ours; None for a released lease, whose document is deleted.

        A free lease stays, as one that has expired, where something would be lost: who took it away by force and why,
        or a token that the server's clock has not reached yet.
        """
        record = record_from_json(value)
        taken_away = record.forced is not None and record.forced.token == record.token
        if not record.held and not taken_away and record.token <= expected_us:
            return None
        return {
            **self._old_fields(record, key),
            "token": Value(integer_value=record.token),
            "value": text_value(_json(value)),
            "version": text_value(version),
        }

    def value(self, document: Document) -> Mapping[str, Any]:
        """Return the record that a document holds; if it is not as we write it, what somebody else has put there."""
        if "value" in document.fields:
            value = _value_of(document)
            record = record_from_json(value)
            old = self._old_fields(record, self.key(document.name.rpartition("/")[2]) or "")
            if all(document.fields.get(name) == held for name, held in old.items()):
                return value
        return self._foreign(document).to_json()

    def _old_fields(self, record: LeaseRecord, key: str) -> dict[str, Value]:
        """Return the fields that programs of the old kind read; a lease that nobody holds has expired long ago."""
        expires_us = record.renewed_us + record.duration_us + GRACE_S * MICROSECONDS if record.held else 0
        return {
            "batch_id": text_value(record.batch),
            "holder_id": text_value(f"{record.holder}/{record.owner}" if record.held else ""),
            "acquired_at": _time(record.acquired_us if record.held else 0),
            "expires_at": _time(expires_us),
            "lock_key": text_value(self.document_id(key) or ""),
        }

    def _foreign(self, document: Document) -> LeaseRecord:
        """Return what a program that knows nothing of us holds: a lease until its ``expires_at``.

        One that does not say so is respected for as long as the old system's leases are. It has no token but the one
        that it has left of ours.
        """
        written_us = time_us(document.update_time)
        acquired, expires = (document.fields.get(name) for name in ("acquired_at", "expires_at"))
        expires_us = _held_time(expires) or written_us + GRACE_S * MICROSECONDS
        return LeaseRecord(
            scope=(self.key(document.name.rpartition("/")[2]) or "").partition(":")[2],
            token=_held_number(document.fields.get("token")),
            owner=f"foreign {written_us}",
            holder=_held_text(document.fields.get("holder_id")) or "a program that is not onerow",
            batch=_held_text(document.fields.get("batch_id")),
            duration_us=max(expires_us - written_us, 0),
            acquired_us=_held_time(acquired) or written_us,
            renewed_us=written_us,
            expires_us=expires_us,
        )


def shared_layout(stem: str, template: str) -> SharedLayout:
    """Return the layout of a table whose leases are in documents that ``template`` names, as COLLECTION/ID."""
    collection, _, pattern = template.partition("/")
    before, found, after = pattern.partition(PARTITION)
    return SharedLayout(stem, collection, before, after, bool(found))


def text_value(text: str) -> Value:
    """Return a text as Firestore takes it."""
    return Value(string_value=text)


def time_us(time: Any) -> int:
    """Return a time of Firestore's as microseconds since the epoch, exactly."""
    delta: dt.timedelta = time - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * MICROSECONDS + delta.microseconds


def from_us(us: int) -> dt.datetime:
    """Return microseconds since the epoch as Firestore takes a time.

    Raises:
        OverflowError: there is no such time.
    """
    return _EPOCH + dt.timedelta(microseconds=us)


def written_version(document: Document) -> str:
    """Return what tells the write that made a document from all others; "" if it was not ours."""
    return _held_text(document.fields.get("version"))


def _value_of(document: Document) -> Mapping[str, Any]:
    try:
        value = json.loads(_held_text(document.fields.get("value")))
    except ValueError as error:
        raise LockStoreError(
            f"The document {document.name} of the lock store is damaged: {error}.",
            hint="Delete it; correctness does not depend on it, and tokens go on growing.",
        ) from error
    if not isinstance(value, dict):
        raise LockStoreError(f"The document {document.name} of the lock store is damaged: it holds no object.")
    return value


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))




def _time(us: int) -> Value:
    return Value(timestamp_value=from_us(us))


def _held_text(value: Value | None) -> str:
    return value.string_value if value is not None and "string_value" in value else ""


def _held_number(value: Value | None) -> int:
    return value.integer_value if value is not None and "integer_value" in value else 0


def _held_time(value: Value | None) -> int:
    return time_us(value.timestamp_value) if value is not None and "timestamp_value" in value else 0
