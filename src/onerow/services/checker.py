"""Checking tables for duplicates and for rows that the ledger does not explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from onerow.core.partitions import canonical_partition
from onerow.errors import EXIT_DONE, EXIT_FAILED, EXIT_FINDINGS, OnerowError, gravest
from onerow.ports.warehouse import InspectRequest, TableCheck

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onerow.core.spec import TableSpec


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found in one table. A check that could not run is a failure and says so in ``error``."""

    table: str
    result: TableCheck | None
    error: str | None = None
    error_kind: str | None = None

    @property
    def clean(self) -> bool:
        """Whether the check ran and found nothing."""
        return self.result is not None and not self.result.duplicate_keys and not self.result.findings

    @property
    def exit_code(self) -> int:
        """What the command line exits with for this table."""
        if self.result is None:
            return EXIT_FAILED
        return EXIT_DONE if self.clean else EXIT_FINDINGS

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``--output json`` prints."""
        data: dict[str, Any] = {"table": self.table, "clean": self.clean, "error": self.error}
        if self.result is not None:
            result = self.result
            data |= {
                "rows": result.rows,
                "partitions": result.partitions,
                "duplicate_keys": result.duplicate_keys,
                "extra_rows": result.extra_rows,
                "duplicates": [
                    {
                        "partition": found.partition,
                        "key": dict(found.key),
                        "rows": found.rows,
                        "ids": list(found.ids),
                    }
                    for found in result.duplicates
                ],
                "findings": [
                    {
                        "check": found.check,
                        "partition": found.partition,
                        "message": found.message,
                        "rows": found.rows,
                    }
                    for found in result.findings
                ],
            }
        return data


class Inspecting(Protocol):
    """Whatever can look at a table: a warehouse, or a table that is only looked at."""

    def inspect(self, request: InspectRequest) -> TableCheck:
        """Look for duplicates and other findings."""
        ...


def check_tables(
    warehouse: Inspecting,
    specs: Iterable[TableSpec],
    *,
    partition: str | None = None,
    since: str | None = None,
    against_ledger: bool = True,
    limit: int = 20,
) -> list[CheckReport]:
    """Check each table; one that cannot be checked does not stop the others and counts as failed."""
    reports = []
    for spec in specs:
        request = InspectRequest(
            spec,
            partition=canonical_partition(partition, spec) if partition is not None else None,
            since=canonical_partition(since, spec) if since is not None else None,
            against_ledger=against_ledger,
            limit=limit,
        )
        try:
            reports.append(CheckReport(spec.name, warehouse.inspect(request)))
        except OnerowError as error:
            reports.append(CheckReport(spec.name, None, str(error), error.kind))
    return reports


def exit_code_of(reports: Iterable[CheckReport]) -> int:
    """Return the gravest exit code of several reports."""
    return gravest([report.exit_code for report in reports])
