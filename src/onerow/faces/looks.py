"""Looks at what a service or a command stands on: whether it is there, answers, and may be written to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onerow.errors import OnerowError

if TYPE_CHECKING:
    from onerow.config import Settings
    from onerow.services.store import Store


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that was found.

    Attributes:
        ok: whether it is as it should be.
        text: what was found, for people.
    """

    subject: str
    ok: bool
    text: str


def warehouse(store: Store, settings: Settings) -> list[Fact]:  # noqa: ARG001 -- as the others
    """Look whether the warehouse answers, and whether its tables and permissions are as they should be."""
    return [Fact(*found) for found in store.ports.warehouse.probe(list(store.tables.values()))]


def locks(store: Store, settings: Settings) -> list[Fact]:
    """Look whether the lock store answers and may be written to."""
    url = settings.locks
    if url.path is not None and not url.path.exists():  # looking would create it
        return [Fact("locks", False, f"{url} is not there; run `onerow init`")]
    try:
        identity = store.ports.locks.identity()
        started_s = time.monotonic()
        store.ports.locks.read("doctor")
        took_ms = (time.monotonic() - started_s) * 1000
    except OnerowError as error:
        return [Fact("locks", False, str(error))]
    return [Fact("locks", True, f"{url}, {identity}, {took_ms:.1f} ms a round trip"), _lock_writes(store)]


def _lock_writes(store: Store) -> Fact:
    """Make, change and delete an entry of our own: what may be written is not told by reading."""
    register, key, version = store.ports.locks, f"doctor:{store.ports.ids.new_id('d')}", ""
    try:
        for value in ({"step": 1}, {"step": 2}, None):
            written = register.swap(key, expected=version, value=value)
            if written is None:
                return Fact("lock writes", False, f"the entry {key} was changed by somebody else meanwhile")
            version = written.version
    except OnerowError as error:
        return Fact("lock writes", False, str(error))
    return Fact("lock writes", True, "an entry was made, changed and deleted")


def staging(store: Store, settings: Settings) -> list[Fact]:  # noqa: ARG001 -- as the others
    """Look whether staging may be written to."""
    try:
        return [Fact("staging", True, "; ".join(store.ports.parts.probe()))]
    except OnerowError as error:
        return [Fact("staging", False, str(error))]
