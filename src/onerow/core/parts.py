"""Parts: what one worker staged in one call, and the manifest that makes it exist."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from onerow.errors import PartCorruptError, PartGoneError, PartMisfitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onerow.core.spec import TableSpec

MANIFEST_FORMAT = 1

PartState = Literal["staged", "retired", "purged", "discarded"]
"""staged: waits. retired: the ledger names it for all its partitions; its data is kept for
``keep_merged``. purged: retired and its data is gone. discarded: given up by a person."""


@dataclass(frozen=True, slots=True)
class PartManifest:
    """What a part is. Immutable; a part exists when its manifest does.

    Attributes:
        part_id: identity, derived from table, batch, worker and content: a worker that
            stages the same rows again names the same part.
        partitions: rows per partition, in canonical text; the one key is "" where the table has none.
        columns: name and type of each column that the part has, in declared order.
        content_digest: digest of the rows, independent of file format and chunking.
        data: where the part store keeps the rows, in its own words.
        data_digest: SHA-256 of the stored bytes, "" where the store checks them itself.
        size_bytes: size of the stored bytes.
        staged_at: UTC, ISO 8601; information only, nothing compares it.
    """

    part_id: str
    table: str
    batch: str
    worker: str
    rows: int
    partitions: Mapping[str, int]
    columns: tuple[tuple[str, str], ...]
    content_digest: str
    data: str
    data_digest: str
    size_bytes: int
    staged_at: str
    state: PartState = "staged"

    def partition_names(self, *, partitioned: bool) -> tuple[str | None, ...]:
        """Return the part's partitions, sorted; (None,) for a table without."""
        return tuple(sorted(self.partitions)) if partitioned else (None,)

    def rows_of(self, partition: str | None) -> int:
        """Return how many of the part's rows are in ``partition``."""
        return self.partitions.get(partition or "", 0)

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON-able data; ``state`` is the store's to tell."""
        data = asdict(self)
        del data["state"]
        data["partitions"] = dict(self.partitions)
        data["columns"] = [list(column) for column in self.columns]
        return {"format": MANIFEST_FORMAT, **data}


def manifest_from_json(data: Mapping[str, Any], *, state: PartState, where: str) -> PartManifest:
    """Return the manifest that ``data`` holds.

    Raises:
        PartCorruptError: it holds none that this version can read; ``where`` names its place.
    """
    try:
        if data["format"] != MANIFEST_FORMAT:
            raise PartCorruptError(
                f"The manifest {where} has format {data['format']!r}; this version reads {MANIFEST_FORMAT}.",
                hint="It was written by another version of onerow; use that one or upgrade.",
            )
        manifest = PartManifest(
            part_id=str(data["part_id"]),
            table=str(data["table"]),
            batch=str(data["batch"]),
            worker=str(data["worker"]),
            rows=int(data["rows"]),
            partitions={str(name): int(rows) for name, rows in data["partitions"].items()},
            columns=tuple((str(name), str(kind)) for name, kind in data["columns"]),
            content_digest=str(data["content_digest"]),
            data=str(data["data"]),
            data_digest=str(data["data_digest"]),
            size_bytes=int(data["size_bytes"]),
            staged_at=str(data["staged_at"]),
            state=state,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PartCorruptError(
            f"The manifest {where} is damaged: {type(error).__name__}: {error}.",
            hint="Nothing was merged or removed. Have the worker stage its rows again, then remove this file.",
        ) from error
    if sum(manifest.partitions.values()) != manifest.rows:
        raise PartCorruptError(
            f"The manifest {where} is damaged: its partitions add up to "
            f"{sum(manifest.partitions.values())} rows, not to {manifest.rows}."
        )
    return manifest


def derive_part_id(*, table: str, batch: str, worker: str, content_digest: str) -> str:
    """Return the identity of a part: the same for the same rows of the same worker and batch."""
    state = hashlib.sha256()
    for field in (table, batch, worker, content_digest):
        raw = field.encode()
        state.update(len(raw).to_bytes(8, "big"))
        state.update(raw)
    return "p" + state.hexdigest()[:32]


def check_fits(part: PartManifest, spec: TableSpec) -> None:
    """Check that a part was staged under a declaration that the table still has.

    Raises:
        PartMisfitError: naming the column; the part cannot be merged as it is.
    """
    problem = ""
    for name, kind in part.columns:
        declared = spec.by_name.get(name)
        if declared is None:
            problem = f"it has the column {name!r}, which is not declared any more"
        elif str(declared.type) != kind:
            problem = f"its column {name!r} was staged as {kind} and is declared as {declared.type} now"
    lacking = spec.required - {name for name, _ in part.columns}
    if lacking:
        problem = f"it lacks the column {min(lacking)!r}, which is required now"
    if problem:
        raise PartMisfitError(
            f"Part {part.part_id} of worker {part.worker!r} does not fit table {spec.name!r}: {problem}.",
            hint="Nothing of it was merged. Put the declaration back, or discard the batch and stage it again.",
        )


def check_present(part: PartManifest) -> None:
    """Check that the data of a part that the ledger does not name is still there.

    Raises:
        PartGoneError: it was removed after a merge that the warehouse knows nothing of.
    """
    if part.state == "purged":
        raise PartGoneError(
            f"The data of part {part.part_id} of worker {part.worker!r} was removed after its merge, but the ledger "
            "does not name it: the warehouse was restored to an earlier moment than keep_merged reaches.",
            hint="Have the worker stage its rows again.",
        )


@dataclass(frozen=True, slots=True)
class StagedPart:
    """What a worker is told after it has handed in rows.

    Attributes:
        status: ``staged``; ``already_staged``: the same part waits or has waited already;
            ``already_merged``: the same part was merged and its data is gone already;
            ``empty``: there were no rows, nothing was staged.
        rows_quarantined: rows put aside because they break the row contract.
        quarantine_id: the entry they are in, "" for none.
    """

    status: Literal["staged", "already_staged", "already_merged", "empty"]
    part_id: str
    table: str
    batch: str
    worker: str
    rows: int
    partitions: Mapping[str, int]
    size_bytes: int
    source: str = ""
    rows_quarantined: int = 0
    quarantine_id: str = ""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that breaks the row contract and was put aside.

    Attributes:
        position: its number in the source, from 1.
        problems: what is wrong with it, as lines for people that name column and reason.
        values: the row as it came, every value as text; None is NULL.
    """

    position: int
    problems: tuple[str, ...]
    values: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Quarantined:
    """The bad rows of one source, put aside together.

    Attributes:
        quarantine_id: identity, derived from table, batch, worker and the rows: the same rows handed in
            again are the same entry.
        source: what the rows came from, for people.
        put_aside_at: UTC, ISO 8601; for people.
    """

    quarantine_id: str
    table: str
    batch: str
    worker: str
    source: str
    rows: int
    put_aside_at: str
