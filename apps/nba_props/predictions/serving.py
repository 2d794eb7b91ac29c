"""What the app's two services share: who may use them, the log, and how they start and stop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import onerow
from onerow.faces.http import server
from onerow.faces.http.security import Access, Role, Token
from onerow.faces.logs import HumanFormatter, JsonFormatter
from predictions import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fastapi import FastAPI

BEHIND_IAM: Final = "NBA_PROPS_BEHIND_IAM"
LOG_FORMAT: Final = "NBA_PROPS_LOG_FORMAT"
PORT: Final = "PORT"
"""Where Cloud Run has a service listen."""


class BehindIam(Access):
    """Access behind Cloud Run's own check: whoever comes through it has been let in by IAM, and may write.

    Cloud Run checks the token of every request and hands it on without its signature, so it tells this service nothing.
    Tokens of onerow still tell who may more: they come in ``Authorization`` while ``X-Serverless-Authorization`` is the
    one that Cloud Run checks.
    """

    _LET_IN: Final = Token(Role.WRITE, b"iam ", b"")

    def by_token(self, text: str) -> Token | None:
        """Return the token that ``text`` is; whatever is none of onerow's was let in by IAM."""
        return super().by_token(text) or self._LET_IN


def access_of(environ: Mapping[str, str], *, host: str) -> Access:
    """Return who may use a service.

    Raises:
        ConfigurationError: others than this machine could reach it, and nobody is asked for anything.
    """
    if environ.get(BEHIND_IAM, "").lower() in {"1", "true"}:
        return BehindIam(Access.from_environment(environ, host="localhost").tokens)
    return Access.from_environment(environ, host=host)


@contextmanager
def log_on_stderr(environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Write the log on standard error until the block ends: for people, or as JSON with NBA_PROPS_LOG_FORMAT=json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if environ.get(LOG_FORMAT) == "json" else HumanFormatter())
    logs = [logging.getLogger(name) for name in ("onerow", "predictions")]
    before = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.INFO)
        log.addHandler(handler)
    try:
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)


def main(
    create: Callable[[str, onerow.Settings, Access], FastAPI],
    *,
    program: str,
    what: str,
    port: int,
    arguments: Sequence[str] | None,
    add: Callable[[argparse.ArgumentParser], None] = lambda _: None,
    use: Callable[[argparse.Namespace], None] = lambda _: None,
) -> int:
    """Run a service until it is told to stop; print its address when it takes requests.

    Args:
        create: makes it, from the project, its settings, and who may use it.
        program: its module.
        what: it does, for the help.
        port: where it listens if nobody says otherwise.
        arguments: of the command line.
        add: adds options of its own.
        use: is told what was asked for.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=what)
    parser.add_argument("--project-id", help=f"default: ${settings.PROJECT}, or {settings.LOCAL}")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine only")
    parser.add_argument("--port", type=int, default=int(os.environ.get(PORT, port)), help="0: any that is free")
    add(parser)
    asked = parser.parse_args(arguments)
    use(asked)
    try:
        with log_on_stderr():
            project_id = settings.project_of(asked.project_id)
            found = settings.settings_of(project_id)
            found = replace(found, serve=found.serve.model_copy(update={"host": asked.host}))
            with settings.open_store(project_id):  # what is missing is made, or said now
                pass
            app = create(project_id, found, access_of(os.environ, host=asked.host))
            listener = server.listen(asked.host, asked.port)
            server.run(app, listener, tell=lambda url: print(f"{program} takes requests at {url}", flush=True))
    except onerow.OnerowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
