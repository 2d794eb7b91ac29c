"""Handing rows in: each source becomes one part, checked row by row, whole or not at all."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

from onerow.core.names import check_name
from onerow.core.quarantine import bad_rows, without
from onerow.core.rows import MAX_PROBLEM_ROWS, RowConverter, RowProblem
from onerow.errors import PartRefusedError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from onerow.core.parts import StagedPart
    from onerow.core.spec import TableSpec
    from onerow.ports.partstore import PartStore
    from onerow.ports.rows import RowChecks, RowSource

SHOWN_ROWS = 10
KEPT_PROBLEMS = 1000


class Stager:
    """Stages rows as parts."""

    def __init__(
        self,
        *,
        parts: PartStore,
        checks_for: Callable[[TableSpec], RowChecks],
        on_rows: Callable[[int], None] | None = None,
    ) -> None:
        self._parts = parts
        self._checks_for = checks_for
        self._on_rows = on_rows or (lambda rows: None)  # noqa: ARG005 -- nobody asked

    def stage(self, spec: TableSpec, source: RowSource, *, batch: str, worker: str) -> StagedPart:
        """Stage all rows of ``source`` as one part, and close the source.

        Guarantee: atomic and idempotent. The part exists whole and durable when this returns; the same rows
        of the same worker and batch again are the same part.

        Where the table says ``on_bad_row = "quarantine"`` bad rows are put aside, durably before the part
        exists, and the good ones are staged; other columns than the table's still refuse the source.

        Raises:
            PartRefusedError: rows break the contract; the first ten are named, nothing was staged.
            InputFileError: the source is not what it is said to be; nothing was staged.
            StagingError: staging could not be written; nothing was staged.
        """
        check_name(batch, "batch")
        check_name(worker, "worker")
        with closing(source):
            try:
                part = self._write(spec, source, batch=batch, worker=worker)
            except PartRefusedError as error:
                emit(
                    "onerow.part_refused",
                    table=spec.name,
                    batch=batch,
                    worker=worker,
                    source=source.name,
                    bad_rows=error.problem_count,
                )
                raise
        if part.rows_quarantined:
            emit(
                "onerow.rows_quarantined",
                table=spec.name,
                batch=batch,
                worker=worker,
                source=source.name,
                quarantine=part.quarantine_id,
                rows_quarantined=part.rows_quarantined,
            )
        emit(
            "onerow.part_staged",
            table=spec.name,
            batch=batch,
            worker=worker,
            part=part.part_id,
            status=part.status,
            rows_staged=part.rows,
            size_bytes=part.size_bytes,
        )
        return replace(part, source=source.name)

    def _write(self, spec: TableSpec, source: RowSource, *, batch: str, worker: str) -> StagedPart:
        quarantine = spec.on_bad_row == "quarantine"
        converter = RowConverter(
            spec,
            text_mode=source.text_mode,
            row_word=source.row_word,
            max_problem_rows=None if quarantine else MAX_PROBLEM_ROWS,
        )
        try:
            columns = converter.columns_for(source.column_names)
        except PartRefusedError as error:
            raise PartRefusedError(
                f"{source.name}: {error.message}", problems=error.problems, hint=error.hint
            ) from error
        checks = self._checks_for(spec) if spec.checks else None
        problems: list[RowProblem] = []
        bad_count = 0
        first_row = 1
        writer = self._parts.writer(spec, batch=batch, worker=worker, columns=columns)
        try:
            for rows in source.batches():
                converted = converter.convert(rows, first_row=first_row)
                violations = checks.violations(converted.rows) if checks is not None else ()
                broken = [_problem(converted.position(index), name, source.row_word) for index, name in violations]
                first_row += rows.num_rows
                if quarantine:
                    aside = bad_rows(rows, converted, broken)
                    if aside:
                        writer.put_aside(aside, source=source.name)
                    writer.write(without(converted.rows, {index for index, _ in violations}))
                else:
                    problems += (*converted.problems, *broken) if len(problems) < KEPT_PROBLEMS else ()
                    bad_count += converted.bad_count + len({problem.row for problem in broken})
                    if not bad_count:
                        writer.write(converted.rows)
                self._on_rows(rows.num_rows)
            if bad_count:
                raise _refusal(source, problems, bad_count)
            return writer.publish()
        finally:
            writer.abandon()


def _problem(position: int, check: str, word: str) -> RowProblem:
    return RowProblem(position, check, "is a check of the table that this row does not pass", "", word)


def _refusal(source: RowSource, problems: list[RowProblem], bad_count: int) -> PartRefusedError:
    bad_rows = sorted({problem.row for problem in problems})[:SHOWN_ROWS]
    shown = sorted((problem for problem in problems if problem.row in bad_rows), key=lambda one: one.row)
    rows = "row breaks" if bad_count == 1 else "rows break"
    return PartRefusedError(
        f"{source.name}: {bad_count} {rows} the table's row contract; nothing of it was staged.",
        problems=[str(problem) for problem in shown],
        problem_count=bad_count,
        hint="Correct the rows and stage again."
        if len(bad_rows) == bad_count
        else f"These are the first {len(bad_rows)}. Correct the rows and stage again.",
    )
