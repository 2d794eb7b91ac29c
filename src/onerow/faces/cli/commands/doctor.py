"""``onerow doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from onerow.errors import EXIT_FAILED, EXIT_USAGE, ConfigurationError, OnerowError
from onerow.faces import looks
from onerow.faces.cli.shared import Command, Invocation
from onerow.faces.looks import Fact

if TYPE_CHECKING:
    from onerow.config import Settings
    from onerow.faces.cli.output import Printer
    from onerow.services.store import Store

PACKAGES = ("onerow", "duckdb", "pyarrow", "sqlglot", "pydantic", "click", "rich")


@click.command(cls=Command)
@click.pass_obj
def doctor(asked: Invocation) -> int:
    """Tell what is configured, reachable and allowed.

    Exits with 0 if all is well, with 2 if the configuration is wrong, with 1 for anything else.

    \b
    onerow doctor
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_store
    from onerow.config import find_config, load_settings
    from onerow.faces.cli.output import Printer

    printer = Printer(asked)
    facts = _versions()
    try:
        settings = load_settings(find_config(asked.config))
        facts.append(Fact("configuration", True, str(settings.file)))
        with open_store(settings) as store:
            facts += _look(store, settings)
    except ConfigurationError as error:
        facts.append(Fact("configuration", False, str(error)))
        return _show(printer, facts, EXIT_USAGE)
    return _show(printer, facts, 0 if all(fact.ok for fact in facts) else EXIT_FAILED)


def _versions() -> list[Fact]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from onerow import __version__

    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {__version__ if name == 'onerow' else version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return [
        Fact("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        Fact("packages", all("not installed" not in text for text in found), ", ".join(found)),
    ]


def _look(store: Store, settings: Settings) -> list[Fact]:
    specs = list(store.tables.values())
    facts = [Fact("warehouse URL", True, str(settings.warehouse))]
    if not specs:
        facts.append(Fact("tables", False, "none is configured; `onerow init FILE --table T ...` adds one"))
    facts += looks.warehouse(store, settings)
    facts += _locks(store, settings)
    facts += _staging(store, settings)
    return facts


def _locks(store: Store, settings: Settings) -> list[Fact]:
    facts = looks.locks(store, settings)
    if not facts[0].ok:
        return facts
    try:
        held = [state for state in store.locks.locks() if state.state != "free"]
    except OnerowError as error:
        return [Fact("locks", False, str(error))]
    said = ", ".join(f"{state.scope} by {state.holder} ({state.state})" for state in held[:3])
    return [
        *facts,
        Fact("held locks", True, f"{len(held)}{': ' + said if held else ''}"),
        *(Fact(f"lock documents of {name}", True, text) for name, text in settings.lock_documents.items()),
    ]


def _staging(store: Store, settings: Settings) -> list[Fact]:
    from onerow.faces.cli.output import count, span
    from onerow.services.retention import MIN_REMAINS_AGE_S, Retention

    parts = store.ports.parts
    facts = looks.staging(store, settings)
    if not facts[0].ok:
        return facts
    try:
        remains = parts.remains(older_than_s=max(settings.keep_merged_s, MIN_REMAINS_AGE_S))
        facts.append(Fact("remains", True, f"{count(len(remains), 'file')} of crashed writers"
                           + ("; `onerow gc` removes them" if remains else "")))  # fmt: skip
    except OnerowError as error:
        return [Fact("staging", False, str(error))]
    kept = f"merged parts are kept for {span(settings.keep_merged_s)}"
    try:
        plan = Retention(warehouse=store.ports.warehouse, parts=parts).plan(
            store.tables.values(), older_than_s=settings.keep_merged_s
        )
    except OnerowError:
        return [*facts, Fact("retention", True, kept)]  # why the warehouse cannot be read is told above
    if plan.parts:
        kept += f"; {count(len(plan.parts), 'part')} are older, `onerow gc` removes them"
    facts.append(Fact("retention", True, kept))
    if plan.unmerged:
        facts.append(
            Fact(
                "ledger",
                False,
                f"{count(len(plan.unmerged), 'part')} were merged once, but the ledger does not name them any more: "
                "the warehouse was restored; consolidate their batches again",
            )
        )
    return facts


def _show(printer: Printer, facts: list[Fact], exit_code: int) -> int:
    from onerow.faces.cli.output import Column

    if printer.json:
        checks: list[dict[str, Any]] = [{"subject": fact.subject, "ok": fact.ok, "text": fact.text} for fact in facts]
        printer.document({"ok": exit_code == 0, "exit_code": exit_code, "checks": checks})
        return exit_code
    bad = [fact for fact in facts if not fact.ok]
    if bad:
        printer.line(f"not well: {', '.join(fact.subject for fact in bad)}", "bold red")
    else:
        printer.line("all is well", "bold green")
    printer.table(
        [Column("subject"), Column(""), Column("found")],
        [(fact.subject, "ok" if fact.ok else "NOT OK", fact.text) for fact in facts],
    )
    return exit_code
