"""``onerow monitor``."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from onerow.errors import EXIT_DONE, ConfigurationError, UsageError
from onerow.faces.cli.shared import DURATION, Command, Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from onerow.config import Settings
    from onerow.core.incidents import Incident, Sighting
    from onerow.faces.cli.output import Printer
    from onerow.services.lookreport import LookReport


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="Look once, at everything, and exit; for cron.")
@click.option("--every", type=DURATION, metavar="TIME", help="How often to look; else every of [monitor] (60s).")
@click.option(
    "--metrics-port", type=click.IntRange(0, 65_535), metavar="PORT", help="Serve metrics for Prometheus here; 0: any."
)
@click.option("--metrics-host", metavar="HOST", default="127.0.0.1", help="The address to serve them at (127.0.0.1).")
@click.pass_obj
def monitor(
    asked: Invocation, /, *, once: bool, every: float | None, metrics_port: int | None, metrics_host: str
) -> int:
    """Look at everything, once or on a schedule, and tell what is wrong.

    Changes nothing in the warehouse. Looks for duplicates, rows that the ledger does not explain, broken row checks,
    locks that are held too long, staging that is too old, failed and slow consolidations and long waits for locks.
    Alerts go to Slack and to a webhook, whose addresses stand in the environment (ONEROW_SLACK_WEBHOOK,
    ONEROW_ALERT_WEBHOOK). With --once it exits with 3 if anything was found, with 1 if something could not be
    looked at.

    \b
    onerow monitor --once
    onerow monitor --metrics-port 9470
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    from onerow.bootstrap import open_monitor
    from onerow.config import find_config, load_settings
    from onerow.faces.cli.output import Printer

    if once and (every is not None or metrics_port is not None):
        raise UsageError("--every and --metrics-port go without --once.")
    settings = load_settings(find_config(asked.config))
    printer = Printer(asked)
    if not once:
        if every is not None:
            settings = replace(settings, monitor=settings.monitor.model_copy(update={"every": every}))
        return _watch(asked, printer, settings, metrics_host, metrics_port)
    looking = open_monitor(settings)
    try:
        report = _once(settings, looking.look, looking.blind)
    finally:
        looking.close()
    if printer.json:
        printer.document(report.to_json())
    else:
        _show(printer, report)
    _warn_undelivered(printer, report)
    return report.exit_code


def _once(settings: Settings, look: Callable[..., LookReport], blind: Callable[..., LookReport]) -> LookReport:
    from onerow.bootstrap import open_store
    from onerow.errors import OnerowError

    try:
        with open_store(settings) as store:
            return look(store, check_all=True)
    except ConfigurationError:
        raise  # whoever typed it is here
    except OnerowError as error:
        return blind(error)


def _watch(asked: Invocation, printer: Printer, settings: Settings, host: str, port: int | None) -> int:
    """Look until a signal comes, which ends it after the look that is being made."""
    from onerow.bootstrap import open_monitor_loop, open_store

    with ExitStack() as stack:
        shown: list[Callable[[LookReport], None]] = [lambda report: _tell(printer, report)]
        if port is not None:
            shown.append(stack.enter_context(_metrics(printer, settings.tables, host, port)))

        def on_look(report: LookReport) -> None:
            for show in shown:
                show(report)

        loop = open_monitor_loop(settings, lambda: open_store(settings), on_look=on_look)
        stack.callback(loop.stop)
        with _until_signal(asked) as stopped:
            printer.note(f"Looking every {settings.monitor.every:g} s; end with Ctrl-C or SIGTERM.")
            while not stopped.is_set():
                loop.tick()
                stopped.wait(min(1.0, settings.monitor.every))
    return EXIT_DONE


@contextmanager
def _metrics(printer: Printer, tables: Iterable[str], host: str, port: int) -> Iterator[Callable[[LookReport], None]]:
    """Serve metrics until the block ends."""
    try:
        from prometheus_client import start_http_server

        from onerow.faces.metrics import Metrics
    except ImportError as error:
        raise ConfigurationError(
            f"What metrics need is not installed: {error}.", hint="Install it with: pip install 'onerow[serve]'"
        ) from error
    metrics = Metrics(tables)
    try:
        server, thread = start_http_server(port, host, metrics.registry)
    except OSError as error:
        raise UsageError(f"Metrics cannot be served at {host}:{port}: {error.strerror}.") from error
    printer.note(f"metrics: http://{host}:{server.server_address[1]}/metrics")
    with metrics.attached():
        yield lambda report: metrics.looks.take(report.look)
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def _until_signal(asked: Invocation) -> Iterator[threading.Event]:
    """Give an event that the first signal sets; the second one interrupts at once. SIGTERM is a good end."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stopped.is_set():
            raise KeyboardInterrupt
        asked.interrupted = number == signal.SIGINT
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(printer: Printer, report: LookReport) -> None:
    """Say what a look of many has seen: one line, or one JSON object a line."""
    if printer.json:
        printer.line(json.dumps(report.to_json()))
    else:
        _show(printer, report, time=True)
    _warn_undelivered(printer, report)


def _show(printer: Printer, report: LookReport, *, time: bool = False) -> None:
    from onerow.faces.cli.output import count
    from onerow.services.lookreport import iso

    stamp = f"{iso(report.at)} " if time else ""
    found, unchecked = report.findings, report.unchecked
    if found or unchecked:
        said = [count(len(found), "finding")] if found else []
        said += [f"{count(len(unchecked), 'look')} could not be made"] if unchecked else []
        printer.line(stamp + ", ".join(said), "bold red")
    else:
        printer.line(f"{stamp}all is well: {count(len(report.tables), 'table')}", "bold green")
    order = ("CRITICAL", "WARNING", "INFO")
    for seen in sorted(report.standing, key=lambda one: (order.index(one.level), one.table, one.kind)):
        _show_one(printer, seen)
    for incident in report.incidents:
        if not incident.open and not time:
            printer.line(f"over: {incident.kind}{f' in {incident.table}' if incident.table else ''}")


def _show_one(printer: Printer, seen: Sighting | Incident) -> None:
    where = f" in {seen.table}" if seen.table else ""
    members = [name for name in seen.members if name]
    named = f" [{', '.join(members[:5])}{', ...' if len(members) > 5 else ''}]" if members else ""  # noqa: PLR2004
    printer.line(f"{seen.level}: {seen.kind}{where}{named}: {seen.what}", "red" if seen.level == "CRITICAL" else "")
    printer.line(f"    {seen.command}")


def _warn_undelivered(printer: Printer, report: LookReport) -> None:
    for receiver, error in report.told.failed.items():
        kept = report.told.waiting.get(receiver, 0)
        printer.warn(f"{error} What {receiver} is still to be told of is kept and sent again: {kept}.")
