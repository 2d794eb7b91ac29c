"""What goes wrong on purpose, and what is counted, by database: tests that share a server do not meet.

Billed operations are counted by the documented price list (https://cloud.google.com/firestore/pricing): a read for
every document that is returned, and one for a look that finds nothing; a write or a delete for each that is carried
out.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, get_args

import grpc

from onerow.testing.firestore.messages import Refusal

Action = Literal["refuse", "swallow", "silence", "lose", "delay", "late", "duplicate", "deaf"]
"""What a rule does with a request.

refuse: answered with ``status`` and not carried out. swallow: neither carried out nor answered. silence: carried out
and never answered. lose: carried out, and the connection breaks (``status``) before the reply. delay: carried out
after ``seconds``. late: answered ``seconds`` after it was carried out. duplicate: carried out twice, as by a proxy
that repeats it, and answered with the second result; of a listener, every message comes twice. deaf: a listener, also
one that runs, hears nothing any more, and is told nothing of it.
"""


@dataclass(slots=True)
class Rule:
    """One thing that goes wrong.

    Attributes:
        method: the name of the call, as ``Commit``.
        times: how often; -1: always.
        skip: how many requests pass before the first.
        contains: only requests in which this text occurs.
    """

    method: str
    action: Action
    times: int = 1
    skip: int = 0
    status: str = "UNAVAILABLE"
    seconds: float = 0.0
    contains: str = ""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, f"There is no action {self.action!r}.")

    def refusal(self) -> Refusal:
        """Return what is answered."""
        return Refusal(grpc.StatusCode[self.status], f"injected: {self.action}")


@dataclass(slots=True)
class State:
    """What is switched for one database.

    Attributes:
        kind: ``native``; ``missing``: there is no such database; ``datastore``: one in Datastore mode.
        optimistic: how transactions exclude each other.
        preconditions: whether writes heed them; False is the negative control.
        denied: permissions that the caller does not have.
    """

    kind: Literal["native", "missing", "datastore"] = "native"
    optimistic: bool = False
    preconditions: bool = True
    denied: set[str] = field(default_factory=set)
    rules: list[Rule] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    billed: Counter[str] = field(default_factory=Counter)


class Faults:
    """Rules and counts of all databases of a server."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._guard = threading.Lock()

    def state(self, database: str) -> State:
        """Return what is switched for a database; ``projects/P/databases/D``."""
        with self._guard:
            return self._states.setdefault(database, State())

    def strike(self, database: str, method: str, request: Any) -> Rule | None:
        """Count a call and return what goes wrong with it, if anything does."""
        state = self.state(database)
        with self._guard:
            state.calls[method] += 1
            for rule in state.rules:
                if rule.method != method or (rule.contains and rule.contains not in str(request)):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times == 0:
                    continue
                rule.times -= 1 if rule.times > 0 else 0
                return rule
        return None

    def is_deaf(self, database: str) -> bool:
        """Say whether listeners hear nothing."""
        return any(rule.action == "deaf" and rule.times for rule in self.state(database).rules)

    def allow(self, database: str, *permissions: str) -> None:
        """Refuse a call for which a permission is missing, on a database that is not there, or not of this kind."""
        state = self.state(database)
        _, project, _, name = database.split("/")
        if state.kind == "missing":
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"The database {name} does not exist for project {project}")
        if state.kind == "datastore":
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"The Cloud Firestore API is not available for Firestore in Datastore Mode database {database}.",
            )
        if state.denied.intersection(permissions):
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "Missing or insufficient permissions.")

    def bill(self, database: str, **operations: int) -> None:
        """Count what is paid for."""
        state = self.state(database)
        with self._guard:
            state.billed.update(operations)

    def told(self, database: str) -> dict[str, Any]:
        """Return all about a database."""
        state = self.state(database)
        with self._guard:
            return {
                "kind": state.kind,
                "optimistic": state.optimistic,
                "preconditions": state.preconditions,
                "denied": sorted(state.denied),
                "rules": [asdict(rule) for rule in state.rules],
                "calls": dict(state.calls),
                "billed": dict(state.billed),
            }


READING: Final = ("datastore.entities.get",)
LISTING: Final = ("datastore.entities.get", "datastore.entities.list")


def permissions_of(write: Any) -> tuple[str, ...]:
    """Return what a write needs (https://cloud.google.com/firestore/docs/security/iam)."""
    if write.WhichOneof("operation") == "delete":
        return ("datastore.entities.delete",)
    condition = write.current_document.WhichOneof("condition_type")
    if condition == "exists" and not write.current_document.exists:
        return ("datastore.entities.create",)
    if condition is not None:
        return ("datastore.entities.update",)
    return ("datastore.entities.create", "datastore.entities.update")
