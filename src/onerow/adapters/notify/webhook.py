"""A generic webhook: one JSON object a message."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

from onerow.adapters.notify.post import Poster

if TYPE_CHECKING:
    from onerow.core.incidents import Message

VERSION = 1


class Webhook:
    """Posts messages as JSON objects; ``Idempotency-Key`` is the same when a message comes again."""

    name = "webhook"

    def __init__(self, url: str, *, setting: str = "the address", timeout_s: float = 5.0) -> None:
        self._poster = Poster(self.name, url, setting=setting, timeout_s=timeout_s)

    def send(self, message: Message) -> None:
        """Deliver a message."""
        self._poster.post(payload(message), {"Idempotency-Key": message.message_id})

    def close(self) -> None:
        """Let go of connections."""
        self._poster.close()


def payload(message: Message) -> dict[str, Any]:
    """Return the object that is posted."""
    named = {"partition": "partitions", "batch": "batches", "check": "checks"}
    return {
        "version": VERSION,
        "id": message.message_id,
        "event": message.event,
        "status": "resolved" if message.resolved_us else "open",
        "level": message.level,
        "kind": message.kind,
        "table": message.table or None,
        **{words: list(message.members) if message.of == word else [] for word, words in named.items()},
        "count": message.member_count,
        "what": message.what,
        "since": moment(message.since_us),
        "resolved": moment(message.resolved_us) if message.resolved_us else None,
        "at": moment(message.at_us),
        "openings": message.openings,
        "command": message.command,
    }


def moment(at_us: int) -> str:
    """Return a time of the store's clock as ISO 8601, UTC, to the second."""
    return dt.datetime.fromtimestamp(at_us // 1_000_000, dt.UTC).isoformat().replace("+00:00", "Z")
