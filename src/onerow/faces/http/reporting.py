"""Telling the coordinator of parts: soon, again when it does not answer, and not for ever.

A report is only "look now": the coordinator finds parts by looking too. So one that is given up loses nothing.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import httpx

from onerow.errors import ConfigurationError
from onerow.services.events import emit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TOKEN_VARIABLE: Final = "ONEROW_COORDINATOR_TOKEN"  # noqa: S105 -- the variable's name
ANSWER_S: Final = 5.0
TRIES: Final = 6
FIRST_PAUSE_S: Final = 0.5
LAST_PAUSE_S: Final = 20.0
MAX_WAITING: Final = 10_000
AT_ONCE: Final = 2
TOLD_WITHIN_S: Final = 1.0
_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class _Report:
    table: str
    batch: str
    part_id: str
    told: asyncio.Future[bool] = field(compare=False)


class Reporter:
    """Tells the coordinator at ``url``. For one event loop, between ``running()`` and its end.

    Args:
        url: of the coordinator.
        token: with the role write there, "" for none.
        first_pause_s: between the first two tries; each following pause is twice as long.
        transport: of httpx; None: the network.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        first_pause_s: float = FIRST_PAUSE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=ANSWER_S,
            trust_env=False,  # no proxy and no .netrc between our own services
            transport=transport,
        )
        self._first_pause_s = first_pause_s
        self._waiting: asyncio.Queue[_Report] = asyncio.Queue(MAX_WAITING)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send reports until the block ends; what waits then is given up."""
        tasks = [asyncio.create_task(self._send_all(), name="onerow-report") for _ in range(AT_ONCE)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task
            while not self._waiting.empty():
                self._give_up(self._waiting.get_nowait(), "the worker stops")
            await self._client.aclose()

    async def report(self, table: str, batch: str, part_id: str) -> bool:
        """Have the coordinator told; return whether it knows by now. It is told later if not."""
        report = _Report(table, batch, part_id, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(report)
        except asyncio.QueueFull:
            self._give_up(report, "too many reports wait")
            return False
        try:
            async with asyncio.timeout(TOLD_WITHIN_S):
                return await asyncio.shield(report.told)
        except TimeoutError:
            return False

    async def _send_all(self) -> None:
        while True:
            report = await self._waiting.get()
            try:
                await self._send(report)
            except asyncio.CancelledError:
                self._give_up(report, "the worker stops")
                raise

    async def _send(self, report: _Report) -> None:
        path = f"/v1/tables/{quote(report.table, safe='')}/batches/{quote(report.batch, safe='')}/parts"
        pause_s, reason = self._first_pause_s, ""
        for number in range(TRIES):
            try:
                answer = await self._client.post(path, json={"part_id": report.part_id})
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = type(error).__name__
            else:
                if answer.is_success:
                    _settle(report, told=True)
                    return
                reason = f"HTTP {answer.status_code}"
                if answer.status_code not in _AGAIN:
                    break
            _settle(report, told=False)  # whoever has handed the rows in need not wait for the next try
            if number < TRIES - 1:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 -- no secret
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._give_up(report, reason)

    def _give_up(self, report: _Report, reason: str) -> None:
        _settle(report, told=False)
        emit(
            "onerow.report_failed", table=report.table, batch=report.batch, part=report.part_id, error=reason
        )


def _settle(report: _Report, *, told: bool) -> None:
    if not report.told.done():
        report.told.set_result(told)


def coordinator_token(environ: Mapping[str, str]) -> str:
    """Return the token that a worker sends to the coordinator, "" for none.

    Raises:
        ConfigurationError: the file that holds it cannot be read.
    """
    path = environ.get(f"{TOKEN_VARIABLE}_FILE")
    if not path:
        return environ.get(TOKEN_VARIABLE, "").strip()
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{TOKEN_VARIABLE}_FILE: {path} cannot be read ({type(error).__name__}).") from error


def check_coordinator(url: str) -> str:
    """Return ``url`` if it can be a coordinator's.

    Raises:
        ConfigurationError: it is none, or has a user or password in it.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigurationError("[serve] coordinator is no URL such as http://coordinator:8470.")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(f"[serve] coordinator has no user in it; set {TOKEN_VARIABLE}.")
    return url
