"""One POST in a bounded time: tried again where that helps, and never naming the address."""

from __future__ import annotations

import datetime as dt
import logging
import math
import threading
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import httpx

from onerow.errors import ConfigurationError, NotifierError

if TYPE_CHECKING:
    from collections.abc import Mapping

TRIES: Final = 3
FIRST_PAUSE_S: Final = 0.5
MAX_RETRY_AFTER_S: Final = 86_400.0
TEMPORARY: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})


class _Redact(logging.Filter):
    """The client library logs the address of every request; this one is a secret."""

    def __init__(self, url: httpx.URL) -> None:
        super().__init__()
        self._url = url

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the host in place of the address."""
        if isinstance(record.args, tuple):
            record.args = tuple(self._url.host if value == self._url else value for value in record.args)
        return True


class Poster:
    """Posts JSON to one address.

    Args:
        name: what errors call the receiver.
        url: its address; a secret.
        setting: where the address came from, for the message if it is none.
        timeout_s: of one try; everything together takes at most three times as long.

    Raises:
        ConfigurationError: the address is none.
    """

    def __init__(self, name: str, url: str, *, setting: str, timeout_s: float) -> None:
        self.name = name
        try:
            self._url = httpx.URL(url.strip())
        except httpx.InvalidURL:
            self._url = httpx.URL()
        if self._url.scheme not in {"http", "https"} or not self._url.host:
            raise ConfigurationError(
                f"{setting} holds no address for {name}.", hint="Write https://host/path; it is not shown here."
            )
        self._timeout_s = timeout_s
        self._client: httpx.Client | None = None
        self._redact = _Redact(self._url)
        logging.getLogger("httpx").addFilter(self._redact)

    def close(self) -> None:
        """Let go of connections."""
        logging.getLogger("httpx").removeFilter(self._redact)
        self._forget()

    def post(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Post ``body`` as JSON.

        Raises:
            NotifierError: it was not taken.
        """
        deadline_s = time.monotonic() + 3 * self._timeout_s
        for tried in range(1, TRIES + 1):
            try:
                self._within(deadline_s, body, headers)
            except NotifierError as error:
                pause_s = max(FIRST_PAUSE_S * 2 ** (tried - 1), error.retry_after_s)
                if error.refused or tried == TRIES or time.monotonic() + pause_s >= deadline_s:
                    raise
                time.sleep(pause_s)
            else:
                return

    def _within(self, deadline_s: float, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        """Make one try on a thread of its own: looking a name up and an answer that trickles know no time-out."""
        client = self._connected()
        ended: list[NotifierError | None] = []
        worker = threading.Thread(
            target=lambda: ended.append(self._once(client, body, headers)), name=f"onerow-{self.name}", daemon=True
        )
        worker.start()
        worker.join(max(min(deadline_s - time.monotonic(), 2 * self._timeout_s), 0.0))
        if not ended:
            self._forget()  # whatever the thread waits for ends with its connection
            raise NotifierError(f"{self.name} did not answer in time.")
        if ended[0] is not None:
            raise ended[0]

    def _once(
        self, client: httpx.Client, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> NotifierError | None:
        try:
            with client.stream("POST", self._url, json=body, headers=dict(headers)) as response:
                return self._error_of(response)  # the status says it all; what else comes is not read
        except httpx.TimeoutException:
            return NotifierError(f"{self.name} did not answer in time.")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:  # texts may hold the address
            return NotifierError(f"{self.name} could not be reached ({type(error).__name__}).")

    def _error_of(self, response: httpx.Response) -> NotifierError | None:
        status = response.status_code
        if response.is_success:
            return None
        if status in TEMPORARY or response.is_server_error:
            return NotifierError(
                f"{self.name} answered {status}.", retry_after_s=_retry_after_s(response.headers.get("Retry-After"))
            )
        return NotifierError(
            f"{self.name} refused the message: it answered {status}.",
            refused=True,
            hint="Is its address still valid? The message is kept.",
        )

    def _connected(self) -> httpx.Client:
        if self._client is None:
            self._client = httpx.Client(timeout=self._timeout_s, follow_redirects=False)
        return self._client

    def _forget(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _retry_after_s(text: str | None) -> float:
    """Return the seconds that a Retry-After header asks for, a number or a date; 0 for none or nonsense."""
    if not text:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        seconds = (moment.astimezone(dt.UTC) - dt.datetime.now(dt.UTC)).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else 0.0
