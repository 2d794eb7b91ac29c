"""``onerow locks``: list, show, force-release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from onerow.faces.cli.shared import Group, Invocation

if TYPE_CHECKING:
    from onerow.faces.cli.output import Printer
    from onerow.services.locks import LockState


@click.group(cls=Group)
def locks() -> None:
    """Look at locks, or take one away from a holder that hangs.

    \b
    onerow locks list
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are


@locks.command("list")
@click.option("--all", "include_free", is_flag=True, help="Locks that nobody holds too.")
@click.pass_obj
def list_locks(asked: Invocation, /, *, include_free: bool) -> int:
    """List who holds which lock, since when and for which batch.

    \b
    onerow locks list --all
    """  # noqa: D301
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Column, Printer, count, span

    printer = Printer(asked)
    with open_store(asked.config) as store:
        states = store.locks.locks(include_free=include_free)
    if printer.json:
        printer.document([state.to_json() for state in states])
        return 0
    held = sum(state.state == "held" for state in states)
    expired = sum(state.state == "expired" for state in states)
    also = f", {expired:,} expired" if expired else ""
    printer.line(f"{count(held, 'lock')} held{also}", "bold")
    if states:
        printer.table(
            [
                Column("scope"),
                Column("state"),
                Column("holder"),
                Column("batch"),
                Column("held for", number=True),
                Column("renewals", number=True),
                Column("ends in", number=True),
            ],
            [
                (
                    state.scope if state.kind == "lease" else f"{state.scope} ({state.kind})",
                    state.state,
                    state.holder or "-",
                    state.batch or "-",
                    span(state.held_for_s) if state.state != "free" else "-",
                    state.renewals,
                    span(state.expires_in_s) if state.state == "held" else "-",
                )
                for state in states
            ],
        )
    return 0


@locks.command()
@click.argument("scope", metavar="SCOPE")
@click.pass_obj
def show(asked: Invocation, /, *, scope: str) -> int:
    """Show one lock. SCOPE is TABLE/PARTITION, or TABLE where the table has no partitions.

    \b
    onerow locks show props/2026-01-17
    """  # noqa: D301
    from onerow.bootstrap import open_store
    from onerow.faces.cli.output import Printer

    printer = Printer(asked)
    with open_store(asked.config) as store:
        state = store.locks.lock(scope)
    if printer.json:
        printer.document(state.to_json())
        return 0
    _describe(printer, state)
    return 0


def _describe(printer: Printer, state: LockState) -> None:
    from onerow.faces.cli.output import span

    printer.line(f"{state.state}: the lock of {state.scope}", "bold")
    if state.state != "free":
        printer.line(f"  holder    {state.holder}")
        printer.line(f"  batch     {state.batch or '-'}")
        printer.line(f"  held for  {span(state.held_for_s)}")
        printer.line(f"  renewed   {state.renewals} times, the last {span(state.renewed_ago_s)} ago")
        if state.state == "held":
            printer.line(f"  ends in   {span(state.expires_in_s)}, unless it is renewed")
        else:
            printer.line(f"  expired   {span(-state.expires_in_s)} ago; whoever asks next gets it")
    printer.line(f"  token     {state.token}")
    if state.forced_by is not None and state.forced_ago_s is not None:
        printer.line(
            f"  forced    {span(state.forced_ago_s)} ago by {state.forced_by}, for the reason: {state.forced_reason}"
        )


@locks.command("force-release")
@click.argument("scope", metavar="SCOPE")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is kept in the audit.")
@click.option("--force", is_flag=True, help="Also while its holder gives signs of life.")
@click.pass_obj
def force_release(asked: Invocation, /, *, scope: str, reason: str, force: bool) -> int:
    """Take a lock away from whoever holds it.

    Two steps: the token in the lock's record is raised, then the fence in the warehouse, so that the old
    holder cannot commit any more. A holder that renews its lock is left alone, unless --force is given.

    \b
    onerow locks force-release props/2026-01-17 --reason "host is gone"
    """  # noqa: D301
    from onerow.bootstrap import open_store
    from onerow.errors import EXIT_FAILED
    from onerow.faces.cli.output import Printer

    printer = Printer(asked)
    with open_store(asked.config) as store:
        done = store.locks.force_release(scope, reason=reason, by=store.holder, force=force)
    if printer.json:
        printer.document(
            {
                "scope": done.before.scope,
                "before": done.before.to_json(),
                "token": done.token,
                "fence": done.fence,
                "fence_error": done.fence_error,
                "old_holder_can_commit": done.fence is None,
            }
        )
        return 0 if done.fence is not None else EXIT_FAILED
    fenced = done.fence is not None
    printer.line(
        f"{'released' if fenced else 'released in part'}: the lock of {done.before.scope}",
        "bold green" if fenced else "bold red",
    )
    _describe(printer, done.before)
    if done.before.state == "free":
        printer.line(f"1. lock record: free since the last forced release, token {done.token}")
    else:
        printer.line(f"1. lock record: taken from {done.before.holder}, token raised to {done.token}")
    if fenced:
        printer.line(f"2. fence in the warehouse: raised to {done.fence}; the old holder cannot commit any more")
        return 0
    printer.error(f"2. fence in the warehouse: could NOT be raised: {done.fence_error}")
    printer.error(
        "   The old holder may still commit, until the next consolidation of this scope commits with a "
        "higher token. Run this again when the warehouse is reachable; if it must not wait, end its process."
    )
    return EXIT_FAILED
