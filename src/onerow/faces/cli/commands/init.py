"""``onerow init``, with a file and without."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onerow.errors import ConfigurationError, UsageError
from onerow.faces.cli.shared import Command, Invocation, split_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onerow.adapters.staging.infer import InferredColumns
    from onerow.config import Settings


@dataclass(frozen=True, slots=True)
class _Draft:
    """What the command line says of the new table."""

    file: str
    table: str
    key: Sequence[str]
    order_by: Sequence[str]
    partition: str | None
    target: str | None
    id_column: str | None
    mode: str
    version_column: str | None
    warehouse: str | None


@click.command(cls=Command)
@click.argument("file", required=False, metavar="[FILE]")
@click.option("--table", metavar="TABLE", help="With FILE: the new table's name.")
@click.option("--key", multiple=True, metavar="A,B", help="With FILE: the columns that name a row.")
@click.option("--order-by", multiple=True, metavar="C,D", help="With FILE: the columns that tell the newest row.")
@click.option("--partition", metavar="P", help="With FILE: the column whose values are locked and merged one by one.")
@click.option("--target", metavar="NAME", help="With FILE: the table in the warehouse; else the table's own name.")
@click.option("--id", "id_column", metavar="COLUMN", help="With FILE: a column to show in reports.")
@click.option("--mode", type=click.Choice(["upsert", "versions"]), default="upsert", help="With FILE: the write mode.")
@click.option("--version-column", metavar="COLUMN", help="With FILE and --mode versions: the column of the numbers.")
@click.option("--warehouse", metavar="URL", help="With FILE: the warehouse; else duckdb:///TABLE.duckdb.")
@click.option("--adopt-locks", is_flag=True, help="Use the tables with this lock store from now on, not with the old.")
@click.pass_obj
def init(
    asked: Invocation,
    /,
    *,
    file: str | None,
    table: str | None,
    key: tuple[str, ...],
    order_by: tuple[str, ...],
    adopt_locks: bool,
    **options: Any,
) -> int:
    """Create what is missing, or write a onerow.toml from a file.

    Without FILE: create the control tables, tables and columns of the configuration that are not there.

    With FILE: look at its rows, write a onerow.toml that declares the table with the types found, and
    create it. If there is a onerow.toml, the table is added at its end.

    \b
    onerow init
    onerow init props.csv --table props --key game_id,player,line --order-by created_at --partition game_date
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Printer

    asked.kept = "What was created stays; run it again."
    printer = Printer(asked)
    if file is None:
        given = {"table": table, "key": key, "order-by": order_by, **options}
        given.pop("mode")
        for name, value in given.items():
            if value:
                raise UsageError(f"--{name.replace('_column', '').replace('_', '-')} goes with FILE.")
        with open_store(asked.config) as store:
            made = list(store.init(adopt_locks=adopt_locks))
        if printer.json:
            printer.document({"created": made, "configuration": None})
            return 0
    else:
        if table is None or not key or not order_by:
            raise UsageError("With FILE, say --table, --key and --order-by.")
        draft = _Draft(file, table, split_names(key), split_names(order_by), **options)
        path, added, inferred, made = _from_file(asked, draft, adopt_locks=adopt_locks)
        if printer.json:
            types = {name: str(kind) for name, kind in inferred.types.items()}
            printer.document({"created": made, "configuration": str(path), "table": table, "columns": types})
            return 0
        printer.line(f"{'added table ' + table + ' to' if added else 'wrote'} {path}", "bold green")
        for remark in _remarks(draft, inferred):
            printer.note(f"note: {remark}", style="yellow")
    if not made:
        printer.line("everything is there already; nothing was created")
    for line in made:
        printer.line(f"created: {line}")
    return 0


def _from_file(asked: Invocation, draft: _Draft, *, adopt_locks: bool) -> tuple[Path, bool, InferredColumns, list[str]]:
    """Infer, create, then write: what cannot be created is not declared."""
    from onerow.bootstrap import infer_columns, open_store
    from onerow.config import CONFIG_NAME, parse_settings
    from onerow.faces.cli import configfile

    path = Path(asked.config or os.environ.get("ONEROW_CONFIG") or CONFIG_NAME)
    path = path / CONFIG_NAME if path.is_dir() else path
    existing = _read(path)
    present = {} if existing is None else _parse(path, existing)
    if draft.table in _tables(present):
        raise ConfigurationError(
            f"{path} declares the table {draft.table!r} already.",
            hint="Change its section there, or choose another --table. Nothing was changed.",
        )
    if existing is not None and draft.warehouse is not None:
        raise UsageError(
            f"{path} is there and names its warehouse; leave --warehouse out, or name another file with --config."
        )
    inferred = infer_columns(draft.file, exact=draft.key)
    _check_columns(draft, inferred)
    content = configfile.with_section(
        existing,
        front=configfile.head(
            warehouse=draft.warehouse or f"duckdb:///{_file_name(draft.table)}.duckdb", source=Path(draft.file).name
        ),
        table=configfile.section(
            configfile.TableDraft(
                name=draft.table,
                key=draft.key,
                order_by=draft.order_by,
                columns={name: str(kind) for name, kind in inferred.types.items()},
                partition=draft.partition,
                mode=draft.mode,
                version_column=draft.version_column,
                target=draft.target,
                id_column=draft.id_column,
            )
        ),
    )
    settings: Settings = parse_settings(_parse(path, content), file=path.absolute())
    with open_store(settings) as store:
        made = list(store.init(adopt_locks=adopt_locks))
    configfile.write(path, content)
    return path, existing is not None, inferred, made


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 at byte {error.start}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.", hint="Nothing was changed.") from error


def _tables(data: dict[str, Any]) -> dict[str, Any]:
    found = data.get("tables")
    return found if isinstance(found, dict) else {}


def _check_columns(draft: _Draft, inferred: InferredColumns) -> None:
    """Check that the columns that the command line names are there."""
    import difflib

    named = (
        ("key", draft.key),
        ("order-by", draft.order_by),
        ("partition", [draft.partition] if draft.partition is not None else []),
        ("id", [draft.id_column] if draft.id_column is not None else []),
    )
    for option, names in named:
        for name in names:
            if name not in inferred.types:
                near = difflib.get_close_matches(name, inferred.types, n=3, cutoff=0.5)
                raise UsageError(
                    f"--{option}: {draft.file} has no column {name!r}.",
                    hint=f"Names that come near: {', '.join(near)}."
                    if near
                    else f"It has: {', '.join(inferred.types)}.",
                )


def _file_name(table: str) -> str:
    """Return the table's name as a file's name."""
    return re.sub(r"[^\w.-]+", "_", table).strip("._") or "onerow"


def _remarks(draft: _Draft, inferred: InferredColumns) -> list[str]:
    """Return what the one who typed the command should know."""
    remarks = []
    if not inferred.complete:
        remarks.append(f"the types were found in the first {inferred.rows:,} rows; look at them before you load.")
    if not inferred.rows:
        remarks.append("the file has no rows, so every column is declared as string; correct the types.")
    remarks += [
        f"the column {name!r} has values of several types and is declared as string." for name in inferred.unclear
    ]
    dates = [name for name, kind in inferred.types.items() if kind.kind == "date"]
    if draft.partition is None and dates:
        remarks.append(
            f"there is no partition, so the whole table is locked and checked at once; --partition {dates[0]} "
            "would do it day by day."
        )
    return remarks
