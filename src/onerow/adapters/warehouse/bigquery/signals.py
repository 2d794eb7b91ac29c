"""What a script says when it refuses: ``onerow:KIND:FACTS;`` in the error that ends its job.

``ERROR()`` in a SELECT is the one way to end a script that the service and the emulator share: ASSERT and RAISE are not
there on the latter. Facts that may hold anything are JSON, in which a semicolon is written as an escape.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from onerow.core.plans import AlreadyMerged, Refused
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    LockStoreMismatchError,
    NotInstalledError,
    OnerowError,
    PlanOutdatedError,
    StaleLeaseError,
    VerificationError,
    WarehouseError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onerow.core.spec import TableSpec

MAX_NAMED_KEYS: Final = 10
STAND_TWICE: Final = "business keys of {table!r} stand more than once"
REPEATED: Final = "business keys of {table!r} have one content under several versions"

_SIGNAL: Final = re.compile(r"onerow:(?P<kind>[a-z_]+):(?P<facts>[^;]*)(?:;|$)")


@dataclass(frozen=True, slots=True)
class Signal:
    """A refusal of a script, in its own words."""

    kind: str
    facts: str

    @property
    def text(self) -> str:
        """The facts of a signal that has a text as JSON."""
        return str(json.loads(self.facts))


def read_signal(error: BaseException) -> Signal | None:
    """Return what a script has said in the error that ended it; None for an error of the engine's own."""
    for told in _texts(error):
        found = _SIGNAL.search(told)
        if found is not None:
            return Signal(found["kind"], found["facts"])
    return None


def _texts(error: BaseException) -> Iterator[str]:
    seen: BaseException | None = error
    while seen is not None:
        yield str(getattr(seen, "message", "") or seen)
        seen = seen.__cause__


def error_of(signal: Signal, spec: TableSpec, scope: str, token: int | None = None) -> OnerowError:
    """Return the error of ours that a signal stands for.

    Args:
        signal: what the script has said.
        spec: the table.
        scope: what the script was about, for people.
        token: of the lease, where there is one scope.
    """
    match signal.kind:
        case "stale":
            held = f"; this one has token {token}" if token is not None else ""
            return StaleLeaseError(
                f"A transaction on {scope} with token {signal.facts} has committed{held}.",
                fence=int(signal.facts),
                hint="Its lease had passed to somebody else; staging is kept. Run it again.",
            )
        case "lock_store":
            return LockStoreMismatchError(
                f"The table {spec.name!r} is used with the lock store {signal.text}, not with the one of this "
                "configuration: two stores would be two locks.",
                hint="If the old one is really out of use, run `onerow init --adopt-locks`.",
            )
        case "guards":
            return NotInstalledError(
                f"The table {spec.name!r} has {signal.facts} guard rows instead of one.",
                hint="Run `onerow init`." if signal.facts == "0" else "Someone else wrote to the control tables.",
            )
        case "conflict":
            return ConflictError(f"Lost against another transaction: {signal.facts}.", hint="Nothing was committed.")
        case "duplicates":
            return duplicates_error(spec, signal.facts, STAND_TWICE)
        case "repeated":
            return duplicates_error(spec, signal.facts, REPEATED)
        case "plan_outdated":
            return PlanOutdatedError(
                f"The duplicates of {scope} are not those of the plan any more.",
                hint=f"Nothing was changed. Look again with `onerow dedupe --table {spec.name}`.",
            )
        case "verify":
            return VerificationError(
                f"Verification failed: {signal.facts}.",
                hint="The transaction was rolled back, staging is kept. Somebody who does not use onerow may be "
                "writing to the table at the same time.",
            )
        case _:
            return WarehouseError(f"The script was ended by an unknown signal {signal.kind!r}.")


def outcome_of(signal: Signal, spec: TableSpec, scope: str, token: int | None = None) -> Refused | AlreadyMerged:
    """Return the outcome of a merge that a signal stands for."""
    if signal.kind == "merged":
        return AlreadyMerged()
    if signal.kind == "outdated":
        told = f"{signal.facts} of the plan's parts were merged by somebody else meanwhile."
        return Refused("outdated", WarehouseError(told))
    error = error_of(signal, spec, scope, token)
    match error:
        case StaleLeaseError():
            return Refused("stale", error, fence=error.fence)
        case ConflictError():
            return Refused("conflict", error)
        case DuplicatesError():
            return Refused("failed", error, partitions=tuple(error.partitions))
        case _:
            return Refused("failed", error)


def duplicates_error(spec: TableSpec, facts: str, what: str) -> DuplicatesError:
    """Return the error for keys that stand more than once: ``COUNT:KEYS``, keys as lists of JSON."""
    count, _, packed = facts.partition(":")
    try:
        found = json.loads(f"[{packed}]")
    except ValueError:  # the service cuts long messages; the number of keys is told before the keys
        found = []
    return duplicates_of(spec, int(count), found, what)


def duplicates_of(
    spec: TableSpec, count: int, found: Sequence[Sequence[str | None]], what: str = STAND_TWICE
) -> DuplicatesError:
    """Return the error for ``count`` keys, of which some are known: each the identity's texts, last its rows."""
    keys = [describe_key(spec, values[:-1]) for values in found[:MAX_NAMED_KEYS]]
    partitions = tuple(dict.fromkeys(values[0] if spec.partition is not None else None for values in found))
    more = "" if count <= len(keys) else f" and {count - len(keys)} others"
    scope = f" --partition {partitions[0]}" if partitions and partitions[0] is not None else ""
    return DuplicatesError(
        f"{count} {what.format(table=spec.name)}: {'; '.join(keys)}{more}.",
        keys=keys,
        partitions=partitions,
        hint="The transaction was rolled back, staging is kept. See what a repair would do with "
        f"`onerow dedupe --table {spec.name}{scope}`, add --apply to do it, and run this again.",
    )


def describe_key(spec: TableSpec, values: Sequence[str | None]) -> str:
    """Return a key as text for people: column=value, value 'x' for text and NULL for none."""
    texts = {column.name for column in spec.columns if column.type.kind == "string"}
    return ", ".join(
        f"{name}={'NULL' if value is None else repr(value) if name in texts else value}"
        for name, value in zip(spec.row_identity, values, strict=False)
    )
