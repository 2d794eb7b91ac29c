"""``onerow serve``: the HTTP services."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from onerow.errors import ConfigurationError
from onerow.faces.cli.shared import Command, Group, Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastapi import FastAPI

    from onerow.config import Settings
    from onerow.faces.http.security import Access

    Create = Callable[..., FastAPI]
    Run = Callable[..., int]


class Service(Command):
    """A command that runs until it is told to stop; it tells what it does on standard error, unless it is quiet."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        asked = ctx.ensure_object(Invocation)
        asked.verbosity = max(asked.verbosity, 0 if asked.quiet else 1)
        return super().invoke(ctx)


@click.group(cls=Group)
def serve() -> None:
    """Run the coordinator or a worker as an HTTP service.

    A service binds to loopback, where nobody is asked for a token, unless tokens are set: ONEROW_TOKENS_READ,
    ONEROW_TOKENS_WRITE and ONEROW_TOKENS_ADMIN, each a list with commas, or ..._FILE with the path of one.
    SIGTERM drains it: it takes nothing new, finishes what runs, releases its leases and exits with 0.

    \b
    onerow serve coordinator
    onerow serve worker --coordinator http://127.0.0.1:8470
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are


def _address(command: Run) -> Run:
    """Add the options that both services take."""
    command = click.option(
        "--port", type=click.IntRange(0, 65_535), help="Where to listen; 0: any port that is free, which is told."
    )(command)
    return click.option("--host", metavar="ADDRESS", help="The address to bind to; else the configuration's.")(command)


@serve.command(cls=Service)
@_address
@click.pass_obj
def coordinator(asked: Invocation, /, *, host: str | None, port: int | None) -> int:
    """Run the coordinator: batches are opened, completed and consolidated, and the page shows them.

    Any number of coordinators may run over one warehouse.

    \b
    onerow serve coordinator
    onerow serve coordinator --host 0.0.0.0 --port 8470
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    with _needs_extra():
        from onerow.faces.http.app import create_coordinator
    return _run(asked, create_coordinator, "coordinator_port", host, port)


@serve.command(cls=Service)
@_address
@click.option("--coordinator", metavar="URL", help="The coordinator that is told of parts; else the configuration's.")
@click.pass_obj
def worker(asked: Invocation, /, *, host: str | None, port: int | None, coordinator: str | None) -> int:
    """Run a worker: rows come in over HTTP and are staged as parts.

    Any number of workers may run over one warehouse. Without a coordinator's URL nobody is told of parts: a
    coordinator finds them by looking.

    \b
    onerow serve worker --coordinator http://127.0.0.1:8470
    """  # noqa: D301 -- \b is click's mark for lines that stay as they are
    with _needs_extra():
        from onerow.faces.http.app import create_worker
    return _run(asked, create_worker, "worker_port", host, port, coordinator=coordinator)


def _run(
    asked: Invocation, create: Create, port_setting: str, host: str | None, port: int | None, **changes: Any
) -> int:
    from onerow.config import find_config, load_settings
    from onerow.faces.http import server
    from onerow.faces.http.security import Access

    settings = load_settings(find_config(asked.config))
    asked_for = {"host": host, port_setting: port, **changes}
    given = {name: value for name, value in asked_for.items() if value is not None}
    settings = replace(settings, serve=settings.serve.model_copy(update=given))
    access = Access.from_environment(os.environ, host=settings.serve.host)
    app = create(settings, access=access)
    with app.state.pool.store():  # what the configuration asks for is offered and installed: said now, not to callers
        pass
    listener = server.listen(settings.serve.host, getattr(settings.serve, port_setting))
    server.run(app, listener, tell=lambda url: _tell(asked, app, settings, access, url))
    return 0


def _tell(asked: Invocation, app: FastAPI, settings: Settings, access: Access, url: str) -> None:
    """Say in one line that requests are taken, and where."""
    name = app.state.service
    if asked.json:
        click.echo(json.dumps({"service": name, "url": url, "pid": os.getpid(), "tokens": not access.anybody}))
    else:
        whom = "for everybody on this machine, no tokens are set" if access.anybody else "for callers with a token"
        click.echo(f"onerow {name} takes requests at {url} ({whom}; {settings.warehouse})")
    sys.stdout.flush()


@contextmanager
def _needs_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigurationError(
            f"What the services need is not installed: {error}.", hint="Install it with: pip install 'onerow[serve]'"
        ) from error
