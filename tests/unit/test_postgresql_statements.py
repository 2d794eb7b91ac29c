"""What is told from names, codes and types alone, without a server."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import psycopg
import pytest
from psycopg import errors

from onerow.adapters.postgresql.connection import application_name, milliseconds
from onerow.adapters.postgresql.sqlstate import classify, classify_code, map_error
from onerow.adapters.warehouse.postgresql.control import control_statements
from onerow.adapters.warehouse.postgresql.install import index_name
from onerow.adapters.warehouse.postgresql.layout import data_name, data_number, staging_name
from onerow.adapters.warehouse.postgresql.statements import Statements
from onerow.adapters.warehouse.postgresql.target import Target, TargetColumn, target_table
from onerow.core.parts import PartManifest
from onerow.errors import (
    ConflictError,
    DuplicatesError,
    NotInstalledError,
    PartCorruptError,
    RowRefusedError,
    WarehouseBusyError,
    WarehouseError,
)
from onerow.testing.conformance.harness import SPEC


@pytest.mark.parametrize(
    ("error", "failure", "kind"),
    [
        (errors.SerializationFailure, "conflict", ConflictError),
        (errors.DeadlockDetected, "conflict", ConflictError),
        (errors.LockNotAvailable, "busy", WarehouseBusyError),
        (errors.UniqueViolation, "duplicate", DuplicatesError),
        (errors.NotNullViolation, "row", RowRefusedError),
        (errors.CheckViolation, "row", RowRefusedError),
        (errors.NumericValueOutOfRange, "row", RowRefusedError),
        (errors.UndefinedTable, "missing", NotInstalledError),
        (errors.InsufficientPrivilege, "denied", WarehouseError),
        (errors.DiskFull, "full", WarehouseError),
        (errors.AdminShutdown, "lost", WarehouseError),
        (errors.IdleInTransactionSessionTimeout, "lost", WarehouseError),
        (psycopg.OperationalError, "lost", WarehouseError),
        (psycopg.ProgrammingError, "other", WarehouseError),
    ],
)
def test_codes_are_classified(error, failure, kind):
    assert classify(error("told")) == failure
    mapped = map_error(error("told"), "doing it")
    assert type(mapped) is kind
    assert mapped.message.startswith("doing it: told")


def test_what_is_slow_to_load_is_loaded_by_who_needs_it():
    code = (
        "import sys, onerow.adapters.warehouse.postgresql.warehouse, onerow.adapters.warehouse.postgresql.parts;"
        "print({'duckdb', 'pandas', 'polars', 'pyarrow.dataset'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_unknown_codes_go_by_their_class():
    assert (classify_code("40ZZZ"), classify_code("08ZZZ"), classify_code("ZZZZZ")) == ("conflict", "lost", "other")


def test_names_of_sessions_and_time_outs_fit_the_server():
    assert application_name("props", "é\n" + "x" * 99) == "onerow props ??" + "x" * 48
    assert (milliseconds(0), milliseconds(0.25), milliseconds(30)) == ("1ms", "250ms", "30000ms")


@pytest.mark.parametrize("name", ["props", "Props", "p" * 200, "é", "日本", "a/b", "a_b", "a-b"])
def test_derived_names_fit_and_are_told_apart(name):
    assert len(staging_name(name).encode()) <= 63
    assert staging_name(name) != staging_name(name + "_")
    assert len(index_name(replace(SPEC, target=(name[:20] + "é" * 20,))).encode()) <= 63


def test_a_manifest_names_its_own_place_only():
    part = PartManifest("p1", "props", "b", "w", 1, {"": 1}, (), "d", data_name("props", 7), "", 0, "")
    assert data_number(part) == 7
    for data in (data_name("other", 7), "staged_props", f"{staging_name('props')}/7; drop table x", ""):
        with pytest.raises(PartCorruptError):
            data_number(replace(part, data=data))


def test_control_statements_quote_the_schema():
    text = control_statements('odd "name"')["read_table"].as_string(None)
    assert 'from "odd ""name"""."tables"' in text


def column(name, kind, **changes):
    return TargetColumn(name, kind, kind, -1, False, ("pg_catalog", "C") if kind == "text" else None, True, **changes)


def statements(**changes):
    columns = tuple(
        column(declared.name, {"string": "text", "decimal": "numeric"}.get(declared.type.kind, "int8"))
        for declared in SPEC.columns
    )
    columns = tuple(replace(found, **changes) if found.name == "player" else found for found in columns)
    return Statements(SPEC, Target(target_table(SPEC), columns, True, "r"), ())


def test_keys_meet_in_equalities_that_an_index_serves():
    """NULL is a pattern of its own: no "is not distinct from", which no index and no hash serves."""
    rendered = {pattern: statements().of_pattern("met", pattern).as_string(None) for pattern in range(4)}
    assert '"t"."player" = "s"."player" and "t"."line" = "s"."line"' in rendered[0]
    assert '"t"."player" is null and "t"."line" = "s"."line"' in rendered[1]
    assert '"t"."player" = "s"."player" and "t"."line" is null' in rendered[2]
    assert '"t"."player" is null and "t"."line" is null' in rendered[3]


def test_keys_of_another_collation_are_compared_by_their_bytes():
    exact = statements(collation=("pg_catalog", "default")).of_pattern("met", 0).as_string(None)
    assert '"t"."player" = "s"."player" collate "pg_catalog"."default"' in exact
    folding = statements(collation=("public", "ci"), deterministic=False).of_pattern("met", 0).as_string(None)
    assert '"t"."player" collate "C" = "s"."player"' in folding
